"""A stage is a module: what watches, wraps or replaces it, or a layer of it, takes effect."""

import copy
import warnings

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from convnext_backbones import (
    GRN,
    Block,
    ConvNeXt,
    ConvNeXtClassifier,
    ConvNeXtV2,
    prepare_for_inference,
)
from convnext_backbones.errors import UserError
from convnext_backbones.network.convnext import Stage

VERSIONS = pytest.mark.parametrize("version", [ConvNeXt, ConvNeXtV2])
SMALL = {"depths": (1, 2, 2), "dims": (8, 16, 24)}
NAMES = ("stem", "stage1", "stage2", "stage3")
SIZES = [(64, 64), (50, 40)]


def small(version, **options):
    return randomised(version(SMALL, **{"out_features": NAMES, **options}))


def images():
    return random_images(2, 3, 64, 64)


def gradients(model, *sizes):
    model.zero_grad()
    sum((x * random_images(*x.shape)).sum() for x in model(images(), *sizes)).backward()
    return [p.grad.clone() for p in model.parameters()]


def assert_close(ours, references, tolerance=0.0):
    for x, reference in zip(ours, references, strict=True):
        assert relative_difference(x, reference) <= tolerance


# --- hooks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(), (SIZES,)], ids=["whole", "padded"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_cp", [False, True])
@VERSIONS
def test_hooks_of_every_stage_see_its_map_and_the_one_before_it(version, with_cp, training, sizes):
    model = small(version, with_cp=with_cp, output_norm=False).train(training)
    before, after = [], []
    for stage in model.stages:
        assert isinstance(stage, Stage)
        stage.register_forward_pre_hook(lambda stage, given: before.append(given))
        stage.register_forward_hook(lambda stage, given, x: after.append(x))
    maps = model(images(), *sizes)
    assert all(x is own for x, own in zip(after, maps[1:], strict=True))
    assert before[0][0] is maps[0]
    assert [len(given) for given in before] == [2 if sizes else 1] * 3


@VERSIONS
def test_a_hook_changes_what_a_stage_gives(version):
    model = small(version, output_norm=False)
    first = model(images())[1]
    model.stages[0].register_forward_hook(lambda stage, given, x: x / 2)
    assert torch.equal(model(images())[1], first / 2)


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_grad_cam_has_the_activations_and_gradients_of_the_last_stage(version, with_cp):
    """The weighted sum of arXiv:1610.02391, its gradients once by hooks and once by autograd."""
    options = dict(version=version, num_classes=5, with_cp=with_cp)
    model = randomised(ConvNeXtClassifier(SMALL, **options)).train(with_cp)
    seen, of_seen = [], []

    def keep(stage, given, x):
        seen.append(x)
        x.register_hook(of_seen.append)

    model.stages[-1].register_forward_hook(keep)
    model.stages[-1].register_full_backward_hook(
        lambda stage, taken, given: of_seen.append(given[0])
    )
    logits = model(images())
    logits[:, 3].sum().backward()
    last = model.forward_features(images()).last_hidden_state
    (expected,) = torch.autograd.grad(
        model.head(model.norm(last.mean(dim=(2, 3))))[:, 3].sum(), last
    )
    assert torch.equal(seen[0], last)
    assert len(of_seen) == 2
    assert_close(of_seen, [expected] * 2, 1e-6)
    cam = (of_seen[0].mean(dim=(2, 3), keepdim=True) * seen[0]).sum(1).relu()
    assert cam.shape == (2, 4, 4)
    assert cam.max() > 0


@VERSIONS
def test_hooks_fire_in_a_prepared_model_given_before_or_after(version):
    model = small(version)
    names = []
    model.stages[0].register_forward_hook(lambda stage, given, x: names.append("before"))
    prepared = prepare_for_inference(model, torch.float32)
    prepared.stages[2].register_forward_hook(lambda stage, given, x: names.append("after"))
    reference = model(images())
    names.clear()
    assert_close(prepared(images()), reference, 1e-5)
    assert names == ["before", "after"]


def test_a_hooked_stage_of_a_prepared_model_is_computed_as_it_was():
    """So that a hook meets the dtype that it knew."""
    model = small(ConvNeXtV2)
    factor = random_images(1, 16, 1, 1)
    model.stages[1].register_forward_hook(lambda stage, given, x: torch.addcmul(x, x, factor))
    prepared = prepare_for_inference(model, torch.bfloat16)
    assert_close(prepared(images()), model(images()), 0.05)


# --- wrappers -----------------------------------------------------------------------------------


@VERSIONS
def test_with_cp_can_be_set_on_a_network_and_on_a_stage(version):
    model = small(version).train()
    calls = []
    for stage in model.stages:
        stage[0].register_forward_pre_hook(lambda block, given: calls.append(block))
    plain = gradients(model)
    assert len(calls) == 3
    model.with_cp = True
    assert model.with_cp
    calls.clear()
    assert_close(gradients(model), plain, 1e-6)
    assert len(calls) == 6  # each once more in the backward pass
    model.with_cp = False
    model.stages[1].with_cp = True
    calls.clear()
    assert_close(gradients(model), plain, 1e-6)
    assert len(calls) == 4


@pytest.mark.parametrize("sizes", [(), (SIZES,)], ids=["whole", "padded"])
@VERSIONS
def test_a_stage_in_a_checkpoint_wrapper_is_computed_again_in_the_backward_pass(version, sizes):
    model = small(version).train()
    plain, names = gradients(model, *sizes), list(model.state_dict())
    calls = []
    model.stages[1][0].register_forward_pre_hook(lambda block, given: calls.append(block))
    model.stages[1] = checkpoint_wrapper(model.stages[1])
    assert_close(gradients(model, *sizes), plain, 1e-6)
    assert len(calls) == 2
    assert list(model.state_dict()) == names
    prepared = prepare_for_inference(model, torch.float32)
    assert_close(prepared(images(), *sizes), model.eval()(images(), *sizes), 1e-5)


@pytest.mark.parametrize("sizes", [(), (SIZES,)], ids=["whole", "padded"])
def test_mmengines_activation_checkpointing_takes_stages(sizes):
    checkpointing = pytest.importorskip("mmengine.runner.activation_checkpointing")
    model = small(ConvNeXtV2).train()
    plain = gradients(model, *sizes)
    calls = []
    model.stages[1][0].register_forward_pre_hook(lambda block, given: calls.append(block))
    checkpointing.turn_on_activation_checkpointing(model, ["stages.0", "stages.1"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of MMEngine's call
        assert_close(gradients(model, *sizes), plain, 1e-6)
    assert len(calls) == 2


@VERSIONS
def test_a_stage_alone_can_be_compiled(version):
    torch.compiler.reset()
    model = small(version)
    expected = model(images()), model(images(), SIZES)
    graphs = []

    def backend(graph, examples):
        graphs.append(graph)
        return graph

    model.stages[0] = torch.compile(model.stages[0], backend=backend, fullgraph=True)
    model.stages[2].compile(backend=backend, fullgraph=True)
    assert_close(model(images()), expected[0], 1e-6)
    assert len(graphs) == 2
    assert_close(model(images(), SIZES), expected[1], 1e-6)


def test_every_stage_can_be_sharded(tmp_path):
    """On one process; a model built on "meta" too, with its initial values drawn after sharding."""
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    model = small(ConvNeXtV2).train()
    expected = gradients(model), gradients(model, SIZES)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        with torch.device("meta"):
            fresh = ConvNeXtV2(SMALL)
        for network in (model, fresh):
            for stage in network.stages:
                fsdp.fully_shard(stage)
            fsdp.fully_shard(network)
        assert_close([g.full_tensor() for g in gradients(model)], expected[0], 1e-6)
        assert_close([g.full_tensor() for g in gradients(model, SIZES)], expected[1], 1e-6)
        fresh.to_empty(device="cpu")
        fresh.reset_parameters()
        assert all(torch.isfinite(x).all() for x in fresh(images()))
    finally:
        torch.distributed.destroy_process_group()


# --- other modules in the place of ours -----------------------------------------------------------


def exchanged(model, name, layer):
    model = copy.deepcopy(model)
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)[int(child)] = layer
    return model


class Adapter(nn.Module):
    """A residual bottleneck, as fine-tuning libraries put it behind a block."""

    def __init__(self, dim):
        super().__init__()
        self.down, self.up = nn.Conv2d(dim, 2, 1), nn.Conv2d(2, dim, 1)

    def forward(self, x):
        return x + self.up(self.down(x))


class WithMask(nn.Module):
    def __init__(self, block, adapter):
        super().__init__()
        self.block, self.adapter = block, adapter

    def forward(self, x, inside=None):
        return self.adapter(self.block(x, inside))


@pytest.mark.parametrize("sizes", [(), (SIZES,)], ids=["whole", "padded"])
@VERSIONS
def test_a_block_or_a_stage_is_left_out_by_an_identity(version, sizes):
    model = small(version, output_norm=False)
    model.stages[1], model.stages[2][1] = nn.Identity(), nn.Identity()
    _, first, second, third = model(images(), *sizes)
    assert torch.equal(second, model.downsample_layers[1](first))
    shorter = randomised(version({"depths": (1, 1, 1), "dims": (8, 16, 24)}, output_norm=False))
    shorter.stages[1] = nn.Identity()
    state = model.state_dict()
    shorter.load_state_dict({name: state[name] for name in shorter.state_dict()})
    assert torch.equal(third, shorter(images(), *sizes)[0])
    prepared = prepare_for_inference(model, torch.float32)
    assert_close(prepared(images(), *sizes), model(images(), *sizes), 1e-5)


class Patches(nn.Module):
    """A stem without a convolution."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x, 4).repeat(1, 4, 1, 1)[:, :8]


@pytest.mark.parametrize(
    "stem",
    [
        checkpoint_wrapper,
        lambda stem: torch.compile(stem, backend="eager"),
        lambda stem: randomised(nn.Conv2d(3, 8, 4, 4)),
        lambda stem: nn.Sequential(nn.Sequential(stem[0], nn.BatchNorm2d(8)), nn.GELU()),
        lambda stem: Patches(),
    ],
    ids=["checkpointed", "compiled", "convolution", "nested", "pooling"],
)
@VERSIONS
def test_any_module_that_gives_a_map_stands_in_the_place_of_the_stem(version, stem):
    model = small(version)
    model.downsample_layers[0] = stem(model.downsample_layers[0])
    model.eval()
    first = model.downsample_layers[0](images())
    seen = []
    model.stages[0].register_forward_pre_hook(lambda stage, given: seen.append(given[0]))
    maps = model(images())
    assert torch.equal(seen[0], first)
    prepared = prepare_for_inference(model, torch.float32)
    assert_close(prepared(images()), maps, 1e-5)
    if not isinstance(model.downsample_layers[0], Patches):
        for network in (model, prepared):
            with pytest.raises(ValueError, match=r"4 channels .*in_channels=3"):
                network(torch.zeros(1, 4, 64, 64))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "dim"), [("stages.1.1", 16), ("stages.2", 24), ("downsample_layers.1", 16)]
)
@VERSIONS
def test_any_module_that_takes_a_map_stands_in_the_place_of_a_layer(version, name, dim, training):
    model = small(version, with_cp=training).train(training)
    layer, adapter = model.get_submodule(name), randomised(Adapter(dim))
    hooked = copy.deepcopy(model)
    hooked.get_submodule(name).register_forward_hook(lambda layer, given, x: adapter(x))
    other = exchanged(model, name, nn.Sequential(layer, adapter))
    assert_close(other(images()), hooked(images()))
    prepared = prepare_for_inference(other, torch.float32)
    assert_close(prepared(images()), other.eval()(images()), 1e-5)


@VERSIONS
def test_with_padded_images_a_module_that_takes_the_mask_does_and_another_is_refused(version):
    model = small(version)
    block, adapter = model.stages[1][1], randomised(Adapter(16))
    alone = exchanged(model, "stages.1.1", nn.Sequential(block, adapter))
    told = exchanged(model, "stages.1.1", WithMask(block, adapter))
    assert_close(told(images()), alone(images()))
    image = images()[1:, :, :50, :40]
    for x, own in zip(told(images(), SIZES), told(image), strict=True):
        assert relative_difference(x[1:, :, : own.shape[2], : own.shape[3]], own) <= 1e-5
    for network in (alone, prepare_for_inference(alone, torch.float32)):
        with pytest.raises(UserError, match="Sequential, put in the place of a layer"):
            network(images(), SIZES)


# --- initial values -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ConvNeXt, ConvNeXtV2, ConvNeXtClassifier])
def test_a_model_built_on_meta_gets_the_official_initial_values(kind):
    options = dict(arch="atto", layer_scale_init_value=0.5)
    if kind is ConvNeXtClassifier:
        options |= dict(version=1, head_init_scale=0.001)
    built = kind(**options)
    with torch.device("meta"):
        model = kind(**options)
    model.to_empty(device="cpu")
    for tensor in model.parameters():
        tensor.data.fill_(7.0)
    model.reset_parameters()
    for (name, own), expected in zip(model.named_parameters(), built.parameters(), strict=True):
        if expected.unique().numel() > 1:
            assert own.std().item() == pytest.approx(expected.std().item(), rel=0.1), name
            assert abs(own.mean()) < 0.1 * own.std(), name
        else:
            assert torch.equal(own, expected), name


@pytest.mark.parametrize(
    "layer", [GRN(8), Block(8, version=1), Block(8, version=2)], ids=["GRN", "V1", "V2"]
)
def test_what_owns_parameters_resets_them(layer):
    before = copy.deepcopy(layer.state_dict())
    own = dict(layer.named_parameters(recurse=False))
    for parameter in own.values():
        parameter.data.fill_(7.0)
    layer.reset_parameters()
    for name in own:
        assert torch.equal(own[name], before[name])


# Sums of all values that torch.manual_seed(3) gives, and of the first weight of the last block.
@pytest.mark.parametrize(
    ("build", "figures"),
    [
        (lambda: ConvNeXt(SMALL), (475.692105, 1.22422649)),
        (lambda: ConvNeXtV2(SMALL), (475.692017, 1.22422649)),
        (lambda: ConvNeXtClassifier(SMALL, version=2, num_classes=5), (477.598054, 1.22422649)),
    ],
)
def test_a_seed_gives_the_initial_values_that_it_always_gave(build, figures):
    torch.manual_seed(3)
    state = build().state_dict()
    total = sum(x.double().abs().sum() for x in state.values()).item()
    last = state["stages.2.1.pwconv2.weight"].double().sum().item()
    assert (total, last) == pytest.approx(figures, rel=1e-6)
