"""Pictures in class folders for the tests, with a model's own ranking of the classes."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int) -> Image.Image:
    """Soft blots of colour, of a size that differs from picture to picture."""
    rng = np.random.default_rng(seed)
    blots = rng.integers(0, 256, (rng.integers(2, 9), rng.integers(2, 9), 3), dtype=np.uint8)
    width, height = rng.integers(180, 420, 2)
    return Image.fromarray(blots).resize((int(width), int(height)), Image.Resampling.BICUBIC)


def write_picture(seed: int, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, quality=95)
    return path
