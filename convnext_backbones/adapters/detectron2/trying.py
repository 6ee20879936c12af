"""The first picture through the mappers of a run, before its first step: what cannot work is answered at once,
by the name of the augmentation."""

import copy
from collections.abc import Callable
from typing import Any

from detectron2.data import MapDataset
from detectron2.data.transforms import AugInput, AugmentationList

from ...data.pictures import read_picture
from ...errors import UserError
from ...runs.randomness import seeded_by


def try_mappers(loader: Any, of_test: Callable[[], Any]) -> None:
    """
    Args:
        loader: of the training; from its data set comes the picture.
        of_test: makes the mapper of the test data.

    Raises:
        UserError: a mapper cannot take the picture, for the arguments of an augmentation as a rule.
    """
    mapped = getattr(loader, "dataset", None)
    while mapped is not None and not isinstance(mapped, MapDataset):
        mapped = getattr(mapped, "dataset", None)
    if mapped is None or not len(mapped):
        return
    record = mapped._dataset[0]
    _try(getattr(mapped._map_func, "_obj", mapped._map_func), record, "training")
    _try(of_test(), record, "validation")


def _try(mapper: Any, record: dict, split: str) -> None:
    if not callable(mapper) or "file_name" not in record:
        return
    with seeded_by(0):  # the run draws what it would have drawn
        try:
            mapper(copy.deepcopy(record))
        except (UserError, OSError):  # of files, which the checks of data name
            return
        except Exception as error:
            _refuse_augmentation(mapper, record, split)
            raise UserError(
                f"{type(mapper).__name__}, the mapper for {split}, cannot take {record['file_name']}: "
                f"{type(error).__name__}: {error}. Compare its arguments with what it is documented to take"
            ) from error


def _refuse_augmentation(mapper: Any, record: dict, split: str) -> None:
    """UserError that names the augmentation which cannot take the picture, if it is one of the mapper's."""
    augmentations = getattr(mapper, "augmentations", None)
    if not isinstance(augmentations, AugmentationList):
        return
    with seeded_by(0):
        picture = AugInput(read_picture(record["file_name"]))
        for number, augmentation in enumerate(augmentations.augs):
            try:
                augmentation(picture)
            except Exception as error:
                raise UserError(
                    f"{type(augmentation).__name__}, number {number} of the augmentations for {split}, cannot take "
                    f"{record['file_name']}: {type(error).__name__}: {error}. Compare its arguments with what it "
                    f"is documented to take: {augmentation!r}"
                ) from error
