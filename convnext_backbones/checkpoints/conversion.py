"""Write a checkpoint of any layout in another: a file, or a Hugging Face folder."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..network.selection import feature_names
from .class_names import names_or_reason
from .huggingface_config import OF_TRANSFORMERS, config_beside, config_of, options_beside, read_json
from .huggingface_preprocessor import for_transformers, preprocessor_config_of
from .inspection import Inspected, inspect_checkpoint
from .layouts import to_layout

TARGETS = ("official", "huggingface", "timm", "mmpretrain", "torchvision")
TIMM_CONV_MLP = ("atto", "femto", "pico", "nano")  # sizes that timm builds with 1x1 convolutions
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


@dataclass(frozen=True)
class Conversion:
    """What convert_checkpoint wrote; str() says it in three lines, and one more where something is untold.

    left_out: names of the source that are not in the target. untold: what the source's config says of
    the network, and the target cannot: the options to build it with.
    """

    source: Inspected
    target: str
    path: Path
    written: int
    left_out: tuple[str, ...]
    untold: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = self.source.network.num_classes
        what = f"a classifier of {head} classes" if head else "a backbone without a head"
        left = ", ".join(self.left_out[:6]) + (", ..." if len(self.left_out) > 6 else "")
        return (
            f"read: {self.source.source} is {self.source}, {what}\n"
            f"wrote: {self.written} parameters in {self.path}, {self.target} names\n"
            f"left out: {left or 'nothing'}"
            + (f"\nnot told by {self.path}: {', '.join(self.untold)}" if self.untold else "")
        )


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    to: str,
    *,
    prefix: str | None = None,
    section: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert a checkpoint, bit for bit, into the names and shapes of another source.

    Args:
        source: anything that load_pretrained reads.
        destination: a .pth, .pt, .bin or .safetensors file; for "huggingface" a folder.
        to: one of TARGETS.
        prefix, section: which of several networks in the file; see inspect_checkpoint.
        overwrite: replace a destination that exists.

    Raises:
        CheckpointError: source not readable or not whole, or the target has no such network.
    """
    if to not in TARGETS:
        raise CheckpointError(f"cannot convert to {to!r}; choose one of {', '.join(TARGETS)}")
    destination = Path(destination).expanduser()
    _check_destination(destination, to, overwrite)
    file = inspect_checkpoint(source, prefix=prefix, section=section)
    if file.unknown:
        raise CheckpointError(
            f"{file.source}: {file.unknown[0]} and {len(file.unknown) - 1} other names belong to no "
            "parameter of a ConvNeXt; nothing was written"
        )
    _check_network(file, to)
    state, left = to_layout(file.state, _table(file, to), version=file.network.version)
    state = {name: value.clone() for name, value in state.items()}  # views of one storage otherwise
    destination.parent.mkdir(parents=True, exist_ok=True)
    if to == "huggingface":
        untold = _write_folder(destination, state, file)
    else:
        untold = options_beside(file.located.path) if file.layout in OF_TRANSFORMERS else ()
        _write_file(destination, state, to)
    left_out = (*file.outside, *file.dropped, *(file.names[name] for name in left))
    return Conversion(file, to, destination, len(state), left_out, untold)


def _table(file: Inspected, to: str) -> str:
    """The layout's table for this file."""
    variant = file.network.variant
    if to == "timm" and variant and variant.split("_")[1] in TIMM_CONV_MLP:
        return "timm_conv_mlp"
    if to == "mmpretrain" and "head.weight" not in file.state:
        return "mmpretrain_backbone"
    return to


def _check_destination(path: Path, to: str, overwrite: bool) -> None:
    if to == "huggingface" and (path.suffix in SUFFIXES or path.is_file()):
        raise CheckpointError(
            f"{path}: give a folder; Hugging Face keeps weights and configs in one"
        )
    if to != "huggingface" and (path.suffix not in SUFFIXES or path.is_dir()):
        raise CheckpointError(f"{path}: give a file that ends in one of {', '.join(SUFFIXES)}")
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise CheckpointError(f"{path}: exists and was kept; choose another name, or overwrite it")


def _check_network(file: Inspected, to: str) -> None:
    network = file.network
    classifier = {"head.weight", "norm.weight"} <= file.state.keys()
    if to == "torchvision" and (network.version == 2 or not classifier or len(network.depths) != 4):
        raise CheckpointError(
            f"{file.source}: this is {network}{'' if classifier else ' without a head'}, and "
            "torchvision has only classifiers of ConvNeXt V1; choose another layout"
        )
    if to == "mmpretrain" and len(network.depths) != 4:
        raise CheckpointError(f"{file.source}: this is {network}; MMPretrain has four stages only")


def _write_file(path: Path, state: dict[str, Tensor], to: str) -> None:
    wrapped = {"official": {"model": state}, "mmpretrain": {"state_dict": state}}.get(to, state)
    with _replacing(path) as temporary:
        if path.suffix == ".safetensors":
            save_file(state, temporary, metadata={"format": "pt"})
        else:
            torch.save(wrapped, temporary)


def _write_folder(folder: Path, state: dict[str, Tensor], file: Inspected) -> tuple[str, ...]:
    """Config, image processor and weights, as from_pretrained of transformers reads them.

    Of a source that is such a folder its own image processor is kept, and of its config what is not
    in the weights. Returns what could not be told.
    """
    source = config_beside(file.located.path) if file.layout in OF_TRANSFORMERS else None
    weights = file.located.weights
    preprocessing = (weights and weights.preprocessing) or file.preprocessing or {}
    path = file.located.path
    own = (path if path.is_dir() else path.parent) / "preprocessor_config.json"
    if source is not None and own.is_file():
        processor = for_transformers(read_json(own))
    else:
        processor = preprocessor_config_of(preprocessing)
    names = feature_names(len(file.network.depths))
    count = file.network.num_classes
    labels, missing = (
        names_or_reason(weights, path, count, file.class_names) if count else (None, None)
    )
    norms = {f"norm{i}.weight": name for i, name in enumerate(names[1:])}
    norms = {"norm_stem.weight": "stem", **norms}
    config = config_of(
        file.network,
        selected=[feature for norm, feature in norms.items() if norm in file.state],
        dtype=str(file.state["downsample_layers.0.0.weight"].dtype).removeprefix("torch."),
        image_size=preprocessing.get("image_size", 224),
        has_layer_scale="stages.0.0.gamma" in file.state,
        source=source,
        class_names=labels,
    )
    with _replacing(folder) as temporary:
        temporary.mkdir()
        for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n")
        save_file(state, temporary / "model.safetensors", metadata={"format": "pt"})
    return (missing,) if missing else ()


@contextmanager
def _replacing(path: Path):
    """A path beside the destination, moved over it when all is written, removed when not."""
    place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield place / path.name
        if path.is_dir():
            os.replace(path, place / "replaced")
        os.replace(place / path.name, path)
    finally:
        shutil.rmtree(place, ignore_errors=True)
