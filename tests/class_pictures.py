"""Folders of tiny pictures, one folder a class, that a network can tell apart."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"leaf": (30, 160, 40), "rust": (170, 70, 20), "sky": (70, 120, 220)}


def write_classes(
    root: Path, counts: dict[str, int], *, size: int = 32, seed: int = 0, ending: str = ".png"
) -> Path:
    """A folder a class below `root`, with so many pictures of its colour and some noise."""
    draw = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        colour = COLOURS.get(name, (100, 100, 100))
        for number in range(count):
            noise = draw.normal(0, 40, (size, size + number % 5, 3))
            pixels = np.clip(np.asarray(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}{ending}")
    return root
