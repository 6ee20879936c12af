"""What a run leaves to look at: one table of its metrics, a curve, predictions beside the truth."""

import json
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# The metrics that stand in the table and the curve, by their logged names.
METRICS = {
    "mIoU": "mIoU (%)",
    "mAcc": "mean accuracy (%)",
    "aAcc": "pixel accuracy (%)",
    "coco/bbox_mAP": "box AP",
    "coco/bbox_mAP_50": "box AP50",
    "coco/segm_mAP": "mask AP",
    "coco/segm_mAP_50": "mask AP50",
}

# What Detectron2 logs, by the names above, and the factor to their scale.
DETECTRON2_METRICS = {
    "sem_seg/mIoU": ("mIoU", 1.0),
    "sem_seg/mACC": ("mAcc", 1.0),
    "sem_seg/pACC": ("aAcc", 1.0),
    "bbox/AP": ("coco/bbox_mAP", 0.01),
    "bbox/AP50": ("coco/bbox_mAP_50", 0.01),
    "segm/AP": ("coco/segm_mAP", 0.01),
    "segm/AP50": ("coco/segm_mAP_50", 0.01),
}


def read_scalars(work_dir: Path) -> tuple[list[dict], list[dict]]:
    """Training and validation records of all of a run's sessions, each by its iteration.

    Reads what MMEngine or Detectron2 logged there. Where a resumed session repeats an iteration, the
    later one counts.
    """
    training: dict[int, dict] = {}
    validation: dict[int, dict] = {}
    detectron2 = work_dir / "metrics.json"
    for line in detectron2.read_text().splitlines() if detectron2.exists() else ():
        record = json.loads(line)
        losses = {key: value for key, value in record.items() if key.startswith("loss")}
        if "total_loss" in record:
            training[record["iteration"]] = {**losses, "loss": record["total_loss"]}
        metrics = detectron2_metrics(record)
        if metrics:
            validation[record["iteration"]] = metrics
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        last_iteration = 0
        for line in file.read_text().splitlines():
            record = json.loads(line)
            if "loss" in record:
                last_iteration = record.get("iter", record["step"])
                training[last_iteration] = record
            elif METRICS.keys() & record.keys():
                # epoch-based validation counts epochs: place it behind the iterations before it
                validation[max(record["step"], last_iteration)] = record
    return (
        [{**record, "at": at} for at, record in sorted(training.items())],
        [{**record, "at": at} for at, record in sorted(validation.items())],
    )


def detectron2_metrics(record: dict) -> dict:
    """The metrics in a record of Detectron2 ("bbox/AP50", in percent) as MMEngine logs them."""
    return {
        name: factor * record[key]
        for key, (name, factor) in DETECTRON2_METRICS.items()
        if key in record
    }


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


def save_curves(work_dir: Path) -> Path | None:
    """Losses and metrics against iterations, as a PNG; None when nothing was logged."""
    training, validation = read_scalars(work_dir)
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
    path = work_dir / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
