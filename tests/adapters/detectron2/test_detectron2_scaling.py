"""Detectron2's launch on two CPU processes: the groups, gradients and checkpoints of one."""

import itertools
import os
import warnings
from pathlib import Path

import pytest
import torch
from randomness import random_images, randomised, relative_difference

pytest.importorskip("detectron2")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import create_ddp_model, launch
from detectron2.modeling.backbone import FPN
from detectron2.utils import comm

from convnext_backbones.adapters.detectron2 import ConvNeXtV2, layer_decay_groups
from convnext_backbones.checkpoints import load_pretrained

ARCH = {"depths": (1, 2, 1), "dims": (8, 16, 24)}
STAGES = ("stage1", "stage2", "stage3")
SELECTIONS = [chosen for k in range(1, 4) for chosen in itertools.combinations(STAGES, k)]


def fpn(chosen: tuple[str, ...] = STAGES, **options) -> FPN:
    bottom_up = ConvNeXtV2(ARCH, out_features=chosen, **options)
    return randomised(FPN(bottom_up, list(chosen), 16)).train()


def gradients(model: torch.nn.Module, pictures: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    maps = model(pictures).values()
    loss = sum((x * random_images(*x.shape[1:])).sum() for x in maps) / len(pictures)
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def groups_of(model: torch.nn.Module) -> list[tuple]:
    groups = layer_decay_groups(model, lr=1e-3, weight_decay=0.05, decay_rate=0.8)
    return [(g["group_name"], g["lr"], g["weight_decay"], len(g["params"])) for g in groups]


def work(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = comm.get_rank()
    pictures = random_images(4, 3, 64, 64)
    for with_cp, chosen in zip(itertools.cycle((False, True)), SELECTIONS, strict=False):
        if any(int(b[-1]) - int(a[-1]) != 1 for a, b in itertools.pairwise(chosen)):
            continue  # FPN wants neighbouring strides
        model = fpn(chosen, with_cp=with_cp)
        expected = gradients(model, pictures)
        wrapped = create_ddp_model(model, broadcast_buffers=False, find_unused_parameters=False,
                                   device_ids=None)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of gradients' strides, too
            found = gradients(wrapped, pictures[2 * rank : 2 * rank + 2])
        for ours, one in zip(found, expected, strict=True):
            assert relative_difference(ours, one) < 1e-5
    assert groups_of(wrapped) == groups_of(model)
    if comm.is_main_process():
        DetectionCheckpointer(wrapped, str(folder)).save("model_final")
    comm.synchronize()


def test_two_processes_have_one_process_gradients_groups_and_weights(tmp_path):
    url = f"tcp://127.0.0.1:{29700 + os.getpid() % 1000}"
    launch(work, 2, num_machines=1, machine_rank=0, dist_url=url, args=(tmp_path,))
    backbone = ConvNeXtV2(ARCH, out_features=STAGES)
    load_pretrained(backbone, str(tmp_path / "model_final.pth"))
    for name, weight in fpn().bottom_up.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], weight)
