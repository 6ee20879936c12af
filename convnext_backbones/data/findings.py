"""What a check finds: how many, of which first ones by name, how grave, and what to do."""

from collections.abc import Iterator
from typing import NamedTuple

STOPS, WARNS, TELLS = "stops", "warns", "tells"
SEVERITIES = (STOPS, WARNS, TELLS)
SHOWN = 3  # offenders by name


class Finding(NamedTuple):
    """One check's result for one split; `pictures` are the paths of the first offenders."""

    check: str
    severity: str
    split: str
    count: int
    examples: tuple[str, ...]
    advice: str
    pictures: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The finding in a line, with the first offenders."""
        names = "; ".join(self.examples)
        more = f" and {self.count - len(self.examples)} more" * (
            self.count > len(self.examples) > 0
        )
        said = f"{self.split}: {self.check}" if self.split else self.check
        said += f" ({self.count})" * (self.count > 1)
        said += f": {names}{more}" if names else ""
        return f"{said}. {self.advice}" if self.advice else said


# Each check by its name: how grave it is, and what to do about it.
CHECKS = {
    # ---- pictures
    "picture is missing": (STOPS, "Correct the folder or the file names, or leave them out: --fix"),
    "picture cannot be read": (STOPS, "Replace them, or leave them out: --fix"),
    "picture is turned by EXIF": (TELLS, "Read turned, as they are shown; --fix writes them so"),
    "labels are of the picture before EXIF turns it": (
        TELLS,
        "By their size: it is read unturned, as they are; --fix writes it so",
    ),
    "picture is of another size than recorded": (
        STOPS,
        "Do the boxes belong to these files? --fix records the sizes that they have",
    ),
    "picture is not of 8 bits": (TELLS, "Read as 8 bits, scaled; --fix writes them so"),
    "picture is not RGB": (TELLS, "Read as RGB; --fix writes them so"),
    "picture is small for the network": (WARNS, "Set a larger size in the pipeline, or leave them out"),
    "the same picture twice": (WARNS, "Leave one out, unless it is meant to count twice"),
    "picture of another split": (WARNS, "Validation then measures what was trained on: leave it out of one"),
    "no pictures": (STOPS, "Correct the folder and the suffix of the data set"),
    # ---- label maps
    "label map is missing": (STOPS, "Correct the folder or the suffix, or leave the picture out: --fix"),
    "label map cannot be read": (STOPS, "Replace it, or leave the picture out: --fix"),
    "label map is of another size than its picture": (STOPS, "Bring them to one size, or leave them out: --fix"),
    "label values beyond the classes": (STOPS, "Add the classes, or give pixels without a class the void label; --fix does the latter"),
    "a void label in one place alone": (STOPS, "Give every place the same one"),
    "label map without a labelled pixel": (TELLS, "Nothing is learned from it"),
    "no labelled pixel at all": (STOPS, "Do the label values begin at 0, and is reduce_zero_label right?"),
    # ---- annotation files
    "annotation file cannot be read": (STOPS, "Write it again as COCO JSON"),
    "annotation file lacks entries": (STOPS, "Add them; --fix fills in what can be known"),
    "no annotations": (STOPS, "A detector needs boxes to train on"),
    "picture id twice": (STOPS, "Give every picture an id of its own: --fix"),
    "annotation id twice": (STOPS, "Give every annotation an id of its own: --fix"),
    "file name twice": (WARNS, "Merge the entries"),
    "category id twice": (STOPS, "Give every category an id of its own"),
    "category name twice": (WARNS, "The one with boxes is meant"),
    "category ids with gaps": (TELLS, "Fine: they are numbered by name"),
    "no category has a class's name": (WARNS, "Write the names as the annotation file has them"),
    "boxes of categories that are no class": (TELLS, "They are left out"),
    "boxes of an unknown category": (WARNS, "They are left out: add the category, or --fix"),
    "boxes of an unknown picture": (WARNS, "They are left out: add the picture, or --fix"),
    "boxes marked ignore": (TELLS, "They are left out"),
    "boxes look like corners": (STOPS, "COCO's are left, top, width, height: --fix converts them"),
    "boxes look normalised": (STOPS, "COCO's are in pixels: --fix converts them"),
    "box is not four numbers": (STOPS, "Correct it, or leave it out: --fix"),
    "box is empty or negative": (WARNS, "They are left out: correct them, or --fix"),
    "box is outside its picture": (WARNS, "They are left out: correct them, or --fix"),
    "box reaches over its picture": (WARNS, "They are clipped: --fix"),
    "box without an area": (STOPS, "MMDetection reads it: --fix fills it in"),
    "box with an area of 0": (WARNS, "MMDetection leaves it out: --fix fills it in"),
    "annotation without iscrowd": (TELLS, "--fix fills in 0"),
    "crowd": (TELLS, "Boxes of groups: no loss and no miss counts them"),
    "object without a mask": (STOPS, "This model needs one of every object: add them, take a detector without masks, or --fix leaves these out"),
    "mask of fewer than three points": (WARNS, "They are left out; a rectangle is [x1, y1, x2, y1, x2, y2, x1, y2]"),
    "mask of another size than its picture": (STOPS, "Write the RLE at the picture's size"),
    "boxes left out by the data set": (TELLS, "By a rule of its own"),
    "picture without a box is left out": (TELLS, "filter_empty_gt; as background it would train too"),
    "picture left out by the data set": (TELLS, "By a filter of its own, such as min_size or indices"),
    "picture without a box": (TELLS, "Background"),
    # ---- classes
    "class without a sample": (WARNS, "It cannot be learned: add samples, or take it out of the classes"),
    "classes of very unequal counts": (TELLS, "Rare ones may need a ClassBalancedDataset or loss weights"),
    "objects of less than 4 pixels at the network's size": (TELLS, "Hard to find: a larger picture size helps"),
    # ---- the config
    "data set cannot be built": (STOPS, ""),
    "the config and its data do not fit": (STOPS, ""),
    "evaluator reads another file": (STOPS, "Set its ann_file to that of the data set"),
    "evaluator measures masks": (STOPS, "The model gives none: metric='bbox'"),
}  # fmt: skip


class Findings:
    """Gathers what checks find in one split."""

    def __init__(self, split: str):
        self.split = split
        self._found: dict[str, Finding] = {}

    def add(
        self,
        check: str,
        example: str = "",
        *,
        picture: str | None = None,
        count: int = 1,
        severity: str | None = None,
        advice: str | None = None,
    ) -> None:
        """Count an offender of a check in CHECKS; the first few are kept by name, with their pictures."""
        usual, usual_advice = CHECKS[check]
        before = self._found.get(
            check,
            Finding(
                check, severity or usual, self.split, 0, (),
                usual_advice if advice is None else advice,
            ),
        )  # fmt: skip
        kept = len(before.examples) < SHOWN
        self._found[check] = before._replace(
            count=before.count + count,
            examples=before.examples + (example,) * bool(example and kept),
            pictures=before.pictures + (picture,) * bool(picture and kept),
        )

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found.values())
