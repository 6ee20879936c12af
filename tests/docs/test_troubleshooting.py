"""docs/troubleshooting.md and docs/migration.md: what they quote is what is said."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from pages import ROOT, text_of

GAP = "\0"  # a value in a sentence
OURS = [*(ROOT / "convnext_backbones").rglob("*.py"), ROOT / "tools/setup_environment.py"]
THEIRS = {"MMEngine": "mmengine", "Detectron2": "yacs fvcore"}


def sentences(files: list[Path]) -> set[str]:
    """Every text in the files' code, values in it as gaps."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else GAP for p in node.values]
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"'?\{\}'?|%s", GAP, node.value))
    return found


def is_said(quote: str, texts: set[str]) -> bool:
    """Its words, in one text, with values where it has "..."."""
    words = [re.escape(part) for part in quote.split("...")]
    pattern = re.compile(f"[^\n]*{GAP}[^\n]*".join(words))
    return any(pattern.search(text) for text in texts)


def quotes(page: str) -> list[tuple[str, str]]:
    """Messages in the first column of its tables, with the second column."""
    rows = re.findall(r"(?m)^\| (`.*?`) \| (.*?) \|", text_of(page))
    return [(quote, other) for first, other in rows for quote in re.findall(r"`(.+?)`", first)]


QUOTES = quotes("troubleshooting.md")


@pytest.fixture(scope="module")
def our_sentences() -> set[str]:
    return sentences(OURS)


@pytest.mark.parametrize("quote", [quote for quote, other in QUOTES if other not in THEIRS])
def test_a_quoted_message_is_one_of_ours(quote, our_sentences):
    assert is_said(quote, our_sentences)


@pytest.mark.parametrize(("quote", "library"), [row for row in QUOTES if row[1] in THEIRS])
def test_a_message_quoted_from_a_framework_is_its_own(quote, library):
    files = []
    for name in THEIRS[library].split():
        spec = importlib.util.find_spec(name)
        if spec is None:
            pytest.skip(f"{name} is not installed")
        files += Path(spec.origin).parent.rglob("*.py")
    assert is_said(quote, sentences(files))


def test_a_message_that_nobody_says_is_noticed(our_sentences):
    assert not is_said("images have ... heads", our_sentences)
    assert not is_said("images have 3 channels", our_sentences)
    assert len(QUOTES) > 50
