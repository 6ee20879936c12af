"""Checkpoints of MMEngine runs, read without executing them.

MMEngine 0.10.7 reads with torch.load's default: on torch >= 2.6 a run's own checkpoint is refused
(`HistoryBuffer was not an allowed global`), before that any pickle payload runs. The maintained fork
allows `getattr` and falls back to weights_only=False. Here exactly the types that MMEngine writes
are made, called as MMEngine writes them (checkpoints/pickles.py); any other object is not built, or
refused with a sentence where it could run code.

Resuming also executes: Runner.resume runs the config text stored in the checkpoint as Python, to
look up `gpu_ids`. DropStoredConfigHook takes the text out before.
"""

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS

from ...checkpoints import read_checkpoint
from .registration import register

# What a training checkpoint's message hub holds beside tensors and numbers. np.ndarray keeps its
# arrays as they are.
WRITTEN_BY_MMENGINE = (HistoryBuffer, np.ndarray)


def read_training_checkpoint(filename: str, map_location="cpu") -> dict:
    """A checkpoint file or URL as MMEngine's loaders return it."""
    return read_checkpoint(filename, allowed=WRITTEN_BY_MMENGINE, map_location=map_location)


class DropStoredConfigHook(Hook):
    """Take the stored config text out of a loaded checkpoint, so that resuming cannot execute it."""

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint.get("meta", {}).pop("config", None)


register(HOOKS, DropStoredConfigHook)
