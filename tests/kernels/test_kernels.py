"""The fast paths have the values and gradients of the plain steps, and step aside where they must."""

import threading

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, ConvNeXtV2
from convnext_backbones.kernels import depthwise, dispatch, linear, processor, steps
from convnext_backbones.network.convnext import Block

TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6}
BOTH = pytest.mark.parametrize("version", [1, 2])
ARCH = dict(depths=(1, 2), dims=(8, 16))


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)


@pytest.fixture
def plain(monkeypatch):
    """Call it to switch the fast paths off, or on again."""

    def switch(off=True):
        monkeypatch.setattr(dispatch, "enabled", not off)

    return switch


def make_block(version, dim=8, dtype=torch.float32, **options):
    return randomised(Block(dim, version=version, **options), dtype).train()


def make_input(n, height, width, dim=8, dtype=torch.float32):
    x = random_images(n, dim, height, width, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def values_and_gradients(module, x, seed=0):
    """The result and the gradients of the input and of all parameters, for a random gradient."""
    torch.manual_seed(seed)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(x)
    gradient = random_images(*y.shape, seed=7).to(y.dtype)
    wanted = [p for p in module.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, [x, *wanted], gradient)]


def differences(fast, reference):
    return [relative_difference(a, b) for a, b in zip(fast, reference, strict=True)]


@pytest.mark.parametrize("part", [steps.PART, 3000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 16, 20), {}),
        ((1, 9, 7), {}),
        ((3, 2, 1), {}),
        ((2, 60, 3), {}),
        ((2, 16, 20), dict(dilation=2, drop_path_rate=0.5)),
        ((40, 2, 2), dict(drop_path_rate=0.5)),
        ((2, 8, 9), dict(dim=32)),
        ((2, 8, 8), dict(layer_scale_init_value=None)),
    ],
)
@pytest.mark.parametrize("onednn", [True, False])
@BOTH
def test_a_block_has_the_values_and_gradients_of_the_plain_steps(
    version, onednn, shape, options, dtype, part, plain, monkeypatch
):
    monkeypatch.setattr(steps, "PART", part)
    monkeypatch.setattr(processor, "mkl_is_held_back", lambda: onednn)
    block = make_block(version, dtype=dtype, **options)
    x = make_input(*shape, dim=options.get("dim", 8), dtype=dtype)
    assert dispatch.why_not(block, x) is None
    fast = values_and_gradients(block, x)
    with torch.no_grad():
        torch.manual_seed(3)
        fast.append(block(x))
    plain()
    assert dispatch.why_not(block, x) is not None
    reference = values_and_gradients(block, x)
    with torch.no_grad():
        torch.manual_seed(3)
        reference.append(block(x))
    assert max(differences(fast, reference)) < TOLERANCE[dtype]
    assert fast[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(linear._FUSED is None, reason="this torch has no oneDNN")
@pytest.mark.parametrize("shape", [(2, 16, 20), (40, 2, 2)])
@BOTH
def test_where_mkl_is_held_back_onednn_computes_every_product(version, shape, monkeypatch):
    block, x = make_block(version), make_input(*shape)
    products = {"aten::mm", "aten::bmm", "aten::baddbmm", "aten::baddbmm_", "aten::addmm_"}
    called = {}
    for held_back in (True, False):
        monkeypatch.setattr(processor, "mkl_is_held_back", lambda held_back=held_back: held_back)
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
            values_and_gradients(block, x)
        called[held_back] = {
            event.key
            for event in profile.key_averages(group_by_input_shape=True)
            if event.key not in products or event.input_shapes[0][-2] > 1  # by one row: of factors
        }
    assert products & called[False]
    assert not products & called[True]
    assert "aten::convolution_backward" in called[True] - called[False]


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("cls", [ConvNeXt, ConvNeXtV2])
def test_a_backbone_has_the_values_and_gradients_of_the_plain_steps(cls, with_cp, plain):
    model = randomised(cls(ARCH, out_indices=(0, 1), with_cp=with_cp), torch.float64).train()
    images = random_images(2, 3, 40, 72, dtype=torch.float64)

    def all_gradients():
        model.zero_grad()
        sum(m.square().mean() for m in model(images)).backward()
        return [p.grad.clone() for p in model.parameters()]

    fast = all_gradients()
    plain()
    assert max(differences(fast, all_gradients())) < 1e-12


@pytest.mark.parametrize("part", [steps.PART, 3000])
@BOTH
def test_a_padded_batch_has_the_values_and_gradients_of_the_plain_steps(
    version, part, plain, monkeypatch
):
    monkeypatch.setattr(steps, "PART", part)
    block = make_block(version, dtype=torch.float64, drop_path_rate=0.5)
    x = make_input(3, 17, 20, dtype=torch.float64)
    inside = torch.zeros(3, 17, 20, dtype=torch.bool)
    for k, (h, w) in enumerate([(17, 20), (9, 20), (1, 13)]):
        inside[k, :h, :w] = True

    def padded(x):
        return block(x, inside)

    padded.parameters = block.parameters
    fast = values_and_gradients(padded, x)
    with torch.no_grad():
        fast.append(block.eval()(x, inside))
    plain()
    reference = values_and_gradients(block.train() and padded, x)
    with torch.no_grad():
        reference.append(block.eval()(x, inside))
    assert max(differences(fast, reference)) < 1e-13


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(5, 70), (50, 49), (1, 1)])
@pytest.mark.parametrize("fast", [True, False])
def test_depthwise_gradients_are_those_of_torch(fast, size, dilation, monkeypatch):
    monkeypatch.setattr(depthwise, "FAST", fast)
    weight = random_images(8, 1, 7, 7, dtype=torch.float64)
    x, gradient = (make_input(2, *size, dtype=torch.float64).mul(k) for k in (1, 3))
    needs = (True, True)
    ours = depthwise.backward(gradient, x, weight, dilation, needs)
    reference = torch.ops.aten.convolution_backward(
        gradient, x, weight, [8], [1, 1], [3 * dilation] * 2, [dilation] * 2, False, [0, 0], 8,
        (*needs, True),
    )  # fmt: skip
    assert max(differences(ours, reference)) < 1e-13


def test_fused_linear_layers_are_the_plain_ones():
    x, weight, bias = random_images(2, 5, 8), random_images(6, 8), random_images(6)
    added = random_images(2, 5, 6, seed=5)
    reference = nn.functional.linear(x, weight, bias)
    assert relative_difference(linear.linear(x, weight, bias), reference) < 1e-6
    gelu = nn.functional.gelu(reference)
    assert relative_difference(linear.linear_gelu(x, weight, bias), gelu) < 1e-6
    assert relative_difference(linear.linear_add(x, weight, bias, added), reference + added) < 1e-6


def errors(results, truth):
    """Root mean square errors, relative to the root mean squares."""
    pairs = zip(results, truth, strict=True)
    return [((a.double() - b).norm() / b.norm()).item() for a, b in pairs]


@BOTH
def test_in_bfloat16_the_errors_are_those_of_the_plain_steps(version, plain):
    x = make_input(2, 24, 28, dim=16, dtype=torch.float64)
    truth = values_and_gradients(make_block(version, dim=16, dtype=torch.float64), x)
    block = make_block(version, dim=16).bfloat16()
    fast = errors(values_and_gradients(block, x.bfloat16()), truth)
    plain()
    reference = errors(values_and_gradients(block, x.bfloat16()), truth)
    assert all(a < 1.5 * b for a, b in zip(fast, reference, strict=True)), (fast, reference)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, None])
def test_under_autocast_map_and_gradients_have_the_data_types_of_the_plain_steps(
    version, scale, dtype, plain
):
    x = make_input(2, 24, 28, dim=16, dtype=torch.float64)
    options = dict(dim=16, layer_scale_init_value=scale)
    truth = values_and_gradients(make_block(version, dtype=torch.float64, **options), x)
    block = make_block(version, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dispatch.why_not(block, x.to(dtype)) is None
        results = values_and_gradients(block, x.to(dtype))
        plain()
        plain_results = values_and_gradients(block, x.to(dtype))
    assert [t.dtype for t in results] == [t.dtype for t in plain_results]
    reference = errors(plain_results, truth)
    rounding = 2**-8  # of the result and of its gradient
    fast = errors(results, truth)
    assert all(a < 1.5 * b + rounding for a, b in zip(fast, reference, strict=True))


@BOTH
def test_float16_is_left_to_the_plain_steps(version):
    block, x = make_block(version), make_input(1, 8, 8)
    with torch.autocast("cpu", dtype=torch.float16):
        assert "float16" in dispatch.why_not(block, x)
    assert "float16" in dispatch.why_not(block.half(), x.half())


@BOTH
def test_gradients_can_be_differentiated_again(version):
    block = make_block(version, dim=2, dtype=torch.float64)
    x = make_input(1, 3, 2, dim=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(block, (x,))
    assert torch.autograd.gradgradcheck(block, (x,))


def test_an_all_zero_map_has_finite_gradients():
    block = make_block(2)
    nn.init.zeros_(block.pwconv1.weight)
    nn.init.zeros_(block.pwconv1.bias)
    assert all(t.isfinite().all() for t in values_and_gradients(block, make_input(1, 8, 8)))


@BOTH
def test_frozen_parameters_get_no_gradient_and_the_others_theirs(version, plain):
    block = make_block(version, dtype=torch.float64)
    for frozen in (block.dwconv.weight, block.pwconv1.weight, block.pwconv2.bias):
        frozen.requires_grad_(False)
    x = make_input(1, 8, 8, dtype=torch.float64)
    block(x).sum().backward()
    assert block.dwconv.weight.grad is None
    assert block.pwconv2.bias.grad is None
    fast = values_and_gradients(block, x)
    plain()
    assert max(differences(fast, values_and_gradients(block, x))) < 1e-13


@BOTH
def test_training_keeps_six_values_for_each_of_the_input(version, plain):
    block, x = make_block(version, dim=16), make_input(1, 32, 32, dim=16).requires_grad_()
    own = {p.untyped_storage().data_ptr() for p in block.parameters()}

    def kept():
        memory = {}

        def pack(t):
            memory[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            block(x)
        return sum(size for place, size in memory.items() if place not in own) / x.nbytes

    fast = kept()
    plain()
    assert fast < 6.3
    assert fast < 0.6 * kept()


@BOTH
def test_the_passes_of_a_gpu_have_the_values_and_gradients_of_the_plain_steps(
    version, plain, monkeypatch
):
    pytest.importorskip("triton")
    block = make_block(version, dtype=torch.float64, drop_path_rate=0.5)
    x = make_input(4, 6, 5, dtype=torch.float64)
    compute = dispatch.compute
    monkeypatch.setattr(dispatch, "compute", lambda *given: compute(*given[:-1], {"none": {}}))
    results = values_and_gradients(block, x)  # by the kernels' plain twins
    plain()
    assert max(differences(results, values_and_gradients(block, x))) < 1e-13


def test_a_map_that_is_not_channels_last_is_taken():
    block, x = make_block(2, dtype=torch.float64), random_images(2, 8, 9, 10, dtype=torch.float64)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    pairs = zip(
        values_and_gradients(block, x), values_and_gradients(block, channels_last), strict=True
    )
    assert all(relative_difference(a, b) < 1e-13 for a, b in pairs)


def test_a_small_map_is_left_to_the_plain_steps(monkeypatch):
    monkeypatch.undo()
    block = Block(96, version=2)
    assert "so small" in dispatch.why_not(block, make_input(1, 8, 8, dim=96))
    assert dispatch.why_not(block, make_input(1, 56, 56, dim=96)) is None


def test_hooks_of_a_part_are_called():
    block, x, called = make_block(2), make_input(1, 8, 8), []
    block.grn.register_forward_hook(lambda *_: called.append("grn"))
    block(x)
    assert called == ["grn"]


def test_a_replaced_part_computes():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    block, x = make_block(1), make_input(1, 8, 8)
    with torch.no_grad():
        before = block(x) - x
        doubling = Doubling(32, 8)
        doubling.load_state_dict(block.pwconv2.state_dict())
        block.pwconv2 = doubling
        assert relative_difference(block(x) - x, 2 * before) < 1e-5


@BOTH
def test_a_flop_counter_sees_every_operator(version):
    model = ConvNeXtClassifier(ARCH, version=version)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(random_images(1, 3, 32, 32))
    pointwise = sum(  # two FLOPs for each multiply-accumulate of the pointwise layers alone
        2 * positions * 8 * dim**2 * depth for positions, dim, depth in ((64, 8, 1), (16, 16, 2))
    )
    assert counter.get_total_flops() > pointwise


def test_torch_func_takes_a_block():
    block, x = make_block(2, dtype=torch.float64), make_input(2, 6, 6, dtype=torch.float64)
    _, tangent = torch.func.jvp(block, (x,), (torch.ones_like(x),))
    step = 1e-6
    with torch.no_grad():
        secant = (block(x + step) - block(x - step)) / (2 * step)
    assert relative_difference(tangent, secant) < 1e-6


def test_threads_do_not_share_scratch_memory():
    block, x = make_block(2, dim=32), make_input(1, 40, 40, dim=32)
    alone = values_and_gradients(block, x)
    results = [None] * 4

    def work(k):
        for _ in range(5):
            results[k] = values_and_gradients(block, x)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # the drop path rate is 0, and sums are taken in the same order: the same numbers
    assert all(max(differences(r, alone)) < 1e-6 for r in results)


def test_training_works_after_inference_mode():
    def fresh_thread():
        with torch.inference_mode():
            make_block(2)(make_input(1, 8, 8))
        values_and_gradients(make_block(2), make_input(1, 8, 8))
        done.append(True)

    done = []
    thread = threading.Thread(target=fresh_thread)
    thread.start()
    thread.join()
    assert done


def test_the_meta_device_is_left_to_the_plain_steps():
    block = Block(8, version=2).to("meta")
    assert block(make_input(1, 8, 8).to("meta")).shape == (1, 8, 8, 8)


def test_a_map_without_images_or_positions_is_left_to_the_plain_steps():
    block = make_block(2)
    assert block(make_input(0, 8, 8)).shape == (0, 8, 8, 8)
