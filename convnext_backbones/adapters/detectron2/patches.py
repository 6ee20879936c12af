"""What this package changes in Detectron2, for this process, and how to take it back.

    GUARDS.apply()          applied when the adapter is imported
    READING.apply()         applied when the adapter is imported
    SAFE_READING.apply()    applied when the adapter is imported
    SAVING.apply()          applied when the adapter is imported
    EXACT_RESUME.apply()    applied when the adapter is imported
    STOCK_TRAINER.apply()   applied when the adapter is imported
    PICTURES.apply()        applied when the adapter is imported
    SIZE_NOTES.apply()      applied when a backbone is built with ignore_padding=True
    READING.undo()          puts back what was there; `with READING:` does both

**READING**: DetectionCheckpointer finds none of its names in a pretraining file, warns and trains from
random weights, and executes .pkl files (checkpoints.py). train_net.py, lazyconfig_train_net.py and
DefaultPredictor make their checkpointers themselves, so that a class of ours would never be asked.

**SAFE_READING**: every model's files go through that load, and through pickle and torch.load; a YAML config
may call any function (safe_reading.py).

**SAVING**: a kill or a full disk during a save leaves a cut file, which last_checkpoint names (saving.py).

**EXACT_RESUME**: a run that goes on draws other random numbers and reads its data from the first picture
again (exact_resume.py). Every user's trainer and config system builds its loader by one function.

**GUARDS**: a run ends at its first NaN loss or cut picture under three tracebacks, and waits for ever where a
process stands still (guards.py). Every user's trainer gets the hook that goes on, or ends it in words.

**STOCK_TRAINER**: DefaultTrainer passes over a recipe's optimizer, schedule and pictures in silence
(trainer.py). It now refuses; one that overrides what the recipe needs is left alone.

**PICTURES**: a 16-bit picture is read as white, a palette's label map as its colours' grey, and what cannot
be read is not named (pictures.py). The mappers of both config systems call one function.

**SIZE_NOTES**: a model gives its backbone the padded batch alone, and GRN needs the images' sizes.
ImageList.from_tensors, which all models call, knows both (padding.py).
"""

import functools

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultTrainer
from detectron2.structures import ImageList

from ...runs.patching import Patches, patched_attribute
from .checkpoints import load_weights
from .exact_resume import EXACT_RESUME as EXACT_RESUME
from .guards import GUARDS as GUARDS
from .padding import noting_sizes
from .pictures import PICTURES as PICTURES
from .safe_reading import SAFE_CONFIGS, SAFE_FILES
from .saving import SAVING as SAVING
from .trainer import refusing


def _reading(plain):
    @functools.wraps(plain)
    def load(self, path, checkpointables=None):
        return load_weights(self, path, checkpointables, plain)

    return load


SAFE_READING = Patches([*SAFE_FILES, *SAFE_CONFIGS])
READING = patched_attribute(DetectionCheckpointer, "load", _reading)
STOCK_TRAINER = patched_attribute(DefaultTrainer, "__init__", refusing)
SIZE_NOTES = patched_attribute(ImageList, "from_tensors", noting_sizes)
