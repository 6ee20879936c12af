"""IoU and AP of every class, which MMSegmentation and MMDetection print and do not return.

Their metrics, by which checkpoints are compared, stay as they are. Names as in Detectron2's adapter:
"IoU-road (%)", "AP-person" of boxes and "mask AP-person", from 0 to 1.
"""

from mmdet.evaluation import CocoMetric
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
    """With classwise=True, which adds a name for each class to the metrics; they are taken out again
    unless the config asked for them. Of boxes and masks the last named counts."""
    plain, asked = metric.compute_metrics, metric.classwise
    of = "mask AP" if metric.metrics[-1] == "segm" else "AP"
    metric.classwise = True

    def keeping(results):
        found = plain(results)
        by_class = {k: v for k, v in found.items() if k.endswith("_precision")}
        setattr(
            metric,
            KEPT,
            {f"{of}-{k.removesuffix('_precision')}": float(v) for k, v in by_class.items()},
        )
        return found if asked else {k: v for k, v in found.items() if k not in by_class}

    metric.compute_metrics = keeping


class ClassesHook(Hook):
    """Writes the scores of every class into the run's log, in a record before the metrics'."""

    priority = "HIGH"

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        scores = scores_of(runner.val_evaluator)
        if scores:
            runner.visualizer.add_scalars(scores, step=runner.iter)
