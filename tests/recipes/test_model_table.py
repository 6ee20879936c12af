"""tools/model_table.py: counted figures equal the published ones; test_configs.py has the configs'."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from convnext_backbones.cli import model_table
from convnext_backbones.lab import counting

TOOL = Path(__file__).parents[2] / "tools" / "model_table.py"


@pytest.mark.parametrize("section", ["classifiers", "backbones"])
def test_every_network_has_the_published_figures(section):
    rows = list(model_table.rows(section))
    assert len(rows) == 17
    assert all(row.as_published() for row in rows)


def test_count_is_multiply_accumulates_and_the_operations_asked_for():
    for bias in (True, False):
        conv = nn.Conv2d(3, 8, 2, stride=2, bias=bias)
        with counting.Count({nn.BatchNorm2d: 2, nn.ReLU: 1, nn.Conv2d: 1}) as count:
            nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU())(torch.zeros(1, 3, 10, 10))
        assert count.gmacs == pytest.approx(3 * 8 * 4 * 25 / 1e9)
        assert count.extra == pytest.approx((2 + 1 + bias) * 8 * 25 / 1e9)


@pytest.mark.parametrize(
    ("parameters", "gmacs", "fits"),
    [(28.1, 4.46, True), (27.4, 4.46, False), (28.1, 4.44, False), (28.1, 4.56, False)],
)
def test_a_figure_that_does_not_round_to_the_published_is_marked(parameters, gmacs, fits):
    row = counting.Row("tiny", 28, parameters, 4.5, gmacs, 0.0)
    assert row.as_published() == fits
    assert ("differs" in str(row)) == (not fits)


def test_command_prints_the_table_and_refuses_unknown_sections():
    def run(*words):
        return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True)

    table = run("classifiers")
    assert table.returncode == 0
    assert "convnextv2_huge" in table.stdout
    wrong = run("classifier")
    assert wrong.returncode == 2
    assert "unknown section 'classifier'; choose from classifiers, backbones" in wrong.stderr
