"""Training samples as MMDetection's and MMSegmentation's models are given them, for show-data."""

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from ...runs.host import Sample
from ...runs.preparation import refused
from ...runs.randomness import seeded_by
from .data_places import try_pipeline
from .prediction import truth_of

UNNORMALISED = dict(type="BaseDataPreprocessor")  # what a model without one has


def samples(cfg: Config, count: int, seed: int) -> list[Sample]:
    """The first `count`, in batches as the config's sampler makes them, through its data_preprocessor."""
    init_default_scope(cfg.default_scope)
    settings = copy.deepcopy(cfg.train_dataloader)
    settings.update(num_workers=0, persistent_workers=False)
    found: list[Sample] = []
    with seeded_by(seed), torch.no_grad():
        with refused("training data"):
            loader = Runner.build_dataloader(settings, seed=seed)
            try_pipeline(loader.dataset, "training")
        with refused("data preprocessor"):
            wanted = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor")
            preprocessor = MODELS.build(copy.deepcopy(wanted or UNNORMALISED))
        meta = loader.dataset.metainfo
        for batch in loader:
            given = preprocessor(batch, True)
            found += _of_batch(given["inputs"], given["data_samples"], preprocessor, meta)
            if len(found) >= count:
                break
    return found[:count]


def _of_batch(inputs, data_samples, preprocessor, meta: dict, branch: str = "") -> Iterator[Sample]:
    if isinstance(inputs, Mapping):  # several pipelines of one picture
        for name in inputs:
            yield from _of_batch(inputs[name], data_samples[name], preprocessor, meta, name)
        return
    inner = getattr(preprocessor, "data_preprocessor", preprocessor)
    converts = getattr(inner, "_channel_conversion", getattr(inner, "channel_conversion", False))
    channels = "RGB" if converts else "BGR"  # mmcv reads pictures as BGR
    for given, sample in zip(inputs, data_samples, strict=True):
        given = given.float().cpu()
        image = _undone(given, inner)
        height, width = image.shape[:2]
        if channels == "BGR":
            image = image[..., ::-1]
        size = sample.metainfo.get("img_shape", (height, width))
        size = min(int(size[0]), height), min(int(size[1]), width)
        own = given[:, : size[0], : size[1]]
        yield Sample(
            image=np.ascontiguousarray(image),
            size=size,
            truth=_truth(sample, meta, image),
            ignored=_ignored(sample),
            file=str(sample.metainfo.get("img_path", "")),
            values=(own.mean().item(), own.std().item()),
            channels=channels,
            note=branch,
        )


def _undone(given: torch.Tensor, preprocessor) -> np.ndarray:
    """(3, H, W) of a network to (H, W, 3) uint8, its channels in the order of the network."""
    if getattr(preprocessor, "_enable_normalize", False):
        given = given * preprocessor.std.cpu() + preprocessor.mean.cpu()
    elif given.min() < 0 or given.max() <= 1:  # normalised by a transform, which leaves no figures
        given = (given - given.min()) / (given.max() - given.min()).clamp_min(1e-6) * 255
    return given.round().clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy()


def _truth(sample, meta: dict, image: np.ndarray):
    """The labels on the picture with its padding; of a panoptic sample the instances."""
    if "gt_instances" in sample and "gt_sem_seg" in sample:
        del sample.gt_sem_seg
    truth = truth_of(sample, meta, image)
    if truth.masks is not None:
        n, height, width = truth.masks.shape
        masks = np.zeros((n, *image.shape[:2]), bool)
        masks[:, :height, :width] = truth.masks[:, : image.shape[0], : image.shape[1]]
        truth = truth._replace(masks=masks)
    return truth


def _ignored(sample) -> np.ndarray:
    boxes = sample.ignored_instances.bboxes if "ignored_instances" in sample else np.zeros((0, 4))
    boxes = getattr(boxes, "tensor", boxes)
    return np.asarray(boxes.cpu() if isinstance(boxes, torch.Tensor) else boxes).reshape(-1, 4)
