"""FCMAE: visible positions alone, masks, files in the official names."""

import logging

import pytest
import torch
from sparse_reference import loss_and_prediction

from convnext_backbones import create_backbone
from convnext_backbones.checkpoints import CheckpointError, load_pretrained
from convnext_backbones.errors import UserError
from convnext_backbones.kernels import block, dispatch
from convnext_backbones.network.convnext import GRN, ConvNeXt, ConvNeXtV2
from convnext_backbones.network.variants import VARIANTS
from convnext_backbones.pretraining import FCMAE, fcmae, masks
from convnext_backbones.pretraining.files import load_fcmae, official_state

SMALL = dict(depths=(1, 2), dims=(6, 10))  # units of 8x8 pixels
WHOLE = dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))  # of 32x32


def small(arch=SMALL, **options):
    """An FCMAE of float64 whose GRN does something."""
    torch.manual_seed(0)
    model = FCMAE(arch, decoder_dim=12, **options).double()
    for module in model.modules():
        if isinstance(module, GRN):
            torch.nn.init.normal_(module.gamma)
            torch.nn.init.normal_(module.beta)
    return model


def pictures(n=3, channels=3, height=32, width=24):
    torch.manual_seed(1)
    return torch.randn(n, channels, height, width, dtype=torch.float64)


@pytest.fixture(params=["plain steps", "fast path"])
def path(request, monkeypatch):
    monkeypatch.setattr(dispatch, "enabled", request.param == "fast path")
    monkeypatch.setattr(dispatch, "SMALLEST", 0)


@pytest.mark.parametrize(
    ("arch", "height", "width", "options"),
    [
        (SMALL, 32, 24, {}),
        (SMALL, 16, 16, dict(in_channels=5, decoder_depth=2)),
        (SMALL, 24, 16, dict(version=1)),
        (WHOLE, 64, 96, dict(in_channels=1)),
    ],
)
def test_it_computes_what_a_reference_computes_that_has_visible_positions_alone(
    path, arch, height, width, options
):
    model = small(arch, **options)
    images = pictures(3, model.in_channels, height, width)
    loss, prediction, mask = model(images)
    loss.backward()
    theirs = {k: v.requires_grad_() for k, v in official_state(model).items()}
    their_loss, their_prediction = loss_and_prediction(
        theirs, images, mask.double(), arch["depths"], model.unit
    )
    their_loss.backward()
    torch.testing.assert_close(prediction, their_prediction, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(loss, their_loss, atol=1e-9, rtol=1e-9)
    with (
        torch.no_grad()
    ):  # gradients lie in the official shapes when they take the parameters' places
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    for name, gradient in official_state(model).items():
        torch.testing.assert_close(gradient, theirs[name].grad, atol=1e-9, rtol=1e-9, msg=name)


def test_the_fast_path_computes_the_visible_positions_alone(monkeypatch):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)
    computed, linear = [], block.linear
    monkeypatch.setattr(block, "linear", lambda x, *w: computed.append(x.shape[1]) or linear(x, *w))
    mask = masks.random_mask(3, 12, 0.6)
    small().encode(pictures(), mask)
    small(version=1).encode(pictures(), mask).sum().backward()
    seen = int((mask[0] == 0).sum())
    assert computed == 2 * [4 * seen, seen, seen]


def test_images_may_show_different_numbers_of_units(path):
    model, images, mask = small(), pictures(), torch.zeros(3, 12)
    mask[0, :3] = mask[1, 2:9] = mask[2, 11:] = 1
    together = model(images, mask)
    alone = [model(images[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together.prediction, torch.cat([one.prediction for one in alone]))
    units = mask.sum(1)
    expected = sum(one.loss * n for one, n in zip(alone, units, strict=True)) / units.sum()
    torch.testing.assert_close(together.loss, expected)


def test_removed_pixels_change_nothing_that_is_seen_and_get_no_gradient(path):
    model, images = small(), pictures()
    mask = masks.random_mask(3, 12, 0.6)
    removed = masks.images_of(mask[..., None].repeat(1, 1, 64), (4, 3), 8) == 1
    seen = model.encode(images, mask)
    other = torch.where(removed, torch.randn_like(images) * 50, images).requires_grad_()
    torch.testing.assert_close(model.encode(other, mask), seen, atol=0, rtol=0)
    model.encode(other, mask).square().sum().backward()
    assert not other.grad[removed.expand_as(other.grad)].any()
    assert other.grad.any()


def test_every_parameter_has_a_gradient():
    model = small()
    model(pictures()).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_size_is_built_in_the_official_names(name):
    variant = VARIANTS[name]
    with torch.device("meta"):
        model = FCMAE(variant.size, version=variant.version)
    names = set(model.state_dict())
    assert {"mask_token", "proj.weight", "pred.bias", "decoder.0.grn.gamma"} <= names
    assert model.unit == 32
    assert model.pred.weight.shape == (3072, 512, 1, 1)
    own = (ConvNeXtV2 if variant.version == 2 else ConvNeXt).version
    assert model.encoder.version == own
    assert model.encoder.depths == variant.depths


def test_masks_remove_the_share_of_each_image_and_differ():
    torch.manual_seed(0)
    mask = masks.random_mask(200, 49, 0.6)
    assert mask.sum(1).unique().tolist() == [49 - int(49 * 0.4)]
    assert len(mask.unique(dim=0)) == 200
    assert mask.mean(0).min() > 0.4  # no unit is spared
    assert [masks.removed_units(10, r) for r in (0.01, 0.5, 0.9, 0.99)] == [1, 5, 9, 9]


def test_units_are_rows_columns_channels_as_the_official_ones():
    images = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    units = masks.units_of(images, 2)
    assert units.shape == (2, 6, 12)
    assert units[1, 4].tolist() == images[1, :, 2:4, 2:4].permute(1, 2, 0).flatten().tolist()
    assert masks.images_of(units, (2, 3), 2).equal(images)


def test_a_mask_is_taken_as_given_and_pixels_can_be_the_target():
    model, images = small(normalise_targets=False), pictures(1)
    mask = torch.zeros(1, 12)
    mask[0, 5] = 1
    loss, prediction, used = model(images, mask)
    assert used.equal(mask.double())
    pixels = images[0, :, 8:16, 16:24].permute(1, 2, 0).flatten()
    assert loss.item() == pytest.approx((prediction[0, 5] - pixels).square().mean().item())


def test_completed_images_keep_what_was_seen_and_have_the_removed_units_brightness():
    model, images = small(), pictures()
    result = model(images)
    completed = model.completed(images, result)
    units, own = masks.units_of(completed, 8), masks.units_of(images, 8)
    seen = result.mask == 0
    assert units[seen].equal(own[seen])
    perfect = result._replace(prediction=model.target(images))
    torch.testing.assert_close(model.completed(images, perfect), images)


def test_autocast_gives_the_loss_in_float32():
    torch.manual_seed(0)
    model, images = FCMAE(SMALL, decoder_dim=12), torch.randn(2, 3, 32, 32)
    mask = masks.random_mask(2, 16, 0.6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(images, mask).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model(images, mask).loss.item(), rel=2e-2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: small()(pictures(height=30)), "multiples of 8, such as 24 or 32"),
        (lambda: small()(pictures(height=8, width=8)), "a single unit"),
        (lambda: small()(pictures(), torch.zeros(3, 11)), r"shape \(3, 12\)"),
        (lambda: small()(pictures(), torch.zeros(3, 12)), "remove one at least"),
        (lambda: small()(pictures(), torch.full((3, 12), 0.5)), "1 for each unit"),
        (lambda: small()(pictures(channels=4)), "4 channels"),
        (lambda: FCMAE("atto", mask_ratio=1.0), "between 0 and 1, such as 0.6"),
        (lambda: FCMAE("atto", version=3), "version must be 1 or 2"),
        (lambda: FCMAE("atto", decoder_depth=0), "decoder_depth must be"),
        (lambda: FCMAE("ato"), "did you mean 'atto'"),
    ],
)  # fmt: skip
def test_wrong_input_is_answered_with_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_v1_is_marked_once_as_not_the_papers(caplog):
    fcmae._tell_of_version_1.cache_clear()
    with caplog.at_level(logging.WARNING, "convnext_backbones"):
        FCMAE(SMALL, version=1)
        FCMAE(SMALL, version=1)
        FCMAE(SMALL)
    assert [("not the paper's" in r.message) for r in caplog.records] == [True]


# ---- files ---------------------------------------------------------------------------------------
@pytest.fixture
def official(tmp_path):
    """A file of the official code's kind: a model of its names and shapes under "model"."""
    torch.manual_seed(5)
    state = official_state(FCMAE(WHOLE, decoder_dim=16))
    state = {name: torch.randn_like(value) / 10 for name, value in state.items()}
    assert state["encoder.stages.1.0.dwconv.kernel"].shape == (49, 6)
    assert state["encoder.stages.1.0.grn.gamma"].shape == (1, 24)
    assert state["encoder.downsample_layers.2.1.kernel"].shape == (4, 6, 8)
    assert state["decoder.0.grn.gamma"].shape == (1, 1, 1, 64)
    torch.save({"model": state, "epoch": 799}, tmp_path / "official.pt")
    return tmp_path / "official.pt", state


def test_an_official_checkpoint_goes_on_where_it_stopped(official):
    file, state = official
    model = FCMAE(WHOLE, decoder_dim=16)
    assert "decoder: loaded, too" in load_fcmae(model, file)
    assert {k: v.tolist() for k, v in official_state(model).items()} == {
        k: v.tolist() for k, v in state.items()
    }
    model, images = model.double(), pictures(2, 3, 64, 64)
    loss, _, mask = model(images)
    theirs = {k: v.double() for k, v in state.items()}
    expected, _ = loss_and_prediction(theirs, images, mask.double(), WHOLE["depths"], 32)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_training_goes_on_from_a_saved_file_as_without_it(tmp_path):
    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            loss = model(images, mask).loss
            loss.backward()
            optimizer.step()
        return loss.item()

    images, mask = pictures(), masks.random_mask(3, 12, 0.6)
    model = small()
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)
    torch.save({"model": official_state(model)}, tmp_path / "saved.pth")
    again = small()
    load_fcmae(again, tmp_path / "saved.pth")
    runs = [steps(m, torch.optim.SGD(m.parameters(), lr=0.1), 3) for m in (model, again)]
    assert runs[0] == runs[1]


def test_a_backbone_takes_the_encoder_whole(official):
    file, state = official
    backbone = ConvNeXtV2(WHOLE, out_indices=(0, 1, 2, 3))
    report = load_pretrained(backbone, file)
    assert report.layout == "fcmae"
    assert "decoder.0.grn.gamma" in report.dropped
    kernel = state["encoder.stages.0.0.pwconv1.linear.weight"]
    assert backbone.stages[0][0].pwconv1.weight.equal(kernel)


def test_version_1_is_written_and_read_too(tmp_path):
    model = FCMAE(WHOLE, version=1, decoder_dim=16)
    torch.nn.init.normal_(model.encoder.stages[2][0].gamma)
    torch.save({"model": official_state(model)}, tmp_path / "v1.pth")
    backbone = ConvNeXt(WHOLE)
    assert load_pretrained(backbone, tmp_path / "v1.pth").layout == "fcmae"
    assert backbone.stages[2][0].gamma.equal(model.encoder.stages[2][0].gamma)


def test_a_file_without_a_decoder_gives_the_encoder_and_says_so(tmp_path):
    torch.manual_seed(0)
    backbone = create_backbone("convnextv2_atto")
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    model = FCMAE("atto")
    assert "decoder: new" in load_fcmae(model, tmp_path / "backbone.pth")
    assert model.encoder.stages[3][1].grn.gamma.equal(backbone.stages[3][1].grn.gamma)
    assert model.encoder.stages[3][1].dwconv.weight.equal(backbone.stages[3][1].dwconv.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(decoder_dim=8), r"decoder does not fit .*mask_token is \(1, 16, 1, 1\)"),
        (dict(decoder_dim=16, decoder_depth=2), "decoder.1.dwconv.weight is missing"),
        (dict(decoder_dim=16, in_channels=4), "first layer takes 3 channels"),
        (dict(arch="atto"), "the model is convnextv2_atto"),
    ],
)
def test_a_file_of_another_model_is_refused_and_changes_nothing(official, options, words):
    model = FCMAE(**{"arch": WHOLE, **options})
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(CheckpointError, match=words):
        load_fcmae(model, official[0])
    assert all(p.equal(b) for p, b in zip(model.parameters(), before, strict=True))


def test_a_file_of_another_size_names_both(tmp_path):
    torch.save(create_backbone("convnextv2_femto").state_dict(), tmp_path / "femto.pth")
    with pytest.raises(UserError, match=r"this is convnextv2_femto.*the model is convnextv2_atto"):
        load_fcmae(FCMAE("atto"), tmp_path / "femto.pth")
