"""MODEL.WEIGHTS and train.init_checkpoint of a Detectron2 model with a ConvNeXt in it.

Detectron2's own DetectionCheckpointer finds none of its names in a pretraining file, warns and trains
from random weights. patches.py replaces one method of it, load, for the models that hold a ConvNeXt of
this package; with all others it does what it did. So train_net.py, lazyconfig_train_net.py and
DefaultPredictor need no change.

A file of a whole model goes to the whole model, but for what counts its classes (runs/fine_tuning.py); a
run's own, on resuming, all of it (runs/resuming.py). A file of a ConvNeXt alone is pretraining weights and
goes to the ConvNeXt through load_pretrained. `FILE?prefix=backbone.bottom_up` takes the ConvNeXt alone out
of a file, `FILE?section=model_ema` an entry of it, `FILE?stem=mean` its RGB stem for other channels
(checkpoints/stem.py), `FILE?keep_classes=true` the heads' rows of the classes that both have by name,
where the checkpointer knows this run's (ClassNames).
"""

import logging
from collections.abc import Mapping, Sequence

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...checkpoints import CheckpointError, load_pretrained, read_checkpoint, sources, whole_model
from ...network.convnext import Trunk
from ...network.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ...network.wrappers import unwrapped
from ...runs.fine_tuning import fit_whole, split_options
from ...runs.resuming import check_complete, check_optimizer, check_weights

LOGGER = logging.getLogger("detectron2.convnext_backbones")  # below what Detectron2 sets up

CLASSES = "classes"  # the entry of a checkpoint with the names of its classes


class ClassNames:
    """The names of a run's classes, which DetectionCheckpointer(.., classes=ClassNames(names)) saves
    beside the weights, and by which another run keeps rows of the heads."""

    def __init__(self, names: Sequence[str] = ()):
        self.names = tuple(names)

    def state_dict(self) -> dict:
        return {"names": list(self.names)}

    def load_state_dict(self, state: dict) -> None:
        """A run that goes on keeps the names that its data have."""


def load_weights(
    self: DetectionCheckpointer, path: str, checkpointables: list[str] | None, plain
) -> dict:
    """As DetectionCheckpointer.load, for every layout of ConvNeXt weights, and without executing.

    `plain` is Detectron2's own load, for models without a ConvNeXt.

    Raises:
        CheckpointError: unreadable, another network, or a parameter that would stay random; on resuming,
            something that the run needs is missing or another.
    """
    model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
    backbones = {n: m for n, m in model.named_modules() if isinstance(m, Trunk)}
    if not path or not backbones:
        return plain(self, path, checkpointables)
    file, options = split_options(str(path))
    if not file.startswith(("http://", "https://")):
        file = PathManager.get_local_path(file)
    if "prefix" in options:
        return _load_backbones(model, backbones, file, options)
    content = read_checkpoint(file)
    if checkpointables is None and "trainer" in self.checkpointables:
        _check_resumed(model, content, self.checkpointables["trainer"], file)
    fitted = fit_whole(
        model, content, file,
        f"For its ConvNeXt alone write {file}?prefix={_prefix_in(content, next(iter(backbones)))}",
        section=options.get("section"),
        stem=options.get("stem"),
        keep_classes="keep_classes" in options,
        names=getattr(self.checkpointables.get(CLASSES), "names", ()),
        names_in_file=_names_of(content),
    )  # fmt: skip
    if fitted is None:
        if "keep_classes" in options:
            raise CheckpointError(
                f"{file}: holds a ConvNeXt alone, without heads whose rows could be kept; leave out "
                "--keep-classes (keep_classes=true)"
            )
        return _load_backbones(model, backbones, file, options)
    model.load_state_dict(fitted.state)
    LOGGER.info(str(fitted))
    for key in self.checkpointables if checkpointables is None else checkpointables:
        if key in content:
            self.checkpointables[key].load_state_dict(content.pop(key))
    content.pop("model", None)
    return content


def _load_backbones(
    model: nn.Module, backbones: Mapping[str, Trunk], file: str, options: Mapping[str, str]
) -> dict:
    chosen = {key: value for key, value in options.items() if key in sources.OPTIONS}
    for backbone in backbones.values():
        LOGGER.info(str(load_pretrained(backbone, file, **chosen)))
    _warn_of_other_pixels(model)
    return {}


def _check_resumed(model: nn.Module, content: dict, trainer, file: str) -> None:
    """CheckpointError where a run cannot go on from what was read."""
    check_complete(content, {"model": "the weights", "trainer": "the optimizer's state"}, file)
    state = {unwrapped(n): v for n, v in content["model"].items() if isinstance(v, Tensor)}
    check_weights(model, state, file)
    saved, optimizer = content["trainer"], getattr(trainer, "optimizer", None)
    if optimizer is None and hasattr(trainer, "_trainer"):  # DefaultTrainer's
        saved, optimizer = saved.get("_trainer", {}), trainer._trainer.optimizer
    if optimizer is not None:
        check_complete(saved, {"optimizer": "the optimizer's state"}, f"{file}, trainer")
        if line := check_optimizer(saved["optimizer"], optimizer, file):
            LOGGER.warning(line)


def _names_of(content: Mapping) -> tuple[str, ...]:
    """The names of the classes in a checkpoint: as ClassNames saves them."""
    entry = content.get(CLASSES)
    names = entry.get("names") if isinstance(entry, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _prefix_in(content: Mapping, own: str) -> str:
    """What a ConvNeXt's names start with in a file, without the dot; `own` where that cannot be told."""
    try:
        networks = whole_model(content).networks
    except CheckpointError:
        networks = []
    return networks[0].prefix.rstrip(".") if len(networks) == 1 and networks[0].prefix else own


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
