"""What a framework must offer, so that its configs are trained, tested and drawn by the same commands.

A module fulfils it: the `run` that the framework's row in adapters.FRAMEWORKS names. runs.commands calls
a framework through nothing else. `config`, `trained`, `model`, `truth`, `prediction` and `meta` are the
framework's own; the commands hand them on and never look inside, so that a host may call them as its
framework does. What the hosts have in common they take from runs.preparation and runs.sample.
"""

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from ..data.records import Records


class Entry(NamedTuple):
    """A record in a run's log: losses ("loss", "loss_mask", ..), with "lr", "time" and "data_time" in seconds
    a step and "memory" in MB of the GPU where they are known; or metrics (names of report.METRICS, any
    others that an evaluator gives, and "AP-dog" or "IoU-road (%)" for a class)."""

    validation: bool
    iteration: int
    record: dict[str, Any]


class Classes(NamedTuple):
    """The names of class 0, 1, .. (none where nobody knows them) and their colours."""

    names: Sequence[str] = ()
    palette: Sequence[tuple[int, int, int]] | None = None


class Result(NamedTuple):
    """What is in a picture: a prediction or an annotation, in every framework's stead.

    A segmentation: label_map, (H, W) class numbers, 255 for none, and confidence, (H, W) in 0..1. Or
    instances: boxes, (n, 4) left, top, right, bottom in pixels; labels, (n,) class numbers; scores, (n,)
    in 0..1; masks, (n, H, W) bool. None for what there is not.
    """

    classes: Classes = Classes()
    label_map: np.ndarray | None = None
    confidence: np.ndarray | None = None
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None


class Example(NamedTuple):
    """A picture, (H, W, 3) uint8 RGB, with its annotation, what a trained model says of it, and its file."""

    image: np.ndarray
    truth: Any
    prediction: Any
    meta: Any
    file: str = ""


class Optimized(NamedTuple):
    """A trained model, its optimizer's groups as torch has them, and the number of the group whose learning
    rate the log holds."""

    model: nn.Module
    groups: Sequence[Mapping[str, Any]]
    logged: int = 0


class Sample(NamedTuple):
    """A training sample as the network is given it, after augmentation, padding and normalisation.

    image: (H, W, 3) uint8 RGB with its padding, the normalisation undone. size: the height and width that are
    picture, not padding. truth: its labels there. ignored: (n, 4) boxes in which nothing is learned; the pixels
    of a label map that count for no class are 255. file: the picture's. values: mean and standard deviation
    of what the network is given. channels: "RGB" or "BGR", in which order. note: what else there is to
    say, such as the branch.
    """

    image: np.ndarray
    size: tuple[int, int]
    truth: Result
    ignored: np.ndarray
    file: str
    values: tuple[float, float]
    channels: str = "RGB"
    note: str = ""


class View(NamedTuple):
    """A picture as a model's network sees it, to look inside.

    pixels: (1, 3, h, w), what the network is given. size: the height and width of it that are picture, not
    padding. forward: pixels, (N, 3, h, w), to N outputs that follow from them by autograd: the scores of a
    segmentation, (classes, h', w'), or a dictionary of instances: boxes, (n, 4) in pixels, labels, scores.
    instances: which of the two. classes: their names.
    """

    pixels: Tensor
    size: tuple[int, int]
    forward: Callable[[Tensor], list[Any]]
    instances: bool
    classes: Classes


class Host(Protocol):
    """A framework. Wrong input of a user ends in errors.UserError, from any of these."""

    WORK_DIRS: str  # the folder of runs whose config names none

    # ---- before a run
    def quiet_warnings(self) -> None:
        """Silence the framework's own deprecation warnings; not ours."""

    def overrides(self, args: Namespace, /) -> Any:
        """What the command line changes in a config, as load_config takes it."""

    def load_config(
        self, path: str, /, *, sample: bool = False, shrink: bool = False, options: Any = None
    ) -> Any:
        """The config at `path`, on the sample data or with a small backbone if asked, then with the
        user's own options."""

    def take_options(self, config: Any, args: Namespace, /) -> None:
        """The framework's own options (its row's `options`) into the config, in place."""

    def work_dir(self, config: Any, /) -> Path | None:
        """The folder of a run; None if the config names none."""

    def set_work_dir(self, config: Any, folder: Path, /) -> None:
        """Let a run write there."""

    def check_data(self, config: Any, /, splits: Sequence[str] = ("train", "val")) -> None:
        """UserError that shows the expected layout when files of a data set are missing, and one for
        what the config contradicts, such as its data's number of classes. Splits: "train", "val",
        "test"."""

    def records(self, config: Any, split: str, /, *, most: int | None = None) -> Records | None:
        """What the data set of a split ("train", "val", "test") hands to its pipeline; where it cannot be
        made, Records.error says why. None: the config has no such split, or "test" is "val" over
        again. An annotation file of more than `most` bytes is not read: Records.unread."""

    def samples(self, config: Any, count: int, seed: int, /) -> list[Sample]:
        """The first training samples of a run with that seed, batch by batch."""

    def fit_to_device(self, config: Any, /) -> None:
        """Replace what this machine cannot run, in place, and say so in a line."""

    # ---- the run
    def launch(
        self, work: Callable[[Namespace, Any], None], args: Namespace, config: Any, /
    ) -> None:
        """Call work(args, config) in every process of this machine; in one that cannot get the
        config from here, work(args, None), which reads it again."""

    def set_up(self, config: Any, args: Namespace, /) -> None:
        """What every process does before it trains or evaluates: log, seed, ranks."""

    def is_main_process(self) -> bool:
        """Whether this process prints and writes."""

    def train(self, config: Any, /, *, resume: bool) -> Any:
        """Train, validate and save as the config says; returns what `examples` takes."""

    def evaluate(self, config: Any, checkpoint: str, /) -> dict[str, float]:
        """The metrics (names of report.METRICS) of a checkpoint, loaded whole, on the test data;
        {} off the main process."""

    def initial_weights(self, config: Any, /) -> str:
        """The weights that a run starts from, "" for none."""

    # ---- after it
    def last_checkpoint(self, config: Any, /) -> Path | None:
        """The run's newest checkpoint."""

    def best_checkpoint(self, config: Any, /) -> Path | None:
        """The one with the best validation of the run; None where that is not known."""

    def own_config(self, config: Any, /) -> Path:
        """Where a run writes its config, in which it says all that it was run with."""

    def read_log(self, work_dir: Path, /) -> Iterable[Entry]:
        """The log of all of a run's sessions, in the order of writing."""

    def read_warnings(self, work_dir: Path, /) -> Iterable[str]:
        """The warnings and errors in the text logs of all of a run's sessions, each as often as it is there."""

    def optimized(self, config: Any, trained: Any, /) -> Optimized:
        """What `train` returned, for a page: its model and its optimizer's groups, with the learning rates
        that they began with ("initial_lr" or "lr")."""

    def examples(self, config: Any, trained: Any, count: int, /) -> Iterable[Example]:
        """`count` validation pictures spread over the data, those with objects first, seen by the weights
        that were saved, the best if they are known."""

    # ---- models and pictures
    def build_model(self, config: Any, device: str, /) -> nn.Module:
        """The config's model with fresh weights; on the device "meta" it holds no memory."""

    def load_model(self, config: Any, checkpoint: str, device: str | None = None, /) -> nn.Module:
        """A trained model ready for `infer`, with `dataset_meta`; None: a GPU if there is one."""

    def infer(self, model: nn.Module, files: Sequence[Path], /) -> list[Any]:
        """The predictions for picture files, as one batch, read and prepared as the config's test data
        are; each at its picture's size."""

    def result_of(self, prediction: Any, meta: Any, score: float, /) -> Result:
        """A prediction, with the instances of at least that score."""

    def truth_of(self, truth: Any, meta: Any, image: np.ndarray, /) -> Result:
        """The annotation of a picture, (H, W, 3) uint8 RGB."""

    def view(self, model: nn.Module, file: Path, /) -> View:
        """A picture file as a model of load_model sees it."""
