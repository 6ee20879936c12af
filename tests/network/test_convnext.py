"""The backbones: layers against their formulas, selections, shapes, freezing, precision, refusals."""

import copy
import itertools

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convnext_backbones import (
    GRN,
    Block,
    ConvNeXt,
    ConvNeXtV2,
    LayerNorm2d,
    create_backbone,
    create_classifier,
)
from convnext_backbones.errors import UserError
from convnext_backbones.network.convnext import DropPath
from convnext_backbones.network.geometry import drop_path_rates

VERSIONS = [ConvNeXt, ConvNeXtV2]
SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
NAMES = ("stem", "stage1", "stage2", "stage3", "stage4")
SUBSETS = [s for n in range(1, 6) for s in itertools.combinations(NAMES, n)]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    ),
]


def small(version, dtype=torch.float32, **options):
    return randomised(version(SMALL, **options), dtype)


def all_equal(ours, expected, tolerance=1e-12):
    assert len(ours) == len(expected)
    for own, other in zip(ours, expected, strict=True):
        assert relative_difference(own, other) <= tolerance


# --- the layers ---------------------------------------------------------------------------------


def test_layer_norm_2d_is_the_papers_formula_over_channels():
    norm = randomised(LayerNorm2d(6, eps=1e-6), torch.float64)
    x = random_images(2, 6, 5, 4, dtype=torch.float64)
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    expected = (x - mean) / (variance + 1e-6).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert relative_difference(norm(x), expected) <= 1e-12


def test_grn_is_the_papers_formula():
    grn = randomised(GRN(6), torch.float64)
    x = random_images(2, 5, 4, 6, dtype=torch.float64)
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    relative = norm / (norm.mean(-1, keepdim=True) + 1e-6)
    expected = grn.gamma * (x * relative) + grn.beta + x
    assert relative_difference(grn(x), expected) <= 1e-12


def test_grn_of_small_values_has_the_official_eps():
    grn = randomised(GRN(6), torch.float64)
    x = 1e-6 * random_images(1, 2, 2, 6, dtype=torch.float64)  # the eps is as great as the norm
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    expected = grn.gamma * x * norm / (norm.mean(-1, keepdim=True) + 1e-6) + x
    assert relative_difference(grn(x) - grn.beta, expected) <= 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_grn_of_zeros_is_beta_and_has_finite_gradients(dtype):
    grn = randomised(GRN(6), dtype)
    x = torch.zeros(1, 3, 3, 6, dtype=dtype, requires_grad=True)
    output = grn(x)
    assert torch.equal(output, grn.beta.expand_as(x))
    output.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(grn.gamma.grad).all()


def test_block_is_the_papers_sequence_of_layers():
    for version in (1, 2):
        block = randomised(Block(6, version=version), torch.float64)
        x = random_images(2, 6, 9, 8, dtype=torch.float64)
        branch = F.conv2d(x, block.dwconv.weight, block.dwconv.bias, padding=3, groups=6)
        branch = F.layer_norm(
            branch.permute(0, 2, 3, 1), (6,), block.norm.weight, block.norm.bias, eps=1e-6
        )
        branch = F.gelu(branch @ block.pwconv1.weight.T + block.pwconv1.bias)
        branch = block.grn(branch) if version == 2 else branch
        branch = branch @ block.pwconv2.weight.T + block.pwconv2.bias
        branch = branch * block.gamma if version == 1 else branch
        expected = x + branch.permute(0, 3, 1, 2)
        assert relative_difference(block(x), expected) <= 1e-12
        assert (block.gamma is None) == (version == 2)


def test_drop_path_keeps_or_drops_whole_samples_and_keeps_the_expectation():
    drop = DropPath(0.25).train()
    torch.manual_seed(0)
    output = drop(torch.ones(4000, 2, 3, 3))
    per_sample = output.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(per_sample[:, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert per_sample[:, 0].mean().item() == pytest.approx(1.0, abs=0.03)


def test_drop_path_of_rate_one_drops_all_and_evaluation_drops_nothing():
    x = torch.ones(5, 2, 2, 2)
    assert torch.equal(DropPath(1.0).train()(x), torch.zeros_like(x))
    assert torch.equal(DropPath(0.9).eval()(x), x)


@pytest.mark.parametrize("version", VERSIONS)
def test_drop_path_grows_over_all_blocks_also_when_late_stages_are_not_built(version):
    full = version(SMALL, drop_path_rate=0.4)
    part = version(SMALL, drop_path_rate=0.4, out_indices=(1,))
    rates = [block.drop_path.rate for stage in full.stages for block in stage]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=1e-7)
    assert [block.drop_path.rate for stage in part.stages for block in stage] == rates[:2]


@pytest.mark.parametrize("version", VERSIONS)
def test_initial_weights_are_the_official_ones(version):
    model = version("atto")
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert module.bias.abs().max() == 0
            if module.weight.numel() > 5000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        if isinstance(module, GRN):
            assert module.gamma.abs().max() == module.beta.abs().max() == 0
        if isinstance(module, Block):
            assert module.gamma is None if version is ConvNeXtV2 else (module.gamma == 1e-6).all()


@pytest.mark.parametrize(
    ("value", "scaled"), [(0, False), (None, False), (0.0, False), (1.0, True)]
)
def test_layer_scale_begins_at_the_given_value_or_is_left_out(value, scaled):
    block = ConvNeXt(SMALL, layer_scale_init_value=value).stages[0][0]
    assert (block.gamma is not None) == scaled
    if scaled:
        assert (block.gamma == value).all()
    assert ConvNeXtV2(SMALL, layer_scale_init_value=value).stages[0][0].gamma is None


# --- selection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("names", SUBSETS, ids="-".join)
def test_every_selection_gives_its_maps_and_every_parameter_a_gradient(names, version):
    full = small(version, torch.float64, out_features=NAMES)
    chosen = list(names)
    model = version(SMALL, out_features=chosen).double().eval()
    assert chosen == list(names)
    state = full.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    images = random_images(1, 3, 37, 53, dtype=torch.float64)
    maps = model(images)
    positions = [NAMES.index(name) for name in names]
    all_equal(maps, [full(images)[p] for p in positions])
    assert model.out_features == names
    assert model.out_indices == tuple(p - 1 if p else None for p in positions)
    assert model.channels == tuple((8, 8, 16, 24, 32)[p] for p in positions)
    assert model.strides == tuple((4, 4, 8, 16, 32)[p] for p in positions)
    for x, channels, stride in zip(maps, model.channels, model.strides, strict=True):
        assert x.shape == (1, channels, 37 // stride, 53 // stride)
    loss = sum((x * random_images(*x.shape, dtype=x.dtype)).sum() for x in maps)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("version", VERSIONS)
def test_indices_select_what_names_select(version):
    for indices, names in [
        ((0, 3), ("stage1", "stage4")),
        ([-2], ("stage3",)),
        (None, ("stage4",)),
    ]:
        model = version(SMALL, out_indices=indices)
        assert model.out_features == names


def test_stages_after_the_last_selected_one_are_not_built():
    model = ConvNeXt(SMALL, out_features=("stem", "stage2"))
    assert len(model.stages) == len(model.downsample_layers) == 2
    assert len(ConvNeXt(SMALL, out_features=("stem",)).stages) == 0


def test_output_norms_are_those_of_the_selection_alone():
    names = {n.split(".")[0] for n in ConvNeXt(SMALL, out_features=NAMES).state_dict()}
    assert names == {"downsample_layers", "stages", "norm_stem", "norm0", "norm1", "norm2", "norm3"}
    names = {n.split(".")[0] for n in ConvNeXt(SMALL, out_indices=(1, 3)).state_dict()}
    assert names == {"downsample_layers", "stages", "norm1", "norm3"}
    names = {n.split(".")[0] for n in ConvNeXt(SMALL, output_norm=False).state_dict()}
    assert names == {"downsample_layers", "stages"}


# --- any shape of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [2, 4])
@pytest.mark.parametrize("in_channels", [1, 3, 6])
@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("version", VERSIONS)
def test_any_number_of_stages_channels_and_patch_size(version, stages, in_channels, patch_size):
    arch = {"depths": [1] * stages, "dims": [4 * (i + 1) for i in range(stages)]}
    model = version(
        arch, in_channels=in_channels, patch_size=patch_size, out_indices=list(range(stages))
    )
    maps = model(random_images(2, in_channels, 70, 66))
    for i, x in enumerate(maps):
        stride = patch_size * 2**i
        assert model.strides[i] == stride
        assert x.shape == (2, 4 * (i + 1), 70 // stride, 66 // stride)
    assert arch == {"depths": [1] * stages, "dims": [4 * (i + 1) for i in range(stages)]}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_of_none_gives_empty_maps(version):
    model = small(version, out_features=NAMES)
    for training in (False, True):
        maps = model.train(training)(torch.empty(0, 3, 33, 47))
        assert [x.shape for x in maps] == [
            (0, 8, 8, 11), (0, 8, 8, 11), (0, 16, 4, 5), (0, 24, 2, 2), (0, 32, 1, 1),
        ]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_samples_of_a_batch_do_not_see_each_other(version):
    model = small(version, torch.float64, out_features=NAMES)
    images = random_images(3, 3, 40, 36, dtype=torch.float64)
    together = model(images)
    for i in range(3):
        all_equal([x[i : i + 1] for x in together], model(images[i : i + 1]))


@pytest.mark.parametrize("version", VERSIONS)
def test_memory_layout_of_the_images_does_not_matter(version):
    model = small(version, out_features=NAMES)
    images = random_images(2, 3, 33, 47)
    expected = model(images)
    wide = random_images(2, 6, 66, 94)
    wide[:, ::2, ::2, ::2] = images
    layouts = {
        "channels last": images.contiguous(memory_format=torch.channels_last),
        "every second of a wider tensor": wide[:, ::2, ::2, ::2],
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
        "flipped twice": images.flip(0)[[1, 0]],
    }
    for layout in layouts.values():
        for own, other in zip(model(layout), expected, strict=True):
            assert torch.equal(own, other)


@pytest.mark.parametrize("version", VERSIONS)
def test_maps_lie_channels_last(version):
    for x in small(version, out_features=NAMES)(random_images(2, 3, 64, 64)):
        assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("version", VERSIONS)
def test_nan_and_infinity_reach_the_maps_of_their_sample_alone(version, bad):
    model = small(version, out_features=NAMES)
    images = random_images(2, 3, 64, 64)
    clean = model(images)
    images[1, 0, 0, 0] = bad
    for x, before in zip(model(images), clean, strict=True):
        assert torch.isnan(x[1]).any()
        assert torch.isfinite(x[0]).all()
        assert relative_difference(x[0], before[0]) <= 1e-6


@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
def test_output_stride_of_v1_agrees_with_the_plain_model_at_even_positions(output_stride):
    plain = small(ConvNeXt, torch.float64, out_features=NAMES)
    dilated = ConvNeXt(SMALL, out_features=NAMES, output_stride=output_stride).double().eval()
    dilated.load_state_dict(plain.state_dict())
    images = random_images(1, 3, 96, 64, dtype=torch.float64)
    assert dilated.strides == tuple(min(s, output_stride) for s in plain.strides)
    for own, expected, stride in zip(dilated(images), plain(images), plain.strides, strict=True):
        step = stride // min(stride, output_stride)
        assert own.shape[2:] == (96 // min(stride, output_stride), 64 // min(stride, output_stride))
        assert relative_difference(own[:, :, ::step, ::step], expected) <= 1e-12


def test_output_stride_of_v2_agrees_where_grn_pools_over_the_same_positions():
    """GRN pools over the map, which dilation makes denser: stages before it agree, as do all with
    GRN's initial weights of zero."""
    plain = small(ConvNeXtV2, torch.float64, out_features=NAMES)
    dilated = ConvNeXtV2(SMALL, out_features=NAMES, output_stride=8).double().eval()
    dilated.load_state_dict(plain.state_dict())
    images = random_images(1, 3, 64, 64, dtype=torch.float64)
    all_equal(dilated(images)[:3], plain(images)[:3])
    for model in (plain, dilated):
        for module in model.modules():
            if isinstance(module, GRN):
                nn.init.zeros_(module.gamma)
    for own, expected in zip(dilated(images), plain(images), strict=True):
        step = own.shape[2] // expected.shape[2]
        assert relative_difference(own[:, :, ::step, ::step], expected) <= 1e-12


@pytest.mark.parametrize("version", VERSIONS)
def test_output_stride_takes_odd_and_small_images(version):
    model = small(version, out_features=NAMES, output_stride=8)
    shapes = [x.shape[2:] for x in model(random_images(1, 3, 33, 47))]
    assert shapes == [(8, 11), (8, 11), (4, 5), (4, 5), (4, 5)]
    assert [x.shape[2:] for x in model(random_images(1, 3, 8, 8))][-1] == (1, 1)


# --- freezing and checkpointing -----------------------------------------------------------------


def frozen_names(model, k):
    prefixes = [f"downsample_layers.{i}." for i in range(k)] + [f"stages.{i}." for i in range(k)]
    prefixes += ["norm_stem."] + [f"norm{i}." for i in range(k)]
    return {n for n, _ in model.named_parameters() if k > 0 and n.startswith(tuple(prefixes))}


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("version", VERSIONS)
def test_frozen_stages_have_no_gradient_and_stay_under_weight_decay(version, k):
    model = version(SMALL, out_features=NAMES, frozen_stages=k, drop_path_rate=0.5)
    randomised(model)
    assert model.train() is model
    assert model.training
    frozen = frozen_names(model, k)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        maps = model(random_images(2, 3, 32, 32))
        loss = sum((x * random_images(*x.shape)).sum() for x in maps)
        if k < 4:
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        model.train()
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == frozen
    changed = {n for n, p in model.state_dict().items() if not torch.equal(p, before[n])}
    assert changed == (set(before) - frozen if k < 4 else set())


@pytest.mark.parametrize("version", VERSIONS)
def test_frozen_stages_stay_in_evaluation_mode_and_drop_nothing(version):
    model = small(version, out_indices=(0, 1), frozen_stages=2, drop_path_rate=0.9)
    images = random_images(4, 3, 32, 32)
    expected = model.eval()(images)
    all_equal(model.train()(images), expected, tolerance=0)
    assert not any(block.training for stage in model.stages for block in stage)
    assert version(SMALL, frozen_stages=0).train().stages[0].training


class PeakMemory(TorchDispatchMode):
    """The greatest number of bytes that tensors made inside held at one time, beside `model`'s."""

    def __init__(self, model):
        super().__init__()
        self.given = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.living, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.given:
                    self.living[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.living = {key: item for key, item in self.living.items() if not item[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.living.values()))
        return outputs


def run_with_gradients(model, images):
    """Maps, gradients, and the peak of memory over forward and backward, beside the parameters."""
    torch.manual_seed(5)
    with PeakMemory(model) as memory:
        maps = model(images)
        sum((x * random_images(*x.shape, dtype=x.dtype)).sum() for x in maps).backward()
    return maps, {n: p.grad for n, p in model.named_parameters()}, memory.peak


@pytest.mark.parametrize("frozen_stages", [0, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_checkpointing_gives_the_same_maps_and_gradients_for_less_memory(version, frozen_stages):
    """Here 0.55 to 0.73 of the peak; at one 512x512 image 240 of 603 MiB for convnext_tiny, 306 of
    737 MiB for convnextv2_tiny (float32, beside the parameters)."""
    arch = {"depths": (2, 2, 4, 2), "dims": (8, 16, 24, 32)}
    options = {"out_features": NAMES, "drop_path_rate": 0.3, "frozen_stages": frozen_stages}
    plain = randomised(version(arch, **options), torch.float64).train()
    checkpointed = version(arch, with_cp=True, **options).double().train()
    checkpointed.load_state_dict(plain.state_dict())
    images = random_images(4, 3, 64, 64, dtype=torch.float64)
    maps, gradients, memory = run_with_gradients(plain, images)
    own_maps, own_gradients, own_memory = run_with_gradients(checkpointed, images)
    all_equal(own_maps, maps, tolerance=0)
    assert own_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        if gradient is None:
            assert own_gradients[name] is None
        else:
            assert relative_difference(own_gradients[name], gradient) <= 1e-12, name
    assert own_memory < 0.8 * memory


# --- low precision ------------------------------------------------------------------------------

# Relative to the greatest value: a few units in the last place of a 10-bit and an 7-bit mantissa.
LOW = {torch.float16: 0.01, torch.bfloat16: 0.06}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("layer", ["norm", "grn"])
def test_statistics_of_a_large_map_with_large_values_stay_finite(layer, dtype, device):
    """200x334 values of 1e4: their sum of squares, 7e12, is far outside float16."""
    layer = randomised(LayerNorm2d(8, eps=1e-6) if layer == "norm" else GRN(8)).to(device)
    shape = (1, 8, 200, 334) if isinstance(layer, LayerNorm2d) else (1, 200, 334, 8)
    x = (1e4 * random_images(*shape).clamp(-1, 1)).to(device, dtype)
    with torch.no_grad():
        expected = layer(x.float())
        output = copy.deepcopy(layer).to(dtype)(x)
    assert output.dtype == dtype
    assert torch.isfinite(output).all()
    assert relative_difference(output, expected) <= LOW[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("version", [1, 2])
def test_block_on_a_large_map_with_large_values_stays_finite(version, dtype, scale, device):
    block = randomised(Block(8, version=version)).to(device)
    x = (scale * random_images(1, 8, 200, 334).clamp(-1, 1)).to(device, dtype)
    with torch.no_grad():
        expected = block(x.float())
        halved = copy.deepcopy(block).to(dtype)(x)
        with torch.autocast(device, dtype):
            mixed = block(x.float())
    for output in (halved, mixed):
        assert torch.isfinite(output).all()
        assert relative_difference(output, expected) <= LOW[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_whole_model_in_low_precision_is_finite_and_close(name, dtype, scale, device):
    model = randomised(create_backbone(name, out_indices=(0, 1, 2, 3))).to(device)
    images = (scale * random_images(1, 3, 200, 334).clamp(-1, 1)).to(device)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast(device, dtype):
            mixed = model(images)
        halved = copy.deepcopy(model).to(dtype)(images.to(dtype))
    for outputs in (mixed, halved):
        for output, reference in zip(outputs, expected, strict=True):
            assert torch.isfinite(output).all()
            # The greatest of thousands of errors after 12 blocks; the typical one is far smaller.
            assert relative_difference(output, reference) <= 5 * LOW[dtype]
            error = (output.float() - reference).square().mean().sqrt()
            assert error <= LOW[dtype] * reference.square().mean().sqrt()


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 4, 32, 32), r"4 channels \(shape \(1, 4, 32, 32\)\).*in_channels=3; give"),
        (
            torch.zeros(1, 32, 32, 3),
            r"32 channels.*in_channels=3; use images.permute\(0, 3, 1, 2\)",
        ),
        (torch.zeros(3, 32, 32), r"shape \(N, 3, H, W\), got \(3, 32, 32\); .*images\[None\]"),
        (torch.zeros(32, 32), r"shape \(N, 3, H, W\), got \(32, 32\); give a 4-D batch"),
        (torch.zeros(1, 1, 3, 32, 32), r"got \(1, 1, 3, 32, 32\); give a 4-D batch"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"uint8; give normalised .*/ 255"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "int64; give normalised"),
        (torch.zeros(1, 3, 32, 32).double(), r"float64, the weights torch.float32; use images.to"),
        (torch.zeros(1, 3, 32, 32).half(), r"float16, the weights torch.float32; use images.to"),
        (
            torch.zeros(1, 3, 31, 64),
            "31x64; this network needs at least 32x32 pixels: resize or pad",
        ),
        (torch.zeros(1, 3, 64, 31), "64x31; this network needs at least 32x32"),
        (torch.zeros(1, 3, 0, 64), "0x64; this network needs at least 32x32"),
        (torch.zeros(2, 3, 32, 0), "32x0; this network needs at least 32x32"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_the_fix(version, images, message):
    with pytest.raises(ValueError, match=message):
        version(SMALL)(images)


@pytest.mark.parametrize("images", [None, [[1.0]], torch.zeros(1, 3, 32, 32).numpy()])
def test_images_of_another_type_are_refused(images):
    with pytest.raises(TypeError, match=r"images must be a tensor of shape \(N, 3, H, W\), got a "):
        ConvNeXt(SMALL)(images)


@pytest.mark.parametrize(
    ("options", "smallest"),
    [
        ({"out_indices": (0,)}, 4),
        ({"out_features": ("stem",)}, 4),
        ({"out_indices": (2,)}, 16),
        ({"patch_size": 2}, 16),
        ({"output_stride": 8}, 8),
        ({"output_stride": 8, "out_indices": (0,)}, 4),
    ],
)
def test_smallest_image_is_the_stride_of_what_is_built(options, smallest):
    model = ConvNeXt(SMALL, **options)
    assert model(torch.zeros(1, 3, smallest, smallest))[-1].shape[2:] == (1, 1)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest}"):
        model(torch.zeros(1, 3, smallest - 1, smallest))


def test_float64_images_under_autocast_are_refused_and_half_images_taken():
    model = ConvNeXt(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(torch.ones(1, 3, 32, 32))[0]).all()
        assert torch.isfinite(model(torch.ones(1, 3, 32, 32).bfloat16())[0]).all()
        with pytest.raises(ValueError, match="float64, the weights"):
            model(torch.ones(1, 3, 32, 32).double())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a positive whole number, got 0"),
        ({"in_channels": 3.0}, "in_channels must be a positive whole number, got 3.0"),
        ({"patch_size": -4}, "patch_size must be a positive whole number, got -4"),
        ({"patch_size": (4, 4)}, "patch_size must be a positive whole number, got"),
        ({"drop_path_rate": 1.5}, "drop_path_rate must be between 0 and 1, got 1.5"),
        ({"drop_path_rate": -0.1}, "drop_path_rate must be between 0 and 1, got -0.1"),
        ({"drop_path_rate": "0.1"}, "drop_path_rate must be between 0 and 1, got '0.1'"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate must be between 0 and 1, got nan"),
        ({"layer_scale_init_value": "1"}, "layer_scale_init_value must be a number .*got '1'"),
        ({"layer_scale_init_value": -1}, "layer_scale_init_value must be a number .*got -1"),
        ({"output_stride": 12}, r"output_stride=12 .*strides \[4, 8, 16, 32\]"),
        ({"output_stride": 64}, r"output_stride=64 .*strides \[4, 8, 16, 32\]"),
        ({"frozen_stages": 5}, r"frozen_stages must be .*0 .*to 4 .*got 5"),
        ({"frozen_stages": -1}, r"frozen_stages must be .*got -1"),
        ({"frozen_stages": True}, r"frozen_stages must be .*got True"),
        ({"out_indices": (4,)}, r"out_indices holds 4; valid: -4\.\.3"),
        ({"out_indices": (1, 0)}, "not in network order"),
        ({"out_features": ("stage1", "stage1")}, "names a feature twice"),
        ({"out_features": ("stage9",)}, "holds 'stage9'; .*valid"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_with_what_came_and_what_is_valid(version, options, message):
    with pytest.raises(ValueError, match=message):
        version(SMALL, **options)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("out_index", "did you mean 'out_indices'"),
        ("droppath_rate", "did you mean 'drop_path_rate'"),
        ("frozen_stage", "did you mean 'frozen_stages'"),
        ("in_chans", "write in_channels"),
        ("gradient_checkpointing", "write with_cp"),
        ("depths", r"write arch=dict\(depths=..., dims=...\)"),
        ("zzz", "Valid: 'arch', 'in_channels', 'patch_size', 'out_features'"),
    ],
)
def test_unknown_options_name_the_nearest_valid_one(version, option, message):
    with pytest.raises(TypeError, match=f"{version.__name__} has no option '{option}'.*{message}"):
        version(SMALL, **{option: 1})


@pytest.mark.parametrize("count", [1, 2, 3, 12, 14, 18, 36, 61])
def test_drop_path_rates_are_the_numbers_of_linspace(count):
    for last in [i / 20 for i in range(21)] + torch.rand(200, dtype=torch.float64).tolist():
        depths = (count,) if count < 3 else (1, count - 2, 1)
        expected = torch.linspace(0, last, count, dtype=torch.float32).split(depths)
        assert drop_path_rates(last, depths) == [stage.tolist() for stage in expected]


@pytest.mark.parametrize(
    "mode", [FakeTensorMode, lambda: torch.device("meta")], ids=["fake", "meta"]
)
@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_models_are_built_and_run_without_numbers(name, mode):
    images = (2, 3, 320, 320)  # where the fast path runs
    with mode():
        for options in ({}, dict(out_features=("stem", "stage2")), dict(out_indices=(0, 3))):
            model = create_backbone(name, drop_path_rate=0.3, **options)
            maps = model.train()(torch.empty(images))
            assert [x.shape for x in maps] == [
                (2, channels, 320 // stride, 320 // stride)
                for channels, stride in zip(model.channels, model.strides, strict=True)
            ]
            sum(x.sum() for x in maps).backward()
            assert all(p.grad.shape == p.shape for p in model.parameters())
        classifier = create_classifier(name, drop_path_rate=0.3, num_classes=5)
        assert classifier(torch.empty(images)).shape == (2, 5)
    built = create_backbone(name, drop_path_rate=0.3, out_indices=(0, 3))
    assert model.state_dict().keys() == built.state_dict().keys()
    assert str(model) == str(built)


@pytest.mark.parametrize("version", VERSIONS)
def test_all_unknown_options_are_refused_at_once_each_with_what_to_write(version):
    given = dict(depth=50, norm_eval=True, in_chans=3, frozen_stage=1, num_labels=3, arch=SMALL)
    with pytest.raises(
        UserError,
        match=r"has no option 'depth', 'norm_eval': leave out .*; 'in_chans': write in_channels; "
        r"'frozen_stage': did you mean 'frozen_stages'.*; 'num_labels': leave it out: .* no head",
    ) as e:
        version(**given)
    assert str(e.value).count("did you mean") == 1


def test_create_backbone_takes_a_full_name_and_refuses_others():
    assert type(create_backbone("convnext_atto")) is ConvNeXt
    assert type(create_backbone("convnextv2_atto", out_indices=(0,))) is ConvNeXtV2
    with pytest.raises(ValueError, match="did you mean 'convnextv2_tiny'"):
        create_backbone("convnextv2_tinyy")
    with pytest.raises(ValueError, match="unknown arch 'huge' for ConvNeXt V1"):
        ConvNeXt("huge")


@pytest.mark.parametrize("name", ["out_features", "out_indices", "channels", "strides"])
def test_the_selection_cannot_be_changed_in_silence(name):
    model = ConvNeXt({"depths": (1, 1), "dims": (8, 16)}, out_indices=(0, 1))
    with pytest.raises(AttributeError, match=name):
        setattr(model, name, ("stage1",))
    assert model.out_features == ("stage1", "stage2")
