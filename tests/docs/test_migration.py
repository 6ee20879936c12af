"""docs/migration.md: its tables are what options of other implementations are answered with."""

import re

import pytest
from pages import text_of
from test_troubleshooting import OURS, is_said, sentences

from convnext_backbones import VARIANTS, create_backbone, create_classifier
from convnext_backbones.errors import OptionError

SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", text_of("migration.md")))


def rows(section: str) -> list[tuple[str, str]]:
    """The two columns of a section's table, without its head."""
    return re.findall(r"(?m)^\| (.*?) \| (.*) \|$", SECTIONS[section])[2:]


RENAMED = [
    (section, *names)
    for section in ("timm", "Hugging Face")
    for row in rows(section)
    for names in re.findall(r"^`([a-z]\w+)`\t`([a-z]\w+)`", "\t".join(row))
]


@pytest.mark.parametrize(("section", "theirs", "ours"), RENAMED)
def test_an_option_of_another_name_is_answered_with_ours(section, theirs, ours):
    with pytest.raises(OptionError, match=rf"'{theirs}': write {ours}\b"):
        create_classifier("convnext_atto", **{theirs: 1})


def test_the_tables_were_read():
    assert len(RENAMED) >= 7
    assert len(rows("MMPretrain")) > 10


def test_what_mmpretrains_table_quotes_is_said():
    texts = sentences(OURS)
    quoted = re.findall(r"refused: `([^`]+)`", SECTIONS["MMPretrain"])
    assert len(quoted) == 3
    assert all(is_said(quote, texts) for quote in quoted)


@pytest.mark.parametrize("row", rows("timm"), ids=lambda row: row[0])
def test_what_timm_has_under_the_same_name_is_an_option_here(row):
    theirs, ours = row
    if ours != "the same":
        return
    for name in re.findall(r"`(\w+)`", theirs):
        value = {"output_stride": 16, "drop_path_rate": 0.1}.get(name, 2)
        create_classifier("convnext_atto", **{name: value})


def test_networks_are_called_as_timm_and_transformers_call_them():
    assert {"convnext_tiny", "convnextv2_tiny"} <= VARIANTS.keys()
    maps = create_backbone("convnext_atto", out_indices=(0, 1, 2, 3), output_norm=False)
    assert not any(name.startswith("norm") for name, _ in maps.named_children())
