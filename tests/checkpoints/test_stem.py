"""An RGB stem for other channels: timm's rule and two more, in every layout, through every door."""

import pytest
import torch
from timm.models._manipulate import adapt_input_conv

from convnext_backbones import create_backbone, create_classifier
from convnext_backbones.checkpoints import CheckpointError, inspect_checkpoint, load_pretrained
from convnext_backbones.checkpoints.layouts import LAYOUTS, to_layout
from convnext_backbones.errors import UserError
from convnext_backbones.network.convnext import ConvNeXtV2
from convnext_backbones.runs.fine_tuning import fit_whole

STEM = "downsample_layers.0.0.weight"
CHANNELS = (1, 2, 4, 10)


@pytest.fixture(scope="module")
def published():
    return create_classifier("convnextv2_atto", num_classes=5)


@pytest.fixture(scope="module")
def file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("stem") / "atto.pth"
    torch.save({"model": published.state_dict()}, path)
    return path


def kernels(model):
    return model.state_dict()[STEM]


@pytest.mark.parametrize("channels", CHANNELS)
def test_repeat_is_timms_rule(published, file, channels):
    model = create_backbone("convnextv2_atto", in_channels=channels)
    report = load_pretrained(model, file, stem="repeat")
    assert torch.equal(kernels(model), adapt_input_conv(channels, kernels(published)))
    assert STEM in report.loaded
    assert f"RGB kernels for {channels} channel" in str(report)
    assert "by stem='repeat'" in str(report)


@pytest.mark.parametrize("channels", CHANNELS)
def test_mean_answers_a_grey_image_as_the_rgb_stem_does(published, file, channels):
    model = create_backbone("convnextv2_atto", in_channels=channels)
    load_pretrained(model, file, stem="mean")
    grey = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        ours = model.downsample_layers[0](grey.expand(1, channels, 8, 8))
        theirs = published.downsample_layers[0](grey.expand(1, 3, 8, 8))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", CHANNELS)
def test_first_keeps_the_colours_kernels_and_ignores_the_rest(published, file, channels):
    model = create_backbone("convnextv2_atto", in_channels=channels)
    load_pretrained(model, file, stem="first")
    kept = min(channels, 3)
    assert torch.equal(kernels(model)[:, :kept], kernels(published)[:, :kept])
    assert not kernels(model)[:, kept:].any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_layout_is_adapted(tmp_path, layout, channels):
    version = 1 if layout in ("torchvision", "torchvision_features", "dinov3") else 2
    name = "convnextv2_atto" if version == 2 else "convnext_atto"
    source = create_classifier(name)
    theirs, _ = to_layout(source.state_dict(), layout, version=version)
    torch.save(theirs, tmp_path / "a.pth")
    model = create_backbone(name, pretrained=f"{tmp_path}/a.pth?stem=repeat", in_channels=channels)
    assert torch.equal(kernels(model), adapt_input_conv(channels, kernels(source)))


def test_without_the_option_the_refusal_names_it(file):
    model = create_backbone("convnextv2_atto", in_channels=4)
    before = kernels(model).clone()
    with pytest.raises(
        CheckpointError, match=r"Or make that layer out of the file's with stem='repeat' \(or"
    ):
        load_pretrained(model, file)
    assert torch.equal(kernels(model), before)


def test_what_fits_is_left_alone(published, file):
    model = create_backbone("convnextv2_atto")
    report = load_pretrained(model, file, stem="mean")
    assert report.adapted is None
    assert "adapted" not in str(report)
    assert torch.equal(kernels(model), kernels(published))


def test_what_is_no_rgb_stem_is_refused(tmp_path, file):
    torch.save(create_classifier("convnextv2_atto", in_channels=4).state_dict(), tmp_path / "4.pth")
    model = create_backbone("convnextv2_atto", in_channels=2)
    with pytest.raises(CheckpointError, match=r"this file's takes 4, the model's 2.*in_channels=4"):
        load_pretrained(model, tmp_path / "4.pth", stem="repeat")
    other = create_backbone("convnextv2_atto", in_channels=4, patch_size=2)
    with pytest.raises(CheckpointError, match=r"channels in patches of 2x2") as refused:
        load_pretrained(other, file, stem="repeat")
    assert "stem='repeat'" not in str(refused.value)


@pytest.mark.parametrize("how", ["sum", "", 3])
def test_another_word_is_refused(file, how):
    model = create_backbone("convnextv2_atto", in_channels=4)
    with pytest.raises(UserError, match="one of 'repeat', 'mean', 'first'"):
        load_pretrained(model, file, stem=how)
    if isinstance(how, str):
        with pytest.raises(UserError, match="one of 'repeat', 'mean', 'first'"):
            load_pretrained(model, f"{file}?stem={how}")


def test_create_takes_the_option_by_itself_or_in_the_name(file):
    by_option = create_classifier("convnextv2_atto", pretrained=file, stem="mean", in_channels=2)
    by_name = create_classifier("convnextv2_atto", pretrained=f"{file}?stem=mean", in_channels=2)
    assert torch.equal(kernels(by_option), kernels(by_name))
    with pytest.raises(UserError, match="give pretrained= too"):
        create_backbone("convnextv2_atto", in_channels=2, stem="mean")


def test_half_precision_stays_what_it_is(tmp_path, published):
    state = {name: value.half() for name, value in published.state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    model = create_backbone("convnextv2_atto", in_channels=4).half()
    load_pretrained(model, tmp_path / "half.pth", stem="repeat")
    assert torch.equal(kernels(model), adapt_input_conv(4, state[STEM]).half())


def test_options_may_follow_a_name(tmp_path, published):
    shifted = {name: value + 1 for name, value in published.state_dict().items()}
    torch.save({"model": published.state_dict(), "model_ema": shifted}, tmp_path / "both.pth")
    model = create_classifier("convnextv2_atto", num_classes=5)
    load_pretrained(model, f"{tmp_path}/both.pth?section=model_ema")
    assert torch.equal(kernels(model), shifted[STEM])
    odd = tmp_path / "both.pth?stem=mean"  # such a file is taken as it is
    torch.save(published.state_dict(), odd)
    assert load_pretrained(model, odd).adapted is None
    assert inspect_checkpoint(odd).located.options == {}


def test_a_whole_models_first_layer_is_adapted_too(published):
    class Whole(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.backbone = ConvNeXtV2("atto", in_channels=channels)
            self.head = torch.nn.Linear(320, 5)

    source, model = Whole(3), Whole(4)
    content = {"state_dict": source.state_dict()}
    with pytest.raises(CheckpointError, match=r"backbone\.downsample_layers\.0\.0\.weight is"):
        fit_whole(model, content, "run.pth", "")
    fitted = fit_whole(model, content, "run.pth", "", stem="repeat")
    expected = adapt_input_conv(4, kernels(source.backbone))
    assert torch.equal(fitted.state[f"backbone.{STEM}"], expected)
    assert "adapted: downsample_layers.0.0, RGB kernels for 4 channels" in str(fitted)


def test_configs_of_mmengine_take_the_option(file, published):
    openmmlab = pytest.importorskip("convnext_backbones.adapters.openmmlab")
    for weights in (
        {"pretrained": f"{file}?stem=mean"},
        {"init_cfg": dict(type="Pretrained", checkpoint=str(file), stem="mean")},
    ):
        model = openmmlab.ConvNeXtV2("atto", in_channels=1, **weights)
        model.init_weights()
        expected = kernels(published).sum(1, keepdim=True)
        torch.testing.assert_close(kernels(model), expected)


def test_detectron2s_checkpointer_takes_the_option(file, published):
    pytest.importorskip("detectron2")
    from detectron2.checkpoint import DetectionCheckpointer

    import convnext_backbones.adapters.detectron2  # noqa: F401  (replaces the checkpointer's load)

    model = torch.nn.Module()
    model.backbone = ConvNeXtV2("atto", in_channels=1)
    DetectionCheckpointer(model).load(f"{file}?stem=mean")
    torch.testing.assert_close(kernels(model.backbone), kernels(published).sum(1, keepdim=True))


def test_timms_models_say_what_they_adapt(file):
    ours = pytest.importorskip("convnext_backbones.adapters.timm")
    model = ours.TimmConvNeXt("atto", version=2, in_chans=4, num_classes=5)
    assert "by stem='repeat'" in str(model.load_pretrained(file))
    assert "by stem='first'" in str(model.load_pretrained(f"{file}?stem=first"))
