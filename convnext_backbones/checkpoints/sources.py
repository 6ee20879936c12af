"""From what a user names to a file on this machine: a path, a catalogue name or alias, or a URL."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qsl

from ..errors import CheckpointError
from .catalogue import Weights, find_weights, nearest_names
from .downloading import download

OR_SO = "a URL, or a name of checkpoints.CATALOGUE such as 'convnextv2_tiny.fcmae_ft_in1k'"
OPTIONS = ("prefix", "section", "stem")  # of load_pretrained, that a name may carry


class Located(NamedTuple):
    """path: a file, or a folder of a Hugging Face model. weights: its row in the catalogue, where
    name or URL tell. label: what to call it in messages. options: those of OPTIONS that the name carries."""

    path: Path
    weights: Weights | None
    label: str
    options: Mapping[str, str] = MappingProxyType({})


def split_options(path: str, known: Collection[str] = OPTIONS) -> tuple[str, dict[str, str]]:
    """`file.pth?section=model_ema&stem=mean` to "file.pth" and its options; URLs keep their own queries.

    An option that is not known is part of a name, for there are such files.
    """
    file, _, query = path.rpartition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    return (file, options) if file and options and options.keys() <= set(known) else (path, {})


def locate(source: str | os.PathLike) -> Located:
    """The file that a user means, downloaded where need be.

    In this order: an existing file or folder; a name or alias of the catalogue such as
    "convnextv2_tiny.fcmae_ft_in1k", "facebook/convnext-tiny-224" or "convnext_tiny_1k_224_ema.pth";
    an http(s) URL. A file is told by its name alone: what it holds, its reader finds out. `?stem=mean`
    and others of OPTIONS may follow.

    Raises:
        CheckpointError: no such file and no such name, with the nearest names; a download that
            fails; weights of a network that this package does not build.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise CheckpointError(f"weights are given as a path, {OR_SO}, got {source!r}")
    text = os.fspath(source)
    path = os.path.expanduser(text)
    if os.path.exists(path):
        return Located(Path(path), find_weights(text), text)
    plain, options = split_options(text)
    if options:
        return locate(plain)._replace(options=options)
    weights = find_weights(text)
    is_url = "://" in text
    if not is_url and weights and text not in (weights.name, *weights.aliases):
        weights = None  # a path that does not exist is no order to download
    if weights and weights.variant is None:
        raise CheckpointError(
            f"{text} is an isotropic ConvNeXt, of one width from end to end, which this package does "
            "not build; name a network with stages, such as 'convnext_small.fb_in1k'"
        )
    if is_url:
        same_file = weights and text.endswith(f"/{weights.filename}")
        return Located(download(text, sha256=weights.sha256 if same_file else None), weights, text)
    if weights:
        fetched = download(weights.url, sha256=weights.sha256, filename=weights.filename)
        return Located(fetched, weights, weights.name)
    near = nearest_names(text)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise CheckpointError(
        f"{text}: there is no such file, and no published weights have this name.{hint} "
        f"Give a path, {OR_SO}"
    )
