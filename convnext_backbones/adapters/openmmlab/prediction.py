"""What models of MMDetection and MMSegmentation say of picture files, by the pipeline of their test data."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import mmcv.transforms
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, TRANSFORMS, Registry, init_default_scope

from ...console import say
from ...errors import UserError
from ...runs.host import Classes, Result
from ...runs.preparation import refused

NO_CLASS = 255
PANOPTIC_OFFSET = 1000  # of MMDetection's panoptic segmentation: instance * 1000 + class


def _dataset(cfg: Config) -> dict:
    """The test data, below wrappers such as RepeatDataset and ConcatDataset."""
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}
    dataset = loader.get("dataset", {})
    while "dataset" in dataset or "datasets" in dataset:
        dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
    return dataset


def test_pipeline(cfg: Config) -> Compose:
    """The transforms of the config's test data, without those that load annotations.

    Raises:
        UserError: the config has no test data, or a transform that cannot be built.
    """
    init_default_scope(cfg.default_scope)
    pipeline = _dataset(cfg).get("pipeline")
    if not pipeline:
        raise UserError(
            f"{cfg.filename} does not say how pictures are prepared: test_dataloader.dataset.pipeline"
        )
    with refused("test pipeline"):
        return Compose([transform for transform in pipeline if not _loads_annotations(transform)])


def multi_scale_pipeline(cfg: Config) -> list[dict]:
    """The config's tta_pipeline, its scale factors counted from the size that testing without it has: 1.0
    is that size, and not the stored picture's, which the network may never have seen. Says what changes,
    and where the sizes that it names are all others."""
    size = next(
        (tuple(t["scale"]) for t in _resizes(_dataset(cfg).get("pipeline", ())) if _is_size(t)),
        None,
    )
    pipeline = copy.deepcopy(cfg.tta_pipeline)
    resizes = list(_resizes(pipeline))
    factors = [t for t in resizes if t.get("scale_factor") is not None]
    if size is None or not resizes:
        return pipeline
    for transform in factors:
        factor = transform.pop("scale_factor")
        transform["scale"] = tuple(round(side * factor) for side in size)
    if factors:
        say(f"--tta: the scale factors count from the test size, {size[0]}x{size[1]}")
    elif size not in [tuple(t["scale"]) for t in resizes if _is_size(t)]:
        say(
            f"--tta: none of the sizes of tta_pipeline is the test size, {size[0]}x{size[1]}; if that was "
            "changed, change them, too",
            always=True,
        )
    return pipeline


def _is_size(resize: dict) -> bool:
    return isinstance(resize.get("scale"), (tuple, list)) and len(resize["scale"]) == 2


def _resizes(node) -> Iterator[dict]:
    """Every Resize in a pipeline, those inside of TestTimeAug as well."""
    for transform in node:
        if isinstance(transform, (list, tuple)):
            yield from _resizes(transform)
        elif isinstance(transform, dict):
            if str(transform.get("type")).rpartition(".")[2] == "Resize":
                yield transform
            yield from _resizes(transform.get("transforms", ()))


def _loads_annotations(transform) -> bool:
    kind = transform["type"] if isinstance(transform, dict) else type(transform)
    kind = _class(TRANSFORMS, kind)
    return isinstance(kind, type) and issubclass(kind, mmcv.transforms.LoadAnnotations)


def _class(registry: Registry, kind):
    """What a config's type is, by its name in the default scope; None for an unknown one."""
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as of_scope:
        return of_scope.get(kind)


def names_of(cfg: Config, dataset_meta: dict, checkpoint: str) -> dict:
    """The meta that names the classes: the checkpoint's, else the config's test data's; what disagrees, and
    that nothing names them, is said in a line."""
    init_default_scope(cfg.default_scope)
    dataset = _dataset(cfg)
    own = dict(dataset.get("metainfo") or {})
    if not own.get("classes"):
        own = dict(getattr(_class(DATASETS, dataset.get("type")), "METAINFO", None) or {})
    classes, wanted = dataset_meta.get("classes"), own.get("classes")
    if not classes:
        where = "the config names them" if wanted else "numbers stand for them"
        say(f"{checkpoint} names no classes (meta.dataset_meta): {where}", always=True)
        return own
    if wanted and dataset.get("metainfo") and list(classes) != list(wanted):
        pairs = zip(classes, wanted, strict=False)
        k = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(classes), len(wanted)))
        of = ["none" if k >= len(names) else repr(names[k]) for names in (classes, wanted)]
        say(
            f"the checkpoint's {len(classes)} classes are taken, not the config's {len(wanted)}: class {k} "
            f"is {of[0]}, the config's {of[1]}",
            always=True,
        )
    return dataset_meta


def infer(model: torch.nn.Module, files: Sequence[Path]) -> list:
    """The data samples of picture files, as one batch. MMSegmentation takes pictures of one size together."""
    records = [dict(img_path=str(f), img_id=k, seg_fields=[]) for k, f in enumerate(files)]
    data = [model.test_pipeline(record) for record in records]
    groups: dict[object, list[int]] = {}
    for k, entry in enumerate(data):
        size = entry["inputs"].shape if model.cfg.default_scope == "mmseg" else None
        groups.setdefault(size, []).append(k)
    found = {}
    for numbers in groups.values():
        with torch.no_grad():
            samples = model.test_step(pseudo_collate([data[k] for k in numbers]))
        found.update(zip(numbers, samples, strict=True))
    return [found[k] for k in range(len(files))]


def _classes(meta: dict) -> Classes:
    return Classes(meta.get("classes") or (), meta.get("palette") or None)


def result_of(sample, meta: dict, score: float) -> Result:
    """A data sample's prediction, with the instances of at least that score."""
    classes = _classes(meta)
    if "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
        confidence = None
        if "seg_logits" in sample and sample.seg_logits.data.shape[0] > 1:
            confidence = sample.seg_logits.data.softmax(dim=0).amax(dim=0).cpu().numpy()
        return Result(classes, label_map=labels, confidence=confidence)
    if "pred_instances" not in sample:
        labels = sample.pred_panoptic_seg.sem_seg.squeeze(0).cpu().numpy() % PANOPTIC_OFFSET
        known = labels < (len(classes.names) or NO_CLASS)
        return Result(classes, label_map=np.where(known, labels, NO_CLASS))
    found = sample.pred_instances[sample.pred_instances.scores >= score].cpu()
    return Result(
        classes, boxes=found.bboxes.numpy(), labels=found.labels.numpy(),
        scores=found.scores.numpy(), masks=found.masks.numpy() if "masks" in found else None,
    )  # fmt: skip


def truth_of(sample, meta: dict, image: np.ndarray) -> Result:
    """A data sample's annotation."""
    classes = _classes(meta)
    if "gt_sem_seg" in sample:
        return Result(classes, label_map=sample.gt_sem_seg.data.squeeze(0).cpu().numpy())
    if "gt_instances" not in sample:
        return Result(classes)
    truth = sample.gt_instances
    boxes = getattr(truth.bboxes, "tensor", truth.bboxes).cpu().numpy()
    masks = truth.masks.to_ndarray().astype(bool) if len(truth) and "masks" in truth else None
    return Result(classes, boxes=boxes, labels=truth.labels.cpu().numpy(), masks=masks)


def holds_objects(data: dict) -> bool:
    """Whether what a data set's pipeline made of a picture is annotated with anything."""
    sample = data["data_samples"]
    if "gt_sem_seg" in sample:
        return bool((sample.gt_sem_seg.data != NO_CLASS).any())
    return "gt_instances" in sample and len(sample.gt_instances) > 0
