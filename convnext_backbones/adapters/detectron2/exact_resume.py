"""A run of Detectron2 that goes on as if it had not been ended, bit for bit on a CPU.

Detectron2 saves no random state, reads its data from the first picture again, and gives other batches with
another number of data workers. Here what a step and a sample draw follows from where the run is
(runs/randomness.py), batches are made of indices before any worker reads, and a trainer's checkpoint says
with which seed, and what modules keep beside their parameters, as RetinaNet does (runs/kept.py).

What follows from neither: a mapper that gives None (MapDataset takes another picture by a state of its own);
data that is a stream, or whose elements have neither width and height nor a file and are to be grouped by
them: there the loader stays Detectron2's, and a run that goes on says so. The figures of a log are smoothed over the
steps since the run went on. GPU operations that are not deterministic by themselves are not.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator

import torch
from detectron2.data import DatasetFromList, MapDataset, build
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from ...data.pictures import probe
from ...errors import UserError
from ...runs.kept import Kept
from ...runs.patching import Patch, Patches, patched_attribute
from ...runs.randomness import draws_of, follow_position, seed_step, what_changed

KEY = "data"  # in a trainer's state, with numbers and a tensor alone
KEPT = "kept"  # by the modules, as plain data
SEEDS = ("_seed", "_indexes_subset")  # of Detectron2's samplers

LOGGER = logging.getLogger("convnext_backbones")


# ---- batches -------------------------------------------------------------------------------------
class AspectRatioBatches(BatchSampler):
    """Batches of wide and of other pictures, as Detectron2's AspectRatioGroupedDataset makes them of
    pictures that are read."""

    def __init__(self, sampler, batch_size: int, dataset: DatasetFromList):
        super().__init__(sampler, batch_size, drop_last=True)
        self.is_wide = functools.cache(lambda index: _is_wide(dataset[index]))

    def __iter__(self) -> Iterator[list[int]]:
        groups = {True: [], False: []}
        for index in self.sampler:
            group = groups[self.is_wide(index)]
            group.append(index)
            if len(group) == self.batch_size:
                yield group[:]
                group.clear()


def _is_wide(record: dict) -> bool:
    if "width" in record and "height" in record:
        return record["width"] > record["height"]
    with contextlib.suppress(UserError):  # whoever reads the picture says so
        picture = probe(record["file_name"])
        return picture.width > picture.height
    return False


def _batches(dataset, sampler, batch_size: int, grouping: bool, drop_last: bool):
    """A batch sampler in the place of Detectron2's batching; None where indices do not tell enough."""
    if isinstance(dataset, IterableDataset) or sampler is None:
        return None
    if not grouping:
        return BatchSampler(sampler, batch_size, drop_last)
    records = getattr(dataset, "_dataset", None)
    known = isinstance(dataset, MapDataset) and isinstance(records, DatasetFromList)
    if known and ({"width", "height"} <= set(records[0]) or "file_name" in records[0]):
        return AspectRatioBatches(sampler, batch_size, records)
    return None


def _of_indices(plain):
    """build_batch_data_loader, whose batches are made before they are read."""

    @functools.wraps(plain)
    def build_batch_data_loader(
        dataset, sampler, total_batch_size, *, aspect_ratio_grouping=False, num_workers=0,
        collate_fn=None, drop_last=True, single_gpu_batch_size=None, **options,
    ):  # fmt: skip
        size = single_gpu_batch_size or total_batch_size // comm.get_world_size()
        batches = (
            _batches(dataset, sampler, size, aspect_ratio_grouping, drop_last) if size else None
        )
        stock = plain(
            dataset, sampler, total_batch_size, aspect_ratio_grouping=aspect_ratio_grouping,
            num_workers=num_workers, collate_fn=collate_fn, drop_last=drop_last,
            single_gpu_batch_size=single_gpu_batch_size, **options,
        )  # fmt: skip
        if batches is None:
            return stock  # which has refused what cannot be split, too
        options.pop(
            "seed", None
        )  # of data workers; a generator of its own leaves a step's numbers alone
        if num_workers:
            options.setdefault("prefetch_factor", 2)
        else:
            options.pop("prefetch_factor", None)
        loader = DataLoader(
            dataset, batch_sampler=batches, num_workers=num_workers,
            collate_fn=collate_fn or trivial_batch_collator, worker_init_fn=worker_init_reset_seed,
            generator=torch.Generator(), **options,
        )  # fmt: skip
        draws = follow_position(
            loader,
            key=lambda: (draws.seed, comm.get_rank()),
            step=lambda: draws.first_step,
        )
        if draws is None:  # the data set takes no attributes
            return stock
        draws.seed, draws.first_step = comm.shared_random_seed(), 0
        return loader

    return build_batch_data_loader


# ---- a trainer -----------------------------------------------------------------------------------
def _kept(trainer: TrainerBase) -> Kept | None:
    """What a trainer's modules keep, since it was first asked for."""
    model = getattr(getattr(trainer, "_trainer", trainer), "model", None)
    if "_convnext_backbones_kept" not in vars(trainer) and model is not None:
        trainer._convnext_backbones_kept = Kept(model)
    return vars(trainer).get("_convnext_backbones_kept")


def loader_of(trainer: TrainerBase):
    """The loader of a trainer, or of the one in it, as DefaultTrainer has it."""
    inner = getattr(trainer, "_trainer", trainer)
    return getattr(inner, "data_loader", None)


def _conditions(loader) -> dict[str, int]:
    """On what the order of the pictures depends, and on what one may think that it does."""
    return {
        "processes": comm.get_world_size(),
        "pictures in a batch": loader.batch_sampler.batch_size,
        "pictures": len(loader.dataset),
        "data workers": loader.num_workers,
    }


def _saving(plain):
    @functools.wraps(plain)
    def state_dict(self) -> dict:
        state, loader = plain(self), loader_of(self)
        if hasattr(self, "storage") and (kept := _kept(self)) and (changes := kept.changes()):
            state[KEPT] = changes
        if draws := draws_of(loader):
            state[KEY] = {
                "seed": draws.seed,
                "sampler": {
                    name: value for name, value in vars(draws.sampler).items() if name in SEEDS
                },
                "conditions": _conditions(loader),
            }
        return state

    return state_dict


def _loading(plain):
    @functools.wraps(plain)
    def load_state_dict(self, state_dict: dict) -> None:
        plain(self, state_dict)
        if (saved := state_dict.get(KEPT)) and (kept := _kept(self)):
            kept.put_back(saved)
        if draws := draws_of(loader_of(self)):
            saved = state_dict.get(KEY) or {}
            draws.seed = saved.get("seed", draws.seed)
            vars(draws.sampler).update(
                {name: value for name, value in saved.get("sampler", {}).items() if name in SEEDS}
            )
            draws.conditions_before = saved.get("conditions", {})

    return load_state_dict


def _going_on(plain):
    @functools.wraps(plain)
    def before_train(self) -> None:
        plain(self)
        _kept(self)
        if self.start_iter:
            _go_on(loader_of(self), self.start_iter)

    return before_train


def _go_on(loader, step: int) -> None:
    """Move the data to where a step needs it, and say what is not as it was."""
    draws = draws_of(loader)
    if draws is None:
        LOGGER.warning(
            "the training data is a stream or comes through a loader of its own: it begins anew, and the "
            "run does not go on at the same picture"
        )
        return
    now = _conditions(loader)
    before = vars(draws).get("conditions_before") or now
    samples = step * before["processes"] * before["pictures in a batch"]
    draws.first_step = step
    draws.skip = samples // (now["processes"] * now["pictures in a batch"])
    if changed := what_changed(before, now):
        LOGGER.warning(
            f"the run goes on at the same picture with {changed}. Another number of data workers changes "
            "nothing; else the batches are others than without the stop"
        )


def _seeding(plain):
    @functools.wraps(plain)
    def before_step(self) -> None:
        if draws := draws_of(loader_of(self)):
            seed_step(draws.seed, comm.get_rank(), self.iter)
        plain(self)

    return before_step


EXACT_RESUME = Patches(
    [
        Patch(
            "detectron2.data.build.build_batch_data_loader",
            get=lambda: build.build_batch_data_loader,
            put=lambda value: setattr(build, "build_batch_data_loader", value),
            make=_of_indices,
        ),
        patched_attribute(TrainerBase, "state_dict", _saving),
        patched_attribute(TrainerBase, "load_state_dict", _loading),
        patched_attribute(TrainerBase, "before_train", _going_on),
        patched_attribute(TrainerBase, "before_step", _seeding),
    ]
)
