"""Whether a config's model fits its data sets: told before the first step, in a sentence.

Detectron2 itself ends with an index error in a loss, a KeyError after the last step, or learns and
scores the wrong classes.
"""

import difflib
import os
from collections import Counter
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import _PREDEFINED_SPLITS_COCO
from detectron2.evaluation import COCOEvaluator

from ...console import counted
from ...errors import UserError
from ...network.variants import nearest
from ...runs.preparation import shipped_configs
from . import data, own_data
from .configs import LazyRun, Run, YamlRun

# Read neither here nor checked: Detectron2's own COCO, which is large, and whose masks are known.
KNOWN = {name for splits in _PREDEFINED_SPLITS_COCO.values() for name in splits}


def check_registered(run: Run, name: str) -> None:
    """UserError for a name that no data set has, saying how one's own gets known."""
    if name in DatasetCatalog.list():
        return
    known = DatasetCatalog.list()
    near = difflib.get_close_matches(name, known, n=3)
    own = [other for other in known if other not in own_data.BEFORE]
    key = "DATASETS.REGISTER" if isinstance(run, YamlRun) else "dataloader.register"
    raise UserError(
        f"no data set {name!r} is registered; {nearest(name, dict.fromkeys([*own, *near]))}. Your own: "
        f"{key}='[{{name: {name}, annotations: FILE.json, images: FOLDER}}]', or import=FILE.py, your "
        "Python that registers it, which runs first"
    )


def check(run: Run, splits: Sequence[str]) -> None:
    """UserError where the data sets of the splits cannot train or test the config's model."""
    settings = run.settings
    trained = settings.train_data if "train" in splits else []
    tested = settings.test_data if {"val", "test"} & set(splits) else []
    if "train" in splits and not trained and isinstance(run, YamlRun):
        raise UserError("DATASETS.TRAIN names no data set")
    names = list(dict.fromkeys([*trained, *tested]))
    for name in names:
        records = [] if name in KNOWN else _records(name, name in trained)
        _check_classes(run, name, records)
        _check_label_maps(run, name)
        if name in trained:
            _check_masks(run, name, records)
        if name in tested:
            _check_evaluation(run, name)
    numbered = [name for name in names if _classes(name)]
    for name in numbered[1:]:
        if _classes(name) != _classes(numbered[0]):
            raise UserError(
                f"the data sets {numbered[0]!r} and {name!r} number other classes: "
                f"{_words(_classes(numbered[0]))}; {_words(_classes(name))}"
            )


def _records(name: str, trained: bool) -> list[dict]:
    """What a registered function gives, looked through."""
    try:
        records = DatasetCatalog.get(name)
    except UserError:
        raise
    except Exception as error:  # any function may stand there
        words = f"{type(error).__name__}: {error}"
        raise UserError(f"the data set {name!r} cannot be read: {words}") from error
    if not isinstance(records, list):  # an iterable of its own
        return []
    if not records:
        raise UserError(f"the data set {name!r} holds no pictures")
    for key in ("file_name", "sem_seg_file_name"):
        missing = [
            record[key]
            for record in records
            if key in record and "://" not in record[key] and not os.path.exists(record[key])
        ]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(records)} files of the data set {name!r} are not there, the first: "
                f"{missing[0]}"
            )
    if trained and all(_objects(record) == [] for record in records):
        raise UserError(
            f"none of the {len(records)} pictures of the data set {name!r} has an annotation to learn from"
        )
    return records


def _objects(record: dict) -> list[dict] | None:
    """What there is to learn in a picture; None where the data have no boxes."""
    if "annotations" not in record:
        return None
    return [entry for entry in record["annotations"] if not entry.get("iscrowd")]


# ---- classes -------------------------------------------------------------------------------------
def _classes(name: str, stuff: bool = False) -> list[str]:
    """The classes of a data set's metadata; with both kinds those of `stuff`, else the only ones."""
    meta = MetadataCatalog.get(name)
    kinds = (meta.get("thing_classes"), meta.get("stuff_classes"))
    return list((kinds[1] if stuff else kinds[0]) or kinds[0] or kinds[1] or [])


def _check_classes(run: Run, name: str, records: list[dict]) -> None:
    counts = run.class_counts()
    for key, count, stuff in counts:
        classes = _classes(name, stuff)
        if classes and count != len(classes):
            wrong = " ".join(
                f"{k}={len(classes)}" for k, c, s in counts if c == count and s == stuff
            )
            raise UserError(
                f"{key} is {count}, and the data set {name!r} has {counted(len(classes), 'class')} "
                f"({_words(classes)}): set {wrong}"
            )
    limit = len(_classes(name)) or min(
        (count for _, count, stuff in counts if not stuff), default=0
    )
    found = Counter(e.get("category_id") for record in records for e in _objects(record) or ())
    beyond = [k for k in found if not isinstance(k, int) or not 0 <= k < limit]
    if beyond and limit:
        raise UserError(
            f"the data set {name!r} has {found[beyond[0]]} annotations with category_id "
            f"{beyond[0]}; Detectron2 wants 0 to {limit - 1} there, the places of the classes"
        )


def _words(classes: list[str]) -> str:
    return ", ".join(classes[:6]) + (f" and {len(classes) - 6} more" if len(classes) > 6 else "")


# ---- label maps ----------------------------------------------------------------------------------
def _check_label_maps(run: Run, name: str) -> None:
    meta = MetadataCatalog.get(name)
    void, head = meta.get("ignore_label"), run.get(run.IGNORE_KEY)
    if meta.get("sem_seg_root") and void is not None and head is not None and void != head:
        raise UserError(
            f"the label maps of the data set {name!r} hold {void} for pixels without a class, and "
            f"{run.IGNORE_KEY} is {head}: set {run.IGNORE_KEY}={void}"
        )
    if not isinstance(run, LazyRun) or not meta.get("sem_seg_root"):
        return
    from_1 = data.ignored_label(name) == 0
    for split in ("train", "test"):
        mapper = run.get(f"dataloader.{split}.mapper._target_")
        shifts = getattr(mapper, "__name__", str(mapper)).rpartition(".")[2] == "SemSegMapper"
        if shifts != from_1:
            is_there, wanted = (
                ("SemSegMapper", "DatasetMapper") if shifts else ("none", "SemSegMapper")
            )
            raise UserError(
                f"the label maps of the data set {name!r} hold {'k + 1' if from_1 else 'k'} for class k, and "
                f"dataloader.{split}.mapper "
                + (f"is {is_there}, which takes 1 off" if shifts else "takes no 1 off")
                + f": make it L({wanted})(..), and give the evaluator "
                + ("sem_seg_loading_fn=load_label_map" if from_1 else "no sem_seg_loading_fn")
            )


# ---- masks and evaluators ------------------------------------------------------------------------
def _check_masks(run: Run, name: str, records: list[dict]) -> None:
    """Detectron2 wants a mask of every box, or of none, and where there is a mask head, of every one."""
    key = run.without_masks()
    mapper = "dataloader.train.mapper.use_instance_mask"
    objects = [(record, entry) for record in records for entry in _objects(record) or ()]
    bare = [record for record, entry in objects if not entry.get("segmentation")]
    if key and bare:
        some = (
            "no masks"
            if len(bare) == len(objects)
            else f"{len(bare)} of {len(objects)} boxes without"
        )
        ending = ".yaml" if isinstance(run, YamlRun) else ".py"
        boxes = [
            n
            for n in shipped_configs()
            if "detectron2/coco_faster_rcnn" in n and n.endswith(ending)
        ]
        instead = f"a config of boxes alone, such as {boxes[0]}, or " if boxes else ""
        raise UserError(
            f"this config learns masks, and the data set {name!r} has {some} (as in "
            f"{bare[0]['file_name']}): take {instead}{key}"
        )
    if not key and run.get(mapper) and bare and len(bare) < len(objects):
        raise UserError(
            f"the data set {name!r} has {len(bare)} of {len(objects)} boxes without masks, which this "
            f"config does not learn: set {mapper}=False"
        )
    encoded = [r for r, entry in objects if isinstance(entry.get("segmentation"), dict)]
    if key and encoded and run.get(run.MASK_FORMAT_KEY) != "bitmask":
        raise UserError(
            f"the data set {name!r} has {len(encoded)} masks as run lengths (as in "
            f"{encoded[0]['file_name']}): set {run.MASK_FORMAT_KEY}=bitmask"
        )


def _check_evaluation(run: Run, name: str) -> None:
    """What COCO's evaluation reads in the JSON, beyond what training needs."""
    if isinstance(run, YamlRun):
        of_coco = data.evaluator_type(name) == "coco"
    else:
        target = run.get("dataloader.evaluator._target_")
        of_coco = target is COCOEvaluator or str(target).endswith(".COCOEvaluator")
    file = MetadataCatalog.get(name).get("json_file")
    if not of_coco or name in KNOWN or not file or "://" in file or not os.path.exists(file):
        return
    if lacking := own_data.described(file).lacking:
        key, count = next(iter(lacking.items()))
        raise UserError(
            f"{file}: {count} annotations have no {key!r}, which COCO's evaluation reads; "
            + {
                "iscrowd": 'write "iscrowd": 0',
                "area": "write \"area\": the mask's or the box's",
            }.get(key, f"give each its own {key}")
        )
