"""What a frozen network sees in pictures: one vector each, computed once and kept."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .. import console
from ..data.tree import some
from ..errors import UserError
from ..network.classifier import ConvNeXtClassifier
from ..network.preprocessing import EvaluationTransform
from ..runs.whole_files import write_whole
from .class_folders import Sample, read_sample

MOST_UNREADABLE = 0.1  # of the pictures; with more, figures would not be the data's

LOGGER = logging.getLogger("convnext_backbones")


class Features(NamedTuple):
    """values: (N, C) of float32 on the CPU. labels: (N,). samples: whose they are. unreadable: a sentence for
    each picture that has none. cached: whether they were there already."""

    values: Tensor
    labels: Tensor
    samples: tuple[Sample, ...]
    unreadable: tuple[str, ...]
    cached: bool


class Pictures(Dataset):
    """Pictures as (pixels, number, ""), transformed; one that cannot be read as (zeros, number, why)."""

    def __init__(self, samples: Sequence[Sample], transform: EvaluationTransform):
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        try:
            picture = read_sample(self.samples[index].path)
        except UserError as error:
            size = self.transform.image_size
            return torch.zeros(3, size, size), index, str(error)
        return self.transform(picture), index, ""


def extract(
    model: ConvNeXtClassifier,
    samples: Sequence[Sample],
    transform: EvaluationTransform,
    *,
    batch_size: int = 64,
    workers: int = 0,
    cache: Path | None = None,
    desc: str = "features",
) -> Features:
    """The pooled, normed features of pictures, on the model's device.

    Args:
        cache: a folder that keeps them, by the files' names, sizes and times, the weights and the transform;
            None keeps nothing.
        desc: of the progress.

    Raises:
        UserError: more than MOST_UNREADABLE of the pictures cannot be read, or features are not finite.
    """
    key = _key(model, samples, transform) if cache else ""
    kept = _kept(cache / f"{key}.safetensors", len(samples)) if cache else None
    if kept is None:
        values, sentences = _computed(model, samples, transform, batch_size, workers, desc)
        if cache:
            _keep(cache / f"{key}.safetensors", values, sentences)
    else:
        values, sentences = kept
    unreadable = tuple(filter(None, sentences))
    if len(unreadable) > MOST_UNREADABLE * len(samples):
        raise UserError(
            f"{len(unreadable)} of {len(samples)} pictures cannot be read, more than {MOST_UNREADABLE:.0%}: "
            f"{some(unreadable)}; copy or unpack the data again"
        )
    read = [index for index, sentence in enumerate(sentences) if not sentence]
    return Features(
        values[read],
        torch.tensor([samples[index].label for index in read]),
        tuple(samples[index] for index in read),
        unreadable,
        cached=kept is not None,
    )


def in_words(model: ConvNeXtClassifier, norm_is_the_files: bool) -> str:
    """What the features are."""
    norm = "the file's final LayerNorm" if norm_is_the_files else (
        "LayerNorm without weights, as the file has no final one"
    )  # fmt: skip
    return f"{model.dims[-1]} channels of the last stage, averaged over positions, then {norm}"


def default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "convnext-backbones" / "features"


@torch.inference_mode()
def _computed(
    model: nn.Module, samples, transform, batch_size: int, workers: int, desc: str
) -> tuple[Tensor, list[str]]:
    device = next(model.parameters()).device
    loader = DataLoader(Pictures(samples, transform), batch_size, num_workers=workers)
    values, sentences = torch.zeros(len(samples), model.dims[-1]), [""] * len(samples)
    model.eval()
    with console.progress(desc=desc, total=len(samples), unit="picture") as bar:
        for pixels, numbers, reasons in loader:
            features = model.forward_features(pixels.to(device)).pooler_output
            values[numbers] = features.float().cpu()
            for number, reason in zip(numbers.tolist(), reasons, strict=True):
                sentences[number] = reason
            bar.update(len(pixels))
    read = [index for index, sentence in enumerate(sentences) if not sentence]
    if not values[read].isfinite().all():
        raise UserError("the network's features are not finite: its weights are damaged")
    return values, sentences


# ---- kept ----------------------------------------------------------------------------------------
def _key(model: nn.Module, samples: Sequence[Sample], transform: EvaluationTransform) -> str:
    """What features follow from."""
    digest = hashlib.sha256(repr(sorted(vars_of(transform).items())).encode())
    for name, value in model.state_dict().items():
        if not name.startswith("head."):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for path, _ in samples:
        facts = path.stat() if path.exists() else None
        size, time = (facts.st_size, facts.st_mtime_ns) if facts else (0, 0)
        digest.update(f"{path.absolute()}\n{size} {time}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()[:32]


def vars_of(transform: EvaluationTransform) -> dict:
    """A transform's options."""
    names = ("image_size", "crop_pct", "warp", "mean", "std")
    values = {name: getattr(transform, name) for name in names}
    return values | {"interpolation": transform.interpolation.value}


def _kept(file: Path, count: int) -> tuple[Tensor, list[str]] | None:
    try:
        tensors = load_file(file)
        sentences = bytes(tensors["sentences"].tolist()).decode().split("\n")
        values = tensors["values"]
    except (OSError, SafetensorError, KeyError, UnicodeDecodeError):
        return None  # not there, or damaged
    return (values, sentences) if len(values) == len(sentences) == count else None


def _keep(file: Path, values: Tensor, sentences: list[str]) -> None:
    lines = "\n".join(sentence.replace("\n", " ") for sentence in sentences)
    text = torch.tensor(list(lines.encode()), dtype=torch.uint8)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, save({"values": values, "sentences": text}))
    except (OSError, UserError) as error:
        LOGGER.warning("the features could not be kept: %s", error)
