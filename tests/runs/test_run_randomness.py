"""What a sample and a step draw follows from their place, whoever makes them."""

import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler

from convnext_backbones.runs.randomness import (
    draws_of,
    follow_position,
    seed_step,
    seeded_by,
    what_changed,
)


class Noise(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> list[float]:
        return [index, random.random(), np.random.rand(), torch.rand(()).item()]


def drawn() -> tuple:
    return random.random(), np.random.rand(), torch.rand(()).item()


def batches(workers: int, skip: int = 0, seed: int = 3) -> list:
    """One pass of a loader whose sampler asks torch, too."""
    loader = DataLoader(Noise(), batch_size=2, sampler=RandomSampler(Noise()), num_workers=workers)
    follow_position(loader, key=lambda: (seed, 0), step=lambda: 10 + skip).skip = skip
    return [torch.stack(batch).tolist() for batch in loader]


def test_a_key_gives_the_same_numbers_and_leaves_the_others():
    seed_step(1, 2, 3)
    expected = drawn()
    seed_step(1, 2, 3)
    with seeded_by(4, 5):
        inside = drawn()
    assert drawn() == expected
    with seeded_by(4, 5):
        assert drawn() == inside
    keys = [(0,), (1,), (0, 1), (1, 0), (2**40, 0), (-1 % 2**64, 0)]
    found = []
    for key in keys:
        with seeded_by(*key):
            found.append(drawn())
    assert len(set(found)) == len(keys)


def test_samples_follow_from_their_place():
    whole = batches(0)
    assert batches(2) == whole
    assert batches(0, skip=1) == whole[1:]
    assert batches(0, seed=4) != whole
    assert len({tuple(numbers) for batch in whole for numbers in batch[1:]}) == 12


class AsItGoes(Sampler):
    """Asks torch for each index."""

    def __len__(self) -> int:
        return 8

    def __iter__(self):
        for _ in range(8):
            yield int(torch.randint(8, ()))


def test_a_sampler_that_draws_as_it_goes_follows_from_its_place():
    def indices(skip: int = 0, use: int = 0) -> list:
        loader = DataLoader(Noise(), batch_size=2, sampler=AsItGoes())
        follow_position(loader, key=lambda: (3, 0), step=lambda: skip).skip = skip
        found = []
        for batch in loader:
            found.append(batch[0].tolist())
            torch.rand(use)  # what a step draws
        return found

    whole = indices()
    assert indices(use=5) == whole
    assert indices(skip=2) == whole[2:]
    assert len({index for batch in whole for index in batch}) > 2


def test_a_data_set_answers_another_loader_as_before():
    data = Noise()
    loader = DataLoader(data, batch_size=2)
    draws = follow_position(loader, key=lambda: (0, 0), step=lambda: 0)
    assert follow_position(loader, key=None, step=None) is draws is draws_of(loader)
    assert len(loader) == len(draws) == 4
    assert draws.batch_size == 2
    assert [batch[0].tolist() for batch in DataLoader(data, batch_size=4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_a_stream_follows_no_place():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    assert follow_position(DataLoader(Stream()), key=None, step=None) is None
    assert draws_of(DataLoader(Stream())) is draws_of(None) is None


def test_what_changed_is_named():
    before, now = {"processes": 1, "pictures": 4}, {"processes": 2, "pictures": 4}
    assert what_changed(before, now) == "2 processes instead of 1"
    assert what_changed(now, now) == ""


class Large(Dataset):
    """Notes its worker; its samples fill what torch sends them through."""

    def __init__(self, note: str):
        self.note = note

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> bytes:
        with open(self.note, "a") as file:
            file.write(f"{os.getpid()}\n")
        return bytes(1 << 20)


def be_killed(note: str) -> None:
    loader = DataLoader(Large(note), batch_size=1, num_workers=2, collate_fn=list)
    follow_position(loader, key=lambda: (0, 0), step=lambda: 0)
    for number, _ in enumerate(loader):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no parents that change")
def test_a_killed_runs_data_workers_end(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=be_killed, args=(str(tmp_path / "workers.txt"),)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    workers = {int(line) for line in (tmp_path / "workers.txt").read_text().split()}
    assert len(workers) == 2
    end = time.monotonic() + 20
    while left := [pid for pid in workers if runs(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def runs(pid: int) -> bool:
    """Whether a process is there, and not only its exit status."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
