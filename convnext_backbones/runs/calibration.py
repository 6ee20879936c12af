"""What an export in int8 is calibrated on, and how what it loses is measured.

A config's file: on pictures of its training set, by its framework's own evaluator on the validation set. A
network's by its name: on pictures of a folder, the last quarter of which tells what it loses.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..console import progress, say
from ..data.pictures import picture_files, read_picture
from ..errors import UserError
from ..export.checking import root_mean_square_off
from ..export.opened import Opened
from ..export.pictures import OPENCV, as_input, prepared
from ..export.quantising import Accuracy, Int8
from . import exported
from .host import Host, Result

PICTURES = 32  # of the training set
LEAST = 8
EVALUATED = 500  # pictures of the validation set
LARGEST = 640  # pixels, the longer side of a picture that nothing says the size of
# In which every metric's points of a hundred are, by the names of runs.report.METRICS.
JUDGED = {"mIoU (%)": 1.0, "box AP": 100.0, "mask AP": 100.0}
MOST_LOST = {"metrics": 1.0, "difference": 10.0}  # points, without --most-lost
DIFFERENCE = "difference from float32 (% of the outputs' root mean square)"
Measure = Callable[[Callable[[Path], Result], int], tuple[dict[str, float], int]]


# ---- of a config ---------------------------------------------------------------------------------
def of_config(
    host: Host,
    config,
    measure: Measure,
    *,
    calibration: str | None,
    evaluate: int | None,
    most_lost: float | None,
) -> Int8:
    """Calibrated on `calibration`: a folder or a number of pictures of the training set.

    measure: of the adapter, what the evaluator says of at most so many pictures of the validation set when
    a function sees them, and how many there were.

    Raises:
        UserError: there are no such pictures, or fewer than LEAST.
    """
    if host.records(config, "val", most=0) is None:
        raise UserError(
            "--int8 measures what it loses on the validation set, and the config has none: write one, such as "
            "val_dataloader and val_evaluator"
        )
    if calibration is None or calibration.isdigit():
        files = _of_training(host, config, int(calibration or PICTURES))
    else:
        files = _in_folder(Path(calibration))

    def inputs(opened: Opened) -> Iterator[np.ndarray]:
        taken: list[np.ndarray] = []

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            taken.append(images)
            return opened.run(images)

        model = exported.Model(Opened(run, opened.about), opened.about)
        for file in progress(files, "calibrating", unit="picture"):
            exported.infer(model, [file])
            yield from taken
            taken.clear()

    def accuracy(before: Opened, after: Opened) -> Accuracy:
        found = [measure(_seeing(opened), evaluate or EVALUATED) for opened in (before, after)]
        (one, count), (other, _) = found
        names = [name for name in JUDGED if name in one] or list(one)[:1]
        if not names:
            raise UserError(
                "--int8: the validation set's evaluator gives no metric, so that nobody can say what it loses"
            )
        factors = {name: JUDGED.get(name, 100.0 if one[name] <= 1 else 1.0) for name in names}
        if all(factor * one[name] < 1 for name, factor in factors.items()):
            say(
                f"the float file itself reaches {names[0]} {one[names[0]]:.2g}: what int8 loses cannot be told "
                "by it; train first",
                always=True,
            )
        lost = max(factor * (one[name] - other[name]) for name, factor in factors.items())
        of = f"{count} pictures of the validation set"
        return Accuracy(of, {n: one[n] for n in names}, {n: other[n] for n in names}, lost)

    most = MOST_LOST["metrics"] if most_lost is None else most_lost
    return Int8(inputs, len(files), accuracy, most)


def _seeing(opened: Opened) -> Callable[[Path], Result]:
    model = exported.Model(opened, opened.about)

    def see(file: Path) -> Result:
        (found,) = exported.infer(model, [file])
        return exported.result_of(found, opened.about, 0.0)

    return see


def _of_training(host: Host, config, count: int) -> list[Path]:
    """Pictures spread over the training set."""
    if count < LEAST:
        raise UserError(f"--calibration {count}: take {LEAST} pictures or more; {PICTURES} will do")
    records = host.records(config, "train")
    if records is None or records.error or not records.records:
        why = (records and records.error) or "the config has none"
        raise UserError(
            f"--int8 calibrates on pictures of the training set, and there are none: {why}. Give a folder of "
            "such pictures: --calibration FOLDER"
        )
    files = [Path(record.picture) for record in records.records]
    files = [files[k] for k in spread(len(files), count)]
    _check_count(files, "the training set")
    return files


def spread(total: int, count: int) -> list[int]:
    """`count` numbers out of `total`, evenly."""
    count = min(total, count)
    return [k * total // count for k in range(count)]


def _in_folder(folder: Path) -> list[Path]:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(
            f"--calibration {folder}: there is no such folder; give one of pictures such as the network will see"
        )
    files = picture_files(folder)
    _check_count(files, str(folder))
    return files


def _check_count(files: Sequence[Path], where: str) -> None:
    if len(files) < LEAST:
        found = {0: "no picture", 1: "one picture"}.get(len(files), f"{len(files)} pictures")
        raise UserError(
            f"--int8: {where} holds {found}; the ranges of {LEAST} or more are needed. Give a folder of "
            "pictures such as the network will see: --calibration FOLDER"
        )


# ---- of a network's name -------------------------------------------------------------------------
def of_name(*, calibration: str | None, evaluate: int | None, most_lost: float | None) -> Int8:
    """Calibrated on three quarters of a folder's pictures; the others tell how far the outputs are from
    the float file's.

    Raises:
        UserError: there is no folder, or too few pictures.
    """
    if calibration is None or calibration.isdigit():
        raise UserError(
            "--int8 calibrates on pictures, and a model's name has no training set: give a folder of such as "
            "the network will see, --calibration FOLDER"
        )
    if evaluate is not None:
        raise UserError(
            "--evaluate counts pictures of a config's validation set; a model's name has none"
        )
    files = _in_folder(Path(calibration))
    held_out = files[3::4]
    files = [file for file in files if file not in set(held_out)]

    def inputs(opened: Opened) -> Iterator[np.ndarray]:
        for file in progress(files, "calibrating", unit="picture"):
            yield _input(opened, file)

    def accuracy(before: Opened, after: Opened) -> Accuracy:
        difference = []
        for file in held_out:
            images = _input(before, file)
            one, other = before.run(images), after.run(images)
            difference.append(max(root_mean_square_off(y, other[name]) for name, y in one.items()))
        lost = 100 * float(np.mean(difference))
        of = f"{len(held_out)} other pictures of {calibration}"
        return Accuracy(of, {DIFFERENCE: 0.0}, {DIFFERENCE: lost}, lost)

    most = MOST_LOST["difference"] if most_lost is None else most_lost
    return Int8(inputs, len(files), accuracy, most)


def _input(opened: Opened, file: Path) -> np.ndarray:
    """A picture as the file takes it; its batch, where it has one, is that picture again and again."""
    about, image = opened.about, read_picture(file)
    if not about["size"] and max(image.shape[:2]) > LARGEST:
        about = {**about, "resize": {"long": LARGEST, "short": LARGEST, "by": OPENCV}}
    images = as_input(prepared(image, about).pixels, about)
    return np.repeat(images, about["batch"] or 1, axis=0)
