"""Whole detectors whose ConvNeXt has other names."""

import pytest
import torch
from randomness import random_state

from convnext_backbones import create_backbone
from convnext_backbones.checkpoints import CheckpointError, with_our_names
from convnext_backbones.checkpoints.layouts import LAYOUTS, to_layout

REST = {"neck.conv.weight": torch.ones(2), "bbox_head.fc.bias": torch.ones(3),
        "bbox_head.num_batches_tracked": torch.tensor(3), "steps_of_head": torch.ones(1)}  # fmt: skip


def detector(layout, prefix, *, norms=False, version=1):
    """Our backbone's state, and a whole model's with that backbone under a layout's names."""
    name = "convnextv2_atto" if version == 2 else "convnext_atto"
    selected = (0, 1, 2, 3) if norms else None
    ours = random_state(create_backbone(name, out_indices=selected, output_norm=norms))
    theirs, left = to_layout(ours, layout, version=version)
    assert not left
    return ours, {prefix + n: v for n, v in theirs.items()} | REST


@pytest.mark.parametrize(
    ("layout", "version"),
    [
        (layout, version)
        for layout in LAYOUTS
        for version in (1, 2)
        if layout not in ("fcmae", "dinov3") and (version == 1 or "torchvision" not in layout)
    ],
)
def test_the_backbone_of_a_detector_gets_our_names_and_the_rest_keeps_its_own(layout, version):
    ours, state = detector(layout, "backbone.", version=version)
    before = dict(state)
    got = with_our_names(state)
    assert got.keys() == {f"backbone.{n}" for n in ours} | REST.keys()
    assert all(torch.equal(got[f"backbone.{n}"], v) for n, v in ours.items())
    assert all(got[n] is v for n, v in REST.items())
    assert state == before


@pytest.mark.parametrize("layout", ["official", "mmpretrain_backbone", "huggingface"])
def test_output_norms_are_translated_too(layout):
    ours, state = detector(layout, "backbone.", norms=True)
    got = with_our_names(state)
    assert torch.equal(got["backbone.norm2.bias"], ours["norm2.bias"])


def test_a_wrapper_between_is_left_out_where_it_is_said():
    ours, state = detector("timm_features", "backbone.timm_model.")
    assert with_our_names(state).keys() == {f"backbone.timm_model.{n}" for n in ours} | REST.keys()
    got = with_our_names(state, into="backbone.bottom_up.")
    assert got.keys() == {f"backbone.bottom_up.{n}" for n in ours} | REST.keys()


def test_what_wrapping_modules_put_into_names_is_taken_out():
    ours, state = detector("mmpretrain_backbone", "backbone.")
    got = with_our_names({f"module.{n}": v for n, v in state.items()})
    assert got.keys() == {f"backbone.{n}" for n in ours} | REST.keys()


def test_teacher_and_student_are_both_translated():
    ours, one = detector("mmpretrain_backbone", "teacher.backbone.")
    _, other = detector("official", "student.backbone.")
    got = with_our_names(one | other)
    assert (
        got.keys()
        == {f"{w}.backbone.{n}" for n in ours for w in ("teacher", "student")} | REST.keys()
    )
    with pytest.raises(CheckpointError, match=r"holds 2 ConvNeXts.*cannot all go to 'backbone\.'"):
        with_our_names(one | other, into="backbone.")


def test_what_does_not_fit_is_refused():
    _, state = detector("mmpretrain_backbone", "backbone.")
    with pytest.raises(
        CheckpointError, match=r"run\.pth: no parameter of a ConvNeXt was recognised"
    ):
        with_our_names(REST, "run.pth")
    with pytest.raises(
        CheckpointError, match=r"backbone\.stages\.0\.0\.lora.*no parameter of a ConvNeXt"
    ):
        with_our_names(state | {"backbone.stages.0.0.lora": torch.ones(1)})
    with pytest.raises(
        CheckpointError, match=r"holds backbone\.stages.* under its own name and a foreign"
    ):
        with_our_names(
            {n.replace("backbone.", "backbone.inner."): v for n, v in state.items()}
            | {"backbone.stages.0.0.dwconv.bias": torch.ones(40)},
            into="backbone.",
        )
