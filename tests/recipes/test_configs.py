"""Every config of configs/: that it is the table's recipe, builds whole, and runs.

On one thread without slow tests about a minute; `-m slow` adds the rest: all operation counts and two
training steps with every config.
"""

import functools
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

import mmdet
import mmseg
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from convnext_backbones.adapters.openmmlab import run as run
from convnext_backbones.cli import _counted_recipes as counted_recipes
from convnext_backbones.lab.counting import millions
from convnext_backbones.network.variants import VARIANTS
from convnext_backbones.recipes import (
    BETAS,
    COUNTED,
    METHODS,
    PROTOCOLS,
    RECIPES,
    iterations,
    iterations_per_epoch,
    layer_scales,
    learning_rate,
)
from convnext_backbones.recipes.layer_decay import layer_id, num_layers, unwrapped

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
OURS = [r for r in RECIPES.values() if "openmmlab" in METHODS[r.method].hosts]
NAMES = [recipe.name for recipe in OURS]


@functools.cache
def config(name: str) -> Config:
    """Not to be changed."""
    return run.load_config(str(CONFIGS / f"{name}.py"))


@functools.cache
def full_size_model(name: str):
    """On the meta device: it holds no memory."""
    return counted_recipes.built(RECIPES[name])


def slow_unless(name: str, *fast: str):
    return pytest.param(name, marks=[] if name in fast else pytest.mark.slow)


# ---- files ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [slow_unless(n, "coco_rtmdet_convnextv2_pico", "ade20k_upernet_convnext_b_22k") for n in NAMES],
)
def test_a_config_that_is_written_down_reads_the_same(name, tmp_path):
    """As a run writes it into its work directory."""
    config(name).dump(tmp_path / f"{name}.py")
    again = Config.fromfile(tmp_path / f"{name}.py")
    assert again._cfg_dict.to_dict() == config(name)._cfg_dict.to_dict()


# ---- models --------------------------------------------------------------------------------------
ONEDL = mmdet.__version__ > "3.3.0"
ONEDLS_DINO = 512 * 256 / 1e6  # its decoder encodes reference points in 1024 channels, not in 512


@pytest.mark.parametrize("name", NAMES)
def test_the_full_size_model_is_the_recipes(name):
    recipe, model = RECIPES[name], full_size_model(name)
    counted = millions(model)
    assert recipe.params is None or round(counted) == recipe.params
    if recipe.method == "dino" and ONEDL:
        counted -= ONEDLS_DINO
    assert round(counted, 1) == COUNTED[name][0]
    variant, backbone = VARIANTS[recipe.variant], model.backbone
    assert (backbone.version, backbone.depths, backbone.dims) == (variant.version, variant.depths, variant.dims)  # fmt: skip
    settings = config(name).model.backbone
    assert settings.drop_path_rate == recipe.drop_path
    assert settings.init_cfg == dict(type="Pretrained", checkpoint=recipe.init)
    assert settings.get("layer_scale_init_value") == (1.0 if variant.version == 1 else None)


FAST_COUNTS = (
    "coco_mask_rcnn_convnext_t",
    "coco_mask_rcnn_convnextv2_b",
    "coco_cascade_mask_rcnn_convnext_xl_22k",
    "ade20k_upernet_convnext_b_22k",
    "ade20k_upernet_convnextv2_h",
    "coco_rtmdet_convnextv2_pico",
    "coco_cascade_rcnn_convnextv2_atto",
)


@pytest.mark.parametrize("name", [slow_unless(name, *FAST_COUNTS) for name in NAMES])
def test_operations_are_the_published_or_the_counted_ones(name):
    if RECIPES[name].method == "dino" and ONEDL:
        pytest.skip("counted on MMDetection's DINO, whose decoder is a little smaller than onedl's")
    _, counter = counted_recipes.count(RECIPES[name])
    gmacs = counter.gmacs + counter.extra
    published = RECIPES[name].gflops
    assert published is None or round(gmacs) == published
    assert gmacs == pytest.approx(COUNTED[name][1], abs=0.051)


# ---- optimizer -----------------------------------------------------------------------------------
QUERIES = ("query_embed", "query_feat", "level_embed")  # of Mask2Former, which exempts them


@pytest.mark.parametrize("name", NAMES)
def test_the_built_optimizer_has_the_recipes_figures(name):
    """Every parameter's learning rate and weight decay, in the optimizer that the config builds."""
    recipe, cfg, model = RECIPES[name], config(name), full_size_model(name)
    protocol = PROTOCOLS[recipe.protocol]
    settings = cfg.optim_wrapper.to_dict()
    assert settings.pop("type") == ("AmpOptimWrapper" if recipe.amp else "OptimWrapper")
    assert settings.pop("loss_scale", None) == ("dynamic" if recipe.amp else None)
    clip = settings.pop("clip_grad", {}).get("max_norm")
    assert clip == protocol.clip_norm
    optimizer = build_optim_wrapper(model, settings).optimizer
    assert type(optimizer) is torch.optim.AdamW
    depths, parameters = VARIANTS[recipe.variant].depths, dict(model.named_parameters())
    found = set()
    for group in optimizer.param_groups:
        assert group["betas"] == BETAS
        for parameter_name in group["param_names"]:
            layer = layer_id(parameter_name, depths, recipe.decay_type)
            scale = recipe.layer_decay ** (num_layers(depths) + 1 - layer)
            scale *= recipe.backbone_lr if parameter_name.startswith("backbone.") else 1
            assert group["lr"] == pytest.approx(recipe.lr * scale), parameter_name
            exempt = (
                parameters[parameter_name].ndim == 1
                or parameter_name.endswith(".bias")
                or any(f".{word}." in parameter_name for word in QUERIES)
            )
            decay = 0.0 if exempt else protocol.weight_decay
            assert group["weight_decay"] == decay, parameter_name
            found.add(parameter_name)
    assert found == {unwrapped(n) for n in parameters}


# ---- data ----------------------------------------------------------------------------------------
def transforms(pipeline: list, kind: str) -> list[dict]:
    """Every transform of a type, those inside of others as well."""
    found = []
    for transform in pipeline:
        if isinstance(transform, (list, tuple)):
            found += transforms(transform, kind)
            continue
        found += [transform] if transform["type"] == kind else []
        found += transforms(transform.get("transforms", []), kind)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_data_and_test_settings_are_the_protocols(name):
    recipe, cfg = RECIPES[name], config(name)
    protocol = PROTOCOLS[recipe.protocol]
    train = cfg.train_dataloader.dataset.pipeline
    test = cfg.test_dataloader.dataset.pipeline
    assert cfg.train_dataloader.batch_size * protocol.gpus == protocol.batch
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=protocol.batch)
    assert [t.scale for t in transforms(test, "Resize")] == [protocol.scale]
    assert [t.prob for t in transforms(train, "RandomFlip")] == [0.5]
    long = protocol.scale[0]
    choices = transforms(train, "RandomChoiceResize")
    if protocol.short_sides and protocol.dataset == "coco":
        sides = [(side, long) for side in protocol.short_sides]
        assert [choices[0].scales, choices[2].scales] == [sides, sides]
        assert [side for side, _ in choices[1].scales] == [400, 500, 600]
    elif protocol.short_sides:
        assert (choices[0].scales, choices[0].max_size) == (list(protocol.short_sides), long)
    if protocol.ratio_range:
        resizes = transforms(train, "RandomResize")
        assert [tuple(t.ratio_range) for t in resizes] == [protocol.ratio_range]
    crop = transforms(train, "RandomCrop")[-1].crop_size
    assert tuple(crop) == (protocol.crop_size or (384, 600))
    empty = cfg.train_dataloader.dataset.get("filter_cfg", {}).get("filter_empty_gt")
    assert empty == (None if protocol.dataset == "ade20k" else protocol.train_images == 117_266)
    if protocol.dataset == "ade20k":
        assert cfg.model.data_preprocessor.size == protocol.crop_size
        whole = dict(mode="whole")
        slide = dict(mode="slide", crop_size=protocol.crop_size, stride=protocol.slide_stride)
        assert cfg.model.test_cfg == (slide if protocol.slide_stride else whole)
        sizes = [t.scale for t in transforms(cfg.tta_pipeline, "Resize")]
        ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]  # of the size of testing without them
        assert sizes == [tuple(int(side * ratio) for side in protocol.scale) for ratio in ratios]
    if recipe.protocol == "coco_lsj_3x":
        assert cfg.model.test_cfg.rcnn.nms.type == "soft_nms"


# ---- schedule ------------------------------------------------------------------------------------
def simulated(cfg: Config, recipe, scale: float, wanted: set[int]) -> dict[int, float]:
    """The learning rate that MMEngine's own schedulers give in the wanted steps, stepped through
    from the first as ParamSchedulerHook does."""
    protocol = PROTOCOLS[recipe.protocol]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=recipe.lr * scale)
    optimizer.step()  # so that torch does not warn of the order
    per_epoch = iterations_per_epoch(protocol)
    schedulers = [
        PARAM_SCHEDULERS.build(
            dict(settings), default_args=dict(optimizer=optimizer, epoch_length=per_epoch)
        )
        for settings in cfg.param_scheduler
    ]
    rates = {}
    for iteration in range(max(wanted) + 1):
        if iteration in wanted:
            rates[iteration] = optimizer.param_groups[0]["lr"]
        for scheduler in schedulers:
            if scheduler.by_epoch:
                if (iteration + 1) % per_epoch == 0:
                    scheduler.step()
            elif iteration < scheduler.end:  # after it, a step changes nothing
                scheduler.step()
    return rates


def curve_points(protocol) -> set[int]:
    """Start, around the end of the warm-up and around each step, in between, the end."""
    unit = 1 if protocol.epochs is None else iterations_per_epoch(protocol)
    end = iterations(protocol)
    points = {0, 1, end // 4, end // 2, 3 * end // 4, end - 1}
    marks = [protocol.warmup_iterations, *(m * unit for m in protocol.milestones)]
    marks += [protocol.cosine_from * unit] if protocol.cosine_from else []
    points |= {mark + offset for mark in marks if mark for offset in (-1, 0, 1)}
    return points


ONE_A_PROTOCOL = {PROTOCOLS[recipe.protocol]: recipe.name for recipe in OURS}


@pytest.mark.parametrize("name", ONE_A_PROTOCOL.values(), ids=lambda n: RECIPES[n].protocol)
def test_the_learning_rate_curve_is_the_published_one(name):
    """Over the whole schedule, of the stem and of the heads."""
    recipe, cfg = RECIPES[name], config(name)
    points = curve_points(PROTOCOLS[recipe.protocol])
    for place in ("stem", "heads"):
        scale = dict(layer_scales(recipe))[place]
        for iteration, rate in simulated(cfg, recipe, scale, points).items():
            expected = learning_rate(recipe, iteration, scale)
            assert rate == pytest.approx(expected, rel=1e-6, abs=1e-12), (place, iteration)


@pytest.mark.parametrize("name", NAMES)
def test_the_loop_and_the_schedulers_have_the_protocols_length(name):
    protocol, cfg = PROTOCOLS[RECIPES[name].protocol], config(name)
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters
    assert length == (protocol.epochs or protocol.iterations)
    assert cfg.param_scheduler[-1].end == length
    same = config(ONE_A_PROTOCOL[protocol])  # whose curve is computed above
    assert cfg.param_scheduler == same.param_scheduler


# ---- the hosts' own configs ----------------------------------------------------------------------
MMDET = Path(mmdet.__file__).parent / ".mim" / "configs"
MMSEG = Path(mmseg.__file__).parent / ".mim" / "configs"
CASCADE = "convnext/cascade-mask-rcnn_convnext-{}-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py"
UPERNET = "convnext/convnext-{}_upernet_8xb2-amp-160k_ade20k-{}x{}.py"
HOSTS_OWN = {
    "coco_mask_rcnn_convnext_t": MMDET / "convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "coco_cascade_mask_rcnn_convnext_t": MMDET / CASCADE.format("t"),
    "coco_cascade_mask_rcnn_convnext_s": MMDET / CASCADE.format("s"),
    "coco_rtmdet_convnext_b_22k": MMDET / "rtmdet/rtmdet_l_convnext_b_4xb32-100e_coco.py",
    "coco_dino_convnext_t_22k": MMDET / "dino/dino-4scale_r50_8xb2-12e_coco.py",
    "coco_mask2former_convnext_t": MMDET / "mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py",
    "ade20k_upernet_convnext_t": MMSEG / UPERNET.format("tiny", 512, 512),
    "ade20k_upernet_convnext_s": MMSEG / UPERNET.format("small", 512, 512),
    "ade20k_upernet_convnext_b": MMSEG / UPERNET.format("base", 512, 512),
    "ade20k_upernet_convnext_b_22k": MMSEG / UPERNET.format("base", 640, 640),
    "ade20k_upernet_convnext_l_22k": MMSEG / UPERNET.format("large", 640, 640),
    "ade20k_upernet_convnext_xl_22k": MMSEG / UPERNET.format("xlarge", 640, 640),
}  # fmt: skip


def plain(node):
    """Without what says nothing of the recipe; tuples as lists."""
    if isinstance(node, dict):
        return {k: plain(v) for k, v in node.items() if k not in ("backend_args", "seg_pad_value")}
    return [plain(v) for v in node] if isinstance(node, (list, tuple)) else node


@pytest.mark.parametrize("name", HOSTS_OWN)
def test_heads_data_and_schedule_are_the_hosts_own_configs(name):
    """MMDetection and MMSegmentation ship these recipes; all but the backbone is compared."""
    ours = config(name)
    theirs = Config.fromfile(HOSTS_OWN[name], import_custom_modules=False)  # they want mmpretrain
    own_backbone = "convnext" in str(HOSTS_OWN[name])
    models = []
    for cfg in (ours, theirs):
        model = plain(cfg.model)
        backbone = model.pop("backbone")
        model.pop("pretrained", None)
        if not own_backbone:  # theirs is a ResNet or Swin
            model.get("neck", {}).pop("in_channels", None)
        models.append(model)
        rate = backbone.get("drop_path_rate")
        if own_backbone:
            models.append((rate, backbone["arch"], list(backbone["out_indices"])))
    half = len(models) // 2
    assert models[:half] == models[half:]
    for path in (
        "train_dataloader.dataset.pipeline",
        "train_dataloader.batch_size",
        "val_dataloader.dataset.pipeline",
        "train_cfg",
    ):
        parts = path.split(".")
        found = [plain(functools.reduce(lambda node, key: node[key], parts, cfg)) for cfg in (ours, theirs)]  # fmt: skip
        assert found[0] == found[1], path
    schedules = [cfg.param_scheduler for cfg in (ours, theirs)]
    assert plain(schedules[0]) == plain(schedules[1] if isinstance(schedules[1], list) else [schedules[1]])  # fmt: skip
    rates = [
        (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay)
        for cfg in (ours, theirs)
    ]
    assert rates[0] == rates[1]
    if own_backbone:
        paramwise = [cfg.optim_wrapper.paramwise_cfg for cfg in (ours, theirs)]
        for key in ("decay_rate", "decay_type"):
            assert paramwise[0][key] == paramwise[1][key]
        layers = num_layers(VARIANTS[RECIPES[name].variant].depths)
        assert paramwise[1]["num_layers"] == layers


# ---- running -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory that has the sample data and nothing else."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize("name", NAMES)
def test_sample_trains_every_layer_at_one_rate(name, folder, monkeypatch):
    """Nothing is pretrained, so that a slower backbone would not learn."""
    monkeypatch.chdir(folder)
    cfg = run.load_config(str(CONFIGS / f"{name}.py"), sample=True)
    assert cfg.optim_wrapper.paramwise_cfg.decay_rate == 1.0
    assert not cfg.optim_wrapper.paramwise_cfg.custom_keys


REPRESENTATIVE = (
    "ade20k_upernet_convnextv2_h_22k",
    "coco_cascade_mask_rcnn_convnext_xl_22k",
    "coco_rtmdet_convnextv2_atto",  # whose neck has a GroupNorm of its own
    "coco_faster_rcnn_convnextv2_t",
    "ade20k_mask2former_convnextv2_t",
    "coco_dino_convnext_b_22k",
)


@pytest.mark.parametrize("name", [slow_unless(name, *REPRESENTATIVE) for name in NAMES])
def test_two_training_steps_and_one_evaluation(name, folder, monkeypatch):
    """As tools/train.py CONFIG --sample --shrink does it."""
    monkeypatch.chdir(folder)
    options = {
        "train_dataloader.batch_size": 2,
        "train_dataloader.dataset.indices": 4,
        "val_dataloader.dataset.indices": 2,
        "default_hooks.logger.interval": 1,
        "default_hooks.checkpoint.interval": -1,
        "work_dir": name,
        "experiment_name": name,
    }
    if name.startswith("ade20k"):
        options |= {"train_cfg.max_iters": 2, "train_cfg.val_interval": 2}
    else:
        options |= {"train_cfg.max_epochs": 1, "train_cfg.val_interval": 1}
    cfg = run.load_config(str(CONFIGS / f"{name}.py"), sample=True, shrink=True, options=options)
    run.check_data(cfg)
    run.fit_to_device(cfg)
    runner = run.QuietRunner.from_cfg(cfg)
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == 2
    after = dict(runner.model.named_parameters())
    moved = [n for n in before if not torch.equal(before[n], after[n])]
    assert any(n.startswith("backbone.stages.3") for n in moved)
    assert all(p.isfinite().all() for p in after.values())
    scalars = runner.message_hub.log_scalars
    assert math.isfinite(scalars["train/loss"].current())
    metric = "val/mIoU" if name.startswith("ade20k") else "val/coco/bbox_mAP"
    assert metric in scalars
