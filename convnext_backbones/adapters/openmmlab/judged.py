"""What a config's validation set says of any function from a picture to what is in it, such as a file in
the place of the model: by the config's own data set and evaluator."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from ...console import progress
from ...runs import preparation
from ...runs.calibration import spread
from ...runs.host import Result
from ...runs.report import metrics_of


def accuracy(cfg: Config, see: Callable[[Path], Result], most: int) -> tuple[dict[str, float], int]:
    """The metrics, by the names of runs.report, of at most so many pictures spread over the validation set;
    and how many there were."""
    init_default_scope(cfg.default_scope)
    with preparation.refused("validation"), _quiet():
        dataset = DATASETS.build(copy.deepcopy(cfg.val_dataloader.dataset))
        evaluator = Evaluator(copy.deepcopy(cfg.val_evaluator))
    evaluator.dataset_meta = dataset.metainfo
    chosen, images = spread(len(dataset), most), []
    for k in progress(chosen, "evaluating", unit="picture"):
        data = pseudo_collate([dataset[k]])
        (sample,) = data["data_samples"]
        _put(see(Path(sample.img_path)), sample)
        images.append(sample.get("img_id"))
        evaluator.process([sample], data)
    for metric in evaluator.metrics:
        if isinstance(metric, CocoMetric):  # else it counts every picture of the annotation file
            metric.img_ids = images
    with _quiet():
        found = metrics_of(evaluator.evaluate(len(chosen)))
    return {name: float(value) for name, value in found.items()}, len(chosen)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tables that metrics log."""
    log = MMLogger.get_current_instance()
    level = log.level
    log.setLevel("ERROR")
    try:
        yield
    finally:
        log.setLevel(level)


def _put(result: Result, sample) -> None:
    """A result into a data sample, as the frameworks' models do it."""
    if result.label_map is not None:
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(result.label_map)[None])
        return
    found = {"bboxes": result.boxes, "scores": result.scores, "labels": result.labels, "masks": result.masks}  # fmt: skip
    sample.pred_instances = InstanceData(
        **{name: torch.from_numpy(value) for name, value in found.items() if value is not None}
    )
