"""What a config's validation set says of any function from a picture to what is in it, such as a file in
the place of the model: by the config's own data set and evaluator."""

from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from ...console import progress
from ...runs.calibration import spread
from ...runs.host import Result
from ...runs.report import metrics_of
from .run import _metrics


def accuracy(run, see: Callable[[Path], Result], most: int) -> tuple[dict[str, float], int]:
    """The metrics, by the names of runs.report, of at most so many pictures spread over the first data set
    that the config tests on; and how many there were."""
    dataset = run.settings.test_data[0]
    loader, evaluator = run.build_test_loader(dataset), run.build_evaluator(dataset)
    evaluators = getattr(evaluator, "_evaluators", [evaluator])  # of DatasetEvaluators
    chosen, images = spread(len(loader.dataset), most), []
    for one in evaluators:
        one.reset()
    for k in progress(chosen, "evaluating", unit="picture"):
        record = loader.dataset[k]
        images.append(record.get("image_id"))
        output = _output(see(Path(record["file_name"])))
        for one in evaluators:
            one.process([record], [output])
    found = {}
    for one in evaluators:
        of_coco = isinstance(
            one, COCOEvaluator
        )  # else it counts every picture of the annotation file
        options = {"img_ids": images} if of_coco else {}
        found |= one.evaluate(**options) or {}
    found = flatten_results_dict(found)
    found = metrics_of(_metrics(found, found))
    return {name: float(value) for name, value in found.items()}, len(chosen)


def _output(result: Result) -> dict:
    """A result as the model of a data set's picture gives it."""
    if result.label_map is not None:
        labels = torch.from_numpy(result.label_map)
        classes = max(len(result.classes.names), int(labels.max()) + 1)
        return {"sem_seg": F.one_hot(labels, classes).permute(2, 0, 1)}
    size = result.masks.shape[1:] if result.masks is not None else (0, 0)
    found = Instances(size)
    found.pred_boxes = Boxes(torch.from_numpy(result.boxes))
    found.scores = torch.from_numpy(result.scores)
    found.pred_classes = torch.from_numpy(result.labels)
    if result.masks is not None:
        found.pred_masks = torch.from_numpy(result.masks)
    return {"instances": found}
