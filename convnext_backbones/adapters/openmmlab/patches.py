"""What this package changes in MMEngine, for this process, and how to take it back.

    SAFE_READING.apply()    applied when the adapter is imported
    SIZE_NOTES.apply()      applied when a backbone is built with ignore_padding=True
    SAFE_READING.undo()     puts back what was there; `with SAFE_READING:` does both

**SAFE_READING**: MMEngine reads checkpoints by executing them, and its newest version refuses its own
(checkpoints.py). A checkpoint is named in configs, on the command line and by resuming, all of which end
in CheckpointLoader; there is no option for another reader than its table of schemes.

**SIZE_NOTES**: a model gives its backbone the padded batch alone, and GRN needs the images' sizes. The
data preprocessor knows both (padding.py). No hook of MMEngine lies between it and the model.
"""

from mmengine.model import BaseDataPreprocessor
from mmengine.runner import CheckpointLoader

from ...runs.patching import Patch, Patches, patched_attribute
from .checkpoints import read_training_checkpoint
from .padding import noting_sizes


def _reading(prefix: str) -> Patch:
    """The reader of names that begin with the prefix; "" is a file's."""
    return Patch(
        f"MMEngine's reader of {prefix or 'files'}",
        get=lambda: CheckpointLoader._schemes[prefix],
        put=lambda reader: CheckpointLoader.register_scheme(prefix, reader, force=True),
        make=lambda plain: read_training_checkpoint,
    )


SAFE_READING = Patches(_reading(prefix) for prefix in ("", "http://", "https://"))
SIZE_NOTES = patched_attribute(BaseDataPreprocessor, "__call__", noting_sizes)
