"""Templates, what is in a run -> one file of HTML that needs no other."""

import base64
import math
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...errors import UserError
from ..whole_files import write_whole

TEMPLATES = Path(__file__).parent / "templates"
MARK = '<meta name="generator" content="convnext-backbones'
DASH = "\u2013"  # where there is no value; script.js sorts it last
LARGEST = 9 * 2**20  # bytes of a page


class Cell(NamedTuple):
    """What stands in a table: a text, by what it is sorted (a number; None: its text), its kind (a class of
    style.css)."""

    text: str
    value: float | None = None
    kind: str = ""


class Table(NamedTuple):
    """The names of its columns, of which the first names each row, and the rows."""

    columns: list[str]
    rows: list[list[Cell]]
    sortable: bool = False
    label: str = ""

    def of_numbers(self) -> list[bool]:
        """Whether a column holds numbers and gaps alone."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.columns)
        return [
            all(c.value is not None or c.text in (DASH, "") for c in column)
            and any(c.value is not None for c in column)
            for column in columns
        ]


def cells(*values: Any) -> list[Cell]:
    return [value if isinstance(value, Cell) else cell(value) for value in values]


def cell(value: Any, text: str | None = None, kind: str = "") -> Cell:
    """Of a number, a text, or None; no number sorts last and is a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell(DASH, None if value is None else math.nan, kind)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(
            text or (f"{value:,}" if isinstance(value, int) else f"{value:.4g}"), value, kind
        )
    return Cell(str(value), None, kind)


def save(path: Path, template: str, **content: Any) -> Path:
    """Write the page.

    Raises:
        UserError: it cannot be written, or another file is there that is no page of ours.
    """
    refuse_other_files(path)
    html = _ENVIRONMENT.get_template(f"{template}.html.jinja").render(**content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, html)
    return path


def refuse_other_files(path: Path) -> None:
    """
    Raises:
        UserError: a folder is there, or a file that is no page of ours.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{path}: the page is HTML; name a .html file")
    above = next(folder for folder in (*path.parents, Path()) if folder.exists())
    if path.is_dir() or not above.is_dir():
        raise UserError(f"{path} cannot be written: {path if path.is_dir() else above} is "
                        f"{'a folder' if path.is_dir() else 'no folder'}; name a .html file")  # fmt: skip
    if path.exists() and MARK not in path.read_text(errors="replace")[:2000]:
        raise UserError(f"{path} is there and is no page of a report; name another file")


def data_uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def duration(seconds: float) -> str:
    """1 h 04 min, 12 min 03 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def gib(size: float | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=True,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_ENVIRONMENT.globals.update(
    style=(TEMPLATES / "style.css").read_text,
    script=(TEMPLATES / "script.js").read_text, duration=duration, gib=gib,
)  # fmt: skip
