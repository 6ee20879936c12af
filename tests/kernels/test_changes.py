"""Whatever someone does to a block, the fast path gives what the plain steps give, or leaves it to them.

Every test begins with a block that the fast path takes, and compares with the plain steps.
"""

import contextlib
import copy

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from convnext_backbones import ConvNeXt, ConvNeXtV2
from convnext_backbones.kernels import dispatch, steps
from convnext_backbones.network.convnext import (
    GRN,
    Block,
    DepthwiseConv2d,
    DropPath,
    LayerNorm,
)

C = 8
BOTH = pytest.mark.parametrize("version", [1, 2])
PARTS = ("dwconv", "norm", "pwconv1", "act", "grn", "pwconv2", "drop_path")


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)


def make_block(version, **options):
    block = randomised(Block(C, version=version, **options), torch.float64).train()
    assert dispatch.why_not(block, make_map()) is None
    return block


def make_map(n=2, height=9, width=10, dtype=torch.float64):
    x = random_images(n, C, height, width, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def plain_steps():
    dispatch.enabled = False
    try:
        yield
    finally:
        dispatch.enabled = True


def outcome(block, x):
    """The map, and the gradients of the input and of the parameters."""
    torch.manual_seed(0)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = block(x)
    gradient = random_images(*y.shape, seed=7).to(y.dtype)
    wanted = [x, *(p for p in block.parameters() if p.requires_grad)]
    found = torch.autograd.grad(y, wanted, gradient, allow_unused=True)
    return [y.detach(), *found]


def assert_as_plain(block, x=None, run=outcome):
    x = make_map() if x is None else x
    ours = run(block, x)
    with plain_steps():
        reference = run(block, x)
    for a, b in zip(ours, reference, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert relative_difference(a, b) < 1e-12


def halved(passed):
    if isinstance(passed, tuple):
        return tuple(halved(t) for t in passed)
    return None if passed is None else passed / 2


HOOKS = {  # what registers a hook, and one that changes what passes
    "register_forward_pre_hook": lambda module, given: halved(given),
    "register_forward_hook": lambda module, given, result: halved(result),
    "register_full_backward_pre_hook": lambda module, gradient: halved(gradient),
    "register_full_backward_hook": lambda module, gradient, _: halved(gradient),
}


# ---- how a part computes


@pytest.mark.parametrize("part", PARTS)
def test_a_forward_of_the_instance_is_called(part):
    """As accelerate's add_hook_to_module and MMEngine's activation checkpointing set it."""
    block = make_block(2)
    module, called = getattr(block, part), []
    former = module.forward
    module.forward = lambda *given: called.append(part) or 2 * former(*given)
    assert_as_plain(block)
    assert called == [part, part]


@pytest.mark.parametrize(
    "cls", [nn.Conv2d, DepthwiseConv2d, LayerNorm, nn.Linear, nn.GELU, GRN, DropPath]
)
def test_a_forward_of_the_class_is_called(cls, monkeypatch):
    block, former = make_block(2), cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, *given: 2 * former(self, *given))
    assert cls.__name__ in dispatch.why_not(block, make_map())
    assert_as_plain(block)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_called(part, hook):
    block = make_block(2)
    getattr(getattr(block, part), hook)(HOOKS[hook])
    assert dispatch.why_not(block, make_map()) == f"{part} has a hook"
    assert_as_plain(block)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_of_the_block_itself_is_called(hook):
    block = make_block(1)
    getattr(block, hook)(HOOKS[hook])
    assert_as_plain(block)


def test_a_hook_of_all_modules_is_called():
    block, seen = make_block(1), []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        block(make_map())
    finally:
        handle.remove()
    assert seen == [*(getattr(block, part) for part in PARTS if part != "grn"), block]


def test_a_part_that_was_compiled_runs_compiled():
    block = make_block(1)
    block.pwconv1.compile(backend="eager")
    assert dispatch.why_not(block, make_map()) == "pwconv1 has a compiled forward"


# ---- other parts


def conv(**options):
    return nn.Conv2d(C, C, **{"kernel_size": 7, "padding": 3, "groups": C, **options})


REPLACEMENTS = {
    "reflected": ("dwconv", lambda: conv(padding_mode="reflect")),
    "circular": ("dwconv", lambda: conv(padding_mode="circular")),
    "replicated": ("dwconv", lambda: conv(padding_mode="replicate")),
    "kernel 5": ("dwconv", lambda: conv(kernel_size=5, padding=2)),
    "kernel 5x7": ("dwconv", lambda: conv(kernel_size=(5, 7), padding=(2, 3))),
    "kernel 1": ("dwconv", lambda: conv(kernel_size=1, padding=0)),
    "one group": ("dwconv", lambda: conv(groups=1)),
    "half the groups": ("dwconv", lambda: conv(groups=C // 2)),
    "dilated": ("dwconv", lambda: conv(dilation=2, padding=6)),
    "dilated in one direction": ("dwconv", lambda: conv(dilation=(1, 2), padding=(3, 6))),
    "dilated in the other": ("dwconv", lambda: conv(dilation=(2, 1), padding=(6, 3))),
    "padded by name": ("dwconv", lambda: conv(padding="same")),
    "convolution without bias": ("dwconv", lambda: conv(bias=False)),
    "lazy convolution": ("dwconv", lambda: nn.LazyConv2d(C, 7, padding=3, groups=C)),
    "linear without bias": ("pwconv1", lambda: nn.Linear(C, 4 * C, bias=False)),
    "last linear without bias": ("pwconv2", lambda: nn.Linear(4 * C, C, bias=False)),
    "norm without affine": ("norm", lambda: nn.LayerNorm(C, elementwise_affine=False)),
    "norm without bias": ("norm", lambda: nn.LayerNorm(C, bias=False)),
    "norm of another eps": ("norm", lambda: LayerNorm(C, eps=0.1)),
    "torch's norm": ("norm", lambda: nn.LayerNorm(C)),
    "norm of rows and channels": ("norm", lambda: nn.LayerNorm((10, C))),
    "no norm": ("norm", nn.Identity),
    "RMSNorm": ("norm", lambda: nn.RMSNorm(C)),
    "GELU by tanh": ("act", lambda: nn.GELU("tanh")),
    "ReLU": ("act", nn.ReLU),
    "a norm for GELU": ("act", lambda: nn.LayerNorm(4 * C)),
    "dropout": ("drop_path", lambda: nn.Dropout(0.5)),
    "no drop path": ("drop_path", nn.Identity),
    "drop path": ("drop_path", lambda: DropPath(0.5)),
    "drop path of everything": ("drop_path", lambda: DropPath(1.0)),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
@BOTH
def test_a_part_with_other_options_computes(version, name):
    block = make_block(version)
    part, make = REPLACEMENTS[name]
    torch.manual_seed(1)
    setattr(block, part, make().double())
    assert_as_plain(block)


@BOTH
def test_another_expansion_computes(version):
    block = make_block(version)
    block.pwconv1, block.pwconv2 = nn.Linear(C, 2 * C).double(), nn.Linear(2 * C, C).double()
    if block.grn is not None:
        block.grn = randomised(GRN(2 * C), torch.float64)
    assert_as_plain(block)


@pytest.mark.parametrize("cls", [DepthwiseConv2d, LayerNorm, nn.Linear, nn.GELU, GRN, DropPath])
def test_a_subclass_of_a_part_computes(cls):
    class Doubled(cls):
        def forward(self, *given):
            return 2 * super().forward(*given)

    block = make_block(2)
    for part in block.children():
        if type(part) is cls:
            part.__class__ = Doubled
    assert_as_plain(block)


@pytest.mark.parametrize(
    "gamma", [None, torch.tensor(0.5), torch.tensor([0.5]), torch.full((1, 1, C), 0.5)], ids=str
)
@BOTH
def test_another_layer_scale_computes(version, gamma):
    block = make_block(version)
    block.gamma = None if gamma is None else nn.Parameter(gamma.double())
    assert_as_plain(block)


def test_v2_without_grn_and_v1_with_it_compute():
    for version, grn in ((2, None), (1, randomised(GRN(4 * C), torch.float64))):
        block = make_block(version)
        block.grn = grn
        assert_as_plain(block)
    other = make_block(2)
    other.grn.eps = 0.1
    assert_as_plain(other)


def test_two_blocks_may_share_a_part():
    first, second = make_block(1), make_block(1)
    second.pwconv1 = first.pwconv1
    assert_as_plain(nn.Sequential(first, second))


def test_layers_that_are_attributes_no_more_compute():
    block = make_block(1)
    del block.act
    block.act = nn.functional.relu
    assert_as_plain(block)


# ---- other weights


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("name", ["dwconv.weight", "norm.bias", "pwconv1.weight", "grn.gamma"])
def test_a_parametrized_weight_is_that_of_its_parametrization(name):
    block = make_block(2)
    part, weight = name.split(".")
    parametrize.register_parametrization(getattr(block, part), weight, Doubling())
    assert_as_plain(block)


def test_weight_and_spectral_norm_and_layer_scales_own_parametrization_compute():
    block = make_block(1)
    parametrizations.weight_norm(block.pwconv1)
    parametrizations.spectral_norm(block.pwconv2)
    assert_as_plain(block.eval())
    block = make_block(1)
    parametrize.register_parametrization(block, "gamma", Doubling())
    assert_as_plain(block)


def test_a_pruned_weight_is_pruned():
    block = make_block(1)
    prune.l1_unstructured(block.pwconv1, "weight", amount=0.5)
    assert_as_plain(block)
    prune.remove(block.pwconv1, "weight")
    assert dispatch.why_not(block, make_map()) is None
    assert_as_plain(block)


def test_a_write_through_data_and_a_replaced_parameter_are_read():
    block = make_block(2)
    block(make_map())
    block.pwconv1.weight.data.mul_(2)
    block.grn.gamma = nn.Parameter(block.grn.gamma.detach() * 3)
    assert dispatch.why_not(block, make_map()) is None
    assert_as_plain(block)


def test_hooks_of_tensors_are_called():
    block = make_block(1)
    block.pwconv1.weight.register_hook(lambda gradient: 3 * gradient)
    assert dispatch.why_not(block, make_map()) is None
    assert_as_plain(block)


@BOTH
def test_functional_call_takes_the_given_weights(version):
    block = make_block(version)
    other = {name: p.detach() * 2 for name, p in block.named_parameters()}

    def run(block, x):
        return [torch.func.functional_call(block, other, (x,))]

    assert_as_plain(block, run=run)


# ---- modes of autograd


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@BOTH
def test_a_mode_of_autograd_changes_no_value(version, mode):
    block = make_block(version)

    def run(block, x):
        with mode():
            return [block(x)]

    assert_as_plain(block, run=run)


@BOTH
def test_saved_tensors_may_be_packed(version):
    def run(block, x):
        with torch.autograd.graph.save_on_cpu(), torch.autograd.detect_anomaly(check_nan=True):
            return outcome(block, x)

    with pytest.warns(UserWarning, match="Anomaly"):
        assert_as_plain(make_block(version), run=run)


@BOTH
def test_gradients_may_be_computed_in_batches(version):
    """As is_grads_batched=True and torch.autograd.functional.jacobian(vectorize=True) do."""

    def batched(block, x):
        x = x.clone().requires_grad_()
        y = block(x)
        gradients = random_images(3, *y.shape, seed=7, dtype=torch.float64)
        wanted = [x, *block.parameters()]
        return torch.autograd.grad(y, wanted, gradients, is_grads_batched=True)

    def jacobian(block, x):
        of = torch.autograd.functional.jacobian
        return [of(lambda x: block(x).sum((2, 3)), x, vectorize=True)]

    for run in (batched, jacobian):
        assert_as_plain(make_block(version), run=run)


@BOTH
def test_transforms_of_torch_func_take_a_block(version):
    block = make_block(version)
    weights = {name: p.detach() for name, p in block.named_parameters()}

    def loss(weights, x):
        return torch.func.functional_call(block, weights, (x[None],)).square().sum()

    def by_image(block, x):
        found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
        return list(found.values())

    def jacobian(block, x):
        return [torch.func.jacrev(lambda x: block(x).sum((2, 3)))(x)]

    for run in (by_image, jacobian):
        assert_as_plain(block, run=run)


@pytest.mark.parametrize("cls", [ConvNeXt, ConvNeXtV2])
def test_gradients_of_each_image_by_vmap_are_those_of_one_image_after_another(cls):
    model = randomised(cls(dict(depths=(1, 1), dims=(8, 16))), torch.float64).train()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    images = random_images(3, 3, 16, 24, dtype=torch.float64)

    def loss(weights, image):
        return torch.func.functional_call(model, weights, (image[None],))[0].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, images)
    for k, image in enumerate(images):
        one = torch.autograd.grad(model(image[None])[0].square().sum(), list(model.parameters()))
        for name, gradient in zip(weights, one, strict=True):
            assert relative_difference(found[name][k], gradient) < 1e-12


@BOTH
def test_the_result_may_be_written_into(version):
    def run(block, x):
        x = x.clone().requires_grad_()
        y = block(x)
        y.mul_(2)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])]

    assert_as_plain(make_block(version), run=run)
    assert not make_block(version)(make_map())._is_view()


# ---- modes of torch


@BOTH
def test_another_default_dtype_during_a_step_changes_neither_it_nor_the_next(version):
    block = copy.deepcopy(make_block(version)).float()
    x = make_map(dtype=torch.float32)
    before = outcome(block, x)
    steps._SCRATCH.__dict__.clear()
    torch.set_default_dtype(torch.float64)
    try:
        during = outcome(block, x)
    finally:
        torch.set_default_dtype(torch.float32)
    for found in (during, outcome(block, x)):
        assert all(torch.equal(a, b) for a, b in zip(found, before, strict=True))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("cls", [ConvNeXt, ConvNeXtV2])
def test_under_autocast_every_gradient_is_right_to_bfloat16_on_a_large_map(cls, fast, monkeypatch):
    """Where sums over positions in bfloat16 would come to rest: every position has the same sign."""
    monkeypatch.setattr(dispatch, "enabled", fast)
    arch = dict(depths=(1, 1), dims=(16, 32))
    model = randomised(cls(arch, out_indices=(0, 1))).train()
    images = random_images(1, 3, 256, 320)

    def gradients(model, images):
        maps = model(images)
        slopes = (torch.linspace(-1, 2, t.numel(), dtype=torch.float64) for t in maps)
        loss = sum((t.double().flatten() * s).mean() for t, s in zip(maps, slopes, strict=True))
        return torch.autograd.grad(loss, list(model.parameters()))

    exact = gradients(copy.deepcopy(model).double(), images.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model, images)
    for (name, _), ours, reference in zip(model.named_parameters(), found, exact, strict=True):
        error = (ours.double() - reference).norm() / reference.norm()
        assert error < 0.02, (name, error)


@pytest.mark.parametrize("cls", [ConvNeXt, ConvNeXtV2])
def test_under_autocast_the_maps_have_the_data_types_of_the_plain_steps_at_every_size(
    cls, monkeypatch
):
    monkeypatch.undo()  # SMALLEST as it is: some stages run fast at some sizes
    model = randomised(cls("atto", out_indices=(0, 1, 2, 3), output_norm=False)).eval()
    for size in (64, 320, 640):
        images = random_images(1, 3, size, size)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            ours = [t.dtype for t in model(images)]
            with plain_steps():
                assert ours == [t.dtype for t in model(images)]
        expected = torch.float32 if cls is ConvNeXt else torch.bfloat16
        assert set(ours) == {expected}


@BOTH
def test_deterministic_mode_changes_no_value(version):
    block, x = make_block(version), make_map()
    torch.use_deterministic_algorithms(True)
    try:
        assert dispatch.why_not(block, x) is None
        assert_as_plain(block, x)  # fills empty memory with NaN
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (make_map().half(), "float16"),
        (make_map().to("meta"), "device"),
        (make_map()[:0], "with values"),
        (nn.Parameter(make_map()), "no plain"),
        (make_map().float(), "another data type"),
        (make_map()[:, :4], "other options"),
        (make_map().to_sparse(), "no plain"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_reason_is_told(x, words):
    assert words in dispatch.why_not(make_block(1), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@BOTH
def test_every_gradient_has_its_parameters_strides(version, autocast, memory_format):
    """Those of dimensions of size 1 too: else DDP warns once and copies each gradient at each step."""
    block = make_block(version).float().to(memory_format=memory_format)
    x = make_map(dtype=torch.float32)
    for steps_of in (contextlib.nullcontext, plain_steps):
        block.zero_grad()
        with steps_of(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = block(x).float().square().sum()
        loss.backward()
        for name, parameter in block.named_parameters():
            assert parameter.grad.stride() == parameter.stride(), name
