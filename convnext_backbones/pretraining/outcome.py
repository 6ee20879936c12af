"""What a classifier's validation leaves to look at: which classes it confuses, and its worst mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sklearn.metrics import ConfusionMatrixDisplay, top_k_accuracy_score
from torch import Tensor

from ..data.pictures import read_picture

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WRITTEN = 20  # classes, up to which the confusions have numbers
MISTAKES = 16  # that are shown
LISTED = 50  # classes in the table
TOP1 = "top-1 (%)"


class Outcome(NamedTuple):
    """probabilities: (N, classes) of the validation pictures that can be read. labels: (N,). paths: theirs.
    unreadable: a sentence for each of the others."""

    probabilities: Tensor
    labels: Tensor
    paths: tuple[str, ...]
    unreadable: tuple[str, ...]

    @property
    def predicted(self) -> Tensor:
        return self.probabilities.argmax(dim=1)

    @property
    def scores(self) -> dict[str, float]:
        """Top-1, top-5 of more than five classes, and the mean of the classes' shares."""
        labels, classes = self.labels.numpy(), self.probabilities.shape[1]
        predicted = self.predicted.numpy()
        found = {TOP1: 100 * float((predicted == labels).mean())}
        if classes > 5:
            probabilities = self.probabilities.double().numpy()
            top5 = top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(classes))
            found["top-5 (%)"] = 100 * float(top5)
        shares = [share for count, share in self.per_class() if count]
        return {**found, "mean of classes (%)": 100 * float(np.mean(shares))}

    def per_class(self) -> list[tuple[int, float]]:
        """For each class how many pictures it has, and the share that is right; NaN of none."""
        right = self.predicted == self.labels
        found = []
        for label in range(self.probabilities.shape[1]):
            own = self.labels == label
            found.append((int(own.sum()), float(right[own].float().mean())))
        return found

    def worst(self, count: int = MISTAKES) -> list[int]:
        """The mistakes with the least probability of what is right, the worst first."""
        wrong = (self.predicted != self.labels).nonzero()[:, 0]
        given = self.probabilities[wrong, self.labels[wrong]]
        return wrong[given.argsort()][:count].tolist()


def print_classes(outcome: Outcome, classes: Sequence[str]) -> None:
    """A row a class; of many those of which most is wrong."""
    rows = [(name, *found) for name, found in zip(classes, outcome.per_class(), strict=True)]
    if len(rows) > LISTED:
        rows = sorted((row for row in rows if row[1]), key=lambda row: row[2])[:LISTED]
        print(f"the {LISTED} classes of which most is wrong:")
    table = Table("class", "pictures", "right")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, count, share in rows:
        table.add_row(escape(name), str(count), f"{share:.1%}" if count else "-")
    Console().print(table)


def save_confusion(outcome: Outcome, classes: Sequence[str], path: Path) -> Path:
    """Which class was taken for which, each row's share, as a PNG."""
    few = len(classes) <= WRITTEN
    side = min(max(4.0, 0.55 * len(classes) + 2), 14)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        outcome.labels.numpy(),
        outcome.predicted.numpy(),
        labels=np.arange(len(classes)),
        display_labels=classes if few else None,
        normalize="true",
        include_values=few,
        values_format=".2f",
        xticks_rotation="vertical",
        cmap="Blues",
        colorbar=not few,
        ax=axes,
    )
    axes.set(xlabel="predicted", ylabel="true")
    if not few:
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def save_mistakes(outcome: Outcome, classes: Sequence[str], path: Path) -> Path | None:
    """The worst mistakes as a PNG, what is right and what was said above each; None where there is none."""
    worst = outcome.worst()
    if not worst:
        return None
    columns = min(4, len(worst))
    rows = -(-len(worst) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.8 * columns, 3.1 * rows), layout="constrained", squeeze=False
    )
    for part in axes.flat:
        part.axis("off")
    for part, index in zip(axes.flat, worst, strict=False):
        label, said = int(outcome.labels[index]), int(outcome.predicted[index])
        given, taken = (float(outcome.probabilities[index, k]) for k in (label, said))
        part.imshow(read_picture(outcome.paths[index]))
        part.set_title(
            f"is {classes[label]} ({given:.0%})\nsaid {classes[said]} ({taken:.0%})",
            fontsize=9,
            parse_math=False,
        )
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
