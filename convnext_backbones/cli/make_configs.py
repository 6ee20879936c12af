"""Write configs/ from the table of recipes: one file a recipe, and the headers of configs/_base_.

    python tools/make_configs.py            # write
    python tools/make_configs.py --check    # name the files that differ from the table, status 1

A config reads its figures from convnext_backbones/recipes.py; its header shows them to the reader. What
is in configs/_base_ below the header is written by hand.
"""

import argparse
import textwrap
from pathlib import Path

from ..checkpoints.catalogue import CATALOGUE
from ..network.variants import VARIANTS
from ..recipes.table import (
    COUNTED,
    METHODS,
    PROTOCOLS,
    RECIPES,
    Protocol,
    Recipe,
    iterations,
    iterations_per_epoch,
    layer_scales,
)

CONFIGS = Path(__file__).parents[2] / "configs"
PAPERS = {1: '"A ConvNet for the 2020s", arXiv:2201.03545', 2: '"ConvNeXt V2", arXiv:2301.00808'}
DATASETS = {"coco": "COCO", "ade20k": "ADE20K"}
SCOPES = {"coco": "mmdet", "ade20k": "mmseg"}
WIDTH = 100


# ---- headers -------------------------------------------------------------------------------------
def header_lines(rows: list[tuple[str, str]]) -> list[str]:
    """Comment lines: a word, and what it says, wrapped beside it."""
    lines = []
    for word, text in rows:
        pieces = textwrap.wrap(text, WIDTH - 11, break_long_words=False, break_on_hyphens=False)
        lines += [f"# {word if i == 0 else '':8} {piece}" for i, piece in enumerate(pieces)]
    return lines


def number(value: float) -> str:
    """0.0001, 8e-05 -> 1e-4, 8e-5; 0.95 stays."""
    if value and abs(value) < 1e-3:
        digits, power = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:g}"


def schedule_text(protocol: Protocol) -> str:
    steps = iterations(protocol)
    if protocol.epochs:
        text = (
            f"{protocol.epochs} epochs * {iterations_per_epoch(protocol)} steps "
            f"({protocol.train_images} images / {protocol.batch}) = {steps} steps"
        )
    else:
        epochs = steps * protocol.batch / protocol.train_images
        text = (
            f"{steps} steps * {protocol.batch} images / {protocol.train_images} images = "
            f"{epochs:.0f} epochs"
        )
    if protocol.warmup_iterations:
        text += (
            f"; warm-up over {protocol.warmup_iterations} steps from {number(protocol.warmup_factor)} "
            "of lr"
        )
    if protocol.milestones:
        unit = "epochs" if protocol.epochs else "steps"
        text += f"; lr x 0.1 after {unit} {' and '.join(map(str, protocol.milestones))}"
    if protocol.power is not None:
        text += f"; lr falls to 0 with power {number(protocol.power)}"
    if protocol.cosine_from is not None:
        text += (
            f"; lr falls as a cosine from epoch {protocol.cosine_from} on, to "
            f"{number(protocol.final_lr)} in every layer"
        )
    return text


def hardware_text(protocol: Protocol) -> str:
    per_gpu = protocol.batch // protocol.gpus
    return f"{protocol.gpus} GPUs x {per_gpu} images = {protocol.batch}"


def recipe_text(recipe: Recipe) -> str:
    protocol = PROTOCOLS[recipe.protocol]
    parts = [f"AdamW, lr {number(recipe.lr)}", f"weight decay {number(protocol.weight_decay)}"]
    if recipe.backbone_lr != 1:
        parts.append(f"{number(recipe.backbone_lr)} of lr in the backbone")
    if recipe.layer_decay != 1:
        parts.append(f"{recipe.decay_type} decay {number(recipe.layer_decay)}")
    parts.append(f"drop path {number(recipe.drop_path)}")
    if protocol.clip_norm:
        parts.append(f"gradient norm <= {number(protocol.clip_norm)}")
    parts.append("mixed precision" if recipe.amp else "float32")
    return ", ".join(parts)


def scores_text(recipe: Recipe) -> str:
    named = (
        ("box AP", recipe.box_ap),
        ("mask AP", recipe.mask_ap),
        ("mIoU", recipe.miou),
        ("multi-scale" if recipe.miou else "multi-scale mIoU", recipe.miou_multiscale),
    )
    return ", ".join(f"{name} {score:.1f}" for name, score in named if score is not None)


def sizes_text(recipe: Recipe) -> str:
    height, width = PROTOCOLS[recipe.protocol].flops_size
    params, gflops = COUNTED[recipe.name]
    figures = (
        (recipe.params, params, "M parameters"),
        (recipe.gflops, gflops, f"GFLOPs at {width}x{height}"),
    )
    return ", ".join(
        f"{counted} {unit} (counted)" if published is None else f"{published} {unit}"
        for published, counted, unit in figures
    )


def recipe_header(recipe: Recipe, command: str) -> list[str]:
    variant, method = VARIANTS[recipe.variant], METHODS[recipe.method]
    protocol, weights = PROTOCOLS[recipe.protocol], CATALOGUE[recipe.init]
    network = f"ConvNeXt{' V2' if variant.version == 2 else ''}-{variant.size.capitalize()}"
    papers = [PAPERS[variant.version]]
    if method.paper:
        papers.append(f"{method.title}, arXiv:{method.paper}")
    memory = f"; {recipe.memory_gb:g} GB a GPU" if recipe.memory_gb else ""
    expected = scores_text(recipe) or "no score is published"
    reruns = f"; {recipe.reruns}" if recipe.reruns else ""
    rows = [
        ("Paper", "; ".join(papers)),
        ("Command", command),
        ("Hardware", hardware_text(protocol) + memory),
        ("Recipe", recipe_text(recipe)),
        ("Data", protocol.text),
        ("Schedule", schedule_text(protocol)),
        ("Weights", f"{recipe.init}, {weights.licence}"),
        ("Expected", f"{expected}. {sizes_text(recipe)}"),
        ("Status", f"{recipe.status}: {recipe.source}{reruns}. {recipe.measured or 'Not trained here'}"),
    ]  # fmt: skip
    title = f"# {network} + {method.title} on {DATASETS[protocol.dataset]}"
    return [title, *header_lines(rows)]


def scales_comment(recipe: Recipe) -> str:
    """Where lr is multiplied by what: one comment line."""
    scales = layer_scales(recipe)
    if len({scale for _, scale in scales}) == 1:
        return ""
    stages: dict[str, list[str]] = {}
    for name, scale in scales:
        stages.setdefault(name, []).append(f"{scale:.3f}".rstrip("0").rstrip("."))
    return "# lr times: " + ", ".join(f"{n} {'..'.join(s)}" for n, s in stages.items())


def protocol_header(protocol: Protocol) -> list[str]:
    return [
        f"# {DATASETS[protocol.dataset]}: data, schedule and hooks of the recipes of this name",
        *header_lines(
            [
                ("Data", protocol.text),
                ("Batch", hardware_text(protocol)),
                ("Schedule", schedule_text(protocol)),
            ]
        ),
        "# An empty _base_ comes first, as MMEngine takes a file that begins with an import for another",
        "# kind of config.",
    ]


# ---- OpenMMLab -----------------------------------------------------------------------------------
BASES = {
    "mask_rcnn": "mask_rcnn",
    "cascade_mask_rcnn": "cascade_mask_rcnn",
    "dino": "dino",
    "rtmdet": "rtmdet",
    "upernet": "upernet",
}
# stages that go into neck or head
OUT_INDICES = {"dino": (1, 2, 3), "rtmdet": (1, 2, 3)}
RTMDET_S = """\
    neck=dict(in_channels=recipe["dims"][1:], out_channels=128, num_csp_blocks=1),
    bbox_head=dict(in_channels=128, feat_channels=128, exp_on_reg=False),
"""
HEADS = {
    "mask_rcnn": '    neck=dict(in_channels=recipe["dims"]),\n',
    "cascade_mask_rcnn": '    neck=dict(in_channels=recipe["dims"]),\n',
    "dino": '    neck=dict(in_channels=recipe["dims"][1:]),\n',
    "rtmdet": '    neck=dict(in_channels=recipe["dims"][1:]),\n',
    "upernet": """\
    decode_head=dict(in_channels=recipe["dims"]),
    auxiliary_head=dict(in_channels=recipe["dims"][2]),
    test_cfg=dict(mode="slide", crop_size=recipe["crop_size"], stride=recipe["slide_stride"]),
""",
    "mask2former": '    {head}=dict(in_channels=recipe["dims"]),\n',
}
SOFT_NMS = '    test_cfg=dict(rcnn=dict(nms=dict(type="soft_nms"))),\n'
MASK2FORMER_IMPORTS = """\
custom_imports = dict(
    imports=["convnext_backbones.adapters.openmmlab", "mmdet.models"], allow_failed_imports=False
)

"""


def openmmlab_config(recipe: Recipe) -> str:
    """The text of configs/<name>.py."""
    variant, protocol = VARIANTS[recipe.variant], PROTOCOLS[recipe.protocol]
    scope = SCOPES[protocol.dataset]
    model_base = BASES.get(recipe.method, f"{recipe.method}_{protocol.dataset}")
    path = f"configs/{recipe.name}.py"
    command = f"torchrun --nproc-per-node {protocol.gpus} tools/train.py {path} --launcher pytorch"
    head = HEADS[recipe.method].replace("{head}", "panoptic_head" if scope == "mmdet" else "decode_head")  # fmt: skip
    if recipe.name == "coco_rtmdet_convnextv2_pico":
        head = RTMDET_S
    if recipe.protocol == "coco_lsj_3x":
        head += SOFT_NMS
    size = '    data_preprocessor=dict(size=recipe["crop_size"]),\n' if scope == "mmseg" else ""
    imports = MASK2FORMER_IMPORTS if (recipe.method, scope) == ("mask2former", "mmseg") else ""
    layer_scale = "        layer_scale_init_value=1.0,\n" if variant.version == 1 else ""
    checkpointing = "        with_cp=True,\n" if recipe.name == "coco_rtmdet_convnext_b_22k" else ""
    header = "\n".join(recipe_header(recipe, command))
    comment = scales_comment(recipe)
    return f"""{header}
_base_ = [
    "_base_/{recipe.protocol}.py",
    "_base_/{model_base}.py",
    "_base_/runtime_{scope}.py",
]
from convnext_backbones.recipes import recipe_of

recipe = recipe_of("{recipe.name}")

{imports}model = dict(
{size}    backbone=dict(
        type="{"ConvNeXtV2" if variant.version == 2 else "ConvNeXt"}",
        arch="{variant.size}",
        out_indices={OUT_INDICES.get(recipe.method, (0, 1, 2, 3))},
        drop_path_rate=recipe["drop_path"],
{layer_scale}{checkpointing}        init_cfg=dict(type="Pretrained", checkpoint=recipe["init"]),
    ),
{head})

{comment + chr(10) if comment else ""}optim_wrapper = dict(
{_wrapper(recipe, protocol)}    constructor="ConvNeXtLayerDecay",
    paramwise_cfg=dict({_paramwise(recipe)}),
)
"""


def _wrapper(recipe: Recipe, protocol: Protocol) -> str:
    kind = (
        '    type="AmpOptimWrapper",\n    loss_scale="dynamic",\n'
        if recipe.amp
        else '    type="OptimWrapper",\n'
    )
    clip = (
        '    clip_grad=dict(max_norm=recipe["clip_norm"], norm_type=2),\n'
        if protocol.clip_norm
        else ""
    )
    return f"""{kind}    optimizer=dict(
        type="AdamW",
        lr=recipe["lr"],
        betas=(0.9, 0.999),
        weight_decay=recipe["weight_decay"],
    ),
{clip}"""


def _paramwise(recipe: Recipe) -> str:
    if recipe.backbone_lr == 1:
        return 'decay_rate=recipe["layer_decay"], decay_type=recipe["decay_type"]'
    keys = ['            "backbone": dict(lr_mult=recipe["backbone_lr"]),\n']
    if recipe.method == "mask2former":
        keys += [
            f'            "{name}": dict(decay_mult=0.0),\n'
            for name in ("query_embed", "query_feat", "level_embed")
        ]
    return f"\n        custom_keys={{\n{''.join(keys)}        }},\n    "


# ---- files ---------------------------------------------------------------------------------------
def config_files() -> dict[Path, str]:
    """Every file that the table determines, and its text."""
    files = {
        CONFIGS / f"{recipe.name}.py": openmmlab_config(recipe)
        for recipe in RECIPES.values()
        if "openmmlab" in METHODS[recipe.method].hosts
    }
    for protocol in PROTOCOLS.values():
        path = CONFIGS / "_base_" / f"{protocol.name}.py"
        text = path.read_text()
        below = text[text.index("_base_ = ") :]
        files[path] = "\n".join([*protocol_header(protocol), below])
    return files


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    differing = [
        path
        for path, text in config_files().items()
        if not path.exists() or path.read_text() != text
    ]
    for path in differing:
        print(f"{path.relative_to(CONFIGS.parent)}: {'differs' if check else 'written'}")
        if not check:
            path.write_text(config_files()[path])
    return 1 if check and differing else 0
