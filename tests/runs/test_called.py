"""What a command names as the next one exists, in a clone and installed."""

import re
from pathlib import Path

import pytest

from convnext_backbones.cli import COMMANDS
from convnext_backbones.runs.commands import called

TOOLS = Path(__file__).parents[2] / "tools"
MODULES = {
    match[1]: path for path in TOOLS.glob("*.py") if (match := re.search(r'\(run\("(\w+)"\)\)', path.read_text()))
}  # fmt: skip
WITH_A_FILE = [name for name, command in COMMANDS.items() if command.module in MODULES]


@pytest.mark.parametrize("command", WITH_A_FILE)
def test_a_command_is_called_by_its_file_in_a_clone(command, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(TOOLS / "train.py")])
    assert called(command) == f"python {MODULES[COMMANDS[command].module]}"
    monkeypatch.setattr("sys.argv", ["/bin/convnext-backbones"])
    assert called(command) == f"convnext-backbones {command}"
