"""One's own data in Detectron2, by name: from a LazyConfig, from YAML, from the command line.

At the top of a LazyConfig

    register_coco("cells_train", "cells/train.json", "cells/train")
    register_label_maps("streets_val", "streets/val", "streets/valannot", classes=["sky", ..], void=11)

and in YAML, or as key=value of the command line, the same by keys

    DATASETS:
      REGISTER:
        - {name: cells_train, annotations: cells/train.json, images: cells/train}
        - {name: streets_val, images: streets/val, labels: streets/valannot, classes: [sky, ..], void: 11}

A LazyConfig takes such entries as `dataloader.register`. A run's saved config holds those of its data
sets, with absolute paths, so that it can be tested and predicted with by itself. Paths are relative to
the working directory, as Detectron2 takes them; ~ is the home folder.
"""

import contextlib
import functools
import importlib.util
import itertools
import json
import logging
import os
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ...console import counted
from ...errors import UserError
from ...network.variants import nearest
from .data import IGNORE, LABELS_FROM_1, LOGGER, REGISTERED
from .safe_reading import USERS_FILES

COCO_KEYS = ("name", "annotations", "images", "classes")
LABEL_KEYS = ("name", "images", "labels", "classes", "palette", "void", "listing", "suffixes")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

BEFORE = frozenset(DatasetCatalog.list())  # mostly Detectron2's own
_ENTRIES: dict[str, dict] = {}  # what was registered here, as an entry of DATASETS.REGISTER


def register_coco(
    name: str, annotations: str | Path, images: str | Path, classes: Sequence[str] | None = None
) -> None:
    """A data set of COCO's format: boxes, with masks or without.

    Args:
        name: what DATASETS.TRAIN and TEST, or dataset.names of a LazyConfig, call it.
        annotations: the JSON file. It need not be there before it is read.
        images: the folder to which its file names are relative.
        classes: the names of its categories, in the order of their ids; default: as the file says.

    Raises:
        UserError: the name is taken by other data. When it is read: the file is missing, broken or
            has other classes.
    """
    entry = dict(name=name, annotations=_absolute(annotations), images=_absolute(images))
    if not _is_new(entry):
        return
    found = None
    if Path(entry["annotations"]).is_file():
        with contextlib.suppress(
            UserError
        ):  # said when the data are read; a config may not need them
            found = described(entry["annotations"])
    names = _class_names(name, classes) if classes else found and list(found.classes)
    DatasetCatalog.register(name, lambda: _read_coco(name))
    REGISTERED[name] = DatasetCatalog.data[name]
    MetadataCatalog.get(name).set(
        json_file=entry["annotations"], image_root=entry["images"], evaluator_type="coco",
        **({"thing_classes": names} if names else {}),
        **({"boxes_only": found.boxes_only} if found else {}),
    )  # fmt: skip
    _ENTRIES[name] = entry | ({"classes": names} if names else {})


def register_label_maps(
    name: str,
    images: str | Path,
    labels: str | Path,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
    void: int = IGNORE,
    listing: str | Path | None = None,
    suffixes: Sequence[str] | None = None,
) -> None:
    """A data set for segmentation: pictures, and label maps that hold the number of each pixel's class.

    A picture and its map have the same path below their folders but for the ending, and for what all
    maps' or all pictures' names end in ("0001.jpg" and "0001_mask.png").

    Args:
        name: what DATASETS.TRAIN and TEST, or dataset.names of a LazyConfig, call it.
        images, labels: the folders. They need not be there before they are read.
        classes: the name of class 0, 1, ..
        palette: a colour (red, green, blue) of 0 to 255 for each class, to draw with.
        void: the value of pixels that have no class. 0 says that the maps hold k + 1 for class k, as
            ADE20K's do: a LazyConfig then needs SemSegMapper and load_label_map.
        listing: a text file of those to take, one a line: a picture's path below `images` without the
            suffix. Default: all.
        suffixes: what follows that in the names of pictures and of maps, e.g. (".jpg", "_mask.png").
            Default: as the files are.

    Raises:
        UserError: the name is taken by other data, or the arguments do not go together. When it is
            read: a folder is missing, or no picture has a map.
    """
    classes = _class_names(name, classes)
    if palette is not None and len(palette) != len(classes):
        raise UserError(
            f"the data set {name!r} has {counted(len(classes), 'class')} and {counted(len(palette), 'colour')}; give one "
            "colour (red, green, blue) for each class, or none"
        )
    if isinstance(void, bool) or not isinstance(void, int) or void < 0:
        raise UserError(
            f"void={void!r} of the data set {name!r}: give the value of such pixels, >= 0"
        )
    colours = None if palette is None else [[int(v) for v in colour] for colour in palette]
    entry = dict(name=name, images=_absolute(images), labels=_absolute(labels), classes=classes)
    entry |= ({"palette": colours} if colours else {}) | ({"void": void} if void != IGNORE else {})
    entry |= {"listing": _absolute(listing)} if listing else {}
    entry |= {"suffixes": list(suffixes)} if suffixes else {}
    if not _is_new(entry):
        return
    DatasetCatalog.register(name, lambda: _read_label_maps(name))
    REGISTERED[name] = DatasetCatalog.data[name]
    from_1 = void == 0
    MetadataCatalog.get(name).set(
        stuff_classes=classes, stuff_colors=colours,
        image_root=entry["images"], sem_seg_root=entry["labels"],
        evaluator_type=LABELS_FROM_1 if from_1 else "sem_seg",
        ignore_label=IGNORE if from_1 else void, label_of_no_class=void,
    )  # fmt: skip
    _ENTRIES[name] = entry


def register(entries: Iterable[Mapping]) -> None:
    """The entries of DATASETS.REGISTER or dataloader.register.

    Raises:
        UserError: an entry is not written as above, or as the functions raise it.
    """
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise UserError(f"{entry!r} registers no data set; {_WRITTEN}")
        keys = LABEL_KEYS if "labels" in entry else COCO_KEYS
        if unknown := [key for key in entry if key not in keys]:
            raise UserError(
                f"a data set to register has no {unknown[0]!r}: {nearest(unknown[0], keys)}"
            )
        needed = (
            "name",
            "images",
            *(("labels", "classes") if "labels" in entry else ("annotations",)),
        )
        if missing := [key for key in needed if not entry.get(key)]:
            raise UserError(f"{dict(entry)} lacks {', '.join(missing)}; {_WRITTEN}")
        (register_label_maps if "labels" in entry else register_coco)(**entry)


_WRITTEN = (
    "write {name: cells_train, annotations: train.json, images: FOLDER} for COCO's format, "
    "{name: streets_train, images: FOLDER, labels: FOLDER, classes: [a, b], void: 255} for label maps"
)


def parsed(text: str) -> list:
    """The entries in a command line's DATASETS.REGISTER=.. or dataloader.register=.., as YAML or JSON."""
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{text!r} cannot be read: {error}") from error
    if isinstance(entries, Mapping):
        return [entries]
    if not isinstance(entries, list):
        raise UserError(f"{text!r} registers no data set; {_WRITTEN}")
    return entries


def run_file(file: str) -> None:
    """Run a user's Python that registers data sets; once, however often it is asked for.

    Raises:
        UserError: it is missing, or fails.
    """
    path = Path(file).expanduser().resolve()
    name = f"{USERS_FILES}{path.stem}_{zlib.crc32(bytes(path))}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise UserError(f"import={file}: there is no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UserError(f"import={file}: its name does not end in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it is a program
        del sys.modules[name]
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"import={file}: {words}") from error


def entries_of(names: Iterable[str]) -> list[dict]:
    """The entries that register those of the data sets again that Detectron2 and this package do not
    know by themselves: ours, and those of Detectron2's register_coco_instances."""
    found = []
    for name in dict.fromkeys(names):
        if name in _ENTRIES:
            found.append(_ENTRIES[name])
        elif _by_register_coco_instances(name):
            meta = MetadataCatalog.get(name)
            paths = dict(annotations=_absolute(meta.json_file), images=_absolute(meta.image_root))
            classes = meta.get("thing_classes")
            found.append(dict(name=name, **paths) | ({"classes": list(classes)} if classes else {}))
    return found


def only_known_here(names: Iterable[str]) -> list[str]:
    """Those of the data sets that a user's own Python registers, which no saved config can say."""
    known = {entry["name"] for entry in entries_of(names)} | BEFORE | REGISTERED.keys()
    return [name for name in names if name not in known]


def _by_register_coco_instances(name: str) -> bool:
    """Whether Detectron2's tutorial's function registered it, which says all in the metadata."""
    from detectron2.data.datasets import builtin, register_coco_instances

    function = DatasetCatalog.data.get(name)
    known = {key for splits in builtin._PREDEFINED_SPLITS_COCO.values() for key in splits}
    prefix = f"{register_coco_instances.__qualname__}."
    return name not in known and getattr(function, "__qualname__", "").startswith(prefix)


# ---- reading -------------------------------------------------------------------------------------
class Described(NamedTuple):
    """What a COCO JSON holds: its classes in the order of their ids, and how many annotations."""

    classes: tuple[str, ...]
    annotations: int
    masks: int  # how many of them have a segmentation
    lacking: dict[str, int]  # how many have not what COCO's evaluation reads

    @property
    def boxes_only(self) -> bool:
        return not self.masks


def described(annotations: str | Path) -> Described:
    """What a COCO JSON holds.

    Raises:
        UserError: it is missing, or no COCO JSON.
    """
    path = Path(annotations)
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"there is no annotation file {path}: {error.strerror}") from error
    return _described(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache
def _described(path: Path, *_) -> Described:
    try:
        content = json.loads(path.read_bytes())
        categories = sorted(content["categories"], key=lambda category: category["id"])
        annotations = content["annotations"]
        masks = sum(1 for annotation in annotations if annotation.get("segmentation"))
        lacking = {
            key: count
            for key in ("id", "image_id", "bbox", "category_id", "iscrowd", "area")
            if (count := sum(key not in annotation for annotation in annotations))
        }
        names = tuple(str(category["name"]) for category in categories)
        content["images"][:0]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no COCO JSON: it needs images, annotations and categories with id and name "
            f"({type(error).__name__}: {error})"
        ) from error
    if not names:
        raise UserError(f"{path} has no categories, so no classes to learn")
    return Described(names, len(annotations), masks, lacking)


def _read_coco(name: str) -> list[dict]:
    """The records of a registered COCO JSON; sets thing_classes."""
    entry = _ENTRIES[name]
    file, meta = entry["annotations"], MetadataCatalog.get(name)
    classes = list(described(file).classes)
    said = meta.get("thing_classes") or classes
    if list(said) != classes:
        raise UserError(
            f"the data set {name!r} has the classes {', '.join(classes)} in {file}, by their ids, and is "
            f"registered with {', '.join(said)}; leave out `classes`, or give them in that order"
        )
    try:
        with _gaps_are_fine():
            records = load_coco_json(file, entry["images"], name)
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError) as error:
        words = error.args[0] if error.args else type(error).__name__
        if isinstance(error, KeyError) and not str(words).startswith("Encountered"):
            words = f"a picture or an annotation lacks {words!r}"
        raise UserError(f"{file}: {words}") from error
    meta.set(boxes_only=described(file).boxes_only)
    return records


@contextlib.contextmanager
def _gaps_are_fine():
    """Without Detectron2's warning that category ids are not 1, 2, ..: they are mapped either way."""
    logger = logging.getLogger("detectron2.data.datasets.coco")

    def keep(record: logging.LogRecord) -> bool:
        return "Category ids in annotations are not in" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _read_label_maps(name: str) -> list[dict]:
    """The records of registered label maps."""
    entry = _ENTRIES[name]
    of_pictures, of_maps = entry.get("suffixes") or (None, None)
    pictures = _by_stem(entry["images"], of_pictures)
    maps = _by_stem(entry["labels"], of_maps)
    both = [stem for stem in pictures if stem in maps]
    if not both and of_pictures is None:
        pictures, maps = _without_common_ending(pictures), _without_common_ending(maps)
        both = [stem for stem in pictures if stem in maps]
    if not both:
        examples = [next(iter(d.values()), "none") for d in (pictures, maps)]
        raise UserError(
            f"the data set {name!r}: no picture in {entry['images']} ({len(pictures)}, {examples[0]}) has "
            f"a label map of the same name in {entry['labels']} ({len(maps)}, {examples[1]})"
        )
    elif "listing" not in entry and len(both) < len(pictures):
        LOGGER.warning(
            f"{len(pictures) - len(both)} of {len(pictures)} pictures of the data set {name!r} are left "
            "out: they have no label map"
        )
    if "listing" in entry:
        both = _listed(name, entry["listing"], both)
    return [dict(file_name=pictures[stem], sem_seg_file_name=maps[stem]) for stem in both]


def _listed(name: str, listing: str, there: list[str]) -> list[str]:
    """Those that a text file names; UserError for one that is not there."""
    try:
        lines = Path(listing).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the data set {name!r}: {listing} cannot be read: {error}") from error
    wanted = [line.strip() for line in lines if line.strip()]
    missing = sorted(set(wanted) - set(there))
    if missing:
        raise UserError(
            f"the data set {name!r}: {listing} names {len(wanted)} pictures, of which {len(missing)} are "
            f"not there or have no label map: {', '.join(missing[:3])}"
        )
    return wanted


def _by_stem(folder: str, suffix: str | None = None) -> dict[str, str]:
    """The pictures in a folder and its subfolders, by their path in it without the ending, or of those
    that end in `suffix` without that."""
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}")
    found = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for file in sorted(files):
            path = os.path.join(parent, file)
            below = os.path.relpath(path, folder)
            if suffix is not None and file.endswith(suffix):
                found[below.removesuffix(suffix)] = path
            elif suffix is None and file.lower().endswith(SUFFIXES):
                found[os.path.splitext(below)[0]] = path
    return found


def _without_common_ending(files: dict[str, str]) -> dict[str, str]:
    """The same by stems without what all of them end in, from its first "_", "-" or "." on."""
    from_behind = zip(*(stem[::-1] for stem in files), strict=False)
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, from_behind)
    ending = "".join(letters[0] for letters in same)[::-1]
    start = min((k for k in map(ending.find, "_-.") if k >= 0), default=len(ending))
    cut = len(ending) - start
    return {stem[: len(stem) - cut] if cut else stem: path for stem, path in files.items()}


# ---- names ---------------------------------------------------------------------------------------
def _is_new(entry: dict) -> bool:
    """Whether the entry's name is free; False where the same data have it already."""
    name = entry["name"]
    if not isinstance(name, str) or not name:
        raise UserError(f"a data set's name is a word, not {name!r}")
    there = _ENTRIES.get(name)
    if there is not None:
        differ = [k for k in {**there, **entry} if k != "classes" and there.get(k) != entry.get(k)]
        if differ or ("labels" in entry and there["classes"] != entry["classes"]):
            key = (differ or ["classes"])[0]
            raise UserError(
                f"the data set {name!r} is registered already, with {key} {there.get(key)}, not "
                f"{entry.get(key)}; give the other one another name"
            )
        return False
    if name in DatasetCatalog.list():
        raise UserError(
            f"the data set {name!r} is registered already, by Detectron2 or other code; give yours "
            "another name"
        )
    return True


def _class_names(name: str, classes: Sequence[str]) -> list[str]:
    if isinstance(classes, str) or not classes or not all(isinstance(c, str) for c in classes):
        raise UserError(
            f"classes={classes!r} of the data set {name!r}: give a list of names, [{classes!r}] if "
            "there is one" if isinstance(classes, str) else
            f"classes={classes!r} of the data set {name!r}: give a list of names"
        )  # fmt: skip
    return list(classes)


def _absolute(path: str | Path) -> str:
    return os.path.abspath(os.path.expanduser(path))
