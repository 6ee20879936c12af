"""Reading checkpoints without executing them, and loading them with a verdict."""

from ..errors import CheckpointError
from .catalogue import CATALOGUE, Weights
from .class_names import class_names, wordnet_ids
from .conversion import convert_checkpoint
from .detectors import framework_of_names, whole_model, with_our_names
from .inspection import inspect_checkpoint
from .loading import LoadReport, load_pretrained
from .pickle_names import Unbuilt
from .reading import read_checkpoint, read_pickled

__all__ = [
    "CATALOGUE",
    "CheckpointError",
    "LoadReport",
    "Unbuilt",
    "Weights",
    "class_names",
    "convert_checkpoint",
    "framework_of_names",
    "inspect_checkpoint",
    "load_pretrained",
    "read_checkpoint",
    "read_pickled",
    "whole_model",
    "with_our_names",
    "wordnet_ids",
]
