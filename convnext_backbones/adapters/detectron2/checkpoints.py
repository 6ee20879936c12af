"""MODEL.WEIGHTS and train.init_checkpoint of a Detectron2 model with a ConvNeXt in it.

Detectron2's own DetectionCheckpointer finds none of its names in a pretraining file, warns and trains
from random weights; it executes .pkl files. patches.py replaces one method of it, load, for the models
that hold a ConvNeXt of this package; with all others it does what it did. So train_net.py,
lazyconfig_train_net.py and DefaultPredictor need no change.

A file that names parameters of the model outside the ConvNeXt (its own checkpoint, on resume and
evaluation) must fit the whole model, but for heads of another size, which stay new and are named.
Anything else is pretraining weights and goes to the ConvNeXt through load_pretrained.
`FILE?prefix=backbone.bottom_up` takes the ConvNeXt alone out of a file, `FILE?section=model_ema` an
entry of it.
"""

import logging
from urllib.parse import parse_qsl

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from ...checkpoints import CheckpointError, load_pretrained, read_checkpoint
from ...network.convnext import Trunk
from ...network.preprocessing import IMAGENET_MEAN, IMAGENET_STD

LOGGER = logging.getLogger("detectron2.convnext_backbones")  # below what Detectron2 sets up


def load_weights(
    self: DetectionCheckpointer, path: str, checkpointables: list[str] | None, plain
) -> dict:
    """As DetectionCheckpointer.load, for every layout of ConvNeXt weights, and without executing.

    `plain` is Detectron2's own load, for models without a ConvNeXt.

    Raises:
        CheckpointError: unreadable, another network, or a parameter that would stay random.
    """
    backbones = {n: m for n, m in self.model.named_modules() if isinstance(m, Trunk)}
    if not path or not backbones:
        return plain(self, path, checkpointables)
    path, options = _split_options(str(path))
    if not path.startswith(("http://", "https://")):
        path = PathManager.get_local_path(path)
    prefixes = tuple(f"{name}." if name else "" for name in backbones)
    content = {} if options else read_checkpoint(path)
    state, wanted = _state_of(content), self.model.state_dict()
    if not any(name in wanted and not name.startswith(prefixes) for name in state):
        for backbone in backbones.values():
            LOGGER.info(str(load_pretrained(backbone, path, **options)))
        _warn_of_other_pixels(self.model)
        return {}

    new = _load_whole(self.model, state, path, prefixes)
    LOGGER.info(
        f"weights: {path} is a checkpoint of this whole model\n"
        f"  loaded: {len(state) - len(new)} of {len(state)} parameters and buffers\n"
        f"  new, as the sizes differ: {', '.join(new) or 'nothing'}"
    )
    for key in self.checkpointables if checkpointables is None else checkpointables:
        if key in content:
            self.checkpointables[key].load_state_dict(content.pop(key))
    content.pop("model", None)
    return content


def _warn_of_other_pixels(model: nn.Module) -> None:
    """Detectron2's defaults are BGR of deviation 1, for Caffe's ResNets; no ConvNeXt saw such."""
    std = getattr(model, "pixel_std", None)
    undivided = isinstance(std, Tensor) and bool((std < 10).all())
    if undivided or getattr(model, "input_format", None) == "BGR":
        LOGGER.warning(
            "the model's pixels are Detectron2's defaults, not those of the pretrained weights: set "
            f"INPUT.FORMAT to RGB, MODEL.PIXEL_MEAN to {_times_255(IMAGENET_MEAN)} and "
            f"MODEL.PIXEL_STD to {_times_255(IMAGENET_STD)} (in a LazyConfig model.pixel_mean, "
            "pixel_std, input_format and the mappers' image_format)"
        )


def _times_255(values: tuple[float, ...]) -> list[float]:
    return [round(255 * value, 3) for value in values]


def _split_options(path: str) -> tuple[str, dict[str, str]]:
    """`file.pth?prefix=backbone` to "file.pth" and load_pretrained's options; URLs keep their own."""
    file, _, query = path.rpartition("?")
    options = dict(parse_qsl(query))
    if file and options and options.keys() <= {"prefix", "section"}:
        return file, options
    return path, {}


def _state_of(content: dict) -> dict[str, Tensor]:
    state = content.get("model", content)
    return {
        str(name).removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _load_whole(model: nn.Module, state: dict, path: str, prefixes: tuple[str, ...]) -> list[str]:
    """Load it all or nothing; the names that stay new because a head has another size."""
    wanted = model.state_dict()
    differ = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
    problems = [f"{n} is missing in the file" for n in wanted if n not in state]
    problems += [f"{n} has no place in the model" for n in state if n not in wanted]
    problems += [
        f"{n} is {tuple(state[n].shape)}, not {tuple(wanted[n].shape)}"
        for n in differ
        if n.startswith(prefixes)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path}: this is a checkpoint of another model. Nothing was loaded: "
            f"{'; '.join(problems[:3])}{more}. For its ConvNeXt alone write "
            f"{path}?prefix={prefixes[0].rstrip('.')}"
        )
    model.load_state_dict({n: v for n, v in state.items() if n not in differ}, strict=False)
    return differ
