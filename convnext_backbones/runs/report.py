"""What a run leaves to look at: one table of its metrics, a curve, predictions beside the truth."""

import contextlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator
from numbers import Real
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .host import Entry

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Metrics by MMEngine's names for them, as the table and the curve call them.
METRICS = {
    "mIoU": "mIoU (%)",
    "mAcc": "mean accuracy (%)",
    "aAcc": "pixel accuracy (%)",
    "coco/bbox_mAP": "box AP",
    "coco/bbox_mAP_50": "box AP50",
    "coco/segm_mAP": "mask AP",
    "coco/segm_mAP_50": "mask AP50",
}
# What else stands in a record of a log.
NO_METRICS = {"time", "data_time", "step", "iter", "epoch", "at", "memory", "lr", "base_lr"}
OF_CLASS = re.compile(r"((?:\w+ )?(?:AP|IoU))-(.+?)( \(%\))?")  # "mask AP-dog", "IoU-road (%)"
LINES = 8  # in a plot, beside the total


def records_of(log: Path) -> Iterator[dict]:
    """The records of a log of JSON lines; one that a kill or a full disk has cut is left out."""
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def scalars(entries: Iterable[Entry]) -> tuple[list[dict], list[dict]]:
    """The training and the validation records of a run's log, each by its iteration ("at").

    Where a later session goes back, to a checkpoint or to the first step, its records alone count from there.
    """
    training: dict[int, dict] = {}
    validation: dict[int, dict] = {}
    last = -1  # training step
    for entry in entries:
        if not entry.validation:
            if entry.iteration <= last:
                for records in (training, validation):
                    for at in [at for at in records if at >= entry.iteration]:
                        del records[at]
            last = entry.iteration
        (validation if entry.validation else training)[entry.iteration] = entry.record
    return (
        [{**record, "at": at} for at, record in sorted(training.items())],
        [{**record, "at": at} for at, record in sorted(validation.items())],
    )


def is_of_class(name: str) -> bool:
    """Whether a metric is of one class."""
    return OF_CLASS.fullmatch(name) is not None


def metrics_of(record: dict) -> dict[str, float]:
    """The metrics of one validation record: those of METRICS first, any others by their own names."""
    known = {METRICS[key]: record[key] for key in METRICS if key in record}
    classes = {match[2] for key in record if (match := OF_CLASS.fullmatch(key))}
    others = {
        key if is_of_class(key) else key.replace("/", " ").replace("_", " "): value
        for key, value in record.items()
        if key not in NO_METRICS and key not in METRICS
        and _class_of(key) not in classes
        and isinstance(value, Real) and not isinstance(value, bool)
    }  # fmt: skip
    return known | others


def _class_of(key: str) -> str | None:
    """The class of a metric by CocoMetric's classwise names, coco/dog_precision, which say what AP-dog says."""
    match = re.fullmatch(r"(?:\w+/)?(.+)_precision", key)
    return match and match[1]


def in_line(record: dict) -> str:
    """The metrics of one validation record that a line has room for: those of METRICS, or the first others."""
    metrics = {name: value for name, value in metrics_of(record).items() if not is_of_class(name)}
    chosen = [name for name in METRICS.values() if name in metrics] or list(metrics)[:4]
    percent = {name: " %" if name.endswith("(%)") else "" for name in chosen}
    return ", ".join(
        f"{name.removesuffix(' (%)')} {in_digits(name, metrics[name])}{percent[name]}"
        for name in chosen
    )


def print_metrics(metrics: dict[str, float], title: str) -> None:
    """A table, with one of the classes before it where metrics are given by class."""
    print(f"{title}:")
    of_class: dict[str, dict[str, float]] = {}
    table = Table("metric", "value")
    for name, value in metrics.items():
        if match := OF_CLASS.fullmatch(name):
            of_class.setdefault(match[2], {})[match[1] + (match[3] or "")] = value
        else:
            table.add_row(name, in_digits(name, value))
    if of_class:
        columns = list(dict.fromkeys(name for scores in of_class.values() for name in scores))
        classes = Table("class", *columns)
        for name, scores in of_class.items():
            classes.add_row(escape(name), *(in_digits(c, scores.get(c, math.nan)) for c in columns))
        Console().print(classes)
    Console().print(table)


def in_digits(name: str, value: float) -> str:
    """A metric by its name's scale."""
    if math.isnan(value):
        return "nan"
    return f"{value:.2f}" if name.endswith("(%)") else f"{value:.3f}"


def save_curves(training: list[dict], validation: list[dict], path: Path) -> Path | None:
    """Losses and metrics against iterations, as a PNG; None when nothing was logged."""
    if not training:
        return None
    columns = 2 if validation else 1
    figure, (axes,) = plt.subplots(
        1, columns, figsize=(5.5 * columns, 4), layout="constrained", squeeze=False
    )
    left, right = axes[0], axes[-1]
    for label, points in losses_of(training).items():
        left.plot(*zip(*points, strict=True), label=label, linewidth=2.2 if label == "loss" else 1)
    left.set(xlabel="iteration", ylabel="loss", title="training")
    left.set_ylim(bottom=0)
    left.legend(fontsize=8)
    for name in headlines_of(validation):
        points = [(r["at"], found[name]) for r in validation if name in (found := metrics_of(r))]
        right.plot(*zip(*points, strict=True), marker="o", label=name)
    if validation:
        right.set(xlabel="iteration", title="validation")
        right.set_ylim(bottom=0)
        right.legend(fontsize=8)
    for part in axes:
        part.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def losses_of(training: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """The losses as points, by their labels: the total and its parts. Of many parts those of one kind, such
    as a decoder's layers, are summed (d0.loss_cls, d1.loss_cls; loss_ce_0, loss_ce_1), and of many kinds the
    smallest."""
    names = sorted(
        {key for record in training for key in record if "loss" in key and key != "loss"}
    )
    groups = {name: [name] for name in names}
    if len(names) > LINES:
        groups = {}
        for name in names:
            groups.setdefault(re.sub(r"_\d+$", "", name.rpartition(".")[2]), []).append(name)

    def points(parts: list[str]) -> list[tuple[int, float]]:
        return [
            (r["at"], sum(r[n] for n in parts if n in r)) for r in training if set(parts) & set(r)
        ]

    lines = {kind: points(parts) for kind, parts in groups.items()}
    ranked = sorted(lines, key=lambda kind: -statistics.fmean(value for _, value in lines[kind]))
    shown = set(ranked if len(ranked) <= LINES else ranked[: LINES - 1])
    total = points(["loss"])
    labelled = {"loss": total} if total else {}
    for kind, parts in groups.items():
        if kind in shown:
            labelled[f"{kind}, sum of {len(parts)}" if len(parts) > 1 else kind] = lines[kind]
    if rest := [name for kind, parts in groups.items() if kind not in shown for name in parts]:
        labelled[f"{len(rest)} smaller losses, their sum"] = points(rest)
    return labelled


def headlines_of(validation: list[dict]) -> list[str]:
    """The metrics that are drawn: those of METRICS, or the first others, none of a class."""
    names = dict.fromkeys(name for record in validation for name in metrics_of(record))
    known = [name for name in METRICS.values() if name in names]
    return known or [name for name in names if not is_of_class(name)][:LINES]
