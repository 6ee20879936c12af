"""What is wrong with a config's data: its files, its labels, and what the config says of them.

    findings, classes = check(splits, facts)

`splits` is what a framework's data sets hand to their pipelines (records.py), `facts` what is in the
files (facts.py), of all of them or of a sample.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .annotations import check_boxes, check_classes, read_annotations, records_of
from .facts import Facts
from .findings import SEVERITIES, STOPS, TELLS, Finding, Findings
from .pictures import EXCHANGED
from .records import VOID, Records

RARE = 100  # times less than the most frequent class: worth a word
SMALL, MEDIUM = 32**2, 96**2  # COCO's sizes, in pixels of area
TINY = 4  # pixels, of an object's shorter side as the network sees it

AllFacts = Mapping[tuple[str, str], Facts]


@dataclass
class Count:
    """Of a class in one split: its boxes or pixels, the pictures that have it, its boxes by COCO's sizes,
    and their shorter sides in pixels as the network sees them."""

    amount: int = 0
    pictures: int = 0
    sizes: Counter = field(default_factory=Counter)
    sides: list[float] = field(default_factory=list)

    @property
    def median_side(self) -> float | None:
        return sorted(self.sides)[len(self.sides) // 2] if self.sides else None


Counts = dict[str, dict[str, Count]]  # split, class


def check(
    splits: Sequence[Records], facts: AllFacts, *, sampled: bool = False
) -> tuple[list[Finding], Counts]:
    """All findings, the gravest first, and what each class has in each split.

    sampled: `facts` are of some files alone, and do not tell which class no label map has.
    """
    findings, counts = [], {}
    for data in splits:
        found = Findings(data.split)
        _check_config(data, found)
        if data.task == "boxes":
            counts[data.split] = _check_detection(data, facts, found)
        else:
            counts[data.split] = _check_segmentation(data, facts, found)
        _check_pictures(data, facts, found)
        if data.task == "boxes" or not sampled:
            _check_counts(data, counts[data.split], found)
        findings += found
    findings += _shared(splits, facts)
    return sorted(findings, key=_gravity), counts


def _gravity(finding: Finding) -> tuple[int, bool]:
    """By severity; what a framework says of it after what the checks say."""
    return SEVERITIES.index(finding.severity), finding.check == "data set cannot be built"


def files_of(splits: Iterable[Records]) -> list[tuple[str, str]]:
    """The files that the splits name, by their kind in facts.KINDS."""
    jobs = []
    for data in splits:
        for record in data.records:
            jobs.append(("picture", record.picture))
            if record.label_map is not None:
                jobs.append(("labels", record.label_map))
    return list(dict.fromkeys(jobs))


def complete(data: Records) -> None:
    """Name the pictures of an annotation file whose data set cannot be made, so that they are checked."""
    if data.error and not data.records and data.annotations:
        content = read_annotations(data.annotations, Findings(data.split))
        data.records = records_of(content, data) if content else []


# ---- the config ----------------------------------------------------------------------------------
def _check_config(data: Records, found: Findings) -> None:
    if data.error:
        found.add("data set cannot be built", data.error)
    for evaluation in data.evaluations:
        if evaluation.annotations and data.annotations and not _same_file(
            evaluation.annotations, data.annotations
        ):  # fmt: skip
            found.add("evaluator reads another file",
                      f"{evaluation.kind} reads {evaluation.annotations}, the data set {data.annotations}")  # fmt: skip
        if evaluation.masks and not data.gives_masks:
            found.add("evaluator measures masks", evaluation.kind)


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


# ---- detection -----------------------------------------------------------------------------------
def _check_detection(data: Records, facts: AllFacts, found: Findings) -> dict[str, Count]:
    if data.annotations:
        content = read_annotations(data.annotations, found)
        if content:
            if not content.images:
                found.add("no pictures", data.annotations)
            if not content.boxes:
                found.add("no annotations", data.annotations,
                          severity=STOPS if data.split == "train" else TELLS)  # fmt: skip
            check_classes(content, data, found)
            check_boxes(content, data, found)
    counts = {name: Count() for name in data.classes}
    for record in data.records:
        if not record.boxes and data.error is None:
            found.add("picture without a box", _name(record.picture), picture=record.picture)
        size = record.size or _size(facts.get(("picture", record.picture)))
        scale = _scale(data, size)
        seen = set()
        for k, (left, top, right, bottom) in enumerate(record.boxes):
            label = record.labels[k]
            if not 0 <= label < len(data.classes):
                continue
            count = counts[data.classes[label]]
            wide, high = right - left, bottom - top
            count.amount += 1
            count.sizes[_coco_size(wide * high)] += 1
            if scale:
                side = min(wide * scale[0], high * scale[1])
                count.sides.append(side)
                if side < TINY:
                    found.add("objects of less than 4 pixels at the network's size",
                              f"{data.classes[label]} in {_name(record.picture)}: {side:.1f}",
                              picture=record.picture)  # fmt: skip
            seen.add(data.classes[label])
        for name in seen:
            counts[name].pictures += 1
    return counts


def _coco_size(area: float) -> str:
    return "small" if area <= SMALL else "medium" if area <= MEDIUM else "large"


def _scale(data: Records, size) -> tuple[float, float] | None:
    """How much smaller or larger the network sees a picture, in width and height."""
    if not size or not data.resized or min(size) <= 0:
        return None
    width, height = data.resized(*size)
    return width / size[0], height / size[1]


def _size(facts: Facts | None) -> tuple[int, int] | None:
    return (facts["width"], facts["height"]) if facts and "error" not in facts else None


# ---- segmentation --------------------------------------------------------------------------------
def _check_segmentation(data: Records, facts: AllFacts, found: Findings) -> dict[str, Count]:
    counts = {name: Count() for name in data.classes}
    voids = set(data.voids.values()) or {VOID}
    met, labelled = 0, 0
    for record in data.records:
        of_map = facts.get(("labels", record.label_map))
        if of_map is None:
            continue
        name = _name(record.label_map)
        if "error" in of_map:
            kind = "label map is missing" if of_map["missing"] else "label map cannot be read"
            found.add(kind, of_map["error"], picture=record.picture)
            continue
        _check_map_size(of_map, facts.get(("picture", record.picture)), record, found)
        met += 1
        beyond, inside = [], 0
        for text, pixels in of_map["values"].items():
            value = int(text)
            label = data.renumber.get(value, value)
            void_at = [place for place, void in data.voids.items() if void == label]
            if void_at and len(void_at) < len(data.voids):
                places = ", ".join(f"{place} {void}" for place, void in data.voids.items())
                found.add("a void label in one place alone", f"{label} in {name}",
                          picture=record.picture, advice=f"Give every place the same one: {places}")  # fmt: skip
            elif label in voids:
                continue
            elif 0 <= label < len(data.classes) and value < data.values:
                counts[data.classes[label]].amount += pixels
                counts[data.classes[label]].pictures += 1
                inside += pixels
            else:
                beyond.append(f"{value} ({pixels} pixels)")
        if beyond:
            more = ", .." * (len(beyond) > 4)
            found.add("label values beyond the classes",
                      f"{name} holds {', '.join(beyond[:4])}{more}; {_valid(data, voids)}",
                      picture=record.picture)  # fmt: skip
        if not inside:
            found.add("label map without a labelled pixel", name, picture=record.picture)
        labelled += bool(inside)
    if not data.records and data.error is None:
        found.add("no pictures", data.images or "")
    elif met and not labelled:
        found.add("no labelled pixel at all", f"{met} label maps looked at", count=met)
    return counts


def _valid(data: Records, voids: set[int]) -> str:
    shown = ", ".join(map(str, sorted(voids)))
    changed = " after reduce_zero_label" if data.renumber.get(0) in voids else ""
    return f"valid: 0 to {len(data.classes) - 1}, void {shown}{changed}"


def _check_map_size(of_map: Facts, of_picture: Facts | None, record, found: Findings) -> None:
    size, name = _size(of_picture), _name(record.label_map)
    own = (of_map["width"], of_map["height"])
    if size is None or own == size:
        return
    if of_picture["orientation"] in EXCHANGED and own == size[::-1]:
        found.add("labels are of the picture before EXIF turns it", name, picture=record.picture)
    else:
        found.add("label map is of another size than its picture",
                  f"{name} is {own[0]}x{own[1]}, the picture {size[0]}x{size[1]}",
                  picture=record.picture)  # fmt: skip


# ---- pictures ------------------------------------------------------------------------------------
def _check_pictures(data: Records, facts: AllFacts, found: Findings) -> None:
    met: dict[str, str] = {}
    for record in data.records:
        of_picture = facts.get(("picture", record.picture))
        if of_picture is None:
            continue
        name = _name(record.picture)
        if "error" in of_picture:
            kind = "picture is missing" if of_picture["missing"] else "picture cannot be read"
            found.add(kind, of_picture["error"], picture=record.picture)
            continue
        size, orientation = _size(of_picture), of_picture["orientation"]
        if orientation != 1:
            found.add("picture is turned by EXIF", name, picture=record.picture)
        _check_recorded_size(data, record, size, orientation, found)
        if of_picture["bits"] not in (1, 8):
            found.add(
                "picture is not of 8 bits", f"{name}: {of_picture['bits']}", picture=record.picture
            )
        if of_picture["mode"] != "RGB":
            found.add("picture is not RGB", f"{name}: {of_picture['mode']}", picture=record.picture)
        seen = data.resized(*size) if data.resized else size
        if min(seen) < data.least:
            found.add("picture is small for the network",
                      f"{name}: {seen[0]:.0f}x{seen[1]:.0f}, the network takes {data.least} and more",
                      picture=record.picture)  # fmt: skip
        first = met.setdefault(of_picture["digest"], record.picture)
        if first != record.picture:
            found.add("the same picture twice", f"{name} is {_name(first)}",
                      picture=record.picture)  # fmt: skip


def _check_recorded_size(data: Records, record, size, orientation: int, found: Findings) -> None:
    if record.size in (None, size):
        return
    name = f"{_name(record.picture)} is {size[0]}x{size[1]}, recorded {record.size[0]}x{record.size[1]}"
    unturned = orientation in EXCHANGED and record.size == size[::-1]
    found.add(
        "labels are of the picture before EXIF turns it" if unturned
        else "picture is of another size than recorded", name, picture=record.picture,
    )  # fmt: skip


def _shared(splits: Sequence[Records], facts: AllFacts) -> list[Finding]:
    """Pictures of one split in a later one: the same file, or the same bytes."""
    findings, owner = [], {}
    for data in splits:
        found = Findings(data.split)
        keys = defaultdict(set)
        for record in data.records:
            digest = facts.get(("picture", record.picture), {}).get("digest")
            keys[record.picture] |= {os.path.abspath(record.picture)} | ({digest} - {None})
        for path, own in keys.items():
            others = [owner[key] for key in own if key in owner]
            if others:
                found.add("picture of another split", f"{_name(path)} is {others[0]}", picture=path)
        for path, own in keys.items():
            for key in own:
                owner.setdefault(key, f"{_name(path)} of {data.split}")
        findings += found
    return findings


# ---- classes -------------------------------------------------------------------------------------
def _check_counts(data: Records, counts: dict[str, Count], found: Findings) -> None:
    amounts = {name: count.amount for name, count in counts.items()}
    if not any(amounts.values()):
        return
    for name, amount in amounts.items():
        if not amount:
            found.add("class without a sample", repr(name),
                      severity=None if data.split == "train" else TELLS,
                      advice=None if data.split == "train" else "Its metric cannot be measured")  # fmt: skip
    most, least = max(amounts.values()), min(a for a in amounts.values() if a)
    if data.split == "train" and most > RARE * least:
        name = min((a, n) for n, a in amounts.items() if a)[1]
        often = max(amounts, key=amounts.get)
        found.add("classes of very unequal counts",
                  f"{least} of {name!r} to {most} of {often!r}, 1 to {math.floor(most / least)}")  # fmt: skip


def _name(path: str) -> str:
    """The file and its folder."""
    return "/".join(Path(path).parts[-2:])
