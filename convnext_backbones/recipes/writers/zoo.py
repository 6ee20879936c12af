"""docs/model_zoo.md: every recipe with its scores, its sizes and its weights."""

from ...checkpoints.catalogue import CATALOGUE
from ...network.variants import VARIANTS
from ..counted import COUNTED, COUNTED_DETECTRON2
from ..schema import Recipe
from ..table import DATASETS, METHODS, PROTOCOLS, RECIPES
from .text import augmentation, number

PATH = "docs/model_zoo.md"

INTRODUCTION = """\
# Model zoo

Every recipe of this package, written by `python tools/model_zoo.py` from the table in
`convnext_backbones/recipes/table.py`, as the configs are. `python tools/show_recipe.py CONFIG` shows one
of them with its parameter groups and the length of its schedule on your data.

- **status**: *published*, its source prints the figures and the scores; *reproduced*, a run here reached
  them; *untested*, nobody published the figures, and the text under the table says why they were chosen.
  A score beside an untested recipe is a paper's that does not print all of its figures.
- **here**: scores that a run of this package reached; "-" where nothing was trained at full size.
- **parameters** (millions) and **GFLOPs** (1e9 multiply-accumulates, at the size that stands above the
  table): as published; in italics as counted, where nobody published them
  (`python tools/model_table.py`).
- **GB**: per GPU in training, as the source of the recipe or of its rerun measured it.
- **trained**: the published detector or segmentor, by its name in the catalogue of weights.
- **licence**: of the initial weights. What is trained from CC-BY-NC-4.0 weights is for non-commercial use.

The scores are of COCO val2017 (box AP / mask AP) and of ADE20K val (mIoU, single / multi-scale).
Detectron2's heads are its own: Mask R-CNN has the same size, Cascade Mask R-CNN has one mask head where
MMDetection has three, and SemSegFPN takes UPerNet's place.
"""


def page() -> str:
    sections = [INTRODUCTION]
    for name, dataset in DATASETS.items():
        sections.append(f"## {dataset.title}\n")
        for method in METHODS:
            rows = [
                r
                for r in RECIPES.values()
                if r.method == method and PROTOCOLS[r.protocol].dataset == name
            ]
            if rows:
                sections.append(section(method, rows))
    return "\n".join(sections)


def section(method: str, rows: list[Recipe]) -> str:
    return "\n".join(
        [f"### {METHODS[method].title}\n", protocols(rows), table(rows), sources(rows)]
    )


def protocols(rows: list[Recipe]) -> str:
    """How the rows are trained, once for each way."""
    lines = []
    for name in dict.fromkeys(row.protocol for row in rows):
        protocol = PROTOCOLS[name]
        length = f"{protocol.epochs} epochs" if protocol.epochs else f"{protocol.iterations} steps"
        height, width = protocol.flops_size
        lines.append(
            f"- `{name}`: {length} of batch {protocol.batch} ({protocol.gpus} GPUs); {augmentation(protocol)}; "
            f"GFLOPs at {width}x{height}"
        )
    return "\n".join(lines) + "\n"


def table(rows: list[Recipe]) -> str:
    header = (
        "config", "Detectron2", "protocol", "initial weights", "lr", "layer decay", "drop path", "score", "here",
        "parameters", "GFLOPs", "GB", "trained", "licence", "status",
    )  # fmt: skip
    lines = [header, ["---"] * len(header)]
    lines += [
        [
            openmmlab(row),
            detectron2(row),
            f"`{row.protocol}`",
            f"`{row.init}`",
            number(row.lr) + (f" (backbone x {row.backbone_lr:g})" if row.backbone_lr != 1 else ""),
            f"{row.layer_decay:g} {row.decay_type}" if row.layer_decay != 1 else "none",
            f"{row.drop_path:g}",
            scores(row),
            row.measured or "-",
            figure(row.params, parameters(row)),
            figure(row.gflops, COUNTED[row.name][1] if row.name in COUNTED else None),
            f"{row.memory_gb:g}" if row.memory_gb else "-",
            trained(row),
            CATALOGUE[row.init].licence,
            row.status,
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def network(row: Recipe) -> str:
    variant = VARIANTS[row.variant]
    suffix = " 22k" if row.name.endswith("_22k") else ""
    return f"{'V2' if variant.version == 2 else 'V1'}-{variant.size.capitalize()}{suffix}"


def openmmlab(row: Recipe) -> str:
    if "openmmlab" not in METHODS[row.method].hosts:
        return network(row)
    return f"[{network(row)}](../configs/{row.name}.py)"


def detectron2(row: Recipe) -> str:
    if "detectron2" not in METHODS[row.method].hosts:
        return "-"
    return ", ".join(f"[{end}](../configs/detectron2/{row.name}.{end})" for end in ("py", "yaml"))


def scores(row: Recipe) -> str:
    if row.box_ap:
        return f"{row.box_ap:.1f}" + (f" / {row.mask_ap:.1f}" if row.mask_ap else "")
    if row.miou_multiscale:
        return f"{row.miou or '-'} / {row.miou_multiscale:.1f}"
    return "-"


def parameters(row: Recipe) -> float | None:
    return COUNTED[row.name][0] if row.name in COUNTED else COUNTED_DETECTRON2.get(row.name)


def figure(published: float | None, counted: float | None) -> str:
    if published is not None:
        return f"{published:g}"
    return "-" if counted is None else f"*{counted:.1f}*"


def trained(row: Recipe) -> str:
    """The catalogue's detector or segmentor that was trained by this recipe, if it is published."""
    data = {"coco": "3x_coco", "ade20k": "160k_ade20k"}[PROTOCOLS[row.protocol].dataset]
    tag = row.init.split(".")[1].removesuffix("_no_ema")
    name = f"{row.variant}.{tag}_{row.method}_{data}"
    return f"[`{name}`]({CATALOGUE[name].url})" if name in CATALOGUE else "-"


def sources(rows: list[Recipe]) -> str:
    """Where figures are from, each text once."""
    lines = []
    for source in dict.fromkeys(row.source for row in rows):
        those = [row for row in rows if row.source == source]
        names = ", ".join(map(network, those))
        lines.append(f"- {names} ({those[0].status}): {source}")
    lines += [f"- {network(row)}, rerun: {row.reruns}" for row in rows if row.reruns]
    return "\n".join(lines) + "\n"
