"""visualize: a row a picture, with its feature maps and its class-activation map laid over it."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoints import inspect_checkpoint
from ..checkpoints.preprocessing import preprocessing_of
from ..data.pictures import read_picture
from ..errors import UserError
from ..lab import weights_check
from ..network.preprocessing import EvaluationTransform
from ..runs.data_page import check_page
from ..runs.host import Classes, Host
from ..runs.trained import checkpoint_file
from ..runs.visualize import draw_instances, enlarged, full_palette, save_grid
from . import maps, targets

SIDE = 400  # pixels of the longer side of a picture on the page
METHOD = "gradcam"
# Of segmentors and detectors: what speaks for a place lies at that place. gradcam's mean of a channel's gradient
# over the whole picture loses that.
DENSE_METHOD = "layercam"


class Subject(NamedTuple):
    """A picture and how its model sees it.

    name: the file's. image: (H, W, 3) uint8 RGB. pixels: (1, 3, h, w). part: of the height and the width of them that are the
    image. outputs: pixels to an output a picture. aim: such an output to what a class-activation map is of.
    """

    name: str
    image: np.ndarray
    pixels: Tensor
    part: tuple[float, float]
    outputs: Callable[[Tensor], Any]
    aim: Callable[[Any], targets.Aim]
    classes: Classes
    dense: bool = False


# ---- the command ---------------------------------------------------------------------------------
def visualize_classifier(args: Namespace) -> None:
    """A name of the catalogue or a checkpoint of a classifier, args.config, and pictures, args.source."""
    check_page(args.out, "--out")
    pictures = [(Path(file), read_picture(file)) for file in args.source]
    file = inspect_checkpoint(args.config)
    options, _ = preprocessing_of(file.located.weights, file.located.path, file.preprocessing)
    transform = EvaluationTransform(**options)
    model = weights_check.load(file).to(weights_check.choose_device(args.device))
    if not model.num_classes and args.method != "none":
        raise UserError(
            f"{args.config} has no classes, for which something could speak; take --method none for feature maps"
        )
    names = model.class_names or file.class_names or ()

    def subject(file: Path, image: np.ndarray) -> Subject:
        pixels = transform(Image.fromarray(image))[None].to(next(model.parameters()).device)
        return Subject(
            file.name, _undone(pixels[0], transform), pixels, (1.0, 1.0), model,
            lambda logits: targets.of_classifier(logits, names, args.class_name), Classes(names),
        )  # fmt: skip

    _save(args, model, (subject(*picture) for picture in pictures))


def visualize_with_config(host: Host, args: Namespace) -> None:
    """A config, args.config, its checkpoint, args.checkpoint, and pictures, args.source."""
    check_page(args.out, "--out")
    host.quiet_warnings()
    pictures = [(Path(file), read_picture(file)) for file in args.source]
    config = host.load_config(
        args.config, sample=args.sample, shrink=args.shrink, options=host.overrides(args)
    )
    device = str(weights_check.choose_device(args.device))
    model = host.load_model(config, checkpoint_file(args.checkpoint), device)

    def subject(file: Path, image: np.ndarray) -> Subject:
        view = host.view(model, file)
        part = tuple(
            own / whole for own, whole in zip(view.size, view.pixels.shape[-2:], strict=True)
        )

        def aim(output: Any) -> targets.Aim:
            if view.instances:
                return targets.of_instances(output, view.classes, args.class_name, args.score)
            return targets.of_segmentation(output, view.classes, args.class_name)

        return Subject(
            file.name, image, view.pixels, part, view.forward, aim, view.classes, dense=True
        )

    _save(args, model, (subject(*picture) for picture in pictures))


def _save(args: Namespace, model: nn.Module, subjects: Iterator[Subject]) -> None:
    trunk = maps.trunk_of(model)
    features = maps.chosen_features(trunk, args.features)
    layer = maps.chosen_features(trunk, [args.layer] if args.layer else None)[-1]
    rows, method = [], args.method
    for subject in subjects:
        if method is None:
            method = DENSE_METHOD if subject.dense else METHOD
        rows += _rows(args, model, trunk, features, layer, method, subject)
    titles = ["picture", *features]
    if method != "none":
        titles.append(f"{maps.METHODS[method]} of {layer}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"drawn: {save_grid(rows, titles, args.out)}")


def _rows(args, model, trunk, features, layer, method, subject: Subject) -> list[list[np.ndarray]]:
    """The picture with its maps, and below each the strongest channels."""
    found = maps.feature_maps(
        trunk, features, lambda: subject.outputs(subject.pixels), subject.part
    )
    image = _small(subject.image)
    first = [image, *(overlay(image, maps.departure(found[name])) for name in features)]
    if method != "none":
        first.append(_class_activation(args, model, trunk, layer, method, subject, image))
    rows = [first]
    channels = [maps.strongest_channels(found[name], args.channels) for name in features]
    for k in range(args.channels):
        below = [
            _said(overlay(image, own[k].map), f"channel {own[k].number}")
            for own in channels
            if k < len(own)
        ]
        rows.append([np.full((8, 8, 3), 255, np.uint8), *below])
    return rows


def _class_activation(args, model, trunk, layer, method, subject: Subject, image) -> np.ndarray:
    if method == "eigencam":
        aim = targets.of_nothing("of no class")
    else:
        with torch.no_grad():
            aim = subject.aim(subject.outputs(subject.pixels)[0])
    found = maps.class_activation_map(
        model,
        maps.layers_of(trunk)[layer],
        subject.pixels,
        subject.outputs,
        aim.target,
        method,
        subject.part,
    )
    drawn = overlay(image, found)
    print(f"{subject.name}: {method} of {layer}, {aim.words}")
    if aim.boxes is None:
        return _said(drawn, aim.words)
    seen = [side * part for side, part in zip(subject.pixels.shape[-2:], subject.part, strict=True)]
    scale = np.tile([image.shape[1] / seen[1], image.shape[0] / seen[0]], 2)
    palette = full_palette(subject.classes.palette, subject.classes.names, aim.labels)
    return draw_instances(
        drawn, aim.boxes * scale, aim.labels, subject.classes.names, palette, aim.scores
    )


# ---- drawing -------------------------------------------------------------------------------------
def overlay(image: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """A map, (h, w) in 0..1, over a picture, (H, W, 3) uint8 RGB: blue for 0, red for 1."""
    height, width = image.shape[:2]
    large = Image.fromarray(strength.astype(np.float32))
    large = np.asarray(large.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    colours = matplotlib.colormaps["turbo"](large)[..., :3]
    return (127.5 * colours + 0.5 * image).astype(np.uint8)


def _said(image: np.ndarray, words: str) -> np.ndarray:
    """A picture with words below it."""
    return draw_instances(image, np.zeros((0, 4)), (), (), (), nothing=words)


def _small(image: np.ndarray) -> np.ndarray:
    """No larger than a tile, and no smaller than can be looked at."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE))
    return enlarged(np.asarray(picture))[0]


def _undone(pixels: Tensor, transform: EvaluationTransform) -> np.ndarray:
    """(3, h, w) of EvaluationTransform to (h, w, 3) uint8."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (transform.mean, transform.std))
    seen = ((pixels.cpu() * std + mean) * 255).round().clamp(0, 255)
    return seen.permute(1, 2, 0).to(torch.uint8).numpy()
