"""README.md and the pages in docs/: their blocks, and their Python as it stands there, run offline.

tests/docs/test_blocks.py holds that every block is tried, by the table there.
"""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from randomness import randomised

from convnext_backbones import create_classifier
from convnext_backbones.checkpoints import sources

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SHOWN = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


class Block(NamedTuple):
    """language: what stands after its fence; "" of a block that is indented or says none."""

    line: int
    language: str
    text: str


def text_of(page: str) -> str:
    """README.md's text, or that of a page in docs/."""
    return (ROOT if page == "README.md" else DOCS).joinpath(page).read_text()


def blocks_of(page: str) -> list[Block]:
    """Its blocks, in order."""
    found, inside, in_list, before = [], None, False, ""
    for number, line in enumerate(text_of(page).splitlines(), start=1):
        if line.lstrip().startswith("```"):
            if inside is None:
                inside = Block(number, line.strip().strip("`"), "")
            else:
                found.append(inside)
                inside = None
        elif inside is not None:
            inside = inside._replace(text=f"{inside.text}{line}\n")
        elif re.match(r"[-*] |\d+\. ", line):
            in_list = True
        elif line and not line.startswith(" "):
            in_list = False
        elif line.startswith("    ") and not in_list and not before.strip():
            found.append(Block(number, "", line))
        before = line
    assert inside is None, f"{page}: the block of line {inside.line} does not end"
    return found


def python_of(page: str) -> list[str]:
    """The text of its Python blocks, in order."""
    return [block.text for block in blocks_of(page) if block.language == "python"]


def yaml_of(page: str) -> list[str]:
    """The text of its YAML blocks, in order."""
    return [block.text for block in blocks_of(page) if block.language == "yaml"]


def run(page: str, swaps: dict[str, str] | None = None, **names) -> dict:
    """Its Python blocks, one after another; the names that they set.

    swaps: texts that others take the place of, to be quick. names: what the page takes as given.
    """
    for block in blocks_of(page):
        if block.language == "python":
            code = block.text
            for text, other in (swaps or {}).items():
                code = code.replace(text, other)
            # from its line on, for traces
            exec(compile("\n" * block.line + code, page, "exec"), names)
    return names


def publish_atto(folder: Path, monkeypatch):
    """A V2-Atto of random weights, whose file is what every download gives."""
    model = randomised(create_classifier("convnextv2_atto"))
    torch.save({"model": model.state_dict()}, folder / "published.pt")
    monkeypatch.setattr(sources, "download", lambda *args, **options: folder / "published.pt")
    return model
