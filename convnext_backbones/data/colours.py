"""Tables of the colours in label maps: name r g b."""

import csv
import json
import re
from collections.abc import Sequence

from ..errors import UserError
from .tree import Tree

Colour = tuple[int, int, int]

LARGEST = 100_000  # bytes of a file that is looked at for a table
HOW = (
    'Give a table: a file label_colors.txt in the folder with a line "name red green blue" for each class, '
    'or --classes "road=#804080,sky=#4682b4"'
)


def table_of(tree: Tree) -> tuple[str, dict[str, Colour]] | None:
    """The outermost file that lists names with colours, and what it says."""
    for file in sorted(tree.ending(".txt", ".csv", ".json"), key=lambda f: (f.count("/"), f)):
        path = tree.path(file)
        if path.stat().st_size > LARGEST:
            continue
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        table = _from_json(text) if file.lower().endswith(".json") else _from_lines(text)
        if len(table) >= 2:
            return file, table
    return None


def _from_lines(text: str) -> dict[str, Colour]:
    """Lines of a name and three numbers, in either order, parted by blanks or commas; {} where a line is
    something else."""
    table: dict[str, Colour] = {}
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    for number, line in enumerate(lines):
        parted = re.split(r"[,;\t]+", line) if re.search(r"[,;]", line) else line.split()
        words = [word.strip() for word in (next(csv.reader([line])) if "," in line else parted)]
        words = [word for word in words if word]
        row = _row(words) or _row(
            line.replace(",", " ").replace(";", " ").replace(":", " ").split()
        )
        if row:
            table.setdefault(*row)
        elif number:  # the first may be a heading
            return {}
    return table


def _row(words: Sequence[str]) -> tuple[str, Colour] | None:
    if len(words) >= 2 and (colour := hexadecimal(words[-1])):
        return " ".join(words[:-1]), colour
    for numbers, name in ((words[-3:], words[:-3]), (words[:3], words[3:])):
        if len(numbers) == 3 and name and all(re.fullmatch(r"\d{1,3}", n) for n in numbers):
            colour = tuple(map(int, numbers))
            name = name[1:] if len(name) > 1 and name[0].isdigit() else name  # "0 road 128 64 128"
            if max(colour) <= 255:
                return " ".join(name), colour
    return None


def hexadecimal(word: str) -> Colour | None:
    if match := re.fullmatch(r"#([0-9a-fA-F]{6})", word.strip()):
        value = int(match[1], 16)
        return value >> 16, value >> 8 & 255, value & 255
    return None


def _from_json(text: str) -> dict[str, Colour]:
    """{"road": [128, 64, 128]}, or entries with a name and a color."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    table: dict[str, Colour] = {}
    if isinstance(content, dict):
        for inner in ("labels", "classes", "categories"):
            if isinstance(content.get(inner), list):
                content = content[inner]
                break
    pairs = content.items() if isinstance(content, dict) else []
    if isinstance(content, list):
        pairs = [
            (
                next((e[k] for k in ("name", "readable", "label", "class") if k in e), None),
                next((e[k] for k in ("color", "colour", "rgb") if k in e), None),
            )
            for e in content
            if isinstance(e, dict)
        ]
    for name, colour in pairs:
        if isinstance(colour, str):
            colour = hexadecimal(colour)
        whole = isinstance(colour, list | tuple) and len(colour) == 3
        if (
            name is None
            or not whole
            or not all(isinstance(v, int) and 0 <= v <= 255 for v in colour)
        ):
            return {}
        table.setdefault(str(name), tuple(colour))
    return table


def named_colours(classes: Sequence[str]) -> dict[str, Colour] | None:
    """The colours of --classes "road=#804080,..", None where it holds names alone.

    Raises:
        UserError: some have a colour and some not, or one is no colour.
    """
    with_colour = [name for name in classes if "=" in name]
    if not with_colour:
        return None
    table = {}
    for entry in classes:
        name, _, word = entry.partition("=")
        colour = hexadecimal(word)
        if not name.strip() or colour is None:
            raise UserError(
                f"--classes: {entry!r} is no name with a colour; write each as road=#804080"
            )
        table[name.strip()] = colour
    return table
