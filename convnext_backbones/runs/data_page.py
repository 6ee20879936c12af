"""A page of pictures with their labels drawn: the first offenders of each check, then some of each split."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle

from ..data.findings import Finding
from ..data.pictures import read_picture
from ..data.records import VOID, Record, Records
from ..errors import UserError
from .visualize import FONT, draw_instances, draw_label_map, palette_of

COLUMNS, WIDTH, HEIGHT = 3, 420, 360  # pixels of a tile's picture
HEAD, GAP = 40, 10
SHEET_WIDTH = COLUMNS * (WIDTH + GAP) + GAP
OFFENDERS, SPREAD = 24, 6  # pictures for findings; of each split for a look
SMALL_FONT = 13


class Tile(NamedTuple):
    caption: str
    record: Record
    data: Records


def save_page(path: Path, splits: Sequence[Records], findings: Sequence[Finding]) -> Path:
    """Write the page as a PNG.

    Raises:
        UserError: it cannot be written, or its name is no picture's.
    """
    tiles = list(_offenders(splits, findings))[:OFFENDERS]
    tiles += [tile for data in splits for tile in _spread(data)]
    captions = [
        (tile.caption, f"{tile.data.split}: {Path(tile.record.picture).name}") for tile in tiles
    ]
    return save_picture(sheet(captions, map(_drawn_or_reason, tiles)), path)


def _drawn_or_reason(tile: Tile) -> np.ndarray | str:
    try:
        return drawn(tile.record, tile.data)
    except UserError as error:
        return str(error)


def sheet(
    captions: Sequence[tuple[str, str]],
    pictures: Iterable[np.ndarray | str],
    head: Image.Image | None = None,
) -> Image.Image:
    """Pictures, (H, W, 3) uint8 RGB, in rows under two lines each; words in the place of one that there is not.

    head: what stands above them.
    """
    rows, start = -(-len(captions) // COLUMNS), head.height if head else 0
    height = start + max(rows, 1) * (HEIGHT + HEAD + GAP) + GAP
    page = Image.new("RGB", (SHEET_WIDTH, height), "white")
    if head:
        page.paste(head, (0, 0))
    draw = ImageDraw.Draw(page)
    font = ImageFont.truetype(FONT, SMALL_FONT)
    for k, (lines, picture) in enumerate(zip(captions, pictures, strict=True)):
        left = GAP + k % COLUMNS * (WIDTH + GAP)
        top = start + GAP + k // COLUMNS * (HEIGHT + HEAD + GAP)
        for row, line in enumerate(lines):
            draw.text((left, top + row * 18), _shortened(line, font), fill="black", font=font)
        if isinstance(picture, str):
            draw.rectangle((left, top + HEAD, left + WIDTH, top + HEAD + HEIGHT), fill="lightgray")
            words = "\n".join(picture[at : at + 52] for at in range(0, len(picture), 52))
            draw.multiline_text((left + 8, top + HEAD + 8), words, fill="black", font=font)
            continue
        image = Image.fromarray(picture)
        image.thumbnail((WIDTH, HEIGHT))
        page.paste(image, (left, top + HEAD))
    return page


def save_picture(page: Image.Image, path: Path) -> Path:
    """Raises UserError where it cannot be written, or its name is no picture's."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        page.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written: {error}; name a .png file") from error
    return path


def check_page(path: Path, option: str = "--page") -> None:
    """Refuse a page that could not be saved, before its data are read.

    Raises:
        UserError: the name is no picture's, or a part of the path is a file.
    """
    if path.suffix.lower() not in Image.registered_extensions():
        raise UserError(f"{option} {path}: a page is a picture; name a .png file")
    above = next(folder for folder in (*path.parents, Path()) if folder.exists())
    if not above.is_dir() or path.is_dir():
        raise UserError(f"{option} {path}: {path if path.is_dir() else above} is "
                        f"{'a folder' if path.is_dir() else 'no folder'}; name a .png file")  # fmt: skip


def _offenders(splits: Sequence[Records], findings: Sequence[Finding]) -> Iterator[Tile]:
    records = {(d.split, record.picture): (record, d) for d in splits for record in d.records}
    checks: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        for picture in finding.pictures:
            if (finding.split, picture) in records:
                checks.setdefault((finding.split, picture), []).append(finding.check)
    for key, names in checks.items():
        yield Tile("; ".join(dict.fromkeys(names)), *records[key])


def _spread(data: Records) -> Iterator[Tile]:
    """Pictures from all over the split, those with labels."""
    labelled = [record for record in data.records if record.boxes or record.label_map]
    step = max(1, len(labelled) // SPREAD)
    for record in labelled[::step][:SPREAD]:
        yield Tile("for a look", record, data)


def drawn(record: Record, data: Records) -> np.ndarray:
    """A picture with its boxes and masks, or its label map; (H, W, 3) uint8 RGB."""
    try:
        image = read_picture(record.picture, size=record.size, label_map=record.label_map)
    except UserError:  # of another size: drawn as it is, which shows it
        image = read_picture(record.picture)
    palette = data.palette or palette_of(len(data.classes))
    if data.task == "boxes":
        known = [k for k, label in enumerate(record.labels) if 0 <= label < len(data.classes)]
        masks = [_mask(record.masks[k] if k < len(record.masks) else None, image) for k in known]
        return draw_instances(
            image,
            np.array([record.boxes[k] for k in known], np.float32).reshape(-1, 4),
            np.array([record.labels[k] for k in known], int),
            data.classes,
            palette,
            masks=np.stack(masks) if any(mask.any() for mask in masks) else None,
        )
    labels = _label_map(record, data)
    if labels.shape != image.shape[:2]:
        return image
    return draw_label_map(image, labels, data.classes, palette)


def _mask(mask, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    nothing = np.zeros((height, width), bool)
    try:
        if isinstance(mask, list):
            polygons = [polygon for polygon in mask if len(polygon) >= 6]
            mask = rle.merge(rle.frPyObjects(polygons, height, width)) if polygons else None
        elif isinstance(mask, dict) and isinstance(mask["counts"], list):
            mask = rle.frPyObjects(mask, *mask["size"])
        decoded = nothing if mask is None else rle.decode(mask).astype(bool)
    except (KeyError, TypeError, ValueError):  # a broken one is a finding, and is not drawn
        return nothing
    return decoded if decoded.shape == nothing.shape else nothing


def _label_map(record: Record, data: Records) -> np.ndarray:
    """(H, W) class numbers; VOID where there is none."""
    try:
        values = np.asarray(Image.open(record.label_map))
    except OSError:
        return np.zeros((0, 0), np.uint8)
    if values.ndim != 2:
        return np.zeros((0, 0), np.uint8)
    labels = values.astype(np.int64)
    for value, label in data.renumber.items():
        labels[values == value] = label
    labels[(labels < 0) | (labels >= len(data.classes))] = VOID
    return labels


def _shortened(text: str, font: ImageFont.FreeTypeFont) -> str:
    while font.getlength(text) > WIDTH and len(text) > 4:
        text = text[:-4] + ".."
    return text
