"""`train` for Detectron2's configs alone: what tools/train_detectron2.py calls."""

from collections.abc import Sequence

from . import train


def main(argv: Sequence[str] | None = None) -> None:
    """As train.main, without asking whose config it is."""
    train.main(argv, framework="detectron2")
