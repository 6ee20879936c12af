"""Triton, which torch imports when it sees use for it, before TensorFlow or not at all.

Importing Triton after TensorFlow ends the process with a segmentation fault (TensorFlow 2.21, Triton 3.7: each
brings an LLVM of its own); the other order works. Checkpoints are read with torch, so both are here.
"""

import importlib
import importlib.util
import logging
import sys

logger = logging.getLogger("convnext_backbones")


def import_triton_first() -> None:
    """Import Triton where TensorFlow may come after it; where TensorFlow came before, keep it out."""
    if "triton" in sys.modules or not (_is_here("triton") and _is_here("tensorflow")):
        return
    if "tensorflow" not in sys.modules:
        importlib.import_module("triton")
        return
    sys.modules["triton"] = None  # torch then does without, as where it is not installed
    logger.warning(
        "TensorFlow was imported before Triton, which would end this process if it were imported now, and is "
        "kept out of it; to have both, as torch.compile on a GPU needs, import "
        "convnext_backbones.adapters.keras before tensorflow and keras"
    )


def _is_here(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None
