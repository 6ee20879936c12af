"""A run of MMEngine that goes on as if it had not been ended, bit for bit on a CPU.

MMEngine saves no random state, begins an epoch again from its first picture, and reads every past batch of
an iteration loop once more (its maintained fork does not). Here what a step and a sample draw follows from
where the run is (runs/randomness.py), and a checkpoint says how far the sampler's stream was used.

What modules keep beside their parameters is saved with it (runs/kept.py).

What follows from neither: transforms that keep pictures (CachedMosaic, CachedMixUp), whose store each data
worker fills anew, data sets that are streams, MMEngine's own EarlyStoppingHook: a run that goes on says so;
and GPU operations that are not deterministic by themselves. A validation that was due when the run was ended
is not made up for.
"""

import collections
import functools
from collections.abc import Iterator

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, Runner, loops
from mmengine.runner.base_loop import BaseLoop

from ...runs.kept import Kept
from ...runs.patching import Patch, Patches, patched_attribute
from ...runs.randomness import Draws, draws_of, follow_position, seed_step, what_changed

KEY = "convnext_backbones_position"  # in a checkpoint, with numbers and tensors alone
KEPT = "convnext_backbones_kept"  # by the modules, as plain data


class ExactResume(Hook):
    """Seeds each step, saves the place in the data and goes on from it."""

    priority = "HIGHEST"  # what others draw in a step follows from it

    def __init__(self):
        self.resumed: dict | None = None
        self.kept: Kept | None = None
        self.kept_before: dict = {}

    def before_train(self, runner) -> None:
        self.kept = Kept(runner.model)
        if self.resumed is not None:
            self.kept.put_back(self.kept_before)
            _go_on(runner, self.resumed)
            self.resumed = None

    def before_train_epoch(self, runner) -> None:
        loop = runner.train_loop
        if draws := _draws_of_epochs(runner):
            draws.passes = loop.epoch
        elif draws_of(loop.dataloader) and type(loop).run is IterBasedTrainLoop.run:
            loop.dataloader_iterator.expect(loop.iter)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        seed_step(runner.seed, get_rank(), runner.iter)
        if draws := _draws_of_epochs(runner):
            draws.delivered = batch_idx + 1

    def after_train_epoch(self, runner) -> None:
        if draws := _draws_of_epochs(runner):
            draws.delivered = 0

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self.kept and (kept := self.kept.changes()):
            checkpoint[KEPT] = kept
        draws = draws_of(runner.train_dataloader)
        if not draws:
            return
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        checkpoint[KEY] = {  # of an epoch that has ended, meta says so
            "passes": checkpoint["meta"]["epoch"] if by_epoch else draws.passes,
            "batches": draws.delivered,
            "sampler_seeds": [sampler.seed for sampler in _seeded_samplers(draws)],
            "conditions": _conditions(runner),
            "gradients": _gradients(runner),
        }

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume and isinstance(checkpoint.get("meta"), dict):
            self.resumed = checkpoint.get(KEY) or {}
            self.kept_before = checkpoint.get(KEPT) or {}


def _draws_of_epochs(runner) -> Draws | None:
    """The place in the data of an epoch loop; an iteration loop's iterator counts for itself."""
    loop = runner.train_loop
    return draws_of(loop.dataloader) if isinstance(loop, EpochBasedTrainLoop) else None


# ---- going on ------------------------------------------------------------------------------------
def _go_on(runner, saved: dict) -> None:
    """Move the data to where a checkpoint was saved, and say what is not as it was."""
    if any(type(hook) is EarlyStoppingHook for hook in runner.hooks):
        runner.logger.warning(
            "EarlyStoppingHook counts anew from here; convnext_backbones.StopEarly in its place goes on counting"
        )
    loader, loop = runner.train_dataloader, runner.train_loop
    draws = draws_of(loader)
    if not draws:
        runner.logger.warning(
            "the training data is a stream or comes through a loader of its own: it begins anew, and the "
            "run does not go on at the same picture"
        )
        return
    now = _conditions(runner)
    if saved:
        passes, batches = saved["passes"], saved["batches"]
        before = saved["conditions"]
        samples = batches * before["processes"] * before["pictures in a batch"]
        batches = samples // (now["processes"] * now["pictures in a batch"])
        if changed := what_changed(before, now):
            runner.logger.warning(
                f"the run goes on at the same picture with {changed}. Another number of data workers "
                "changes nothing; else the batches are others than without the stop"
            )
        for sampler, seed in zip(_seeded_samplers(draws), saved["sampler_seeds"], strict=False):
            sampler.seed = seed
        parameters = dict(runner.model.named_parameters())
        for name, gradient in saved["gradients"].items():
            if name in parameters:
                parameters[name].grad = gradient.to(parameters[name])
    elif isinstance(loop, EpochBasedTrainLoop):  # MMEngine's own checkpoint
        passes, batches = loop.epoch, max(loop.iter - loop.epoch * len(loader), 0)
    elif hasattr(getattr(draws, "sampler", None), "set_epoch"):
        passes, batches = divmod(loop.iter, len(loader))
    else:
        passes, batches = 0, loop.iter
    draws.passes, draws.delivered, draws.skip = passes, batches, batches
    if stores := sorted(_stores(loader.dataset)):
        runner.logger.warning(
            f"{', '.join(stores)} mixes in pictures that the data workers keep in memory; they collect them "
            "anew, so that the next pictures are others than without the stop, and others with another "
            "number of data workers"
        )


def _conditions(runner) -> dict[str, int]:
    """On what the order of the pictures depends, and on what one may think that it does."""
    loader = runner.train_dataloader
    return {
        "processes": get_world_size(),
        "pictures in a batch": getattr(loader.batch_sampler, "batch_size", None) or 1,
        "pictures": len(loader.dataset),
        "data workers": loader.num_workers,
    }


def _seeded_samplers(draws: Draws) -> list:
    """The samplers below a batch sampler that have a seed, from the outside in."""
    found, sampler = [], draws.inner
    while sampler is not None:
        if isinstance(getattr(sampler, "seed", None), int):
            found.append(sampler)
        sampler = getattr(sampler, "sampler", None)
    return found


def _gradients(runner) -> dict:
    """What steps without an update have left in the parameters, with accumulative_counts."""
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, OptimWrapper) or wrapper._accumulative_counts == 1:
        return {}
    parameters = runner.model.named_parameters()
    return {name: p.grad.detach().cpu() for name, p in parameters if p.grad is not None}


def _stores(dataset) -> set[str]:
    """The names of the transforms below a data set that keep pictures."""
    found = set()
    parts = [*getattr(dataset, "datasets", ()), getattr(dataset, "dataset", None)]
    for part in parts:
        found |= _stores(part) if part is not None else set()
    for transform in _transforms(getattr(dataset, "pipeline", None)):
        if any("cache" in name and isinstance(v, SIZED) for name, v in vars(transform).items()):
            found.add(type(transform).__name__)
    return found


SIZED = (list, dict, collections.deque)  # kinds of stores


def _transforms(node) -> Iterator:
    """All transforms of a pipeline, also those in others."""
    if isinstance(node, list | tuple | dict):
        for part in node.values() if isinstance(node, dict) else node:
            yield from _transforms(part)
    elif callable(node) and hasattr(node, "__dict__") and not isinstance(node, type):
        yield node
        for part in vars(node).values():
            if isinstance(part, list | tuple | dict) or hasattr(part, "transforms"):
                yield from _transforms(part)


# ---- in the place of MMEngine's ------------------------------------------------------------------
def _with_hook(plain):
    @functools.wraps(plain)
    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        plain(self, default_hooks, custom_hooks)
        self.register_hook(ExactResume())

    return register_hooks


def _following_position(plain):
    """A loop's __init__, after which a training's data follows its place."""

    @functools.wraps(plain)
    def __init__(self, runner, dataloader) -> None:  # noqa: N807
        plain(self, runner, dataloader)
        if isinstance(self, EpochBasedTrainLoop | IterBasedTrainLoop):
            follow_position(self.dataloader, lambda: (runner.seed, get_rank()), lambda: self.iter)

    return __init__


def _from_within(plain):
    """EpochBasedTrainLoop.run_epoch, which can begin within an epoch."""

    @functools.wraps(plain)
    def run_epoch(self) -> None:
        draws = draws_of(self.dataloader)
        if not draws or not draws.skip:
            return plain(self)
        first = draws.skip
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, data_batch in enumerate(self.dataloader, start=first):
            self.run_iter(index, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    return run_epoch


def _from_where_it_was(plain):
    """The iterator of an iteration loop, which begins at its first batch and where the run goes on."""

    class Iterator(plain):
        def __init__(self, dataloader):
            self._dataloader, self._iterator, self._epoch = dataloader, None, 0
            self._passed_over = 0  # calls by which the loop means to pass over past batches

        def expect(self, steps: int) -> None:
            """What the loop does before its first step; the data is there already."""
            self._passed_over = 0 if hasattr(plain, "skip_iter") else steps

        def skip_iter(self, steps: int) -> None:
            """As the maintained fork's loop asks for it."""
            if draws_of(self._dataloader) is None:
                super().skip_iter(steps)

        def __next__(self):
            if self._passed_over:
                self._passed_over -= 1
                return None
            draws = draws_of(self._dataloader)
            if draws is None:
                if self._iterator is None:
                    self._iterator = iter(self._dataloader)
                return super().__next__()
            if self._iterator is None:
                self._epoch = draws.passes
                if hasattr(sampler := getattr(draws, "sampler", None), "set_epoch"):
                    sampler.set_epoch(self._epoch)
                self._iterator = iter(self._dataloader)
            try:
                data = next(self._iterator)
            except StopIteration:
                draws.passes, draws.delivered = draws.passes + 1, 0
                data = super().__next__()  # which finds the end, too, and begins the next pass
            draws.delivered += 1
            return data

    return Iterator


EXACT_RESUME = Patches(
    [
        *(
            patched_attribute(owner, "register_hooks", _with_hook)
            for owner in (Runner, FlexibleRunner)
        ),
        patched_attribute(BaseLoop, "__init__", _following_position),
        patched_attribute(EpochBasedTrainLoop, "run_epoch", _from_within),
        Patch(
            "mmengine.runner.loops._InfiniteDataloaderIterator",
            get=lambda: loops._InfiniteDataloaderIterator,
            put=lambda value: setattr(loops, "_InfiniteDataloaderIterator", value),
            make=_from_where_it_was,
        ),
    ]
)
