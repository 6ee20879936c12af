"""--sample and --shrink: the figures by which every host makes a config small enough for two CPU cores.

--sample puts a config on the generated data of sample_data.py and shrinks heads, pictures, schedule and
class count; the backbone stays as the config has it. --shrink makes the backbone small too: for a look
at whether a config runs, in seconds, whatever its size.
"""

import json
from pathlib import Path

from filelock import FileLock

from ..console import progress
from .sample_data import SEGMENTATION_CLASSES, SHAPES, make_sample_data

# ---- data
SAMPLE_ROOT = Path("data/sample")
TRAIN, VAL, SEED = 128, 32, 0  # pictures
CLASSES, LABELS = len(SHAPES), len(SEGMENTATION_CLASSES)

# ---- weights: from scratch, so that every layer trains at one rate
LR = 5e-4
SHRUNK_DEPTHS, SHRUNK_DIMS = (1, 1, 1, 1), (16, 32, 64, 128)
SHRUNK = f"backbone: depths {SHRUNK_DEPTHS}, dims {SHRUNK_DIMS}, random weights"

# ---- detection
EPOCHS, DETECTION_BATCH = 16, 4
DETECTION_ITERATIONS = EPOCHS * TRAIN // DETECTION_BATCH
DROPS = (3 / 4, 7 / 8)  # of the run: the learning rate becomes a tenth
DETECTION_WARMUP, DETECTION_WARMUP_FACTOR = 50, 0.01  # iterations, of the learning rate
LONG_SIDE = 192  # pixels
WIDTH, BOX_WIDTH = 64, 256  # channels of necks and heads, of the box head's layers
ANCHOR_STRIDES = 4  # width of an anchor in strides
SAMPLES, CANDIDATES, PROPOSALS, DETECTIONS = 64, 300, 100, 30  # a picture
MASK_CONVOLUTIONS, POINTS_A_BIN = 2, 2

# ---- segmentation
SEGMENTATION_ITERATIONS, SEGMENTATION_BATCH = 240, 8
SEGMENTATION_WARMUP, SEGMENTATION_WARMUP_FACTOR = 20, 0.05
CROP = (96, 96)  # height, width in pixels
CATEGORY_AREA = 0.9  # of a crop, that one class may cover

VALIDATIONS = 4  # in a run


def ensure_sample_data(root: Path = SAMPLE_ROOT) -> Path:
    """The sample data at `root`, written now unless it is there whole."""
    made_of = {"train": TRAIN, "val": VAL, "seed": SEED, "version": 1}
    stamp = root / "sample.json"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # several processes may start at once
        if not stamp.exists() or json.loads(stamp.read_text()) != made_of:
            make_sample_data(
                root, train=TRAIN, val=VAL, seed=SEED,
                progress=lambda jobs: progress(jobs, f"writing sample data to {root}"),
            )  # fmt: skip
            stamp.write_text(json.dumps(made_of))
    return root
