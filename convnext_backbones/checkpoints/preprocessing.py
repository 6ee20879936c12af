"""How the pictures of a checkpoint are prepared, as far as anything says so."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from .catalogue import Weights
from .huggingface_preprocessor import read_preprocessor_config


def preprocessing_of(
    weights: Weights | None, path: Path, inside: Mapping | None = None
) -> tuple[dict, str]:
    """The options of EvaluationTransform that a checkpoint was trained for, and who says so.

    The catalogue, the file itself, the preprocessor_config.json of a Hugging Face folder, in this order; no
    options, which are the official code's defaults, where none does or what is said cannot be had.

    Args:
        weights: its row of the catalogue.
        path: of the file or folder.
        inside: what the file holds, see inspection.Inspected.preprocessing.
    """
    default = "the official code's default, as"
    config = (path if path.is_dir() else path.parent) / "preprocessor_config.json"
    if weights and weights.preprocessing:
        return dict(weights.preprocessing), "the catalogue"
    if weights:
        options = {"image_size": weights.resolution} if weights.top1 else {}
        return options, f"{default} no transform here gives this file's own pixels"
    if inside:
        return dict(inside), "the file"
    if config.exists():
        try:
            return read_preprocessor_config(config), config.name
        except UserError as error:
            return {}, f"{default} {error}"
    return {}, f"{default} nothing says how this file was trained"
