"""Validation pictures as a trained model sees them, the worst first, and what it takes for what."""

import io
import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image
from supervision.metrics.detection import ConfusionMatrix

from ..host import Example, Host, Result
from ..results import draw, nothing
from ..visualize import NO_CLASS, class_name

SHOWN = 24  # pictures on a page
SIDE = 560  # pixels, the long side of one that is drawn
IOU = 0.5  # of a box with an object's, to have found it
NONE = -1  # in a matrix: no object, or none that was found
JPEG = dict(format="JPEG", quality=80, optimize=True)


class Seen(NamedTuple):
    """A picture: its file, how wrong the prediction is (more is worse), in words, and what is drawn: the
    picture, the annotation and the prediction, each (H, W, 3) uint8 RGB."""

    file: str
    wrong: float
    words: str
    image: np.ndarray
    truth: Result
    prediction: Result

    def drawn(self, score: float) -> list[bytes]:
        """Picture, annotation and prediction as JPEG."""
        return [
            _jpeg(image)
            for image in (
                self.image,
                draw(self.image, self.truth, "no object is annotated"),
                draw(self.image, self.prediction, nothing(score)),
            )
        ]


class Looked:
    """What was seen in some validation pictures.

    score: the least of an instance. task: "boxes" or "label maps"; None before the first picture. matrix: how often an
    object or pixel of a class (the first number) was taken for another (the second); NONE on either side.
    worst: the SHOWN worst pictures.
    """

    def __init__(self, score: float) -> None:
        self.score, self.count, self.without_truth = score, 0, 0
        self.task: str | None = None
        self.names: list[str] = []
        self.matrix: Counter[tuple[int, int]] = Counter()
        self.worst: list[Seen] = []

    def look(self, host: Host, example: Example) -> None:
        """Compare and count a picture."""
        image, truth, prediction, meta, file = example
        truth = host.truth_of(truth, meta, image)
        prediction = host.result_of(prediction, meta, self.score)
        self.count += 1
        self.names = self.names or [str(name) for name in prediction.classes.names]
        if truth.label_map is not None and prediction.label_map is not None:
            self.task = "label maps"
            wrong, words = self._compare_maps(truth.label_map, prediction.label_map)
        elif truth.boxes is not None and prediction.boxes is not None:
            self.task = "boxes"
            wrong, words = self._compare_boxes(truth, prediction)
        else:
            wrong, words = -math.inf, "not annotated"
            self.without_truth += 1
        least = self.worst[-1].wrong if len(self.worst) == SHOWN else -math.inf
        if len(self.worst) < SHOWN or wrong > least:
            image, truth, prediction = smaller(image, truth, prediction)
            self.worst.append(Seen(file, wrong, words, image, truth, prediction))
            self.worst.sort(key=lambda seen: -seen.wrong)
            del self.worst[SHOWN:]

    def _compare_maps(self, truth: np.ndarray, found: np.ndarray) -> tuple[float, str]:
        known = truth != NO_CLASS
        truth, found = truth[known].astype(np.int64), found[known].astype(np.int64)
        if not truth.size:
            self.without_truth += 1
            return -math.inf, "no pixel is annotated"
        found = np.where(found == NO_CLASS, -1, found)
        count = int(max(truth.max(), found.max())) + 1
        matrix = np.bincount(
            truth * (count + 1) + found % (count + 1), minlength=count * (count + 1)
        )
        matrix = np.pad(matrix.reshape(count, count + 1), ((0, 1), (0, 0)))
        self._count(matrix)
        right, either = np.diag(matrix)[:-1], (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))[:-1]
        scores = right[either > 0] / either[either > 0]
        words = f"IoU {100 * scores.mean():.1f} %, the mean of {len(scores)} classes"
        return 1 - float(scores.mean()), words.replace("the mean of 1 classes", "of one class")

    def _compare_boxes(self, truth: Result, found: Result) -> tuple[float, str]:
        labels = [*np.asarray(truth.labels).tolist(), *np.asarray(found.labels).tolist()]
        count = int(max(labels, default=0)) + 1
        columns = (
            found.boxes,
            np.reshape(found.labels, (-1, 1)),
            np.reshape(found.scores, (-1, 1)),
        )
        matrix = ConfusionMatrix.evaluate_detection_batch(
            np.concatenate(columns, axis=1).astype(np.float32),
            np.concatenate((truth.boxes, np.reshape(truth.labels, (-1, 1))), axis=1).astype(np.float32),
            num_classes=count, conf_threshold=self.score, iou_threshold=IOU,
        )  # fmt: skip
        self._count(matrix)
        missed, false = int(matrix[:count, count].sum()), int(matrix[count].sum())
        other = int(matrix[:count, :count].sum() - np.trace(matrix))
        said = [f"{missed} missed" * bool(missed), f"{false} false" * bool(false),
                f"{other} of another class" * bool(other)]  # fmt: skip
        objects = len(truth.labels)
        words = ", ".join(filter(None, said)) or "all found"
        return float(missed + false + other), f"{words}; {objects} object{'s' * (objects != 1)}"

    def _count(self, matrix: np.ndarray) -> None:
        """Add a picture's matrix, whose last row and column are of no object."""
        last = len(matrix) - 1
        for row, column in np.argwhere(matrix).tolist():
            key = (NONE if row == last else row, NONE if column == last else column)
            self.matrix[key] += int(matrix[row, column])

    def class_names(self) -> dict[int, str]:
        """The names of the classes that the matrix holds."""
        numbers = sorted({number for pair in self.matrix for number in pair} - {NONE})
        return {number: class_name(self.names, number) for number in numbers}


def smaller(image: np.ndarray, *results: Result) -> tuple:
    """A picture of more than SIDE pixels at that size, and results in it, all by the nearest pixels."""
    height, width = image.shape[:2]
    factor = SIDE / max(height, width)
    if factor >= 1:
        return image, *results
    size = max(1, round(width * factor)), max(1, round(height * factor))
    rows = (np.arange(size[1]) * height // size[1])[:, None]
    columns = np.arange(size[0]) * width // size[0]

    def resized(result: Result) -> Result:
        maps = {
            name: None if value is None else np.asarray(value)[..., rows, columns]
            for name in ("label_map", "confidence", "masks")
            for value in [getattr(result, name)]
        }
        boxes = None if result.boxes is None else np.asarray(result.boxes) * factor
        return result._replace(boxes=boxes, **maps)

    picture = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture), *map(resized, results)


def confused(
    matrix: Iterable[tuple[int, int, int]], most: int
) -> list[tuple[int, int, int, float]]:
    """The pairs of classes that are taken for each other most often, with their part of the first's."""
    matrix = list(matrix)
    totals: Counter[int] = Counter()
    for row, _, count in matrix:
        totals[row] += count
    pairs = [(r, c, n, n / totals[r]) for r, c, n in matrix if r != c]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, 4 * SIDE))  # small ones were enlarged to be drawn on
    picture.save(file, **JPEG)
    return file.getvalue()
