"""Show what a config of MMDetection or MMSegmentation trains, before it does: beside the table's recipe,
and on your devices and data.

    convnext-backbones show-recipe configs/coco_mask_rcnn_convnextv2_b.py [--devices 4]
    convnext-backbones show-recipe CONFIG --cfg-options train_dataloader.batch_size=1

Prints the recipe beside the row of the table of recipes that the config says it follows, the optimizer's
parameter groups, the length of the schedule for the data set that is there, and what no longer fits
together. The model is built without memory, so that this takes seconds.
"""

import contextlib
import copy
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..adapters import FRAMEWORKS, framework_of, host_of
from ..errors import UserError
from ..recipes import PROTOCOLS, RECIPES, Protocol, Recipe, iterations_per_epoch
from . import make_parser, number

if TYPE_CHECKING:
    from mmengine.config import Config
    from rich.console import Console

    from ..runs.page.render import Table

WIDTH = 110


class Length(NamedTuple):
    """A run: images in its data set and where that number is from, batch over all devices, steps."""

    images: int
    counted: str
    batch: int
    iterations: int
    epochs: float


# ---- reading -------------------------------------------------------------------------------------
def row_of(cfg: "Config", path: str) -> Recipe | None:
    """The table's row that a config names (recipe), or is called by."""
    named = cfg.get("recipe")
    return RECIPES.get(named if isinstance(named, str) else Path(path).stem)


def figures_of(cfg: "Config") -> dict[str, object]:
    """What the config itself says, by the names that are shown."""
    optim, backbone = cfg.optim_wrapper, cfg.model.backbone
    paramwise = optim.get("paramwise_cfg") or {}
    custom = paramwise.get("custom_keys") or {}
    schedulers = schedulers_of(cfg)
    warmup = next((s for s in schedulers if s["type"] == "LinearLR"), {})
    steps = next((s for s in schedulers if s["type"] == "MultiStepLR"), {})
    init = backbone.get("init_cfg") or {}
    return {
        "network": f"{backbone.type} {backbone.get('arch', '')}",
        "initial weights": init.get("checkpoint", "none"),
        "lr": optim.optimizer.lr,
        "lr of the backbone": f"x {custom.get('backbone', {}).get('lr_mult', 1.0):g}",
        "layer decay": _decay(paramwise.get("decay_rate", 1.0), paramwise.get("decay_type")),
        "drop path": backbone.get("drop_path_rate", 0.0),
        "weight decay": optim.optimizer.weight_decay,
        "gradient norm": (optim.get("clip_grad") or {}).get("max_norm", "no limit"),
        "precision": "mixed" if optim.type == "AmpOptimWrapper" else "float32",
        "length": _length(cfg.train_cfg.get("max_epochs"), cfg.train_cfg.get("max_iters")),
        "warm-up": _warmup(warmup.get("end", 0), warmup.get("start_factor")),
        "lr x 0.1 after": _list(steps.get("milestones", ())),
        "crop": crop_of(cfg.train_dataloader.dataset.get("pipeline", [])),
        "batch": cfg.get("auto_scale_lr", {}).get("base_batch_size", "not said"),
    }


def schedulers_of(cfg: "Config") -> list:
    schedulers = cfg.get("param_scheduler") or []
    return schedulers if isinstance(schedulers, list) else [schedulers]


def crop_of(pipeline: Sequence[dict]) -> str:
    """The crop of a pipeline: its size, "DETR's" for one that is drawn in one of two ways, "none"."""
    crops = [step["crop_size"] for step in pipeline if "crop_size" in step]
    if crops:
        return _list(crops[-1])
    ways = [
        way for step in pipeline if step.get("type") == "RandomChoice" for way in step["transforms"]
    ]
    return "DETR's" if any("crop_size" in step for way in ways for step in way) else "none"


def figures_of_row(recipe: Recipe) -> dict[str, object]:
    """The same of a row of the table."""
    protocol = PROTOCOLS[recipe.protocol]
    family, size = recipe.variant.split("_")
    return {
        "network": f"{'ConvNeXtV2' if family == 'convnextv2' else 'ConvNeXt'} {size}",
        "initial weights": recipe.init,
        "lr": recipe.lr,
        "lr of the backbone": f"x {recipe.backbone_lr:g}",
        "layer decay": _decay(recipe.layer_decay, recipe.decay_type),
        "drop path": recipe.drop_path,
        "weight decay": protocol.weight_decay,
        "gradient norm": protocol.clip_norm or "no limit",
        "precision": "mixed" if recipe.amp else "float32",
        "length": _length(protocol.epochs, protocol.iterations),
        "warm-up": _warmup(protocol.warmup_iterations, protocol.warmup_factor),
        "lr x 0.1 after": _list(protocol.milestones),
        "crop": _list(protocol.crop_size) if protocol.crop_size else "DETR's",
        "batch": protocol.batch,
    }


def _decay(rate: float, kind: str | None) -> str:
    return "none" if rate == 1 else f"{rate:g} {kind}"


def _length(epochs: int | None, steps: int | None) -> str:
    return f"{epochs} epochs" if epochs else f"{steps} steps"


def _warmup(steps: int, factor: float | None) -> str:
    return f"{steps} steps from {factor:g} lr" if steps else "none"


def _list(values) -> str:
    return ", ".join(map(str, values)) or "never"


def images_of(cfg: "Config", protocol: Protocol | None) -> tuple[int, str]:
    """How many images the training data set has, as the framework itself filters them, and a word
    where the number is from."""
    from mmdet.registry import DATASETS as DETECTION_DATASETS
    from mmseg.registry import DATASETS as SEGMENTATION_DATASETS

    from ..adapters.openmmlab import data_places

    settings = inner = copy.deepcopy(cfg.train_dataloader.dataset)
    while "dataset" in inner:  # wrappers such as RepeatDataset
        inner = inner.dataset
    inner.serialize_data = False  # which fails for an empty data set, and takes memory
    try:
        data_places.check(cfg, "train")
    except UserError as error:
        if protocol is None:
            raise UserError(
                f"{error}\n  Without data, only the table's recipes can be shown"
            ) from None
        return protocol.train_images, "published; the data set is not here"
    registry = DETECTION_DATASETS if cfg.default_scope == "mmdet" else SEGMENTATION_DATASETS
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        images = len(registry.build(settings))
    if not images:
        raise UserError(
            "the training data set is there and has no image for this config: are its class names "
            "(train_dataloader.dataset.metainfo) those of the annotations?"
        )
    return images, f"counted in {inner.get('data_root', 'the data set')}"


def length_of(cfg: "Config", images: int, counted: str, devices: int) -> Length:
    batch = cfg.train_dataloader.batch_size * devices
    per_epoch = math.ceil(images / batch)
    epochs, steps = cfg.train_cfg.get("max_epochs"), cfg.train_cfg.get("max_iters")
    if epochs:
        return Length(images, counted, batch, epochs * per_epoch, epochs)
    return Length(images, counted, batch, steps, steps * batch / images)


def warnings_of(cfg: "Config", length: Length, protocol: Protocol | None) -> list[str]:
    """What no longer fits together, one sentence each, with what to do."""
    from ..adapters.openmmlab.config_mistakes import schedule_notes

    lr, base = cfg.optim_wrapper.optimizer.lr, cfg.get("auto_scale_lr", {}).get("base_batch_size")
    found = []
    if not base:
        found.append("the config does not say for which batch its lr is (auto_scale_lr)")
    elif base != length.batch:
        scaled = lr * length.batch / base
        found.append(
            f"lr {lr:g} is for batch {base}, this run has {length.batch}: add --auto-scale-lr to "
            f"train.py, which makes it {scaled:g}, or set train_dataloader.batch_size"
        )
    if protocol and protocol.epochs is None:
        epochs = protocol.iterations * protocol.batch / protocol.train_images
        if abs(length.epochs / epochs - 1) > 0.1:
            found.append(
                f"{length.iterations} steps of {length.batch} are {length.epochs:.1f} epochs of this "
                f"data, where the recipe has {epochs:.1f}: set train_cfg.max_iters, the schedulers' end "
                "and val_interval"
            )
    warmup = max((s.get("end", 0) for s in schedulers_of(cfg)
                  if s["type"] == "LinearLR" and not s.get("by_epoch", True)), default=0)  # fmt: skip
    if warmup <= length.iterations < 10 * warmup:
        steps = (
            f" (the recipe has {protocol.epochs * iterations_per_epoch(protocol)})"
            if protocol and protocol.epochs
            else ""
        )
        found.append(
            f"{warmup} steps of warm-up are much of a run of {length.iterations}{steps}: shorten it in "
            "param_scheduler"
        )
    found += schedule_notes(cfg, length.iterations, length.epochs)
    return found


# ---- printing ------------------------------------------------------------------------------------
def show(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class Shown:
    """What is printed, kept for a page: tables and lines, in their order."""

    def __init__(self, console: "Console"):
        self.console, self.parts = console, []

    def table(self, table: "Table", overflow: Sequence[int] = (0, 1, 2)) -> None:
        from rich.markup import escape
        from rich.table import Table as Printed

        printed = Printed(title=table.label, title_justify="left")
        for k, (column, numbers) in enumerate(zip(table.columns, table.of_numbers(), strict=True)):
            right = "right" if numbers else "left"
            printed.add_column(
                column, justify=right, overflow="fold" if k in overflow else "ellipsis"
            )
        for row in table.rows:
            marked = any(cell.kind == "differs" for cell in row)
            printed.add_row(
                *(escape(cell.text) for cell in row), style="bold red" if marked else ""
            )
        self.console.print(printed)
        self.parts.append(table)

    def line(self, text: str, kind: str = "") -> None:
        """kind: "warning" or "cannot run", which stands before the text."""
        from rich.markup import escape

        style = {"warning": "[bold yellow]", "cannot run": "[bold red]"}.get(kind)
        self.console.print(f"{style}{kind}:[/] {escape(text)}" if style else escape(text))
        self.parts.append((kind, text))


def show_figures(shown: Shown, cfg: "Config", path: str, row: Recipe | None) -> None:
    """The recipe beside the table's."""
    from ..runs.page.render import Cell, Table

    own = {name: show(value) for name, value in figures_of(cfg).items()}
    if row is None:
        rows = [[Cell(name), Cell(value)] for name, value in own.items()]
        shown.table(Table(["", "this config"], rows, label="recipe"))
        shown.line(f"no row of the table of recipes is called {Path(path).stem}")
        return
    published = {name: show(value) for name, value in figures_of_row(row).items()}
    different = [name for name, value in published.items() if value != own[name]]
    rows = [
        [Cell(name), Cell(own[name], kind="differs" if name in different else ""), Cell(value)]
        for name, value in published.items()
    ]
    shown.table(Table(["", "this config", f"{row.name} ({row.status})"], rows, label="recipe"))
    if different:
        shown.line(f"differs from the table in: {', '.join(different)}")
    scores = {"box AP": row.box_ap, "mask AP": row.mask_ap, "mIoU": row.miou,
              "multi-scale mIoU": row.miou_multiscale}  # fmt: skip
    known = ", ".join(f"{name} {score}" for name, score in scores.items() if score)
    shown.line(f"score:  {known or 'none is published'}")
    shown.line(f"source: {row.source}" + (f"; {row.reruns}" if row.reruns else ""))


def show_groups(shown: Shown, cfg: "Config") -> None:
    """The optimizer's parameter groups."""
    from mmengine.optim import build_optim_wrapper

    from ..adapters.openmmlab import run
    from ..runs.page.groups import modules_of
    from ..runs.page.render import Cell, Table, cell

    model = run.build_model(cfg)
    settings = dict(cfg.optim_wrapper.to_dict(), type="OptimWrapper")
    settings.pop("loss_scale", None)
    settings.pop("dtype", None)
    groups = build_optim_wrapper(model, settings).optimizer.param_groups
    rows = []
    for k, group in enumerate(groups):
        rows.append([
            Cell(group.get("group_name", f"group {k}")),
            Cell(modules_of(group.get("param_names", []))),
            cell(group["lr"], f"{group['lr']:.3g}"),
            cell(group["weight_decay"], f"{group['weight_decay']:g}"),
            cell(len(group["params"])),
            cell(sum(p.numel() for p in group["params"])),
        ])  # fmt: skip
    total = sum(p.numel() for group in groups for p in group["params"])
    tensors = sum(len(group["params"]) for group in groups)
    rows.append([Cell("all"), Cell(""), Cell(""), Cell(""), cell(tensors), cell(total)])
    columns = ["group", "of", "lr", "weight decay", "tensors", "parameters"]
    shown.table(Table(columns, rows, label="parameter groups"), overflow=(1,))
    frozen = sum(p.numel() for p in model.parameters()) - total
    if frozen:
        shown.line(f"frozen: {frozen:,} parameters in no group")


def main(argv: Sequence[str] | None = None) -> int:
    """Show it by the command line; 2 for a config that cannot run."""
    parser = make_parser("show-recipe", __doc__)
    parser.add_argument("config")
    parser.add_argument(
        "--devices", type=number(int, 1), metavar="N", help="GPUs of the run; default: the recipe's"
    )
    parser.add_argument("--cfg-options", nargs="+", metavar="K=V", default=[])
    parser.add_argument("--html", metavar="FILE.html", help="the same as a page, too")
    args = parser.parse_args(argv)
    framework = framework_of(args.config)
    if framework != "openmmlab":
        raise UserError(
            f"show-recipe reads configs of {FRAMEWORKS['openmmlab'].title}, and {args.config} is one of "
            f"{FRAMEWORKS[framework].title}; the recipe stands at the top of the file"
        )
    run = host_of(framework)
    from mmengine.registry import init_default_scope
    from rich.console import Console

    from ..adapters.openmmlab.config_mistakes import contradictions
    from ..runs.page import render
    from ..runs.preparation import existing_config

    page = Path(args.html).expanduser() if args.html else None
    if page:
        render.refuse_other_files(page)

    run.quiet_warnings()
    args.config = str(existing_config(args.config))
    cfg = run.load_config(args.config, options=run.overrides(args))
    init_default_scope(cfg.default_scope)
    row = row_of(cfg, args.config)
    protocol = PROTOCOLS[row.protocol] if row else None
    devices = args.devices or (protocol.gpus if protocol else 1)

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    shown = Shown(console)
    show_figures(shown, cfg, args.config, row)
    show_groups(shown, cfg)
    images, counted = images_of(cfg, protocol)
    length = length_of(cfg, images, counted, devices)
    per_device = cfg.train_dataloader.batch_size
    shown.line(
        f"{length.images} images ({length.counted}), {devices} device{'s' * (devices > 1)} x {per_device} = batch "
        f"{length.batch}: {length.iterations} steps, {length.epochs:.4g} epochs"
    )
    for sentence in warnings_of(cfg, length, protocol):
        shown.line(sentence, "warning")
    mistakes = contradictions(cfg)
    for sentence in mistakes:
        shown.line(sentence, "cannot run")
    if page:
        render.save(page, "recipe", config=args.config, parts=shown.parts, text=cfg.pretty_text)
        console.print(f"page: {page}", soft_wrap=True)
    return 2 if mistakes else 0
