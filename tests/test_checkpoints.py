"""Reading checkpoints safely and loading them whole or not at all."""

import os
import re

import pytest
import torch

from convnext_backbones import ConvNeXtV2, create_backbone, create_classifier
from convnext_backbones.checkpoints import CheckpointError, load_pretrained, read_checkpoint
from convnext_backbones.checkpoints.official import to_model_layout


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


def test_the_report_says_what_was_loaded(tmp_path):
    classifier = create_classifier("convnext_atto")
    torch.save({"model": classifier.state_dict()}, tmp_path / "a.pth")
    model = create_backbone("convnext_atto", out_indices=(0, 1, 2, 3))
    report = load_pretrained(model, tmp_path / "a.pth")
    assert report.recognised == "convnext_atto"
    assert {name.split(".")[0] for name in report.reinitialised} == {
        "norm0",
        "norm1",
        "norm2",
        "norm3",
    }
    assert set(report.dropped) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert 0.99 < report.share < 1
    assert len(str(report).splitlines()) == 3
    for name in report.loaded:
        assert torch.equal(model.state_dict()[name], classifier.state_dict()[name]), name


def test_a_classifier_loads_whole_and_a_head_of_another_size_stays_new(tmp_path):
    source = create_classifier("convnext_atto")
    torch.save(source.state_dict(), tmp_path / "a.pth")
    whole = create_classifier("convnext_atto")
    assert load_pretrained(whole, tmp_path / "a.pth").share == 1
    other = create_classifier("convnext_atto", num_classes=7)
    report = load_pretrained(other, tmp_path / "a.pth")
    assert report.reinitialised == report.dropped == ("head.weight", "head.bias")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("stages.2.3.pwconv1.weight"),
        lambda state: state.update({"stages.0.0.extra": torch.ones(3)}),
        lambda state: state.update({"stages.0.0.norm.weight": torch.ones(3)}),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_a_half_right_checkpoint_loads_nothing(tmp_path, spoil):
    state = create_classifier("convnext_atto").state_dict()
    spoil(state)
    torch.save(state, tmp_path / "half.pth")
    model = create_backbone("convnext_atto")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="Nothing was loaded"):
        load_pretrained(model, tmp_path / "half.pth")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def sparse(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A dense parameter as FCMAE's sparse encoder stores it."""
    if value.dim() == 4 and "stages" in name:  # depthwise (C, 1, K, K) -> (K*K, C)
        value = value.transpose(3, 2).reshape(value.shape[0], -1).permute(1, 0)
        name = name.replace(".weight", ".kernel")
    elif value.dim() == 4 and ".0.0." not in name:  # (out, in, K, K) -> (K*K, in, out)
        value = value.transpose(3, 2).reshape(*value.shape[:2], -1).permute(2, 1, 0)
        name = name.replace(".weight", ".kernel")
    elif ".grn." in name or (name.endswith(".bias") and ("dwconv" in name or ".1.bias" in name)):
        value = value.reshape(1, -1)
    name = re.sub(r"(stages\.\d+\.\d+\.norm)\.", r"\1.ln.", name)
    name = re.sub(r"(pwconv[12])\.", r"\1.linear.", name)
    return f"encoder.{name}", value.contiguous()


def test_a_sparse_fcmae_encoder_becomes_the_dense_network(tmp_path):
    source = ConvNeXtV2("atto")
    dense = {n: torch.randn_like(v) for n, v in source.state_dict().items() if "norm3" not in n}
    file = dict(sparse(name, value) for name, value in dense.items())
    file.update({"mask_token": torch.ones(1, 512, 1, 1), "decoder.0.gamma": torch.ones(3),
                 "proj.weight": torch.ones(2), "pred.bias": torch.ones(2)})  # fmt: skip
    assert any(name.endswith("kernel") for name in file)
    torch.save({"model": file}, tmp_path / "fcmae.pt")
    model = ConvNeXtV2("atto")
    report = load_pretrained(model, tmp_path / "fcmae.pt")
    assert report.recognised == "convnextv2_atto"
    for name, value in dense.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_grn_of_every_official_shape_becomes_one_dimensional():
    for shape in ((1, 1, 1, 8), (1, 8), (8,)):
        state = to_model_layout({"stages.0.0.grn.gamma": torch.arange(8.0).reshape(shape)})
        assert torch.equal(state["stages.0.0.grn.gamma"], torch.arange(8.0))
