"""A folder of pictures without labels: each crop with what of it is removed.

What is drawn for a sample follows from the seed and from a number, which counts samples over all passes and
processes: a run on two processes sees the pictures, crops and masks of one process, and a run that goes
on those that it would have seen.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import InterpolationMode, v2

from ..data import label_maps
from ..data.pictures import SUFFIXES, read_picture
from ..data.tree import Tree
from ..errors import UserError
from .masks import check_ratio, grid_of, random_mask


class Sample(NamedTuple):
    """image: (3, H, W) of uint8, RGB. mask: (units,) of float32, 1 where a unit is removed. path: of the picture."""

    image: Tensor
    mask: Tensor
    path: str


class Listed(NamedTuple):
    """The pictures of a folder; label_maps: those that are labels of others, by their names, and left out."""

    pictures: list[Path]
    label_maps: list[Path]


def pictures_in(folder: str | Path) -> Listed:
    """All pictures anywhere below a folder.

    Raises:
        UserError: there is none.
    """
    tree = Tree(folder)
    maps = {pair.label_map for pair in label_maps.find(tree)}
    pictures = [tree.path(file) for file in tree.pictures if file not in maps]
    if not pictures:
        raise UserError(
            f"{tree.root} holds no pictures, in itself or below; pictures end in {', '.join(SUFFIXES)}. Give "
            "the folder that holds them"
        )
    return Listed(pictures, sorted(map(tree.path, maps)))


class UnlabelledPictures(Dataset):
    """The pictures below a folder as Samples, asked for by the numbers of PassingNumbers.

    Args:
        folder: pictures lie anywhere below it.
        size: height and width of the crops in pixels, multiples of `unit`.
        mask_ratio: the share of a crop's units that is removed.
        smallest_crop: the least share of a picture's area that a crop has.
        seed: of the order, crops and masks.

    Raises:
        UserError: no pictures, or a size or share that cannot be; a sample whose picture cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        size: tuple[int, int],
        mask_ratio: float,
        smallest_crop: float,
        unit: int = 32,
        seed: int = 0,
    ):
        check_ratio(mask_ratio)
        rows, columns = grid_of(*size, unit)
        self.units, self.mask_ratio, self.seed = rows * columns, mask_ratio, seed
        self.files = pictures_in(folder).pictures
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(
                    tuple(size),
                    scale=(smallest_crop, 1.0),
                    interpolation=InterpolationMode.BICUBIC,
                    antialias=True,
                ),
                v2.RandomHorizontalFlip(),
            ]
        )
        self._order: tuple[int, np.ndarray] | None = None  # of the last pass that was asked for

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Sample:
        passed, place = divmod(int(number), len(self.files))
        if self._order is None or self._order[0] != passed:
            order = np.random.default_rng((self.seed, passed)).permutation(len(self.files))
            self._order = passed, order
        file = self.files[self._order[1][place]]
        picture = torch.from_numpy(read_picture(file)).permute(2, 0, 1)
        with _drawn_from(self.seed, int(number)):
            image = self.transform(picture)
            mask = random_mask(1, self.units, self.mask_ratio)[0]
        return Sample(image, mask, str(file))


@contextlib.contextmanager
def _drawn_from(seed: int, number: int) -> Iterator[None]:
    """Inside, torch draws on the CPU what follows from seed and number."""
    (key,) = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64).tolist()
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(key % 2**63)
        yield


class PassingNumbers(Sampler):
    """The numbers of one process's samples, of which all processes together have 0, 1, 2, .. without a gap.

    A pass ends where the pictures do not fill a round of the processes.
    """

    def __init__(self, count: int, *, rank: int = 0, processes: int = 1):
        self.count, self.rank, self.processes = count, rank, processes
        self.passed = 0

    def set_epoch(self, epoch: int) -> None:
        self.passed = epoch

    def __len__(self) -> int:
        return self.count // self.processes

    def __iter__(self) -> Iterator[int]:
        first = self.passed * self.count
        return iter(range(first + self.rank, first + len(self) * self.processes, self.processes))


def whole_view(path: str | Path, size: tuple[int, int]) -> Tensor:
    """A picture's middle, (3, H, W) of uint8, without anything drawn.

    Raises:
        UserError: it cannot be read.
    """
    picture = torch.from_numpy(read_picture(path)).permute(2, 0, 1)
    scale = max(size[0] / picture.shape[1], size[1] / picture.shape[2])
    sides = [
        max(round(side * scale), least) for side, least in zip(picture.shape[1:], size, strict=True)
    ]
    resized = v2.functional.resize(picture, sides, InterpolationMode.BICUBIC, antialias=True)
    return v2.functional.center_crop(resized, list(size))
