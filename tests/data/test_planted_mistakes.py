"""Every planted mistake gets its sentence, and no line of a trace."""

import logging
import re

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("detectron2")

from data import mistakes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("ground")
    mistakes.ground(path)
    return path


@pytest.mark.parametrize("mistake", mistakes.TABLE, ids=lambda mistake: mistake.what)
def test_a_mistake_gets_its_sentence(mistake, root, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "COLUMNS", "400"
    )  # a table's cells in one line, however long the folder's name
    # handlers of other tests' runs may hold a stream that is closed
    monkeypatch.setattr(logging, "raiseExceptions", False)
    status, text = mistakes.answered(mistake, root, tmp_path / "here")
    assert not mistakes.TRACE.search(text)
    assert re.search(mistake.words, " ".join(text.split()))
    assert status == mistake.status


def test_the_table_is_long_enough_and_names_nothing_twice():
    assert len(mistakes.TABLE) >= 100
    assert len({mistake.what for mistake in mistakes.TABLE}) == len(mistakes.TABLE)
