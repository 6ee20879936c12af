"""Checkpoints of MMEngine runs, read without executing them, and loaded whole or refused.

MMEngine 0.10.7 reads with torch.load's default: on torch >= 2.6 a run's own checkpoint is refused
(`HistoryBuffer was not an allowed global`), before that any pickle payload runs. The maintained fork
allows `getattr` and falls back to weights_only=False. Here exactly the types that MMEngine writes
are made, called as MMEngine writes them (checkpoints/pickles.py); any other object is not built, or
refused with a sentence where it could run code.

Resuming also executes: Runner.resume runs the config text stored in the checkpoint as Python, to
look up `gpu_ids`. The text is left out of what is read.

MMEngine loads what fits and warns of the rest, so that a model of other classes, another network, or a
backbone under MMPretrain's names trains on from random weights. For models with a ConvNeXt of this
package, Runner.load_checkpoint takes another run's weights as runs/fine_tuning.py says (load_from), and
its own as runs/resuming.py says (resume).
"""

import functools
from collections.abc import Mapping

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from ...checkpoints import load_pretrained, read_checkpoint
from ...errors import CheckpointError
from ...network.convnext import Trunk
from ...network.wrappers import unwrapped
from ...runs.fine_tuning import fit_whole, split_options
from ...runs.resuming import check_complete, check_optimizer, check_weights

# What a training checkpoint's message hub holds beside tensors and numbers. np.ndarray keeps its
# arrays as they are.
WRITTEN_BY_MMENGINE = (HistoryBuffer, np.ndarray)

# What Runner.resume needs of a checkpoint.
NEEDED = {
    "meta": "the iteration",
    "state_dict": "the weights",
    "message_hub": "the log's averages",
}
ALONE = 'For its ConvNeXt alone leave out load_from (--weights), and set model.backbone.pretrained="{file}"'


def read_training_checkpoint(filename: str, map_location="cpu") -> dict:
    """A checkpoint file or URL as MMEngine's loaders return it, without the text of a config."""
    content = read_checkpoint(filename, allowed=WRITTEN_BY_MMENGINE, map_location=map_location)
    return without_config_text(content)


def without_config_text(content: dict) -> dict:
    """What was read, without the text that Runner.resume would run."""
    meta = content.get("meta")
    if isinstance(meta, dict):
        meta.pop("config", None)
    return content


# ---- in the place of MMEngine's ------------------------------------------------------------------
def loading_whole(plain):
    """Runner.load_checkpoint for models with a ConvNeXt of this package."""

    @functools.wraps(plain)
    def load_checkpoint(
        self, filename: str, map_location="cpu", strict=False, revise_keys=((r"^module\.", ""),)
    ):
        model = self.model.module if is_model_wrapper(self.model) else self.model
        trunks = [module for module in model.modules() if isinstance(module, Trunk)]
        if not trunks:
            return plain(self, filename, map_location, strict, list(revise_keys))
        file, options = split_options(filename)
        content = without_config_text(CheckpointLoader.load_checkpoint(file, map_location))
        if getattr(self, "_going_on", None) is not None:
            check_resumed(self, model, content, file)
        elif not _fit(self, model, content, file, options):
            for trunk in trunks:
                chosen = {k: v for k, v in options.items() if k in ("prefix", "section")}
                _tell(self, f"load_from: {file} holds a ConvNeXt alone, taken as pretrained= is")
                _tell(self, str(load_pretrained(trunk, file, **chosen)))
            content["state_dict"] = model.state_dict()  # which EMAHook wants whole
        self.call_hook("after_load_checkpoint", checkpoint=content)
        content = _load_checkpoint_to_model(model, content, strict, revise_keys=list(revise_keys))
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {file}")
        return content

    return load_checkpoint


def resuming_whole(plain):
    """Runner.resume, which tells load_checkpoint what the run needs."""

    @functools.wraps(plain)
    def resume(self, filename, resume_optimizer=True, resume_param_scheduler=True, **options):
        self._going_on = (resume_optimizer, resume_param_scheduler)
        try:
            return plain(self, filename, resume_optimizer, resume_param_scheduler, **options)
        finally:
            self._going_on = None

    return resume


def check_resumed(runner: Runner, model: torch.nn.Module, content: Mapping, file: str) -> None:
    """CheckpointError where a run cannot go on from what was read: an entry is missing, or weights,
    optimizer or schedules are others."""
    optimizer, schedulers = runner._going_on
    needed = dict(NEEDED)
    if optimizer:
        needed["optimizer"] = "the optimizer's state"
    if schedulers and runner.param_schedulers:
        needed["param_schedulers"] = "the schedules of learning rates"
    check_complete(content, needed, file)
    counters = {"iter": "iterations", "epoch": "epochs"}
    check_complete(content["meta"], counters, f"{file}, meta")
    check_weights(model, _unwrapped(content["state_dict"]), file)
    if averaged := content.get("ema_state_dict"):
        averaged = {n: v for n, v in averaged.items() if n.startswith("module.")}
        check_weights(model, _unwrapped(averaged), file, averages=True)
    if optimizer:
        wrapper = runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        for line in _check_optimizers(content["optimizer"], wrapper, file):
            runner.logger.warning(line)
    if schedulers and runner.param_schedulers:
        built = runner.build_param_scheduler(runner.param_schedulers)
        runner.param_schedulers = built
        _check_schedulers(content["param_schedulers"], built, file)


def _unwrapped(state: Mapping) -> dict:
    return {unwrapped(name): v for name, v in state.items() if isinstance(v, torch.Tensor)}


def _check_optimizers(saved: Mapping, wrapper, file: str) -> list[str]:
    if not hasattr(wrapper, "optim_wrappers"):
        return list(filter(None, [check_optimizer(saved, wrapper.optimizer, file)]))
    needed = {name: "an optimizer of the config's" for name in wrapper.optim_wrappers}
    check_complete(saved, needed, f"{file}, optimizer")
    lines = [
        check_optimizer(saved[name], part.optimizer, file)
        for name, part in wrapper.optim_wrappers.items()
    ]
    return list(filter(None, lines))


def _check_schedulers(saved, built, file: str) -> None:
    if isinstance(built, dict) != isinstance(saved, dict) or len(saved) != len(built):
        raise CheckpointError(
            f"{file}: this run cannot go on from it: it holds {len(saved)} schedules, and the config's "
            f"param_scheduler is {len(built)}. Resume with the schedules that it was trained with, or start a "
            "new run from its weights with --weights (load_from)"
        )


def _fit(
    runner: Runner, model: torch.nn.Module, content: dict, file: str, options: Mapping
) -> bool:
    """Put into `content` what it gives the whole model, and say so; False for a ConvNeXt alone."""
    if "prefix" in options:
        return False
    meta = content.get("meta")
    meta = (meta if isinstance(meta, Mapping) else {}).get("dataset_meta")
    keep = "keep_classes" in options
    fitted = fit_whole(
        model, content, file, ALONE.format(file=file), section=options.get("section"),
        keep_classes=keep, names=_own_classes(runner), names_in_file=_classes_of(meta),
    )  # fmt: skip
    if fitted is None:
        if keep:
            raise CheckpointError(
                f"{file}: holds a ConvNeXt alone, without heads whose rows could be kept; leave out "
                "--keep-classes (keep_classes=true)"
            )
        return False
    content["state_dict"] = fitted.state
    _tell(runner, str(fitted))
    return True


def _own_classes(runner: Runner) -> tuple[str, ...]:
    loader = runner.train_dataloader if runner._train_loop is not None else None
    dataset = getattr(loader, "dataset", None)
    return _classes_of(getattr(dataset, "metainfo", None))


def _classes_of(meta) -> tuple[str, ...]:
    """The names in a data set's meta information, as MMEngine 3 writes them or the versions before."""
    found = {str(k).lower(): v for k, v in meta.items()} if isinstance(meta, Mapping) else {}
    classes = found.get("classes")
    return tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()


def _tell(runner: Runner, text: str) -> None:
    if is_main_process():
        runner.logger.info(text)
