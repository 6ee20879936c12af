"""Each library tried as this project uses it, in a process of its own: a broken one may end its process.

`python -m convnext_backbones.doctor.trials NAME` runs one, and prints an Outcome as JSON in its last line.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

SECONDS = 180  # the longest that a trial may take
IMAGE = 64  # pixels a side
DEPTHS, DIMS = [1, 1, 1, 1], [8, 16, 32, 64]  # of the small network
DETECTOR, SEGMENTOR = "coco_mask_rcnn_convnextv2_t", "ade20k_upernet_convnextv2_t"
DETECTRON2 = "detectron2/coco_mask_rcnn_convnextv2_t.py"


class Outcome(NamedTuple):
    """status: "works", "fails" or "absent" (the library is not installed)."""

    status: str
    said: str  # what worked, or the error in a line
    facts: dict[str, object] = {}  # noqa: RUF012 - never changed


def try_all(names: list[str]) -> dict[str, Outcome]:
    """The outcomes of the trials of these names; two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(try_one, names), strict=True))


def try_one(name: str) -> Outcome:
    """Its outcome, tried in another process."""
    command = [sys.executable, "-W", "ignore", "-m", __name__, name]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return Outcome("fails", f"did not end in {SECONDS} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        try:
            return Outcome(*json.loads(lines[-1]))
        except (json.JSONDecodeError, TypeError):
            pass
    last = (done.stderr.strip() or "nothing was said").splitlines()[-1]
    if done.returncode < 0:
        return Outcome("fails", f"its process ended by signal {-done.returncode}: {last}")
    return Outcome("fails", last)


def torch() -> Outcome:
    import torch

    x = torch.randn(8, 8, requires_grad=True)
    (x @ x).sum().backward()
    facts = {"cuda": torch.version.cuda, "devices": []}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            y = torch.randn(8, 8, device=f"cuda:{index}")
            (y @ y).sum().item()
            facts["devices"].append(torch.cuda.get_device_name(index))
    said = ", ".join(facts["devices"]) or "on the CPU"
    return Outcome("works", f"a product and its gradient, {said}", facts)


def torchvision() -> Outcome:
    import torch
    from torchvision.ops import nms

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    return Outcome("works", "its operators")


def backbone() -> Outcome:
    """Built, a step, weights written and loaded whole."""
    from safetensors.torch import save_file
    from torch import randn

    from ..checkpoints.loading import load_pretrained
    from ..network.convnext import ConvNeXtV2

    arch = dict(depths=DEPTHS, dims=DIMS)
    model = ConvNeXtV2(arch=arch, out_indices=(0, 1, 2, 3))
    maps = model(randn(1, 3, IMAGE, IMAGE))
    sum(one.sum() for one in maps).backward()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "weights.safetensors"))
        save_file(model.state_dict(), path)
        load_pretrained(ConvNeXtV2(arch=arch, out_indices=(0, 1, 2, 3)), path)
    return Outcome("works", "a step, weights written and loaded whole")


def pictures() -> Outcome:
    """What reads, draws and measures: OpenCV, pycocotools, matplotlib, supervision."""
    for name in ("cv2", "pycocotools.mask", "matplotlib", "supervision", "rich", "jinja2"):
        importlib.import_module(name)
    return Outcome("works", "OpenCV, pycocotools, matplotlib, supervision import")


def mmcv() -> Outcome:
    import torch
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    nms(boxes, torch.tensor([1.0]), 0.5)
    roi_align(torch.randn(1, 1, 8, 8), torch.cat([torch.zeros(1, 1), boxes], 1), (2, 2))
    if torch.cuda.is_available():
        nms(boxes.cuda(), torch.tensor([1.0]).cuda(), 0.5)
        return Outcome("works", "its operators, on the CPU and the GPU")
    return Outcome("works", "its operators")


def mmdet() -> Outcome:
    """One training step of Mask R-CNN."""
    import mmdet.models  # noqa: F401
    import torch
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    settings = _openmmlab(DETECTOR, "mmdet")
    settings.neck.in_channels = DIMS
    model = MODELS.build(settings)
    sample = DetDataSample(metainfo=_metainfo())
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]),
        labels=torch.tensor([0]),
        masks=BitmapMasks([_square()], IMAGE, IMAGE),
    )
    return _step(model, sample)


def mmseg() -> Outcome:
    """One training step of UPerNet."""
    import mmseg.models  # noqa: F401
    import torch
    from mmengine.model import revert_sync_batchnorm
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    settings = _openmmlab(SEGMENTOR, "mmseg")
    settings.decode_head.update(in_channels=DIMS, channels=16)
    settings.auxiliary_head.update(in_channels=DIMS[2], channels=16)
    model = revert_sync_batchnorm(MODELS.build(settings))
    samples = []
    for _ in range(2):  # BatchNorm of a pooled pixel needs two
        sample = SegDataSample(metainfo=_metainfo())
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(_square()[None]).long())
        samples.append(sample)
    return _step(model, *samples)


def detectron2() -> Outcome:
    """One training step of Mask R-CNN."""
    import torch
    from detectron2 import _C  # noqa: F401
    from detectron2.config import LazyConfig, instantiate
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    from ..runs.preparation import shipped_config

    cfg = LazyConfig.load(str(shipped_config(DETECTRON2)))
    cfg.model.backbone.bottom_up.arch = dict(depths=DEPTHS, dims=DIMS)
    model = instantiate(cfg.model).train()
    truth = Instances(
        (IMAGE, IMAGE),
        gt_boxes=Boxes([[8.0, 8.0, 40.0, 40.0]]),
        gt_classes=torch.tensor([0]),
        gt_masks=BitMasks(torch.from_numpy(_square()[None]).bool()),
    )
    image = torch.randint(0, 256, (3, IMAGE, IMAGE)).float()
    with EventStorage():
        losses = model([dict(image=image, instances=truth, height=IMAGE, width=IMAGE)])
    sum(losses.values()).backward()
    return Outcome("works", "a step of Mask R-CNN")


def timm() -> Outcome:
    import timm

    timm.create_model("convnext_atto", num_classes=0)
    return Outcome("works", "a model")


def transformers() -> Outcome:
    from transformers import ConvNextV2Config, ConvNextV2Model

    ConvNextV2Model(ConvNextV2Config(depths=DEPTHS, hidden_sizes=DIMS))
    return Outcome("works", "a model")


TRIALS: dict[str, Callable[[], Outcome]] = {
    trial.__name__: trial
    for trial in (
        *(torch, torchvision, backbone, pictures, mmcv, mmdet, mmseg, detectron2),
        *(timm, transformers),
    )
}


# ---- what trials share ---------------------------------------------------------------------------
def _openmmlab(name: str, scope: str):
    """The model of a shipped config, with a small backbone of random weights."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from ..runs.preparation import shipped_config

    cfg = Config.fromfile(str(shipped_config(name)))
    init_default_scope(scope)
    cfg.model.backbone.update(arch=dict(depths=DEPTHS, dims=DIMS), init_cfg=None)
    return cfg.model


def _metainfo() -> dict[str, object]:
    size = (IMAGE, IMAGE)
    return dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
                scale_factor=(1.0, 1.0))  # fmt: skip


def _square():
    """(IMAGE, IMAGE) uint8, 1 in the box of the object."""
    import numpy as np

    mask = np.zeros((IMAGE, IMAGE), np.uint8)
    mask[8:40, 8:40] = 1
    return mask


def _step(model, *samples) -> Outcome:
    import torch

    model.train()
    images = [torch.randint(0, 256, (3, IMAGE, IMAGE), dtype=torch.uint8) for _ in samples]
    data = model.data_preprocessor(dict(inputs=images, data_samples=list(samples)), True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    return Outcome("works", f"a step of {type(model).__name__}")


def _main(name: str) -> None:
    try:
        outcome = TRIALS[name]()
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        absent = missing == name
        outcome = Outcome(
            "absent" if absent else "fails", f"needs {missing}, which is not installed"
        )
    except Exception as error:
        root = error
        while root.__cause__ is not None:  # an adapter's sentence stands over the library's own
            root = root.__cause__
        line = " ".join("".join(traceback.format_exception_only(root)).split())
        outcome = Outcome("fails", line[:400])
    print(f"\n{json.dumps(outcome)}")


if __name__ == "__main__":
    _main(sys.argv[1])
