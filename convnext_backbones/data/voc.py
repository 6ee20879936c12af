"""Pascal VOC: an XML file a picture."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from ..console import counted
from ..errors import UserError
from .boxes import (
    Entry,
    chosen_classes,
    class_file,
    clipped,
    count_classes,
    count_masks,
    polygon_area,
    task_of,
    to_keep,
)
from .described import Found
from .splits import divide
from .tree import Header, Tree, headers, nearest, some, stem


class Sheet(NamedTuple):
    """An XML file: its picture, and the size that it says."""

    file: str
    picture: str
    root: Element
    size: tuple[int, int]


UNREADABLE = (ParseError, DefusedXmlException, OSError, ValueError)


def lies_in(tree: Tree) -> bool:
    """Whether one of the first XML files that can be read is VOC's."""
    read = 0
    for file in tree.ending(".xml"):
        try:
            if parse(tree.path(file)).getroot().tag == "annotation":
                return True
        except UNREADABLE:
            continue
        read += 1
        if read == 20:
            break
    return False


def unreadable(tree: Tree) -> list[str]:
    """The XML files that cannot be read, each with the reason."""
    found = []
    for file in tree.ending(".xml"):
        try:
            parse(tree.path(file))
        except UNREADABLE as error:
            found.append(f"{file} ({error})")
    return found


def read(tree: Tree, task: str | None, classes: Sequence[str] | None) -> Found:
    """Say what VOC's XML files hold.

    Raises:
        UserError: none of them can be read or belongs to a picture.
    """
    notes: list[str] = []
    sheets = _sheets(tree, notes)
    found = headers(tree.path(sheet.picture) for sheet in sheets)
    bad = [h.error for h in found if h.error]
    if bad:
        notes.append(f"Left out, {counted(len(bad), 'picture')} that cannot be read: {some(bad)}.")
    pairs = [(s, h) for s, h in zip(sheets, found, strict=True) if not h.error]
    if not pairs:
        raise UserError(f"no picture of the {len(sheets)} in {tree.root} can be read: {some(bad)}")
    entries = _entries(pairs, notes)
    names = count_classes(entries)
    plain = Counter(name.casefold() for name in names)
    alike = [name for name in sorted(names) if plain[name.casefold()] > 1]
    if alike:
        notes.append(
            f"Class names that differ in case alone are taken as several: {', '.join(alike)}."
        )
    order = sorted(names)
    listed = class_file(tree)
    if listed and set(names) <= set(listed[1]):
        order = listed[1]
        notes.append(f"The classes are in the order of {listed[0]}.")
    chosen = chosen_classes(names, order, classes, notes)
    if not sum(names[name] for name in chosen):
        raise UserError(f"the {len(entries)} XML files in {tree.root} hold no box of a class")
    chosen_task = task_of(*count_masks(entries, chosen), task, notes)
    parts = divide(tree, [entry.file for entry in entries], "Main", notes)
    by_file = {entry.file: entry for entry in entries}
    splits = {split: [by_file[file] for file in files] for split, files in parts.items()}
    return to_keep(tree, "voc", splits, chosen, chosen_task, notes)


def _sheets(tree: Tree, notes: list[str]) -> list[Sheet]:
    """The XML files that belong to a picture, one a picture."""
    by_stem: dict[str, list[str]] = {}
    for picture in tree.pictures:
        by_stem.setdefault(stem(picture), []).append(picture)
    sheets: dict[str, Sheet] = {}
    broken, lost, renamed, twice = [], [], [], []
    files = tree.ending(".xml")
    for file in files:
        try:
            root = parse(tree.path(file)).getroot()
        except UNREADABLE as error:
            broken.append(f"{file} ({error})")
            continue
        if root.tag != "annotation":
            continue
        said = (root.findtext("filename") or "").strip().replace("\\", "/").rsplit("/", 1)[-1]
        same = by_stem.get(stem(file)) or [p for p in by_stem.get(stem(said), ())]
        if not same:
            lost.append(file)
            continue
        picture = nearest(file, same)
        if said and said != picture.rsplit("/", 1)[-1]:
            renamed.append(f"{file} says {said!r}")
        if picture in sheets:
            twice.append(file)
            continue
        sheets[picture] = Sheet(file, picture, root, (_size(root, "width"), _size(root, "height")))
    if not sheets:
        if broken:
            raise UserError(f"no XML file in {tree.root} can be read: {some(broken)}")
        raise UserError(
            f"none of the {len(lost)} XML files in {tree.root} belongs to a picture ({some(lost)}; "
            f"{counted(len(tree.pictures), 'picture')} there): a picture and its file have the same name"
        )
    alone = [picture for picture in tree.pictures if picture not in sheets]
    for names, what in (
        (broken, "Left out, {} that cannot be read"),
        (lost, "Left out, {} without a picture"),
        (twice, "Left out, {} for a picture that has one"),
        (
            renamed,
            "In {} `filename` names another picture than the one of the file's own name, which was taken",
        ),
    ):
        if names:
            notes.append(f"{what.format(counted(len(names), 'XML file'))}: {some(names)}.")
    if alone:
        notes.append(
            f"Left out, {counted(len(alone), 'picture')} without an XML file: {some(alone)}."
        )
    return [sheets[picture] for picture in sorted(sheets)]


def _size(root: Element, side: str) -> int:
    try:
        return int(float(root.findtext(f"size/{side}") or 0))
    except ValueError:
        return 0


def _entries(pairs: Sequence[tuple[Sheet, Header]], notes: list[str]) -> list[Entry]:
    """The pictures with their boxes."""
    from supervision.dataset.formats.pascal_voc import parse_polygon_points

    raw, wrong = [], []
    sizes, turned = [], []
    for sheet, header in pairs:
        size = (header.width, header.height)
        if sheet.size != size:
            if header.turned and sheet.size == size[::-1]:
                size = sheet.size  # the boxes lie on the picture as it is stored
                turned.append(sheet.file)
            else:
                sizes.append(f"{sheet.file} says {sheet.size[0]} x {sheet.size[1]}")
        objects = []
        items = sheet.root.findall("object")
        for number, (item, read) in enumerate(zip(items, _boxes(items), strict=True)):
            try:
                if isinstance(read, str):
                    raise ValueError(read)
                name, box = read
                polygons = [
                    (parse_polygon_points(polygon) - 1).reshape(-1).tolist()
                    for polygon in item.findall("polygon")
                ]
            except (ValueError, IndexError) as error:
                wrong.append(f"object {number + 1} of {sheet.file}: {error}")
                continue
            hard = (item.findtext("difficult") or "0").strip() in ("1", "true", "True")
            objects.append((name, box, polygons, hard))
        raw.append((sheet, size, objects))
    everything = [o for _, _, objects in raw for o in objects]
    from_0 = any(min(box[:2]) == -1 for _, box, _, _ in everything)
    if from_0:
        notes.append(
            "Some boxes start at pixel 0: coordinates count from 0, and not from 1 as VOC's own."
        )
    hard = sum(o[3] for o in everything)
    if 0 < hard == len(everything):
        notes.append("All objects are marked difficult: taken as if none was.")
    elif hard:
        notes.append(
            f"{counted(hard, 'object')} marked difficult: kept as iscrowd, neither trained on nor counted."
        )
    entries, outside, cut = [], [], []
    for sheet, (width, height), objects in raw:
        annotations = []
        for name, box, polygons, difficult in objects:
            if from_0:
                box = [box[0] + 1, box[1] + 1, box[2], box[3]]
                polygons = [[v + 1 for v in polygon] for polygon in polygons]
            inside, was_cut = clipped(box, width, height)
            if inside is None:
                outside.append(f"{name} in {sheet.file}")
                continue
            if was_cut:
                cut.append(f"{name} in {sheet.file}")
            polygons = [polygon for polygon in polygons if len(polygon) >= 6]
            one = dict(
                category=name, bbox=inside, iscrowd=int(difficult and hard < len(everything))
            )
            if polygons:
                one |= dict(segmentation=polygons, area=sum(map(polygon_area, polygons)))
            annotations.append(one)
        entries.append(Entry(sheet.picture, width, height, annotations))
    for names, what in (
        (wrong, "Left out, {} that cannot be read"),
        (outside, "Left out, {} outside its picture or empty"),
        (cut, "{} reached over its picture and was cut"),
    ):
        if names:
            notes.append(f"{what.format(counted(len(names), 'object'))}: {some(names)}.")
    if sizes:
        notes.append(
            f"{counted(len(sizes), 'XML file')} with another size than the picture has, which was taken: "
            f"{some(sizes)}."
        )
    if turned:
        notes.append(
            f"{counted(len(turned), 'picture')} turned by EXIF, with boxes on the picture as it is stored: "
            f"{some(turned)}."
        )
    return entries


def _boxes(items: Sequence[Element]) -> list[tuple[str, list[float]] | str]:
    """Class and left, top, right, bottom of each <object>, as the library reads them (VOC counts pixels
    from 1); what is wrong with it, where it cannot."""
    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    def read(items):
        root = Element("annotation")
        for item in items:
            bare = Element("object")
            bare.extend(part for part in item if part.tag in ("name", "bndbox"))
            root.append(bare)
        found, names = detections_from_xml_obj(root, [], (1, 1))
        return [
            (names[number].strip(), box)
            for number, box in zip(found.class_id, found.xyxy.tolist(), strict=True)
        ]

    try:
        return read(items)
    except ValueError:
        boxes = []
        for item in items:
            try:
                boxes += read([item])
            except ValueError as error:
                boxes.append(str(error))
        return boxes
