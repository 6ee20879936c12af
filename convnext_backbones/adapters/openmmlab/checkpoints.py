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
its own as runs/resuming.py says (resume). FlexibleRunner leaves reading to a strategy, and does the same
with those of one device, DDP and FSDP. DeepSpeed and ColossalAI read folders of their own.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from mmengine._strategy import FSDPStrategy, SingleDeviceStrategy
from mmengine.dist import is_main_process
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from ...checkpoints import load_pretrained, read_checkpoint, sources
from ...errors import CheckpointError
from ...network.convnext import Trunk
from ...network.sharding import is_sharded, whole_parameters, whole_state_dicts
from ...network.wrappers import unwrapped
from ...runs.fine_tuning import fit_whole, split_options
from ...runs.resuming import check_complete, check_optimizer, check_weights
from .sharded import check_state_dicts

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
        model = _within(self.model)
        if not _trunks(model):
            return plain(self, filename, map_location, strict, list(revise_keys))
        file, options = split_options(filename)
        content = without_config_text(CheckpointLoader.load_checkpoint(file, map_location))
        _check_or_fit(self, model, content, file, options)
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
        with _going_on(self, resume_optimizer, resume_param_scheduler):
            return plain(self, filename, resume_optimizer, resume_param_scheduler, **options)

    return resume


@contextlib.contextmanager
def _going_on(runner, optimizer: bool, schedulers: bool) -> Iterator[None]:
    """Inside, whoever reads a checkpoint knows what the run needs of it."""
    runner._going_on = (optimizer, schedulers)
    try:
        yield
    finally:
        runner._going_on = None


def loading_whole_by_strategy(plain):
    """FlexibleRunner.load_checkpoint, whose strategy shows what it has read before it takes it."""

    @functools.wraps(plain)
    def load_checkpoint(self, filename: str, *args, **options):
        file, of_name = split_options(filename)
        if not _taken_whole(self):
            return plain(self, filename, *args, **options)
        with _shown_first(
            self, lambda content: _check_or_fit(self, self.model, content, file, of_name)
        ):
            return plain(self, file, *args, **options)

    return load_checkpoint


def resuming_whole_by_strategy(plain):
    """FlexibleRunner.resume, likewise."""

    @functools.wraps(plain)
    def resume(self, filename, resume_optimizer=True, resume_param_scheduler=True, **options):
        def look(content):
            _check_or_fit(self, self.model, content, filename, {})
            content["state_dict"] = _unwrapped(content["state_dict"])  # DDP's, for FSDP

        shown = _shown_first(self, look) if _taken_whole(self) else contextlib.nullcontext()
        with _going_on(self, resume_optimizer, resume_param_scheduler), shown:
            return plain(self, filename, resume_optimizer, resume_param_scheduler, **options)

    return resume


def saving_whole_by_strategy(plain):
    """FlexibleRunner.load_or_resume, before the first step: what the run saves has to be readable."""

    @functools.wraps(plain)
    def load_or_resume(self) -> None:
        if isinstance(self.strategy, FSDPStrategy) and _trunks(self.model):
            check_state_dicts(self.strategy)
        plain(self)

    return load_or_resume


def _taken_whole(runner: FlexibleRunner) -> bool:
    return isinstance(runner.strategy, SingleDeviceStrategy) and bool(_trunks(runner.model))


@contextlib.contextmanager
def _shown_first(runner: FlexibleRunner, look: Callable[[dict], None]) -> Iterator[None]:
    """Inside, a strategy's load_checkpoint has `look` at what it reads, before the hooks have it."""
    strategy = runner.strategy
    plain = strategy.load_checkpoint

    def load_checkpoint(filename, *, callback, **options):
        def looked_at(content: dict) -> None:
            look(without_config_text(content))
            callback(content)

        return plain(filename, callback=looked_at, **options)

    strategy.load_checkpoint = load_checkpoint
    try:
        yield
    finally:
        del strategy.load_checkpoint


def _within(model: torch.nn.Module) -> torch.nn.Module:
    """The model in DDP; one in FSDP stays, whose state dict is whole only there."""
    return model.module if is_model_wrapper(model) and not is_sharded(model) else model


def _trunks(model: torch.nn.Module) -> list[Trunk]:
    return [module for module in model.modules() if isinstance(module, Trunk)]


def _check_or_fit(
    runner: Runner | FlexibleRunner,
    model: torch.nn.Module,
    content: dict,
    file: str,
    options: Mapping,
) -> None:
    """Check what was read, on resuming; else change it to what it gives the whole model."""
    model = _within(model)
    with whole_state_dicts(model):
        if getattr(runner, "_going_on", None) is not None:
            check_resumed(runner, model, content, file)
        elif not _fit(runner, model, content, file, options):
            if is_sharded(model):
                raise CheckpointError(
                    f"{file}: gives a ConvNeXt alone, which is loaded before FSDP shards the model. {ALONE.format(file=file)}"
                )
            chosen = {k: v for k, v in options.items() if k in sources.OPTIONS}
            for trunk in _trunks(model):
                _tell(runner, f"load_from: {file} holds a ConvNeXt alone, taken as pretrained= is")
                _tell(runner, str(load_pretrained(trunk, file, **chosen)))
            content["state_dict"] = model.state_dict()  # which EMAHook wants whole


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
        if isinstance(runner, Runner):  # a strategy has built its own
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        wrapper = runner.optim_wrapper
        with whole_parameters(model):
            lines = _check_optimizers(content["optimizer"], wrapper, file)
        for line in lines:
            runner.logger.warning(line)
    if schedulers and runner.param_schedulers:
        if isinstance(runner, Runner):
            runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        _check_schedulers(content["param_schedulers"], runner.param_schedulers, file)


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
        model, content, file, ALONE.format(file=file), section=options.get("section"), stem=options.get("stem"),
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
