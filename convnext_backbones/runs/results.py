"""What a model sees in a picture, as every framework gives it, and the files that are made of it."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from .host import Classes, Example, Host, Result
from .visualize import Colour, class_name, draw_instances, draw_label_map, enlarged, full_palette


def draw(image: np.ndarray, result: Result, word: str = "") -> np.ndarray:
    """A result over its picture ((H, W, 3) uint8 RGB); the word stands below one without instances."""
    names = result.classes.names
    if result.label_map is not None:
        palette = _palette_of_map(result)
        return draw_label_map(image, result.label_map, names, palette, result.confidence)
    if result.boxes is None:
        return draw_instances(image, np.zeros((0, 4)), (), (), (), nothing="no annotation")
    palette = full_palette(result.classes.palette, names, result.labels)
    return draw_instances(
        image, result.boxes, result.labels, names, palette, result.scores, result.masks,
        nothing=word,
    )  # fmt: skip


def _palette_of_map(result: Result) -> Sequence[Colour]:
    classes = result.classes
    return full_palette(classes.palette, classes.names, () if classes.names else result.label_map)


def nothing(score: float) -> str:
    """What stands below a picture without instances of that score."""
    return f"nothing is found with a score of {score:g} or more"


def prediction_rows(
    host: Host, examples: Iterable[Example], score: float
) -> list[list[np.ndarray]]:
    """Picture, ground truth and prediction of each example."""
    return [
        [
            enlarged(image)[0],
            draw(image, host.truth_of(truth, meta, image), "no object is annotated"),
            draw(image, host.result_of(prediction, meta, score), nothing(score)),
        ]
        for image, truth, prediction, meta, _ in examples
    ]


# ---- label maps ----------------------------------------------------------------------------------
def label_map_image(result: Result) -> Image.Image | None:
    """A label map by number, with a palette that colours it: of a segmentation the class of each pixel; of
    instances k + 1 where the k-th is, the first on top, and 0 where none is. None for boxes alone."""
    if result.label_map is not None:
        labels = result.label_map
        palette = _palette_of_map(result)
    elif result.masks is not None:
        count = len(result.masks)
        labels = np.zeros(result.masks.shape[1:], np.uint16)
        for k in range(count - 1, -1, -1):
            labels[result.masks[k]] = k + 1
        palette = [(0, 0, 0), *full_palette(None, (), np.arange(count))]
    else:
        return None
    if labels.max(initial=0) > 255:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8)).convert("L")
    image.putpalette([v for colour in palette[:256] for v in colour])
    return image


# ---- COCO's format -------------------------------------------------------------------------------
class CocoResults:
    """Results in COCO's format: images, categories and annotations with scores, as one JSON. Its list
    "annotations" is what COCO.loadRes takes. A category's id is the class number + 1."""

    def __init__(self) -> None:
        self.classes = Classes()
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, result: Result, image: np.ndarray, file_name: str, **more) -> None:
        """The result of a picture ((H, W, 3)); `more` goes into its entry of "images"."""
        self.classes = result.classes
        height, width = image.shape[:2]
        entry = dict(id=len(self.images) + 1, file_name=file_name, width=width, height=height)
        self.images.append({**entry, **more})
        found = _regions(result) if result.label_map is not None else _instances(result)
        for annotation in found:
            of = dict(id=len(self.annotations) + 1, image_id=entry["id"])
            self.annotations.append({**of, **annotation, "iscrowd": 0})

    def content(self) -> dict:
        """What the JSON file holds."""
        most = max((a["category_id"] for a in self.annotations), default=0)
        count = max(most, len(self.classes.names))
        categories = [dict(id=k + 1, name=class_name(self.classes.names, k)) for k in range(count)]
        return dict(images=self.images, categories=categories, annotations=self.annotations)


def _instances(result: Result):
    for k, (left, top, right, bottom) in enumerate(np.asarray(result.boxes, float).tolist()):
        box = [left, top, right - left, bottom - top]
        entry = dict(category_id=int(result.labels[k]) + 1, bbox=[round(v, 3) for v in box])
        entry["score"] = round(float(result.scores[k]), 5)
        if result.masks is None:
            yield {**entry, "area": round(box[2] * box[3], 3)}
        else:
            yield {**entry, **_mask(result.masks[k])}


def _regions(result: Result):
    """Each class of a segmentation as one region, as COCO's stuff has it."""
    for k in np.unique(result.label_map):
        if k == 255:
            continue
        inside = result.label_map == k
        confidence = result.confidence
        score = 1.0 if confidence is None else float(confidence[inside].mean())
        mask = _mask(inside)
        box = [float(v) for v in rle.toBbox(mask["segmentation"])]
        yield dict(category_id=int(k) + 1, bbox=box, score=round(score, 5), **mask)


def _mask(inside: np.ndarray) -> dict:
    encoded = rle.encode(np.asfortranarray(inside.astype(np.uint8)))
    counts = encoded["counts"].decode()
    return dict(
        segmentation=dict(size=[int(v) for v in encoded["size"]], counts=counts),
        area=float(rle.area(encoded)),
    )


def filled(segmentation, height: int, width: int) -> np.ndarray:
    """(height, width) bool of an annotation of COCO's format: polygons, or either kind of RLE."""
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return rle.decode(segmentation).astype(bool)
    encoded = rle.frPyObjects(segmentation, height, width)
    if isinstance(encoded, list):
        encoded = rle.merge(encoded)
    return rle.decode(encoded).astype(bool)
