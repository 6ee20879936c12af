"""What a checkpoint is, whether it loads whole, and whether it predicts what it should: the lines that
the command check-weights prints."""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from .. import console
from ..checkpoints import CheckpointError
from ..checkpoints.catalogue import Weights
from ..checkpoints.inspection import Inspected, Network, inspect_checkpoint
from ..checkpoints.loading import load_inspected
from ..checkpoints.preprocessing import preprocessing_of
from ..errors import UserError
from ..network.classifier import ConvNeXtClassifier
from ..network.convnext import EPS
from ..network.preprocessing import EvaluationTransform
from ..network.variants import VARIANTS, Variant
from .evaluation import Pictures, evaluate, evenly, number_folders
from .peers import TOLERANCE, Peer, build_peer, compare

COMPARED = 8  # pictures that the peer sees too
LISTED = 20  # unreadable pictures that are printed
VALIDATION = 50_000  # pictures in ImageNet-1K's validation set
NO_HEAD = "none, this is a backbone: no top-1, but --peer compares its pooled features"


def check(args) -> bool:
    """Print it all; whether the peer agrees, if one is asked for. args: of cli/check_weights.py."""
    sys.stdout.reconfigure(line_buffering=True)  # in its place among the progress bars
    torch.backends.cudnn.allow_tf32 = False  # the differences printed are float32's
    device = choose_device(args.device)
    file = inspect_checkpoint(args.checkpoint, prefix=args.prefix, section=args.section)
    network, path = file.network, file.located.path
    print_file(file)
    weights = catalogue_row(network, file.located.weights, by_name=Path(args.checkpoint).exists())
    model = load(file)
    options, origin = preprocessing_of(weights, path, file.preprocessing)
    del file
    transform, origin = choose_transform(args, options, origin)
    print(f"preprocessing: {in_words(transform)}\n               from {origin}")
    if transform.image_size < model.feature_strides[-1]:
        raise UserError(
            f"--image-size {transform.image_size}: this network needs at least "
            f"{model.feature_strides[-1]} pixels"
        )
    pictures = class_folders(args, network, transform) if args.data else None
    try:
        model.to(device)
        peer = build_peer(args.peer, model) if args.peer else None
        agrees = peer is None or agree(model, peer, network, transform, pictures)
        if pictures:
            predict(args, model, pictures, weights, transform)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"{device} has too little memory; give a smaller --batch-size, or --device cpu"
        ) from error
    return agrees


def choose_device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; try cpu") from error


def print_file(file: Inspected) -> None:
    """What the file is, without a model."""
    network = file.network
    family = "ConvNeXt V2" if network.version == 2 else "ConvNeXt"
    sizes = f"depths {in_row(network.depths)}, dims {in_row(network.dims)}"
    entry = f", in the entry {file.section!r}" if file.section else ""
    below = f", below {file.prefix!r}" if file.prefix else ""
    print(f"file:          {file.located.path}")
    print(f"network:       {network.variant or 'of no published size'}: {family}, {sizes}")
    for variant in alike(network):
        print(
            f"               wide as {variant.name}, whose depths are {in_row(variant.depths)}: if it "
            "should be that, blocks are missing"
        )
    print(f"names:         {file.layout}{entry}{below}")
    for other in file.other_sections:
        print(f"               also holds {other!r}: check it with --section {other}")
    classes = console.counted(network.num_classes, "class") if network.num_classes else NO_HEAD
    print(f"head:          {classes}")


def alike(network: Network) -> list[Variant]:
    """The published networks that a network of no published size may be a part of."""
    if network.variant:
        return []
    return [
        variant
        for variant in VARIANTS.values()
        if variant.version == network.version
        and variant.dims[: len(network.dims)] == network.dims
        and all(n <= m for n, m in zip(network.depths, variant.depths, strict=False))
    ]


def catalogue_row(network: Network, weights: Weights | None, *, by_name: bool) -> Weights | None:
    """The row, printed, unless the file cannot be it: a local file is known by its name only."""
    if weights is None:
        official = "; the official ConvNeXt V2 weights are CC-BY-NC 4.0, not for commercial use"
        print(
            f"catalogue:     not in it, so that its licence is not known"
            f"{official if network.version == 2 else ''}"
        )
        return None
    classes_fit = weights.top1 is None or weights.num_classes == network.num_classes
    if weights.variant != network.variant or not classes_fit:
        print(
            f"catalogue:     its name is that of {weights.name}, a {weights.variant} of "
            f"{weights.num_classes} classes, which it is not"
        )
        return None
    averaged = ", EMA weights" if weights.ema else ""
    print(
        f"catalogue:     {'by its name ' if by_name else ''}{weights.name}: trained on "
        f"{weights.training_data}{averaged}, licence {weights.licence}"
    )
    return weights


def load(file: Inspected) -> ConvNeXtClassifier:
    """A classifier like the file's with the file's weights; prints the verdict."""
    network = file.network
    model = ConvNeXtClassifier(
        {"depths": network.depths, "dims": network.dims},
        version=network.version,
        num_classes=network.num_classes or 0,
        in_channels=network.in_channels,
        patch_size=network.patch_size,
        layer_scale_init_value=1e-6 if "stages.0.0.gamma" in file.state else None,
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"parameters:    {count:,}")
    report = load_inspected(model, file)
    if network.num_classes and report.reinitialised:
        raise CheckpointError(
            f"{report.source}: its head does not fit its last stage of {network.dims[-1]} channels: "
            f"{', '.join(report.reinitialised)} would stay random; the file is not whole"
        )
    print(report)
    return model.eval()


def choose_transform(args, options: dict, origin: str) -> tuple[EvaluationTransform, str]:
    """The checkpoint's preprocessing under the options given, and where it is known from."""
    for option in ("image_size", "crop_pct"):
        if getattr(args, option):
            options[option] = getattr(args, option)
            origin += f" and --{option.replace('_', '-')}"
    return EvaluationTransform(**options), origin


def in_words(transform: EvaluationTransform) -> str:
    size = transform.image_size
    if transform.warp:
        steps = f"warped to {size}x{size}"
    else:
        shortest = int(size / transform.crop_pct)
        steps = f"shortest edge to {shortest}, centre {size}x{size}"
    mean, std = in_row(transform.mean), in_row(transform.std)
    return f"{steps}, {transform.interpolation.value}, mean {mean}, std {std}"


def class_folders(args, network: Network, transform: EvaluationTransform) -> Pictures:
    """The pictures of --data, numbered as the head numbers them."""
    if network.num_classes is None:
        raise UserError(
            f"{args.checkpoint} has no head, so that it predicts no class; leave out --data"
        )
    if network.in_channels != 3:
        raise UserError(
            f"the network takes {network.in_channels} channels, pictures have 3; leave out --data"
        )
    numbers, rule = number_folders(args.data, network.num_classes, args.class_index)
    pictures = Pictures(args.data, numbers, transform)
    print(
        f"data:          {len(pictures)} pictures of {len(numbers)} of the head's "
        f"{console.counted(network.num_classes, 'class')}, {rule}"
    )
    return pictures


def agree(
    model, peer: Peer, network: Network, transform: EvaluationTransform, pictures: Pictures | None
) -> bool:
    """Compare with the peer on pictures of the data, or on random ones; print the outcome."""
    if pictures:
        some = evenly(pictures, COMPARED)
        images = [pixels for pixels, _, unreadable in some if not unreadable]
        which = "pictures of the data"
        if not images:
            raise UserError(f"none of {len(some)} pictures could be read, e.g. {some[0][2]}")
    else:
        size, generator = transform.image_size, torch.Generator().manual_seed(0)
        shape = (COMPARED, network.in_channels, size, size)
        images = list(torch.randn(shape, generator=generator))
        which = "random pictures"
    device = next(model.parameters()).device
    result = compare(
        model, peer, console.progress([x[None].to(device) for x in images], "comparing")
    )
    what = "logits" if network.num_classes else "pooled features"
    print(
        f"agreement:     with {peer.name} on {result.pictures} {which}: same top-1 on "
        f"{result.same_top1}"
    )
    if peer.norm_eps != EPS:
        print(
            f"               (both with eps {peer.norm_eps:g} in the final norm, its default; the "
            f"official networks have {EPS:g})"
        )
    verdict = "agrees" if result.agrees else "DISAGREES: they are not the same network"
    print(
        f"               {what} differ by at most {result.difference:.2g}, the greatest is "
        f"{result.greatest:.2g}, tolerance {TOLERANCE:g} of that: {verdict}"
    )
    return result.agrees


def predict(
    args, model, pictures: Pictures, weights: Weights | None, transform: EvaluationTransform
) -> None:
    """Top-1 and top-5, beside the published figure."""
    some = evenly(pictures, args.limit)
    loader = DataLoader(some, args.batch_size, num_workers=args.workers)

    def progress(batches):
        with console.progress(desc="evaluating", late=0, total=len(some), unit="picture") as bar:
            for batch in batches:
                yield batch
                bar.update(len(batch[0]))

    result = evaluate(model, loader, progress=progress)
    skipped = len(result.unreadable)
    for line in result.unreadable[:LISTED]:
        print(f"unreadable:    {line}")
    if skipped > LISTED:
        print(f"unreadable:    and {skipped - LISTED} more")
    top1, top5 = (100 * right / result.pictures for right in (result.top1, result.top5))
    rate = result.pictures / result.seconds
    without = f", {skipped} unreadable skipped" if skipped else ""
    print(
        f"top-1:         {top1:.2f} % of {result.pictures} pictures{without}; {rate:.1f} a second"
    )
    if model.num_classes > 5:
        print(f"top-5:         {top5:.2f} %")
    if weights is None or weights.top1 is None:
        print("published:     no top-1 is known for this file")
        return
    print(f"published:     top-1 {weights.top1:.1f} %, this run {top1 - weights.top1:+.2f}")
    size, expected = transform.image_size, weights.resolution
    if size != expected:
        print(
            f"               published at {expected}x{expected} pixels, this run at {size}x{size}"
        )
    classes = len(pictures.class_to_idx)
    if (classes, result.pictures) != (1000, VALIDATION):
        print(
            f"               published on {VALIDATION} pictures of 1000 classes, this run on "
            f"{result.pictures} of {classes}"
        )


def in_row(numbers) -> str:
    return " ".join(f"{n:g}" for n in numbers)
