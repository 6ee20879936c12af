"""Random numbers that follow from where a run is, so that a run that goes on draws the same ones.

Nothing of a random state is saved. A step's numbers (drop path, dropout, sampled boxes) come from the run's
seed, the process and the step; a sample's (crops, flips) from the seed, the process, the step that it is for
and its place in the batch. Which data worker makes it, how far the workers are ahead and whether a
validation came in between change nothing. To go on, a run needs the place in its sampler's stream alone, and
passes over indices, not pictures.
"""

import contextlib
import functools
import itertools
import operator
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


def seed_step(*key: int) -> None:
    """Seed Python, NumPy and torch, on every device, by a key of non-negative numbers."""
    torch.manual_seed(_seed_host(key))


@contextlib.contextmanager
def seeded_by(*key: int) -> Iterator[None]:
    """Inside, Python, NumPy and torch on the CPU draw what follows from the key; afterwards what they would
    have drawn."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.default_generator.manual_seed(_seed_host(key))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed_host(key: tuple[int, ...]) -> int:
    """Seed Python and NumPy; returns a seed for torch."""
    entropy = (len(key), *key)  # NumPy takes (1,) for (1, 0)
    words = np.random.SeedSequence(entropy).generate_state(3, np.uint64).tolist()
    random.seed(words[0])
    np.random.seed(words[1] % 2**32)
    return words[2] % 2**63


class Draw(NamedTuple):
    """A sample's index with what its random numbers follow from."""

    key: tuple[int, ...]
    index: object


class Draws:
    """A loader's batch sampler, which gives each index its key and can begin further on.

    Args:
        batches: the batch sampler in whose place it stands, as which it answers.
        key: the seed and the process.
        step: the step for which the next batch is, as the loop counts.
    """

    def __init__(self, batches, key: Callable[[], tuple[int, int]], step: Callable[[], int]):
        self.inner = batches
        self.key, self.step = key, step
        self.passes = 0  # over the sampler, before this one
        self.delivered = 0  # batches of this pass that the loop has had
        self.skip = 0  # batches of the next pass to begin with that are passed over

    def __getattr__(self, name: str):
        if name == "inner":  # before __init__, as in copying
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __len__(self) -> int:
        return len(self.inner)

    def __bool__(self) -> bool:
        return True  # also over a sampler that has no length

    def __iter__(self) -> Iterator[list[Draw]]:
        (seed, process), step, skip, passes = self.key(), self.step(), self.skip, self.passes
        self.skip = 0
        with seeded_by(seed, passes):  # for samplers that ask torch; in all processes the same
            batches = iter(self.inner)
            batch = next(batches, None)
        for number in itertools.count(1):
            if batch is None:
                return
            if number > skip:
                yield [
                    Draw((seed, process, step, place), index) for place, index in enumerate(batch)
                ]
                step += 1
            with seeded_by(seed, passes, number):  # for those that ask it as they go
                batch = next(batches, None)


class _SeededItems:
    """What torch calls for a batch's samples, each made from its own random numbers."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.read: Callable = operator.getitem  # of the data set and an index

    def __call__(self, draws: list) -> list:
        if get_worker_info() is not None:
            _end_with_the_run()
        return [self._item(draw) for draw in draws]

    def _item(self, draw):
        if not isinstance(draw, Draw):  # another loader's
            return self.dataset[draw]
        with seeded_by(*draw.key):
            return self.read(self.dataset, draw.index)


@functools.cache
def _end_with_the_run() -> None:
    """In a data worker: end when the run is killed. torch's own watch ends in waiting for its full queue to
    be read, for ever, with the run's memory and its open output."""
    run = os.getppid()

    def watch() -> None:
        while os.getppid() == run:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def follow_position(
    loader, key: Callable[[], tuple[int, int]], step: Callable[[], int]
) -> Draws | None:
    """Let a torch loader's batches follow from their place in the stream, in place.

    Returns:
        the place; None for a loader that has no batch sampler of indices, such as one of a stream.
    """
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or loader.batch_sampler is None
    ):
        return None
    if isinstance(loader.batch_sampler, Draws):
        return loader.batch_sampler
    draws = Draws(loader.batch_sampler, key, step)
    try:
        loader.dataset.__getitems__ = _SeededItems(loader.dataset)
    except AttributeError:  # of a class with slots
        return None
    vars(loader)["batch_sampler"] = draws  # torch lets nobody assign it
    return draws


def draws_of(loader) -> Draws | None:
    """The place in its stream of a loader that follows it."""
    draws = getattr(loader, "batch_sampler", None)
    return draws if isinstance(draws, Draws) else None


def read_by(loader, read: Callable) -> bool:
    """Let read(data set, index) give the samples of a loader that follows its place, in the place of
    dataset[index]; False for another loader."""
    if draws_of(loader) is None:
        return False
    loader.dataset.__getitems__.read = read
    return True


def what_changed(before: dict[str, int], now: dict[str, int]) -> str:
    """What a run goes on with otherwise than it was saved with, in words; "" for nothing."""
    return ", ".join(
        f"{now[name]} {name} instead of {value}"
        for name, value in before.items()
        if name in now and now[name] != value
    )
