"""Reading checkpoints without executing them, and loading them with a verdict."""

from ..errors import CheckpointError
from .loading import LoadReport, load_pretrained
from .reading import read_checkpoint

__all__ = ["CheckpointError", "LoadReport", "load_pretrained", "read_checkpoint"]
