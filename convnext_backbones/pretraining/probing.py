"""What a network has learned, asked of its frozen features: k nearest neighbours and a linear classifier.

    "Emerging Properties in Self-Supervised Vision Transformers" (DINO), arXiv:2104.14294, section 4.1: k-NN
    by cosine, each of the k nearest voting with exp(similarity / 0.07)

scikit-learn does the counting. No augmentation, no training of the network: minutes on a CPU.
"""

import json
import warnings
from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .. import console
from ..checkpoints.inspection import Inspected, inspect_checkpoint
from ..checkpoints.loading import load_inspected
from ..checkpoints.preprocessing import preprocessing_of
from ..console import counted
from ..data.tree import some
from ..errors import UserError
from ..network.classifier import ConvNeXtClassifier
from ..network.preprocessing import EvaluationTransform
from ..runs.whole_files import write_whole
from .class_folders import ClassFolders, find_class_folders
from .features import Features, default_cache, extract, in_words
from .networks import options_of

K = (10, 20)
TEMPERATURE = 0.07
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the linear classifier, the inverse of its decay
FOLDS = 3
LISTED = 10  # unreadable pictures that are named


class Score(NamedTuple):
    """A method's predictions of the validation pictures.

    method: in words. top1: share that is right. per_class: each class's share, NaN where it has no picture.
    """

    method: str
    top1: float
    per_class: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the classes' shares, each counted alike."""
        return float(np.nanmean(self.per_class))


# ---- the methods ---------------------------------------------------------------------------------
def nearest_neighbours(
    train: Features, val: Features, classes: int, k: int, *, temperature: float = TEMPERATURE
) -> Score:
    """Each validation picture gets the class for which its k nearest training pictures vote.

    Raises:
        UserError: fewer training pictures than k.
    """
    check_k(k, len(train.values))
    votes = KNeighborsClassifier(
        k,
        metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    votes.fit(train.values.numpy(), train.labels.numpy())
    return _score(f"k-NN, k={k}", votes.predict(val.values.numpy()), val, classes)


def linear(train: Features, val: Features, classes: int, *, seed: int = 0) -> Score:
    """A logistic regression of the standardised features, its strength chosen by cross-validation."""
    x, y = train.values.numpy().astype(np.float64), train.labels.numpy()
    regression = LogisticRegression(max_iter=1000, random_state=seed)
    model = make_pipeline(StandardScaler(), regression)
    chosen = f"1, as a class has fewer than {FOLDS} pictures to choose by"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of strengths that are not chosen
        if np.bincount(y, minlength=classes)[np.unique(y)].min() >= FOLDS:
            model = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=FOLDS)
        model.fit(x, y)
    if isinstance(model, GridSearchCV):
        chosen = f"{model.best_params_['logisticregression__C']:g}"
    predicted = model.predict(val.values.numpy().astype(np.float64))
    return _score(f"linear, C={chosen}", predicted, val, classes)


def check_k(k: int, pictures: int) -> None:
    """UserError where k nearest neighbours cannot be had."""
    if k < 1:
        raise UserError(f"k={k}: a whole number from 1 on, as many neighbours vote")
    if k > pictures:
        raise UserError(
            f"k={k}: there are {counted(pictures, 'training picture')}, of which {k} cannot vote; give a "
            f"smaller --k, up to {pictures}, or more pictures"
        )


def _score(method: str, predicted: np.ndarray, val: Features, classes: int) -> Score:
    labels = val.labels.numpy()
    right = predicted == labels
    shares = [
        float(right[labels == label].mean()) if (labels == label).any() else float("nan")
        for label in range(classes)
    ]
    return Score(method, float(right.mean()), tuple(shares))


# ---- the command ---------------------------------------------------------------------------------
def probe(args: Namespace) -> list[Score]:
    """Ask a checkpoint's features about a folder of classes, and print the answers. args: of cli/probe.py."""
    data = find_class_folders(args.data, val_share=args.val_share, seed=args.seed)
    methods = ("knn", "linear") if args.method is None else (args.method,)
    if "knn" in methods:
        for k in args.k:
            check_k(k, len(data.train))
    file = inspect_checkpoint(args.checkpoint, prefix=args.prefix, section=args.section)
    model, transform = network_of(file, args.size)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error
    console.say(f"data:      {data}")
    for note in data.notes:
        console.say(f"           {note}")
    has_norm = "norm.weight" in file.state
    console.say(f"features:  {in_words(model, has_norm)}; k-NN compares them by cosine")
    console.say(f"           pictures of {transform.image_size}x{transform.image_size} pixels")
    cache = None if args.no_cache else default_cache()
    options = dict(batch_size=args.batch_size, workers=args.workers, cache=cache)
    train = extract(model, data.train, transform, desc="features, train", **options)
    val = extract(model, data.val, transform, desc="features, val", **options)
    _tell_of_reading(train, val)
    scores = []
    if "knn" in methods:
        scores += [nearest_neighbours(train, val, len(data.classes), k) for k in args.k]
    if "linear" in methods:
        scores.append(linear(train, val, len(data.classes), seed=args.seed))
    print_scores(data, train, val, scores)
    if args.json:
        write_whole(args.json, json.dumps(_as_data(args, data, scores), indent=2) + "\n")
        console.say(f"written:   {args.json}")
    return scores


def network_of(file: Inspected, size: int | None) -> tuple[ConvNeXtClassifier, EvaluationTransform]:
    """A file's network without a head, and what its pictures go through.

    Raises:
        UserError: it takes other than three channels; the size is smaller than the network's stride.
    """
    model = ConvNeXtClassifier(**options_of(file), num_classes=0)
    report = load_inspected(model, file)
    console.say(str(report))
    options, _ = preprocessing_of(file.located.weights, file.located.path, file.preprocessing)
    if size is not None:
        options["image_size"] = size
    transform = EvaluationTransform(**options)
    if transform.image_size < model.feature_strides[-1]:
        raise UserError(
            f"--size {transform.image_size}: this network needs at least {model.feature_strides[-1]} pixels"
        )
    return model, transform


def _tell_of_reading(train: Features, val: Features) -> None:
    unreadable = [*train.unreadable, *val.unreadable]
    if unreadable:
        console.say(
            f"unreadable: {counted(len(unreadable), 'picture')}, left out: {some(unreadable, LISTED)}"
        )
    for name, features in (("train", train), ("val", val)):
        if features.cached:
            console.say(
                f"           those of {name} were computed before (--no-cache computes them again)"
            )


def print_scores(
    data: ClassFolders, train: Features, val: Features, scores: Sequence[Score]
) -> None:
    """A row a class, and the two means."""
    table = Table("class", "train", "val", *(score.method for score in scores))
    for column in table.columns[1:]:
        column.justify = "right"
    for label, name in enumerate(data.classes):
        counts = [str(int((features.labels == label).sum())) for features in (train, val)]
        shares = [score.per_class[label] for score in scores]
        table.add_row(escape(name), *counts, *("-" if np.isnan(s) else f"{s:.1%}" for s in shares))
    table.add_section()
    table.add_row("mean of classes", "", "", *(f"{score.mean:.1%}" for score in scores))
    totals = (str(len(train.labels)), str(len(val.labels)))
    table.add_row("top-1", *totals, *(f"{score.top1:.1%}" for score in scores), style="bold")
    Console().print(table)
    most = int(torch.bincount(train.labels, minlength=len(data.classes)).argmax())
    share = float((val.labels == most).float().mean())
    console.say(f"always {data.classes[most]!r}, the most frequent class: {share:.1%}", always=True)


def _as_data(args: Namespace, data: ClassFolders, scores: Sequence[Score]) -> dict:
    return {
        "checkpoint": str(args.checkpoint),
        "data": str(data.root),
        "split": data.split,
        "classes": data.classes,
        "train": data.per_class("train"),
        "val": data.per_class("val"),
        "scores": [
            {
                "method": score.method,
                "top1": score.top1,
                "mean_of_classes": score.mean,
                "per_class": [None if np.isnan(share) else share for share in score.per_class],
            }
            for score in scores
        ],
    }
