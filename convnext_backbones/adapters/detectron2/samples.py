"""Training samples as Detectron2's models are given them, for show-data."""

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, ImageList, Instances

from ...runs.host import Classes, Result, Sample
from ...runs.preparation import refused
from ...runs.randomness import seeded_by
from ...runs.results import filled
from .configs import Run, YamlRun
from .data import IGNORE
from .trying import try_mappers


def samples(run: Run, count: int, seed: int) -> list[Sample]:
    """The first `count`, in batches as the config's sampler makes them, padded as its model pads them. What
    is marked iscrowd Detectron2's mapper leaves out."""
    _load_here(run)
    found: list[Sample] = []
    with seeded_by(seed):
        with refused("training data"):
            loader = run.build_train_loader()
            try_mappers(loader, run.build_test_mapper)
        with refused("model"), torch.device("meta"):
            model = run.build_model()
        meta = MetadataCatalog.get(run.settings.train_data[0])
        for batch in loader:
            found += _of_batch(run, batch, model.backbone, meta)
            if len(found) >= count:
                break
    return found[:count]


def _load_here(run: Run) -> None:
    """Without data workers, on no device."""
    run.set(device="meta")
    if isinstance(run, YamlRun):
        run.cfg.DATALOADER.NUM_WORKERS = 0
    else:
        run.cfg.dataloader.train.num_workers = 0


def _of_batch(run: Run, batch: list[dict], backbone, meta) -> list[Sample]:
    channels = run.channels
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in run.normalisation)
    padded = ImageList.from_tensors(
        [(entry["image"].float() - mean) / std for entry in batch],
        backbone.size_divisibility, padding_constraints=backbone.padding_constraints,
    )  # fmt: skip
    made = []
    for given, size, entry in zip(padded.tensor, padded.image_sizes, batch, strict=True):
        image = (given * std + mean).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        own = given[:, : size[0], : size[1]]
        made.append(
            Sample(
                image=np.ascontiguousarray(image[..., ::-1] if channels == "BGR" else image),
                size=tuple(int(side) for side in size),
                truth=_truth(entry, meta, image.shape[:2]),
                ignored=np.zeros((0, 4)),
                file=str(entry.get("file_name", "")),
                values=(own.mean().item(), own.std().item()),
                channels=channels,
            )
        )
    return made


def _truth(entry: dict, meta, shape: tuple[int, int]) -> Result:
    """The labels on the picture with its padding; of a panoptic sample the instances."""
    if "instances" in entry:
        instances = entry["instances"]
        return Result(
            Classes(meta.get("thing_classes") or (), meta.get("thing_colors") or None),
            boxes=instances.gt_boxes.tensor.numpy() if instances.has("gt_boxes") else np.zeros((0, 4)),
            labels=instances.gt_classes.numpy() if instances.has("gt_classes") else np.zeros(0, int),
            masks=_masks(instances, shape),
        )  # fmt: skip
    if "sem_seg" not in entry:
        return Result()
    labels = np.full(shape, IGNORE, np.int64)
    own = entry["sem_seg"].numpy()
    void = meta.get("ignore_label", IGNORE)
    labels[: own.shape[0], : own.shape[1]] = np.where(own == void, IGNORE, own)
    classes = Classes(meta.get("stuff_classes") or (), meta.get("stuff_colors") or None)
    return Result(classes, label_map=labels)


def _masks(instances: Instances, shape: tuple[int, int]) -> np.ndarray | None:
    if not len(instances) or not instances.has("gt_masks"):
        return None
    found = instances.gt_masks
    masks = np.zeros((len(instances), *shape), bool)
    if isinstance(found, BitMasks):
        own = found.tensor.numpy()
        masks[:, : own.shape[1], : own.shape[2]] = own
        return masks
    for mask, polygons in zip(masks, found.polygons, strict=True):
        mask[:] = filled([list(map(float, polygon)) for polygon in polygons], *shape)
    return masks
