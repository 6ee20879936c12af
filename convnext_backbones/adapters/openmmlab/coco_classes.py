"""COCO's categories to class numbers by name, in the data set and in the metric.

MMDetection takes the ids of the categories that a config's classes name in the order of the JSON, and
numbers them in that order: with `metainfo.classes` in another order the names are swapped, and with one
that no category names the numbers after it are those of their neighbours. Here class k is the category
that has its name (patches.py puts this in).
"""

import functools
import logging
from collections import Counter
from collections.abc import Sequence

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import CocoMetric

from ...errors import UserError
from ...network.variants import near_word
from ...runs.fine_tuning import some
from ...runs.patching import Patches, patched_attribute

LOGGER = logging.getLogger("convnext_backbones")


def ids_of(coco: COCO, classes: Sequence[str]) -> list[int | None]:
    """The category id of each class; None for one that no category names.

    Of several categories with one name the one with boxes is meant (Roboflow writes a parent beside
    it).

    Raises:
        UserError: `classes` is a string, or several categories of one name have boxes.
    """
    if isinstance(classes, str):
        raise UserError(
            f"classes={classes!r} is a string, which names its letters; write ({classes!r},)"
        )
    named: dict[str, list[int]] = {}
    for category in coco.dataset.get("categories", ()):
        named.setdefault(category["name"], []).append(category["id"])
    boxes = _boxes(coco)
    found = []
    for name in classes:
        ids = named.get(name, [])
        used = [k for k in ids if boxes[k]] or ids[:1]
        if len(used) > 1:
            raise UserError(
                f"the categories {', '.join(map(str, used))} are all named {name!r} and have boxes: give "
                "them one id, or different names"
            )
        found.append(used[0] if used else None)
    return found


def check_named(coco: COCO, classes: Sequence[str], file: str) -> None:
    """Say which classes no category of a file names, and which boxes are left out for it.

    Raises:
        UserError: no box of the file is of a class.
    """
    ids = ids_of(coco, classes)
    if None not in ids:
        return
    names = {category["id"]: category["name"] for category in coco.dataset.get("categories", ())}
    boxes = _boxes(coco)
    unnamed = [name for name, k in zip(classes, ids, strict=True) if k is None]
    left = {names[k]: count for k, count in boxes.items() if k in names and k not in ids}
    sentence = f"{file}: no category is named {some(list(map(repr, unnamed)), 5)}; "
    if near := [other for name in unnamed if (other := near_word(name, names.values()))]:
        sentence += f"did you mean {some(list(map(repr, near)), 3)}? "
    sentence += f"Valid: {some(list(map(repr, names.values())), 8)}"
    if left:
        counted = [f"{count} of {name!r}" for name, count in left.items()]
        sentence += f". Boxes left out, whose categories are no classes: {some(counted, 5)}"
    if boxes and not any(boxes[k] for k in ids if k is not None):
        raise UserError(
            f"{sentence}. No box is left: set metainfo=dict(classes=...) by these names"
        )
    LOGGER.warning(sentence)


def _boxes(coco: COCO) -> Counter:
    return Counter(box.get("category_id") for box in coco.dataset.get("annotations", ()))


# ---- the data set --------------------------------------------------------------------------------
class COCOByName(COCO):
    """The reader of CocoDataset, which gives category ids in the order of the classes.

    A class without a category has an id that no box has.
    """

    def __init__(self, annotation_file=None):
        super().__init__(annotation_file)
        self._file = annotation_file

    def get_cat_ids(self, cat_names=(), sup_names=(), cat_ids=()):
        if len(cat_names) == 0 or len(sup_names) or len(cat_ids):
            return super().get_cat_ids(cat_names, sup_names, cat_ids)
        check_named(self, cat_names, self._file)
        numbers = [k for k in self.cats if isinstance(k, int)]
        unused = range(max(numbers, default=0) + 1, max(numbers, default=0) + 1 + len(cat_names))
        ids = ids_of(self, cat_names)
        return [new if k is None else k for k, new in zip(ids, unused, strict=True)]


def by_name(reader: type[COCO]) -> type[COCO]:
    """The reader in place of MMDetection's own; somebody else's stays."""
    return COCOByName if reader is COCO else reader


# ---- the metric ----------------------------------------------------------------------------------
def computing_by_name(compute_metrics):
    """CocoMetric.compute_metrics, which evaluates the categories that the classes name, in the order of
    their ids: pycocotools sorts them, and the table by class counts on that order."""

    @functools.wraps(compute_metrics)
    def compute(self, results):
        if self._coco_api is not None and self.cat_ids is None:
            classes = self.dataset_meta["classes"]
            check_named(self._coco_api, classes, "the evaluator's ann_file")
            self.cat_ids = sorted(k for k in ids_of(self._coco_api, classes) if k is not None)
        return compute_metrics(self, results)

    return compute


def writing_by_name(results2json):
    """CocoMetric.results2json, which writes for class k the id of the category that has its name."""

    @functools.wraps(results2json)
    def write(self, results, outfile_prefix):
        evaluated = self.cat_ids
        ids = ids_of(self._coco_api, self.dataset_meta["classes"])
        self.cat_ids = [-1 if k is None else k for k in ids]  # no category: counts for none
        try:
            return results2json(self, results, outfile_prefix)
        finally:
            self.cat_ids = evaluated

    return write


BY_NAME = Patches(
    (
        patched_attribute(CocoDataset, "COCOAPI", by_name),
        patched_attribute(CocoMetric, "compute_metrics", computing_by_name),
        patched_attribute(CocoMetric, "results2json", writing_by_name),
    )
)
