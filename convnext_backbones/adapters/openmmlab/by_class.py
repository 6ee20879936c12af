"""IoU and AP of every class, which MMSegmentation and MMDetection print and do not return.

Their metrics, by which checkpoints are compared, stay as they are. Names as in Detectron2's adapter:
"IoU-road (%)", "AP-person" of boxes and "mask AP-person", from 0 to 1.
"""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmseg.evaluation import IoUMetric

KEPT = "of_classes"  # on a metric, the scores of its last computation


def keep_classes(evaluator: Evaluator) -> Evaluator:
    """Let the metrics that know classes keep their scores; returns the evaluator."""
    for metric in evaluator.metrics:
        if isinstance(metric, IoUMetric):
            _keep_iou(metric)
        elif isinstance(metric, CocoMetric) and {"bbox", "segm"} & set(metric.metrics):
            _keep_ap(metric)
    return evaluator


def scores_of(evaluator: Evaluator) -> dict[str, float]:
    """The scores of every class in the last computation."""
    scores: dict[str, float] = {}
    for metric in evaluator.metrics:
        scores.update(getattr(metric, KEPT, {}))
    return scores


def _keep_iou(metric: IoUMetric) -> None:
    plain = metric.total_area_to_metrics

    def keeping(*args, **kwargs):
        found = plain(*args, **kwargs)
        names = metric.dataset_meta["classes"]
        kept = {
            f"IoU-{name} (%)": 100 * float(x)
            for name, x in zip(names, found.get("IoU", ()), strict=False)
        }
        setattr(metric, KEPT, kept)
        return found

    metric.total_area_to_metrics = keeping


def _keep_ap(metric: CocoMetric) -> None:
    """From the evaluations of COCO's API that the metric makes: what it returns with classwise=True has
    one name for a class, where boxes and masks are two values."""
    plain = metric.compute_metrics

    def keeping(results):
        kept: dict[str, float] = {}

        def keep(evaluation) -> None:
            # precision: (IoU, recall, class, area, most boxes); area 0 is all, -1 the most boxes
            precision = evaluation.eval["precision"][..., 0, -1]
            words = {"bbox": "AP", "segm": "mask AP"}[evaluation.params.iouType]
            for k, category in enumerate(metric.cat_ids):
                of_class = precision[:, :, k]
                of_class = of_class[of_class > -1]
                name = metric._coco_api.loadCats(category)[0]["name"]
                kept[f"{words}-{name}"] = float(np.mean(of_class)) if of_class.size else math.nan

        with _followed("COCOeval", keep), _followed("COCOevalMP", keep):
            found = plain(results)
        setattr(metric, KEPT, kept)
        return found

    metric.compute_metrics = keeping


def _followed(name: str, keep: Callable[[Any], None]):
    """For a while, let CocoMetric's evaluations by class call `keep` when they are whole."""

    class Followed(getattr(coco_metric, name)):
        def accumulate(self, *args, **kwargs):
            super().accumulate(*args, **kwargs)
            if self.params.useCats:  # proposals have no classes
                keep(self)

    return mock.patch.object(coco_metric, name, Followed)


class ClassesHook(Hook):
    """Writes the scores of every class into the run's log, in a record before the metrics'."""

    priority = "HIGH"

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        scores = scores_of(runner.val_evaluator)
        if scores:
            runner.visualizer.add_scalars(scores, step=runner.iter)
