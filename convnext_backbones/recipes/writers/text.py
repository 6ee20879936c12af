"""What headers say of a recipe: its figures, in words."""

import textwrap

from ...checkpoints.catalogue import CATALOGUE
from ...network.variants import VARIANTS, Variant
from ..counted import COUNTED
from ..schedule import images_per_gpu, iterations, iterations_per_epoch, layer_scales
from ..schema import Protocol, Recipe
from ..table import DATASETS, METHODS, MILESTONE_FACTOR, PROTOCOLS

PAPERS = {1: '"A ConvNet for the 2020s", arXiv:2201.03545', 2: '"ConvNeXt V2", arXiv:2301.00808'}
WIDTH = 100


def number(value: float) -> str:
    """0.0001, 8e-05 -> 1e-4, 8e-5; 0.95 stays."""
    if value and abs(value) < 1e-3:
        digits, power = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:g}"


def comment(title: str, rows: list[tuple[str, str]]) -> str:
    """Comment lines: a title, then each word and what it says, wrapped beside it."""
    lines = [f"# {title}"]
    for word, text in rows:
        pieces = textwrap.wrap(text, WIDTH - 11, break_long_words=False, break_on_hyphens=False)
        lines += [f"# {word if i == 0 else '':8} {piece}" for i, piece in enumerate(pieces)]
    return "\n".join(lines)


def title(recipe: Recipe) -> str:
    dataset = DATASETS[PROTOCOLS[recipe.protocol].dataset]
    return (
        f"{network(VARIANTS[recipe.variant])} + {METHODS[recipe.method].title} on {dataset.title}"
    )


def network(variant: Variant) -> str:
    return f"ConvNeXt{' V2' if variant.version == 2 else ''}-{variant.size.capitalize()}"


def papers(recipe: Recipe) -> str:
    method = METHODS[recipe.method]
    paper = PAPERS[VARIANTS[recipe.variant].version]
    return f"{paper}; {method.title}, arXiv:{method.paper}" if method.paper else paper


def weights(recipe: Recipe) -> str:
    return f"{recipe.init}, {CATALOGUE[recipe.init].licence}"


def hardware(protocol: Protocol) -> str:
    return f"{protocol.gpus} GPUs x {images_per_gpu(protocol)} images = {protocol.batch}"


def augmentation(protocol: Protocol) -> str:
    """What happens to training pictures, and to what is found at test time."""
    words = []
    if protocol.mosaic:
        words.append("mosaic and mix-up")
    if protocol.short_sides:
        name = "multi-scale" if protocol.detr_crop else "short side"
        words.append(f"{name} {protocol.short_sides[0]} to {protocol.short_sides[-1]}")
    if protocol.detr_crop:
        probability = protocol.detr_crop.probability
        share = "half" if probability == 0.5 else f"{probability:.0%}"
        words.append(f"{share} of it after DETR's crop")
    if protocol.ratio_range:
        name = "scale" if protocol.mosaic or protocol.dataset == "ade20k" else "large-scale jitter"
        words.append(f"{name} {protocol.ratio_range[0]} to {protocol.ratio_range[1]}")
    if protocol.crop_size:
        words.append("crop {}x{}".format(*protocol.crop_size))
    if protocol.mosaic:
        words += ["colour", "flip"]
    else:
        words += ["flip", "colour"] if protocol.dataset == "ade20k" else ["flip"]
    sentences = [", ".join(words)]
    if protocol.plain_epochs:
        sentences.append(f"plain in the last {protocol.plain_epochs} epochs")
    if protocol.average_momentum:
        sentences.append("averaged weights")
    if protocol.soft_nms:
        sentences.append("soft-NMS")
    return "; ".join(sentences)


def length(protocol: Protocol) -> str:
    """The sum that the schedule's steps or epochs are."""
    steps = iterations(protocol)
    if protocol.epochs:
        return (
            f"{protocol.epochs} epochs * {iterations_per_epoch(protocol)} steps "
            f"({protocol.train_images} images / {protocol.batch}) = {steps} steps"
        )
    epochs = steps * protocol.batch / protocol.train_images
    return (
        f"{steps} steps * {protocol.batch} images / {protocol.train_images} images = "
        f"{epochs:.0f} epochs"
    )


def schedule(protocol: Protocol) -> str:
    text = length(protocol)
    if protocol.warmup_iterations:
        text += (
            f"; warm-up over {protocol.warmup_iterations} steps from "
            f"{number(protocol.warmup_factor)} of lr"
        )
    if protocol.milestones:
        unit = "epochs" if protocol.epochs else "steps"
        text += f"; lr x {number(MILESTONE_FACTOR)} after {unit} {' and '.join(map(str, protocol.milestones))}"
    if protocol.power is not None:
        text += f"; lr falls to 0 with power {number(protocol.power)}"
    if protocol.cosine_from is not None:
        text += (
            f"; lr falls as a cosine from epoch {protocol.cosine_from} on, to "
            f"{number(protocol.final_lr)} in every layer"
        )
    return text


def figures(recipe: Recipe) -> str:
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


def scores(recipe: Recipe) -> str:
    named = (
        ("box AP", recipe.box_ap),
        ("mask AP", recipe.mask_ap),
        ("mIoU", recipe.miou),
        ("multi-scale" if recipe.miou else "multi-scale mIoU", recipe.miou_multiscale),
    )
    return ", ".join(f"{name} {score:.1f}" for name, score in named if score is not None)


def sizes(recipe: Recipe) -> str:
    """Parameters and operations, as published or else as counted."""
    height, width = PROTOCOLS[recipe.protocol].flops_size
    params, gflops = COUNTED[recipe.name]
    columns = (
        (recipe.params, params, "M parameters"),
        (recipe.gflops, gflops, f"GFLOPs at {width}x{height}"),
    )
    return ", ".join(
        f"{counted} {unit} (counted)" if published is None else f"{published} {unit}"
        for published, counted, unit in columns
    )


def scales(recipe: Recipe) -> str:
    """One comment line: where lr is multiplied by what; "" where all is trained at one rate."""
    found = layer_scales(recipe)
    if len({scale for _, scale in found}) == 1:
        return ""
    stages: dict[str, list[str]] = {}
    for name, scale in found:
        stages.setdefault(name, []).append(f"{scale:.3f}".rstrip("0").rstrip("."))
    return "# lr times: " + ", ".join(f"{n} {'..'.join(s)}" for n, s in stages.items())
