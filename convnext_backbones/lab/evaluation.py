"""Top-1 and top-5 of a classifier over pictures in class folders, as ImageNet's validation set lies.

    root/n01440764/*.JPEG
    root/n01443537/*.JPEG
    ...

Folders of some of the classes will do: predictions are then still among all classes of the head.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder

from ..errors import UserError
from ..network.preprocessing import EvaluationTransform
from .imagenet import WORDNET_IDS

MOST_UNREADABLE = 0.1  # of the pictures; with more, the figures would not be the data set's
LONGEST = 50  # times its short side; a longer picture would be resized to gigabytes
LAYOUT = "one folder of pictures per class: n01440764/*.JPEG, n01443537/*.JPEG, ..."
HOW_TO_SORT = (
    "put ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz into a folder ROOT and run "
    "python -c \"import torchvision; torchvision.datasets.ImageNet('ROOT', split='val')\" (needs "
    "scipy), which writes ROOT/val"
)
LARGE_HEADS = {  # classes: the data set, and timm's file of its WordNet ids
    21841: ("ImageNet-22K", "imagenet22k_synsets.txt"),
    11821: ("ImageNet-12K", "imagenet12k_synsets.txt"),
}


class Accuracy(NamedTuple):
    """top1, top5: right predictions out of `pictures`, those that could be read. unreadable: a line
    "path: reason" each. seconds: of reading, preparing and predicting."""

    top1: int
    top5: int
    pictures: int
    unreadable: list[str]
    seconds: float


def number_folders(
    root: str | Path, num_classes: int, class_index: str | Path | None = None
) -> tuple[dict[str, int], str]:
    """Every class folder of `root` with its place in a head of `num_classes`, and by which rule.

    With a class index file, by its order; else WordNet ids by ImageNet-1K's order, if the head has
    1000 classes; else, if there are as many folders as classes, in alphabetical order, as
    torchvision's ImageFolder numbered them in training.

    Raises:
        UserError: no such folder, no class folders, or folders that the head has no class for.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; give one with {LAYOUT}")
    folders = sorted(
        p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX"))
    )
    if not folders:
        if any(root.glob("ILSVRC2012_val_*")):
            raise UserError(
                f"{root} holds the validation pictures unsorted, without their classes; {HOW_TO_SORT}"
            )
        raise UserError(f"{root} has no class folders; expected is {LAYOUT}")
    if class_index is not None:
        numbers = read_class_index(class_index)
        count = max(numbers.values()) + 1
        if count != num_classes:
            raise UserError(
                f"{class_index} lists {count} classes, the checkpoint's head has {num_classes}; give "
                "the class index that the head was trained with"
            )
        rule = f"in the order of {class_index}"
    elif num_classes == len(WORDNET_IDS):
        numbers = {name: number for number, name in enumerate(WORDNET_IDS)}
        rule = "WordNet ids in ImageNet-1K's order"
    elif num_classes in LARGE_HEADS:
        data, file = LARGE_HEADS[num_classes]
        raise UserError(
            f"the head has the {num_classes} classes of {data}; give their WordNet ids in its order with "
            f"--class-index (timm has them in timm/data/_info/{file}). No top-1 is published for such a "
            "head: what stands beside it in tables is of the file fine-tuned to 1000 classes"
        )
    else:
        if len(folders) != num_classes:
            raise UserError(
                f"{root} has {len(folders)} class folders ({_some(folders)}), the checkpoint's head "
                f"has {num_classes} classes; say which is which with --class-index, a file with one "
                "folder name per line in the head's order"
            )
        numbers = {name: number for number, name in enumerate(folders)}
        rule = "in alphabetical order, as ImageFolder numbers them in training"
    unknown = [name for name in folders if name not in numbers]
    if unknown:
        inside = next((f"; or give {root / n}" for n in ("val", "validation") if n in folders), "")
        known = class_index or "the 1000 WordNet ids of ImageNet-1K, such as n01440764"
        raise UserError(
            f"{root}: {len(unknown)} of {len(folders)} folders ({_some(unknown)}) are not in {known}; "
            f"give --class-index, a file with the folder names in the head's order{inside}"
        )
    return {name: numbers[name] for name in folders}, rule


def read_class_index(path: str | Path) -> dict[str, int]:
    """Folder names to class numbers from a file.

    JSON as imagenet_class_index.json has it, {"0": ["n01440764", "tench"], ...}, or {"0": name, ...},
    or a list; else text with one class per line, where of "n01440764 tench, Tinca tinca" the id
    counts too. A name that two classes share is left out.

    Raises:
        UserError: it cannot be read, or does not number its classes from 0 on.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if text.lstrip().startswith(("{", "[")) else None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: the class index cannot be read ({error})") from error
    if isinstance(content, dict):
        if set(content) != {str(n) for n in range(len(content))}:
            raise UserError(
                f'{path}: the class index must have the keys "0" to "{len(content) - 1}", one a class, '
                f"as in imagenet_class_index.json; it has {_some(content)}"
            )
        content = [content[str(n)] for n in range(len(content))]
    if content is None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        content = [[line, *re.findall(r"^n\d{8}(?=\s)", line)] for line in lines]
    entries = [entry if isinstance(entry, list) else [entry] for entry in content]
    if not entries or not all(isinstance(name, str) for entry in entries for name in entry):
        raise UserError(
            f"{path}: the class index must give a name, or a list of names, for each class"
        )
    numbers: dict[str, set[int]] = {}
    for number, names in enumerate(entries):
        for name in names:
            numbers.setdefault(name, set()).add(number)
    unique = {name: next(iter(where)) for name, where in numbers.items() if len(where) == 1}
    nameless = [n for n, names in enumerate(entries) if not any(name in unique for name in names)]
    if nameless:
        raise UserError(
            f"{path}: class {nameless[0]} ({_some(entries[nameless[0]])}) has no name of its own; every "
            "class needs a name that no other has"
        )
    return unique


class Pictures(ImageFolder):
    """Pictures below class folders as (pixels, class, ""); an unreadable one as (zeros, -1, why)."""

    def __init__(self, root: str | Path, numbers: dict[str, int], transform: EvaluationTransform):
        self._numbers = numbers
        super().__init__(str(Path(root).expanduser()), transform, allow_empty=True)
        if not self.samples:
            raise UserError(f"{root}: its {len(numbers)} class folders hold no pictures")

    def find_classes(self, directory) -> tuple[list[str], dict[str, int]]:
        return list(self._numbers), self._numbers

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        path, target = self.samples[index]
        try:
            with Image.open(path) as file:
                if max(file.size) > LONGEST * min(file.size):
                    raise ValueError(f"{file.width}x{file.height} pixels are too long a strip")
                picture = file.convert("RGB")
        except Exception as error:  # a damaged picture can make Pillow raise nearly anything
            reason = str(error).replace(f" {path!r}", "") or type(error).__name__
            size = self.transform.image_size
            return torch.zeros(3, size, size), -1, f"{path}: {reason}"
        return self.transform(picture), target, ""


def evenly(pictures: Dataset, count: int | None) -> Dataset:
    """`count` of the pictures from all classes alike, always the same; None or too many: all."""
    if count is None or count >= len(pictures):
        return pictures
    return Subset(pictures, [i * len(pictures) // count for i in range(count)])


@torch.inference_mode()
def evaluate(
    model: nn.Module, loader: DataLoader, *, progress: Callable[[Iterable], Iterable] = iter
) -> Accuracy:
    """Count the right predictions of a classifier, on its device, over a loader of Pictures.

    Raises:
        UserError: too many unreadable pictures, logits that are not finite, or a worker of the
            loader that died.
    """
    device = next(model.parameters()).device
    model.eval()
    top1 = top5 = pictures = 0
    unreadable: list[str] = []
    start = time.perf_counter()
    with _sentence_for_workers():
        for images, targets, reasons in progress(loader):
            unreadable += filter(None, reasons)
            if len(unreadable) > MOST_UNREADABLE * len(loader.dataset):
                raise UserError(
                    f"more than {MOST_UNREADABLE:.0%} of the {len(loader.dataset)} pictures cannot be "
                    f"read: {_some(unreadable)}; copy or unpack the data again"
                )
            images, targets = images[targets >= 0], targets[targets >= 0]
            if not len(images):
                continue
            logits = model(images.to(device)).cpu()
            if not logits.isfinite().all():
                raise UserError("the network's output is not finite: its weights are damaged")
            right = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
            top1 += right[:, 0].sum().item()
            top5 += right.any(dim=1).sum().item()
            pictures += len(images)
    return Accuracy(top1, top5, pictures, unreadable, time.perf_counter() - start)


@contextlib.contextmanager
def _sentence_for_workers():
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads pictures died ({str(error).splitlines()[0]}), in containers often "
            "for too little /dev/shm; run with --workers 0"
        ) from error


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
