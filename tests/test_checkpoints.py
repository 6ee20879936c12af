"""Reading checkpoints safely and loading them whole or not at all."""

import os

import pytest
import torch

from convnext_backbones import create_backbone
from convnext_backbones.checkpoints import CheckpointError, read_checkpoint


class Payload:
    """Executes a command when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_payload_is_refused_and_does_not_run(tmp_path):
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    torch.save({"model": {"a": torch.ones(1)}, "extra": Payload(target)}, path)
    with pytest.raises(
        CheckpointError, match=r"evil\.pth: holds a Python object \(posix\.system\)"
    ):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x00" * 100, "damaged"),
        (b"PK\x03\x04 cut short", "damaged"),
    ],
    ids=["empty", "html", "zeros", "cut zip"],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_is_no_checkpoint_is_named_with_its_cause(tmp_path, content, cause, suffix):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"weights\.{suffix}: .*{cause}"):
        read_checkpoint(path)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "cut.pth"
    torch.save(create_backbone("convnext_atto").state_dict(), path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut\.pth: is damaged"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_checkpoint(tmp_path / "none.pth")


def test_something_else_than_a_dictionary_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(tmp_path / "list.pth")
