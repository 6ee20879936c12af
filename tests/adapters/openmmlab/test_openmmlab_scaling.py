"""MMEngine's FlexibleRunner and its strategies, DDP and FSDP, in two processes; and what Slurm sets."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from randomness import random_images, relative_difference
from torch import distributed, nn

pytest.importorskip("mmengine")

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from convnext_backbones.adapters.openmmlab import ConvNeXtV2
from convnext_backbones.adapters.openmmlab.checkpoints import read_training_checkpoint
from convnext_backbones.adapters.openmmlab.guards import StopOnSignal
from convnext_backbones.checkpoints import load_pretrained
from convnext_backbones.errors import CheckpointError, Stopped, UserError
from convnext_backbones.network.convnext import Block
from convnext_backbones.network.wrappers import unwrapped
from convnext_backbones.runs.interruption import Interruption

ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
OTHER = dict(depths=(1, 1, 2, 1), dims=(8, 8, 16, 16))
OPTIONS = dict(out_indices=(0, 3))
STEPS = 4


class Pictures(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [{"index": index} for index in range(8)]

    def prepare_data(self, index: int) -> dict:
        return {"inputs": random_images(3, 32, 32, seed=index)}


class Model(BaseModel):
    def __init__(self, arch: dict):
        super().__init__()
        self.backbone = ConvNeXtV2(arch=arch, **OPTIONS)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        first, last = self.backbone(torch.stack(list(inputs)))
        outputs = self.head(last.mean((2, 3)))
        return {"loss": outputs.square().mean() + first.square().mean()}


def strategy_of(kind: str) -> dict:
    if kind == "one":
        return dict(type="SingleDeviceStrategy")
    if kind == "ddp":
        wrapper = dict(type="MMDistributedDataParallel", broadcast_buffers=False, device_ids=None)
        return dict(type="DDPStrategy", model_wrapper=wrapper)
    wrapper = dict(
        type="MMFullyShardedDataParallel", device_id=torch.device("cpu"), use_orig_params=True,
        auto_wrap_policy=ModuleWrapPolicy({Block}),
    )  # fmt: skip
    return dict(
        type="FSDPStrategy", state_dict_cfg="local" if kind == "pieces" else "full",
        model_wrapper=wrapper,
        activation_checkpointing=dict(check_fn=lambda module: isinstance(module, Block)),
    )  # fmt: skip


def train(folder: Path, kind: str, *, steps: int = STEPS, arch: dict = ARCH, **options) -> dict:
    """The weights after the steps, by their names in the model alone."""
    torch.manual_seed(0)
    loader = dict(
        batch_size=2, num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=False),
        collate_fn=dict(type="pseudo_collate"),
    )  # fmt: skip
    runner = FlexibleRunner(
        model=Model(arch),
        work_dir=str(folder),
        strategy=strategy_of(kind),
        train_dataloader=dict(dataset=Pictures(), **loader),
        train_cfg=dict(by_epoch=False, max_iters=steps),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.05),
            constructor="ConvNeXtLayerDecay",
            paramwise_cfg=dict(decay_rate=0.9),
        ),
        param_scheduler=dict(type="PolyLR", end=10, by_epoch=False),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2)),
        randomness=dict(seed=3),
        log_level="WARNING",
        experiment_name=f"{folder.name}{len(list(folder.glob('*')))}",
        **options,
    )
    runner.train()
    distributed.is_initialized() and distributed.barrier()
    return weights_in(folder / f"iter_{steps}.pth")


def weights_in(file: Path) -> dict:
    state = read_training_checkpoint(str(file))["state_dict"]
    return {unwrapped(name): value for name, value in state.items()}


def copied(folder: Path, to: str) -> Path:
    """A run's folder, for a run of another kind to go on in."""
    new = folder.with_name(to)
    if distributed.get_rank() == 0:
        shutil.copytree(folder, new)
        (new / "last_checkpoint").write_text(str(new / "iter_2.pth"))
    distributed.barrier()
    return new


def work(rank: int, folder: Path) -> None:
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2
    )
    expected = train(folder / "ddp", "ddp")
    for kind in ("ddp", "fsdp"):
        train(folder / f"{kind}_begun", kind, steps=2)
    for first, then in (("ddp", "fsdp"), ("fsdp", "fsdp"), ("fsdp", "ddp")):
        gone_on = copied(folder / f"{first}_begun", f"{first}_then_{then}")
        found = train(gone_on, then, resume=True)
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            assert relative_difference(found[name], weight) < 1e-4, (first, then, name)
    refused_and_taken(folder)
    stopped_together(folder / "stopped", rank)
    distributed.barrier()
    distributed.destroy_process_group()


def refused_and_taken(folder: Path) -> None:
    with pytest.raises(UserError, match="state_dict_cfg='full'"):
        train(folder / "pieces", "pieces")
    saved = str(folder / "ddp_begun" / "iter_2.pth")
    alone = f"{saved}?prefix=backbone"
    with pytest.raises(CheckpointError, match="before FSDP shards the model"):
        train(folder / "alone_fsdp", "fsdp", load_from=alone)
    train(folder / "alone_ddp", "ddp", steps=2, load_from=alone)
    for kind in ("ddp", "fsdp"):
        with pytest.raises(CheckpointError, match="the backbone of this checkpoint is"):
            train(folder / f"other_{kind}", kind, arch=OTHER, load_from=saved)
        with pytest.raises(CheckpointError, match="the backbone of this checkpoint is"):
            train(folder / f"resumed_{kind}", kind, arch=OTHER, load_from=saved, resume=True)


class Signalled(Hook):
    """SIGTERM reaches one of the processes, between two steps."""

    def __init__(self, interruption: Interruption, rank: int):
        self.interruption, self.rank = interruption, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 1 and self.rank == 1:
            self.interruption.signal = signal.SIGTERM


def stopped_together(folder: Path, rank: int) -> None:
    interruption = Interruption()
    hooks = [Signalled(interruption, rank), StopOnSignal(interruption)]
    with pytest.raises(Stopped, match="stopped after step 2") as stopped:
        train(folder, "ddp", custom_hooks=hooks)
    assert stopped.value.status == 128 + signal.SIGTERM
    distributed.barrier()
    assert read_training_checkpoint(str(folder / "interrupted_at_iter_2.pth"))["meta"]["iter"] == 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    return folder


def test_runs_with_ddp_and_fsdp_go_on_as_each_other(runs):
    """The assertions are in the processes."""
    assert (runs / "fsdp_then_ddp" / "iter_4.pth").exists()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_what_several_processes_save_loads_into_a_backbone(runs, kind):
    file = runs / f"{kind}_begun" / "iter_2.pth"
    backbone = ConvNeXtV2(arch=ARCH, **OPTIONS)
    load_pretrained(backbone, str(file))
    saved = weights_in(file)
    for name, weight in backbone.state_dict().items():
        assert torch.equal(weight, saved[f"backbone.{name}"])


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_one_process_goes_on_from_two_and_says_so(runs, kind, tmp_path):
    shutil.copy(runs / f"{kind}_begun" / "iter_2.pth", tmp_path)
    train(tmp_path, "one", resume=str(tmp_path / "iter_2.pth"))
    (log,) = tmp_path.glob("*/*.log")
    assert "goes on at the same picture with 1 processes instead of 2" in log.read_text()


# ---- the command line, and Slurm -----------------------------------------------------------------
def test_a_config_of_another_runner_is_refused():
    from argparse import Namespace

    from convnext_backbones.adapters.openmmlab.run import take_options

    cfg = Config(dict(runner_type="FlexibleRunner", strategy=dict(type="FSDPStrategy")))
    args = Namespace(config="mine.py", launcher="none", local_rank=0)
    with pytest.raises(UserError, match=r"mine\.py: runner_type, strategy.*own tools/train\.py"):
        take_options(cfg, args)


SLURM = """
import torch
from mmengine.dist import init_dist
torch.cuda.set_device = lambda device: print("device", device)
init_dist("slurm", backend="gloo")
total = torch.ones(1) * torch.distributed.get_rank()
torch.distributed.all_reduce(total)
print("sum", total.item(), "of", torch.distributed.get_world_size())
torch.distributed.destroy_process_group()
"""


def test_two_tasks_of_slurm_find_each_other(tmp_path):
    """By the variables that srun sets and scontrol's list of nodes, here a script."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\necho node2\n")
    scontrol.chmod(0o755)
    port = str(29600 + os.getpid() % 1000)
    tasks = []
    for task in range(2):
        slurm = dict(
            SLURM_PROCID=str(task), SLURM_NTASKS="2", SLURM_NODELIST="node[1-2]", SLURM_LOCALID=str(task)
        )  # fmt: skip
        path = f"{tmp_path}:{os.environ['PATH']}"
        environment = {**os.environ, **slurm, "PATH": path, "MASTER_PORT": port}
        tasks.append(
            subprocess.Popen(
                [sys.executable, "-c", SLURM], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    for task, process in enumerate(tasks):
        output = process.communicate(timeout=120)[0]
        assert f"device {task}" in output
        assert "sum 1.0 of 2" in output
