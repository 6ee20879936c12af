"""prepare_for_inference: the same maps, from folded weights, and the original as it was."""

import copy
import io
import math
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convnext_backbones
from convnext_backbones import ConvNeXt, ConvNeXtClassifier, ConvNeXtV2, prepare_for_inference
from convnext_backbones.errors import UserError
from convnext_backbones.kernels import cpp, linear, processor
from convnext_backbones.network import prepared as steps
from convnext_backbones.network.convnext import Block
from convnext_backbones.network.prepared import (
    PreparedBlock,
    PreparedConvNeXt,
    PreparedConvNeXtClassifier,
    PreparedConvNeXtV2,
)

VERSIONS = pytest.mark.parametrize("version", [ConvNeXt, ConvNeXtV2])
NAMES = ("stem", "stage1", "stage2", "stage3", "stage4")
SMALL = {"depths": (1, 1, 2, 1), "dims": (40, 80, 96, 128)}
FP32 = 1e-5
OPTIONS = [
    {},
    dict(output_norm=False),
    dict(output_stride=8),
    dict(layer_scale_init_value=0),
    dict(patch_size=2, in_channels=4),
    dict(out_features=("stem",)),
    dict(out_features=("stage2",), frozen_stages=1, with_cp=True, drop_path_rate=0.5),
]


def small(version, dtype=torch.float32, **options):
    return randomised(version(SMALL, **{"out_features": NAMES, **options}), dtype)


def in_float64(model, *inputs, **named):
    return copy.deepcopy(model).double()(*(x.double() for x in inputs), **named)


def assert_close(maps, references, tolerance):
    for x, reference in zip(maps, references, strict=True):
        assert relative_difference(x, reference) <= tolerance


def assert_no_worse_in_bfloat16(model, prepared, images):
    """Than twice the error of the model cast to bfloat16."""
    references = in_float64(model, images)
    cast = copy.deepcopy(model).bfloat16()(images.bfloat16())
    for x, plain, reference in zip(prepared(images), cast, references, strict=True):
        assert x.dtype == images.dtype
        assert relative_difference(x, reference) <= 2 * relative_difference(plain, reference)


# ---- the same maps


@VERSIONS
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_float32_maps_are_the_plain_ones(version, options):
    model = small(version, **options)
    prepared = prepare_for_inference(model, torch.float32)
    for size in [(2, 64, 96), (1, 101, 75)]:
        images = random_images(size[0], model.downsample_layers[0][0].in_channels, *size[1:])
        assert_close(prepared(images), in_float64(model, images), FP32)


@pytest.mark.skipif(linear._FUSED is None, reason="this torch has no oneDNN")
@VERSIONS
def test_float32_maps_are_the_same_with_the_products_fused_and_without(version, monkeypatch):
    prepared = prepare_for_inference(small(version), torch.float32)
    images = random_images(2, 3, 64, 96)
    fused_calls = []
    fused = steps.linear_gelu
    monkeypatch.setattr(steps, "linear_gelu", lambda *a: fused_calls.append(a) or fused(*a))
    maps = prepared(images)
    assert fused_calls
    count = len(fused_calls)
    monkeypatch.setattr(steps, "fuses", lambda y: False)
    assert_close(maps, prepared(images), FP32)
    assert len(fused_calls) == count


@VERSIONS
@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_bfloat16_maps_are_as_good_as_those_of_the_cast_model(version, options):
    model = small(version, **options)
    prepared = prepare_for_inference(model, torch.bfloat16)
    for size in [(2, 64, 96), (1, 101, 75)]:
        assert_no_worse_in_bfloat16(model, prepared, random_images(size[0], 3, *size[1:]))


@pytest.mark.parametrize("version", [1, 2])
def test_a_classifier_gives_its_logits_loss_and_features(version):
    model = randomised(ConvNeXtClassifier(SMALL, version=version, num_classes=7))
    prepared = prepare_for_inference(model, torch.float32)
    images, labels = random_images(2, 3, 64, 64), torch.tensor([1, 4])
    reference = copy.deepcopy(model).double()
    assert_close([prepared(images)], [reference(images.double())], FP32)
    assert_close(prepared(images, labels), reference(images.double(), labels), FP32)
    found, features = prepared.forward_features(images), reference.forward_features(images.double())
    assert_close([found.last_hidden_state, *found.hidden_states],
                 [features.last_hidden_state, *features.hidden_states], FP32)  # fmt: skip
    logits = prepare_for_inference(model, torch.bfloat16)(images)
    assert logits.dtype == torch.float32
    assert relative_difference(logits, reference(images.double())) < 0.05


@VERSIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_is_ignored_as_by_the_plain_network(version, dtype):
    model = small(version, dtype=torch.float32)
    prepared = prepare_for_inference(model, dtype, compile=dtype == torch.bfloat16)
    images = random_images(2, 3, 96, 96)
    sizes = [(64, 96), (70, 45)]
    reference = in_float64(model, images, image_sizes=sizes)
    tolerance = FP32 if dtype == torch.float32 else 0.05
    assert_close(prepared(images, sizes), reference, tolerance)
    with pytest.raises(ValueError, match="whole numbers"):
        prepared(images, [(64, 96)])


def test_maps_have_the_dtype_and_layout_that_they_had():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        model = small(ConvNeXtV2, dtype)
        images = random_images(2, 3, 64, 64, dtype=dtype)
        for x, plain in zip(prepare_for_inference(model)(images), model(images), strict=True):
            assert (x.dtype, x.stride()) == (plain.dtype, plain.stride())


def test_images_may_come_in_the_dtype_of_the_arithmetic_and_under_autocast():
    model = small(ConvNeXt)
    prepared = prepare_for_inference(model, torch.bfloat16)
    images = random_images(1, 3, 64, 64).bfloat16()
    maps = prepared(images)
    assert_close(prepared(images.float()), maps, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(prepared(images.float()), maps, 0.02)


def test_what_the_network_refuses_the_prepared_one_refuses():
    prepared = prepare_for_inference(small(ConvNeXt))
    for images, words in [
        (torch.zeros(1, 4, 64, 64), "4 channels"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "normalised"),
        (torch.zeros(1, 3, 16, 64), "at least 32x32"),
        (torch.zeros(3, 64, 64), "images\\[None\\]"),
    ]:
        with pytest.raises(ValueError, match=words):
            prepared(images)


# ---- compiled

REASONS = {name: cpp.why_not(name) for name in cpp.FAMILIES}
WITH_KERNELS = pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(reason is not None, reason=f"no {name}: {reason}")
        )
        for name, reason in REASONS.items()
    ],
)


@pytest.fixture
def prepare_with(monkeypatch):
    """Prepare a model with the kernels of a family that runs here, also where a faster one does."""

    def prepare(model: nn.Module, family: str) -> nn.Module:
        monkeypatch.setattr(cpp, "choice", lambda dtype: (family, None))
        prepared = prepare_for_inference(model, cpp.FAMILIES[family].dtype, compile=True)
        assert all(block.kernel.family == family for stage in prepared.stages for block in stage)
        return prepared

    return prepare


def assert_as_good(model: nn.Module, prepared: nn.Module, images: torch.Tensor, family: str):
    """The maps are those in float64: as near as float32 is, or as the cast model in bfloat16."""
    if cpp.FAMILIES[family].dtype == torch.float32:
        assert_close(prepared(images), in_float64(model, images), FP32)
    else:
        assert_no_worse_in_bfloat16(model, prepared, images)


@WITH_KERNELS
@VERSIONS
@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_the_kernels_give_the_maps_for_every_image_size(version, options, family, prepare_with):
    model = small(version, **options)
    prepared = prepare_with(model, family)
    for size in [(2, 64, 96), (1, 101, 75), (3, 32, 420), (1, 230, 32)]:
        assert_as_good(model, prepared, random_images(size[0], 3, *size[1:]), family)


@WITH_KERNELS
@VERSIONS
@pytest.mark.parametrize("dim", [8, 24, 40, 96, 192, 520])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_block_by_the_kernels_is_the_block(version, dim, dilation, family):
    number = 1 if version is ConvNeXt else 2
    dtype = cpp.FAMILIES[family].dtype
    times = 2 if dtype == torch.bfloat16 else 3  # of one or two units of float32
    block = randomised(Block(dim, version=number, dilation=dilation))
    prepared = PreparedBlock(block, dtype, family=family)
    for n, height, width in [(1, 1, 1), (2, 5, 3), (1, 40, 33), (3, 9, 70)]:
        x = random_images(n, dim, height, width).to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        reference = in_float64(block, x)
        plain = copy.deepcopy(block).to(dtype)(x)
        found = prepared(x)
        assert found.is_contiguous(memory_format=torch.channels_last)
        error = relative_difference(found, reference)
        assert error <= times * relative_difference(plain, reference)


@WITH_KERNELS
@pytest.mark.parametrize("value", [0.0, 1e-4, 3.0, 30.0, -30.0, 3e4, math.inf, -math.inf, math.nan])
def test_the_kernels_give_what_the_steps_give_of_extreme_values(value, family):
    dtype = cpp.FAMILIES[family].dtype
    block = randomised(Block(16, version=1))
    x = random_images(1, 16, 6, 6).to(dtype)
    x[0, :, 2, 3] = value
    found = PreparedBlock(block, dtype, family=family)(x)
    reference = block.to(dtype)(x)
    assert torch.equal(found.isfinite(), reference.isfinite())
    finite = reference.isfinite()
    assert_close([found[finite]], [reference[finite]], 1e-5 if dtype == torch.float32 else 0.02)


@WITH_KERNELS
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_the_kernels_take_the_threads_that_torch_has(threads, family, prepare_with):
    model = small(ConvNeXtV2)
    prepared = prepare_with(model, family)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    images = random_images(2, 3, 101, 75)
    try:
        assert_as_good(model, prepared, images, family)
        first = prepared(images)
        for _ in range(5):  # whichever thread does what
            assert_close(prepared(images), first, 0)
    finally:
        torch.set_num_threads(before)


@WITH_KERNELS
def test_several_threads_may_call_a_model_at_once(family, prepare_with):
    prepared = prepare_with(small(ConvNeXtV2), family)
    given = [random_images(1, 3, 32 * n, 64, seed=n) for n in (1, 2, 3, 4)]
    alone = [prepared(images) for images in given]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(prepared, given * 5))
    for maps, expected in zip(together, alone * 5, strict=True):
        assert_close(maps, expected, 0)


@WITH_KERNELS
def test_onednn_multiplies_rightly_after_the_kernels(family, prepare_with):
    prepared = prepare_with(small(ConvNeXt), family)
    x, weight = random_images(64, 96), random_images(32, 96, seed=2)
    before = nn.functional.linear(x.bfloat16(), weight.bfloat16())
    prepared(random_images(1, 3, 64, 64))
    assert torch.equal(nn.functional.linear(x.bfloat16(), weight.bfloat16()), before)


@WITH_KERNELS
@VERSIONS
def test_what_traces_or_counts_a_prepared_model_sees_its_operators(version, family, prepare_with):
    prepared = prepare_with(small(version), family)
    images, others = random_images(1, 3, 64, 64), random_images(2, 3, 96, 64, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(prepared, images)
    assert_close(traced(others), prepared(others), 0.05)
    with FlopCounterMode(display=False) as counter:
        prepared(images)
    with FlopCounterMode(display=False) as plain:
        small(version)(images)
    assert 0.9 < counter.get_total_flops() / plain.get_total_flops() < 1.1


@WITH_KERNELS
@VERSIONS
def test_an_empty_batch_gives_empty_maps(version, family, prepare_with):
    prepared = prepare_with(small(version), family)
    assert [x.shape[0] for x in prepared(torch.zeros(0, 3, 64, 64))] == [0] * len(NAMES)


def test_the_fastest_kernels_of_a_type_are_chosen_and_else_the_reason_said(monkeypatch):
    runs = {"avx512", "avx2"}
    monkeypatch.setattr(
        cpp.library, "why_not", lambda name: None if name in runs else f"there is no {name}"
    )
    assert cpp.choice(torch.float32) == ("avx512", None)
    assert cpp.choice(torch.bfloat16) == (None, "there is no avx512_bf16")
    assert cpp.choice(torch.float64) == (None, None)  # none is written for it
    runs.remove("avx512")
    assert cpp.choice(torch.float32) == ("avx2", None)


def test_without_the_kernels_a_warning_tells_why(monkeypatch):
    monkeypatch.setattr(cpp, "choice", lambda dtype: (None, "no C++ compiler was found"))
    model = small(ConvNeXt)
    with pytest.warns(UserWarning, match="torch.compile used: no C\\+\\+ compiler was found"):
        prepared = prepare_for_inference(model, torch.bfloat16, compile=True)
    assert all(block.kernel is None for stage in prepared.stages for block in stage)


@pytest.mark.slow
@VERSIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_compile_gives_the_maps_for_every_image_size(version, dtype, monkeypatch):
    monkeypatch.setattr(cpp, "choice", lambda dtype: (None, "this is a test"))
    model = small(version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_for_inference(model, dtype, compile=True)
        for size in [(2, 64, 96), (1, 101, 75), (1, 128, 64)]:
            images = random_images(size[0], 3, *size[1:])
            if dtype == torch.float32:
                assert_close(prepared(images), in_float64(model, images), FP32)
            else:
                assert_no_worse_in_bfloat16(model, prepared, images)


# ---- what is not standard stays


class LowRank(nn.Module):
    """A linear layer with an addend of low rank, as fine-tuning libraries put it in its place."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, 2, bias=False)
        self.up = nn.Linear(2, linear.out_features, bias=False)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


@VERSIONS
def test_a_block_with_a_replaced_part_is_computed_as_it_was(version):
    model = small(version)
    model.stages[2][1].pwconv1 = LowRank(model.stages[2][1].pwconv1)
    nn.utils.parametrizations.weight_norm(model.stages[0][0].pwconv2)
    model.downsample_layers[1][1] = nn.Sequential(model.downsample_layers[1][1], nn.ReLU())
    model.stages[1][0].dwconv = nn.Conv2d(80, 80, 5, padding=2, groups=80, bias=False)
    model.stages[3][0].norm = nn.Identity()
    model.downsample_layers[2][1] = nn.Conv2d(80, 96, 2, 2, padding=1, bias=False)
    images = random_images(1, 3, 64, 64)
    reference = model(images)
    assert_close(prepare_for_inference(model, torch.float32)(images), reference, FP32)
    for compile in (False, cpp.choice(torch.bfloat16)[0] is not None):
        prepared = prepare_for_inference(model, torch.bfloat16, compile=compile)
        assert_close(prepared(images), reference, 0.05)
    plain = [m.module for m in prepared.modules() if type(m).__name__ == "_Plain"]
    assert len(plain) == 6


@pytest.mark.parametrize("name", ["", "downsample_layers.0.1", "stages.1.0", "stages.2.1.grn"])
def test_a_hook_still_sees_and_changes_what_passes(name):
    model = small(ConvNeXtV2)
    seen = []

    def halve(module, given, result):
        seen.append(module)
        return tuple(x / 2 for x in result) if isinstance(result, tuple) else result / 2

    model.get_submodule(name).register_forward_hook(halve)
    images = random_images(1, 3, 64, 64)
    reference = model(images)
    assert_close(prepare_for_inference(model, torch.float32)(images), reference, FP32)
    assert len(seen) == 2


# ---- the original, and what a prepared model refuses


@VERSIONS
def test_the_original_stays_as_it_was(version):
    model = small(version).train()
    before = copy.deepcopy(model.state_dict())
    kinds = [(name, type(module), module.training) for name, module in model.named_modules()]
    prepared = prepare_for_inference(model)
    prepared(random_images(1, 3, 64, 64))
    assert not prepared.training
    assert kinds == [(name, type(m), m.training) for name, m in model.named_modules()]
    assert all(p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


def test_a_prepared_backbone_tells_what_the_original_tells():
    model = small(ConvNeXt)
    prepared = prepare_for_inference(model)
    assert isinstance(prepared, ConvNeXt)
    for name in ("channels", "strides", "out_features", "out_indices"):
        assert getattr(prepared, name) == getattr(model, name)
    images = random_images(1, 3, 64, 64)
    assert_close(copy.deepcopy(prepared)(images), prepared(images), 0)


def test_a_prepared_model_refuses_training_and_state_dicts():
    model = nn.Sequential(small(ConvNeXt))
    prepared = prepare_for_inference(model)
    prepared.eval()
    for call in (prepared.train, prepared[0].train, prepared[0].requires_grad_):
        with pytest.raises(UserError, match="cannot be trained"):
            call()
    for module, state in ((prepared, model.state_dict()), (prepared[0], model[0].state_dict())):
        with pytest.raises(UserError, match="takes no state dict"):
            module.load_state_dict(state)


def test_what_cannot_be_prepared_is_refused_in_a_sentence():
    model = small(ConvNeXt)
    for wrong, options, words in [
        ("tiny", {}, "got a str"),
        (nn.Linear(2, 2), {}, "holds no ConvNeXt"),
        (prepare_for_inference(model), {}, "prepared already"),
        (model, dict(dtype=torch.int8), "floating-point"),
        (model, dict(dtype="bf16"), "floating-point"),
        (model, dict(capture=True), "not on a GPU"),
    ]:
        with pytest.raises(UserError, match=words):
            prepare_for_inference(wrong, **options)


def test_the_dtype_is_bfloat16_where_the_processor_computes_in_it(monkeypatch):
    model = small(ConvNeXt)
    for has, dtype in [((), torch.float32), (("amx_bf16",), torch.bfloat16),
                       (("avx512_bf16",), torch.bfloat16)]:  # fmt: skip
        monkeypatch.setattr(processor, "processor_has", has.__contains__)
        assert convnext_backbones.network.prepared.fastest_dtype(model) == dtype


# ---- saved whole


class Small(ConvNeXtV2):
    """A class of a user's, with options of its own."""

    def __init__(self, **options):
        super().__init__(SMALL, out_features=NAMES, **options)


def classifier(version):
    return randomised(ConvNeXtClassifier(SMALL, version=version, num_classes=5))


NETWORKS = {
    "ConvNeXt": (lambda: small(ConvNeXt), PreparedConvNeXt),
    "ConvNeXtV2": (lambda: small(ConvNeXtV2), PreparedConvNeXtV2),
    "classifier 1": (lambda: classifier(1), PreparedConvNeXtClassifier),
    "classifier 2": (lambda: classifier(2), PreparedConvNeXtClassifier),
    "subclass": (lambda: randomised(Small()), Small),
}


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def maps_of(model, *given):
    maps = model(*given)
    return [maps] if isinstance(maps, torch.Tensor) else list(maps)


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_prepared_model_is_copied_pickled_and_saved(name, dtype, exchanged):
    build, kind = NETWORKS[name]
    model = build()
    if exchanged:
        model.stages[2][1] = nn.Sequential(model.stages[2][1], nn.Conv2d(96, 96, 1))
        model.stages[1] = nn.Identity()
        model.stages[1] = nn.Sequential(model.stages[1])
    prepared = prepare_for_inference(model, dtype)
    assert isinstance(prepared, kind)
    assert type(prepared).__name__ == f"Prepared{type(model).__name__}"
    images = random_images(2, 3, 64, 96)
    maps = maps_of(prepared, images)
    again = prepare_for_inference(model, dtype)
    assert type(again) is type(prepared)
    for copied in (
        copy.deepcopy(prepared),
        pickle.loads(pickle.dumps(prepared)),
        saved_and_loaded(prepared),
        saved_and_loaded(copy.deepcopy(saved_and_loaded(prepared))),
    ):
        assert type(copied) is type(prepared)
        assert_close(maps_of(copied, images), maps, 0)
        with pytest.raises(UserError, match="cannot be trained"):
            copied.train()
        with torch.no_grad():  # its weights are its own
            for tensor in [*prepared.buffers(), *prepared.parameters()]:
                assert all(tensor is not other for other in copied.buffers())


def test_a_copy_computes_with_weights_of_its_own():
    prepared = prepare_for_inference(small(ConvNeXt), torch.float32)
    copied, images = copy.deepcopy(prepared), random_images(1, 3, 64, 64)
    before = prepared(images)
    for buffer in copied.buffers():
        buffer.zero_()
    assert_close(prepared(images), before, 0)
    assert copied(images)[3].abs().max() != before[3].abs().max()


FRESH = """
import sys, torch
model = torch.load(sys.argv[1], weights_only=False)
given = torch.load(sys.argv[2])
maps = model(given["images"])
maps = [maps] if isinstance(maps, torch.Tensor) else list(maps)
assert type(model).__name__ == sys.argv[3], type(model)
assert all(torch.equal(x, y) for x, y in zip(maps, given["maps"], strict=True))
padded = model(given["images"], given["sizes"]) if "sizes" in given else []
assert all(torch.equal(x, y) for x, y in zip(padded, given.get("padded", []), strict=True))
"""


@pytest.mark.parametrize("name", ["ConvNeXtV2", "classifier 1", "openmmlab"])
def test_a_saved_model_gives_the_same_maps_in_a_fresh_process(name, tmp_path):
    if name == "openmmlab":
        pytest.importorskip("mmengine")
        from convnext_backbones.adapters.openmmlab import backbone as openmmlab

        model = small(openmmlab.ConvNeXtV2)
    else:
        model = NETWORKS[name][0]()
    prepared = prepare_for_inference(model, torch.bfloat16)
    images = random_images(2, 3, 64, 96)
    given = {"images": images, "maps": maps_of(prepared, images)}
    if name != "classifier 1":
        given["sizes"] = torch.tensor([(64, 96), (50, 40)])
        given["padded"] = list(prepared(images, given["sizes"]))
    torch.save(prepared, tmp_path / "model.pt")
    torch.save(given, tmp_path / "given.pt")
    command = [sys.executable, "-W", "ignore", "-c", FRESH, *(str(tmp_path / f"{n}.pt") for n in ("model", "given")), type(prepared).__name__]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@WITH_KERNELS
@pytest.mark.parametrize("name", ["ConvNeXtV2", "classifier 1"])
def test_a_saved_model_has_the_kernels(name, family, prepare_with):
    prepared = prepare_with(NETWORKS[name][0](), family)
    images = random_images(2, 3, 64, 96)
    copied = saved_and_loaded(prepared)
    assert all(block.kernel is not None for stage in copied.stages for block in stage)
    assert_close(maps_of(copied, images), maps_of(prepared, images), 0)


def test_loaded_where_the_kernels_cannot_run_torch_compile_takes_their_place(monkeypatch):
    monkeypatch.setattr(cpp, "choice", lambda dtype: ("amx", None))
    model = small(ConvNeXtV2, out_features=("stem",))
    prepared = prepare_for_inference(model, torch.bfloat16, compile=True)
    assert prepared._run == prepared._unmasked_maps
    monkeypatch.setattr(cpp, "why_not", lambda family: f"this processor lacks {family}_tile")
    with pytest.warns(UserWarning, match="torch.compile used: this processor lacks amx_tile"):
        copied = saved_and_loaded(prepared)
    assert copied._run != copied._unmasked_maps


@pytest.mark.slow
@VERSIONS
def test_a_compiled_model_is_saved_and_compiled_again(version, monkeypatch):
    monkeypatch.setattr(cpp, "choice", lambda dtype: (None, "this is a test"))
    model = small(version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_for_inference(model, torch.float32, compile=True)
        images = random_images(2, 3, 64, 96)
        maps = prepared(images)
        for copied in (saved_and_loaded(prepared), copy.deepcopy(prepared)):
            assert_close(copied(images), maps, 0)


# ---- inside the frameworks' models


def assert_prepared_inside(model, call, tolerance):
    reference = call(model)
    assert_close(call(prepare_for_inference(model, torch.float32)), reference, FP32)
    prepared = prepare_for_inference(model, torch.bfloat16)
    assert_close(call(prepared), reference, tolerance)
    assert_close(call(saved_and_loaded(prepared)), call(prepared), 0)
    with pytest.raises(UserError, match="cannot be trained"):
        prepared.train()
    assert not any(
        type(m).__name__.startswith("Prepared") for m in model.modules()
    )  # the original is plain


def test_mmsegmentation_gives_the_same_logits_with_a_prepared_backbone():
    pytest.importorskip("mmseg")
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from convnext_backbones.adapters.openmmlab import backbone as openmmlab

    init_default_scope("mmseg")  # an earlier test's scope stays otherwise
    model = MODELS.build(
        dict(
            type="mmseg.EncoderDecoder",
            backbone=dict(type=openmmlab.ConvNeXtV2, arch=SMALL, out_indices=(0, 1, 2, 3)),
            decode_head=dict(
                type="mmseg.FCNHead", in_channels=128, in_index=3, channels=8, num_classes=4,
                num_convs=1,
            ),
            test_cfg=dict(mode="whole"),
        )
    ).eval()  # fmt: skip
    randomised(model.backbone)
    images = random_images(1, 3, 64, 96)

    def call(model):
        with torch.no_grad():
            maps = model.backbone(images)
            assert all(x.is_contiguous() and x.dtype == torch.float32 for x in maps)
            return [model(images, mode="tensor")]

    assert_prepared_inside(model, call, 0.05)


@pytest.mark.parametrize("ignore_padding", [False, True])
def test_mmdetection_gives_the_same_maps_with_a_prepared_backbone(ignore_padding):
    pytest.importorskip("mmdet")
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    from convnext_backbones.adapters.openmmlab import backbone as openmmlab
    from convnext_backbones.network.padding import note_image_sizes

    init_default_scope("mmdet")  # an earlier test's scope stays otherwise
    model = MODELS.build(
        dict(
            type="mmdet.FCOS",
            backbone=dict(
                type=openmmlab.ConvNeXtV2, arch=SMALL, out_indices=(1, 2, 3),
                ignore_padding=ignore_padding,
            ),
            neck=dict(type="mmdet.FPN", in_channels=[80, 96, 128], out_channels=16, num_outs=3),
            bbox_head=dict(
                type="mmdet.FCOSHead", num_classes=3, in_channels=16, feat_channels=32,
                stacked_convs=1, strides=(8, 16, 32),
            ),
        )
    ).eval()  # fmt: skip
    randomised(model.backbone)
    images = random_images(2, 3, 96, 96)
    note_image_sizes(images, [(96, 96), (64, 80)])

    def call(model):
        with torch.no_grad():
            return model.extract_feat(images)

    assert_prepared_inside(model, call, 0.05)


def test_detectron2_gives_the_same_maps_with_a_prepared_backbone():
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from convnext_backbones.adapters.detectron2 import add_convnext_config

    cfg = get_cfg()
    add_convnext_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "build_convnext_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.CONVNEXT.VERSION = 2
    cfg.MODEL.CONVNEXT.ARCH = "custom"
    cfg.MODEL.CONVNEXT.DEPTHS, cfg.MODEL.CONVNEXT.DIMS = map(list, SMALL.values())
    cfg.MODEL.FPN.IN_FEATURES = ["stage1", "stage2", "stage3", "stage4"]
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    model = build_model(cfg).eval()
    randomised(model.backbone.bottom_up)
    image = random_images(3, 70, 90)

    def call(model):
        with torch.no_grad():
            shape = model.backbone.bottom_up.output_shape()
            assert [shape[name].stride for name in shape] == [4, 8, 16, 32]
            return [model([{"image": image}])[0]["sem_seg"]]

    assert_prepared_inside(model, call, 0.05)
