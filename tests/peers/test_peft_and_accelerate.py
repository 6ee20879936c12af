"""What peft and accelerate do to the modules of a model, done to ours and to transformers' alike.

What they do is written out here, as peft is not installed. Both models hold the same weights, and every
block takes the fast path before it is changed; the right values are always transformers'.
"""

import copy
import functools

import pytest
import torch
from names import share_random_weights, under_our_names
from randomness import random_images, relative_difference
from theirs import CLASSIFIERS, CONFIGS
from torch import nn

from convnext_backbones import ConvNeXtClassifier
from convnext_backbones.kernels import dispatch
from convnext_backbones.network.convnext import Block

DEPTHS, DIMS, RANK = [1, 2, 1, 1], [8, 16, 24, 32], 3
BOTH = pytest.mark.parametrize("version", [1, 2])
LAYERS = {"pwconv1", "pwconv2"}


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)


def classifiers(version):
    """Ours and transformers', with the same random weights in memory of their own."""
    ours = ConvNeXtClassifier(
        {"depths": DEPTHS, "dims": DIMS}, version=version, num_classes=5, norm_eps=1e-12
    )
    peer = CLASSIFIERS[version](CONFIGS[version](depths=DEPTHS, hidden_sizes=DIMS, num_labels=5))
    share_random_weights(ours, peer, torch.float64)
    assert fast_blocks(ours) == sum(DEPTHS)
    return ours, copy.deepcopy(peer)


def fast_blocks(ours):
    """How many of a model's blocks take the fast path."""
    blocks = [m for m in ours.modules() if isinstance(m, Block)]
    maps = [random_images(1, b.norm.normalized_shape[0], 3, 3, dtype=torch.float64) for b in blocks]
    return sum(dispatch.why_not(b, x) is None for b, x in zip(blocks, maps, strict=True))


def make_images():
    return random_images(2, 3, 64, 96, dtype=torch.float64)


def logits(model, images):
    output = model(images)
    return output if isinstance(output, torch.Tensor) else output.logits


def assert_same_logits(ours, peer):
    images = make_images()
    with torch.no_grad():
        own = logits(ours, images)
        assert relative_difference(own, logits(peer, images)) <= 1e-9
    return own


# ---- peft: a layer is replaced by one that holds it, and later put back


class LowRank(nn.Module):
    """LoRA's layer (arXiv:2106.09685): base(x) + x A^T B^T. Not an nn.Linear, as in peft."""

    def __init__(self, base: nn.Linear, seed: int):
        super().__init__()
        self.base_layer = base
        shapes = {"A": (RANK, base.in_features), "B": (base.out_features, RANK)}
        for name, shape in shapes.items():
            drawn = random_images(*shape, dtype=torch.float64, seed=seed)
            self.register_parameter(f"lora_{name}", nn.Parameter(0.2 * drawn))
        self.merged = False

    def forward(self, x):
        y = self.base_layer(x)
        return y if self.merged else y + x @ self.lora_A.T @ self.lora_B.T

    def merge(self, sign: int = 1):
        self.base_layer.weight.data += sign * (self.lora_B @ self.lora_A).detach()
        self.merged = sign == 1


def put_in(model, layers=LAYERS):
    """Replace the chosen Linear layers of every block; all other parameters are frozen."""
    model.requires_grad_(False)
    parents = [m for m in model.modules() if hasattr(m, "pwconv1")]
    seeds = iter(range(1, 1000))
    for parent in parents:
        for name in sorted(layers):
            setattr(parent, name, LowRank(getattr(parent, name), next(seeds)))
    return [m for m in model.modules() if isinstance(m, LowRank)]


def take_out(model):
    for parent in [m for m in model.modules() if hasattr(m, "pwconv1")]:
        for name in LAYERS:
            if isinstance(layer := getattr(parent, name), LowRank):
                setattr(parent, name, layer.base_layer)


@pytest.mark.parametrize(
    "layers", [{"pwconv1"}, {"pwconv2"}, LAYERS], ids=lambda s: "+".join(sorted(s))
)
@BOTH
def test_low_rank_layers_train_as_in_transformers(version, layers):
    ours, peer = classifiers(version)
    adapters = [put_in(model, layers) for model in (ours, peer)]
    before = assert_same_logits(ours, peer)
    assert fast_blocks(ours) == 0
    for model in (ours.train(), peer.train()):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        logits(model, make_images()).square().mean().backward()
        optimizer.step()
    for own, theirs in zip(*adapters, strict=True):
        assert relative_difference(own.lora_A.grad, theirs.lora_A.grad) <= 1e-9
        assert relative_difference(own.lora_B.grad, theirs.lora_B.grad) <= 1e-9
        assert own.base_layer.weight.grad is None
    after = assert_same_logits(ours.eval(), peer.eval())
    assert relative_difference(after, before) > 1e-6


@BOTH
def test_low_rank_layers_are_merged_taken_back_and_taken_out(version):
    ours, peer = classifiers(version)
    images = make_images()
    with torch.no_grad():
        plain = logits(peer, images)
        adapters = put_in(ours)
        adapted = logits(ours, images)
        assert relative_difference(adapted, plain) > 1e-3
        for sign, expected in ((1, adapted), (-1, adapted), (1, adapted)):
            for adapter in adapters:
                adapter.merge(sign)
            assert relative_difference(logits(ours, images), expected) <= 1e-9
        take_out(ours)
        assert fast_blocks(ours) == sum(DEPTHS)
        assert relative_difference(logits(ours, images), adapted) <= 1e-9
        for adapter in put_in(peer):
            adapter.merge()
        take_out(peer)
    theirs = under_our_names(peer.state_dict())
    for name, value in ours.state_dict().items():
        assert relative_difference(value, theirs[name]) <= 1e-9, name


@BOTH
def test_a_layer_that_is_trained_beside_its_original_takes_its_place(version):
    """peft's modules_to_save: a container calls the copy, and the original stays for switching back."""

    class Beside(nn.Module):
        def __init__(self, original):
            super().__init__()
            self.original_module, self.saved, self.switched = (
                original,
                copy.deepcopy(original),
                True,
            )

        def forward(self, *given):
            return (self.saved if self.switched else self.original_module)(*given)

    ours, peer = classifiers(version)
    before = assert_same_logits(ours, peer)
    ours.head, peer.classifier = Beside(ours.head), Beside(peer.classifier)
    ours.stages[1] = Beside(ours.stages[1])
    peer.base_model.encoder.stages[1].layers = nn.ModuleList(
        [Beside(layer) for layer in peer.base_model.encoder.stages[1].layers]
    )
    for model in (ours, peer):
        for module in model.modules():
            if isinstance(module, Beside):
                module.saved.requires_grad_()
                for parameter in module.saved.parameters():
                    parameter.data *= 0.9
    assert relative_difference(assert_same_logits(ours, peer), before) > 1e-3
    ours.head.switched = peer.classifier.switched = ours.stages[1].switched = False
    for layer in peer.base_model.encoder.stages[1].layers:
        layer.switched = False
    assert torch.equal(assert_same_logits(ours, peer), before)


# ---- accelerate: an instance's forward is replaced by one that calls the former


class Hook:
    """What accelerate calls before and after a module's forward."""

    def before(self, module, given):
        return given

    def after(self, module, result):
        return result


class Bending(Hook):
    def after(self, module, result):  # not a factor, which a norm would take out again
        return result + 0.5 * result.square()


class Counting(Hook):
    def __init__(self):
        self.calls = 0

    def before(self, module, given):
        self.calls += 1
        return given


class Offloading(Hook):
    """Weights lie elsewhere, and are in the module only while it runs."""

    def __init__(self, module, *, below: bool):
        self.owners = list(module.modules()) if below else [module]
        self.kept = [dict(owner._parameters) for owner in self.owners]
        self.after(module, None)

    def before(self, module, given):
        for owner, kept in zip(self.owners, self.kept, strict=True):
            for name, value in kept.items():
                owner._parameters[name] = value
        return given

    def after(self, module, result):
        for owner in self.owners:
            for name, value in owner._parameters.items():
                if value is not None:
                    owner._parameters[name] = nn.Parameter(value.to("meta"), requires_grad=False)
        return result


def add_hook(module, hook):
    """As accelerate's add_hook_to_module: the former forward is kept, and called by the new one."""
    module.former_forward, module.hook = module.forward, hook

    def forward(module, *given, **named):
        given = module.hook.before(module, given)
        return module.hook.after(module, module.former_forward(*given, **named))

    module.forward = functools.update_wrapper(
        functools.partial(forward, module), module.former_forward
    )


def remove_hook(module):
    """As accelerate's remove_hook_from_module: the former forward stays an attribute."""
    module.forward = module.former_forward
    del module.former_forward, module.hook


def named(model, ending):
    return [module for name, module in model.named_modules() if name.endswith(ending)]


PARTS = ("dwconv", "norm", "pwconv1", "act", "grn", "pwconv2")


@pytest.mark.parametrize(
    ("version", "part"), [(v, part) for v in (1, 2) for part in PARTS if (v, part) != (1, "grn")]
)
def test_a_hook_of_every_part_changes_the_logits_as_in_transformers(version, part):
    ours, peer = classifiers(version)
    before = assert_same_logits(ours, peer)
    hooked = [getattr(m, part) for m in ours.modules() if isinstance(m, Block)]
    layers = [layer for stage in peer.base_model.encoder.stages for layer in stage.layers]
    theirs = "layernorm" if part == "norm" else part
    for module in (*hooked, *(getattr(layer, theirs) for layer in layers)):
        add_hook(module, Bending())
    assert relative_difference(assert_same_logits(ours, peer), before) > 1e-3
    for module in hooked:
        remove_hook(module)
    with torch.no_grad():
        assert relative_difference(logits(ours, make_images()), before) <= 1e-9


@BOTH
def test_a_hook_of_every_module_is_called_once(version):
    ours, peer = classifiers(version)
    called = [m for m in ours.modules() if not isinstance(m, nn.ModuleList)]
    for module in called:
        add_hook(module, Counting())
    assert_same_logits(ours, peer)
    assert [module.hook.calls for module in called] == [1] * len(called)


@pytest.mark.parametrize("below", [False, True], ids=["every module", "block by block"])
@BOTH
def test_weights_that_are_there_only_while_their_module_runs_give_the_logits(
    version, below, monkeypatch
):
    """Block by block, a block's parts are unchanged, so that its fast path runs."""
    ours, peer = classifiers(version)
    ran, fast_block = [], dispatch.fast_block
    monkeypatch.setattr(dispatch, "fast_block", lambda *given: ran.append(1) or fast_block(*given))
    blocks = [m for m in ours.modules() if isinstance(m, Block)]
    inside = {id(m) for block in blocks for m in block.modules()} if below else set()
    if below:
        for block in blocks:
            add_hook(block, Offloading(block, below=True))
    for module in ours.modules():
        if id(module) not in inside:
            add_hook(module, Offloading(module, below=False))
    assert all(p.is_meta for p in ours.parameters())
    for _ in range(2):
        assert_same_logits(ours, peer)
    assert all(p.is_meta for p in ours.parameters())
    assert len(ran) == (2 * sum(DEPTHS) if below else 0)


@BOTH
def test_a_copy_of_a_hooked_model_runs_hooks_and_weights_of_its_own(version):
    ours, peer = classifiers(version)
    for model in (ours, peer):
        for module in named(model, "pwconv1"):
            add_hook(module, Bending())
    copied, copied_peer = copy.deepcopy(ours), copy.deepcopy(peer)
    before = assert_same_logits(copied, copied_peer)
    for model in (ours, peer):
        for module in named(model, "pwconv1"):
            module.weight.data.zero_()
    assert relative_difference(assert_same_logits(ours, peer), before) > 1e-3
    assert torch.equal(assert_same_logits(copied, copied_peer), before)


@BOTH
def test_gradients_pass_hooks_as_in_transformers(version):
    ours, peer = classifiers(version)
    for model in (ours.train(), peer.train()):
        for ending in ("dwconv", "pwconv1", "pwconv2"):
            for module in named(model, ending):
                add_hook(module, Bending())
        logits(model, make_images()).square().sum().backward()
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for name, parameter in ours.named_parameters():
        assert relative_difference(parameter.grad, theirs[name]) <= 1e-9, name
