"""What a run leaves to look at: one table of its metrics, a curve, predictions beside the truth."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table

from .host import Entry

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# The metrics that stand in the table and the curve, by MMEngine's names for them.
METRICS = {
    "mIoU": "mIoU (%)",
    "mAcc": "mean accuracy (%)",
    "aAcc": "pixel accuracy (%)",
    "coco/bbox_mAP": "box AP",
    "coco/bbox_mAP_50": "box AP50",
    "coco/segm_mAP": "mask AP",
    "coco/segm_mAP_50": "mask AP50",
}


def scalars(entries: Iterable[Entry]) -> tuple[list[dict], list[dict]]:
    """The training and the validation records of a run's log, each by its iteration ("at").

    Where a resumed session repeats an iteration, the later record counts.
    """
    training: dict[int, dict] = {}
    validation: dict[int, dict] = {}
    for entry in entries:
        (validation if entry.validation else training)[entry.iteration] = entry.record
    return (
        [{**record, "at": at} for at, record in sorted(training.items())],
        [{**record, "at": at} for at, record in sorted(validation.items())],
    )


def metrics_of(record: dict) -> dict[str, float]:
    """The named metrics of one validation record."""
    return {METRICS[key]: record[key] for key in METRICS if key in record}


def print_metrics(metrics: dict[str, float], title: str) -> None:
    """One table."""
    print(f"{title}:")
    table = Table("metric", "value")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.2f}" if name.endswith("(%)") else f"{value:.3f}")
    Console().print(table)


def save_curves(training: list[dict], validation: list[dict], path: Path) -> Path | None:
    """Losses and metrics against iterations, as a PNG; None when nothing was logged."""
    if not training:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for key in sorted({key for record in training for key in record if "loss" in key}):
        points = [(r["at"], r[key]) for r in training if key in r]
        left.plot(*zip(*points, strict=True), label=key, linewidth=2.2 if key == "loss" else 1)
    left.set(xlabel="iteration", ylabel="loss", title="training")
    left.set_ylim(bottom=0)
    left.legend(fontsize=8)
    for key, name in METRICS.items():
        points = [(r["at"], r[key]) for r in validation if key in r]
        if points:
            right.plot(*zip(*points, strict=True), marker="o", label=name)
    right.set(xlabel="iteration", title="validation")
    right.set_ylim(bottom=0)
    if validation:
        right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
