"""What this package changes in MMEngine, for this process, and how to take it back.

    GUARDS.apply()          applied when the adapter is imported
    SAFE_READING.apply()    applied when the adapter is imported
    SAVING.apply()          applied when the adapter is imported
    EXACT_RESUME.apply()    applied when the adapter is imported
    WHOLE_LOADING.apply()   applied when the adapter is imported
    COCO_CLASSES.apply()    applied when the adapter is imported
    PICTURES.apply()        applied when the adapter is imported
    SIZE_NOTES.apply()      applied when a backbone is built with ignore_padding=True
    SAFE_READING.undo()     puts back what was there; `with SAFE_READING:` does both

**SAFE_READING**: MMEngine reads checkpoints by executing them, and its newest version refuses its own
(checkpoints.py). A checkpoint is named in configs, on the command line and by resuming, all of which end
in CheckpointLoader; there is no option for another reader than its table of schemes. Its configs in YAML and pickled
annotations may call any function, and its inferencers run the config in a checkpoint (safe_reading.py).

**SAVING**: a kill or a full disk during a save leaves a cut file, and with max_keep_ckpts=1 no other
(saving.py). A config names CheckpointHook, and every user's config does so.

**EXACT_RESUME**: a run that goes on draws other random numbers, begins an epoch anew and reads past batches
again (exact_resume.py). A config names loops, samplers and data sets, and every user's config does so.

**GUARDS**: a run trains on with a NaN loss and saves it, ends at one cut picture, and waits for ever where a
process stands still (guards.py). Every user's config gets the hook that ends it in words.

**WHOLE_LOADING**: a run that starts or goes on from weights that do not fit trains on with what does, and a
warning (checkpoints.py). A config names the file, and every user's config does so.

**COCO_CLASSES**: MMDetection numbers COCO's categories in the order of the JSON, whatever the order of a
config's classes: names are swapped in silence (coco_classes.py). MMDetection is not imported for it, as
MMSegmentation runs without; the first of its data sets or metrics that is built brings the change.

**PICTURES**: mmcv reads a photo whose annotations are of the unturned one turned, a cut file as half grey, a
16-bit label map modulo 256 and one of colours as three of them; and what it cannot read, it does not name
(pictures.py). A config names the transforms, and every user's config does so.

**SIZE_NOTES**: a model gives its backbone the padded batch alone, and GRN needs the images' sizes. The
data preprocessor knows both (padding.py). No hook of MMEngine lies between it and the model.
"""

import functools
import importlib.util
import sys

from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner

from ...runs.patching import Patch, Patches, patched_attribute
from .checkpoints import (
    loading_whole,
    loading_whole_by_strategy,
    read_training_checkpoint,
    resuming_whole,
    resuming_whole_by_strategy,
    saving_whole_by_strategy,
)
from .exact_resume import EXACT_RESUME as EXACT_RESUME
from .guards import GUARDS as GUARDS
from .padding import noting_sizes
from .safe_reading import OTHER_SCHEMES, SAFE_FILES
from .saving import SAVING as SAVING
from .sharded import SHARDED


def _reading(prefix: str) -> Patch:
    """The reader of names that begin with the prefix; "" is a file's."""
    return Patch(
        f"MMEngine's reader of {prefix or 'files'}",
        get=lambda: CheckpointLoader._schemes[prefix],
        put=lambda reader: CheckpointLoader.register_scheme(prefix, reader, force=True),
        make=lambda plain: read_training_checkpoint,
    )


def _with_classes_by_name(init):
    """An __init__ of a base class, which first changes MMDetection if a class of it is built."""

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):  # noqa: N807
        if any(cls.__module__.startswith("mmdet.") for cls in type(self).__mro__):
            from .coco_classes import BY_NAME

            BY_NAME.apply()
        init(self, *args, **kwargs)

    return __init__


class _CocoClasses(Patches):
    def undo(self) -> bool:
        """Put back what was there, in MMDetection too where it was changed."""
        mmdet = sys.modules.get(f"{__package__}.coco_classes")
        return all([super().undo(), mmdet is None or mmdet.BY_NAME.undo()])


SAFE_READING = Patches(
    [*(_reading(prefix) for prefix in ("", "http://", "https://")), *OTHER_SCHEMES, *SAFE_FILES]
)
WHOLE_LOADING = Patches(
    [
        patched_attribute(Runner, "load_checkpoint", loading_whole),
        patched_attribute(Runner, "resume", resuming_whole),
        patched_attribute(FlexibleRunner, "load_checkpoint", loading_whole_by_strategy),
        patched_attribute(FlexibleRunner, "resume", resuming_whole_by_strategy),
        patched_attribute(FlexibleRunner, "load_or_resume", saving_whole_by_strategy),
        *SHARDED,
    ]
)
COCO_CLASSES = _CocoClasses(
    patched_attribute(base, "__init__", _with_classes_by_name) for base in (BaseDataset, BaseMetric)
)
if importlib.util.find_spec("mmcv"):
    from .pictures import PICTURES
else:  # MMEngine runs without
    PICTURES = Patches()
SIZE_NOTES = patched_attribute(BaseDataPreprocessor, "__call__", noting_sizes)
