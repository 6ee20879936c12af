"""Two processes train as one does: under DDP, FSDP and FSDP2, on one node and on two."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from convnext_backbones import ConvNeXt, ConvNeXtV2
from convnext_backbones.checkpoints import load_pretrained
from convnext_backbones.network.convnext import Block
from convnext_backbones.network.sharding import whole_parameters
from convnext_backbones.recipes.layer_decay import parameter_groups

ARCH = {"depths": (1, 2, 1), "dims": (8, 16, 24)}
STAGES = range(3)
SELECTIONS = [
    chosen for k in range(1, 4) for chosen in itertools.combinations(STAGES, k)
]  # of out_indices
CPU = torch.device("cpu")


def model_of(version: type = ConvNeXtV2, **options) -> nn.Module:
    return randomised(version(ARCH, **{"out_indices": tuple(STAGES), **options})).train()


def loss_of(maps) -> torch.Tensor:
    return sum((x.float() * random_images(*x.shape[1:])).sum() for x in maps) / len(maps[0])


def batch(*, half: int | None = None) -> torch.Tensor:
    """Four pictures, or a process's two of them."""
    pictures = random_images(4, 3, 64, 64)
    return pictures if half is None else pictures[2 * half : 2 * half + 2]


def gradients(model: nn.Module, pictures: torch.Tensor, *, amp: bool = False) -> dict:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        loss = loss_of(model(pictures))
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def groups_of(model: nn.Module) -> list[tuple]:
    with whole_parameters(model):
        groups = parameter_groups(
            model.named_parameters(), ARCH["depths"], lr=1e-3, weight_decay=0.05, decay_rate=0.8
        )
    return [(g["group_name"], g["lr"], g["weight_decay"], len(g["params"])) for g in groups]


def assert_close(found: dict, expected: dict, tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative_difference(found[name], gradient) <= tolerance, name


# ---- what each of two processes does -------------------------------------------------------------
def under_ddp(rank: int, folder: Path) -> None:
    """Every selection, without find_unused_parameters."""
    ways = itertools.cycle([{}, {"with_cp": True}, {"amp": True}, {"channels_last": True}])
    for version, chosen in itertools.product((ConvNeXt, ConvNeXtV2), SELECTIONS):
        way = dict(next(ways))
        amp, last = way.pop("amp", False), way.pop("channels_last", False)
        model = model_of(version, out_indices=chosen, **way)
        if last:
            model.to(memory_format=torch.channels_last)
        expected = {k: v.clone() for k, v in gradients(model, batch(), amp=amp).items()}
        wrapped = DistributedDataParallel(model, find_unused_parameters=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of strides, too: torch warns of them once in a process
            for _ in range(3):
                found = gradients(wrapped, batch(half=rank), amp=amp)
        found = {name.removeprefix("module."): g for name, g in found.items()}
        assert_close(found, expected, 0.02 if amp else 1e-5)
        assert all(
            g.stride() == p.stride()
            for g, p in zip(found.values(), model.parameters(), strict=True)
        )
    assert groups_of(wrapped) == groups_of(model)


def under_fsdp2(rank: int, folder: Path) -> None:
    expected = gradients(model_of(), batch())
    model = model_of(with_cp=True)
    for block in [m for m in model.modules() if isinstance(m, Block)]:
        fully_shard(block)
    fully_shard(model)
    found = gradients(model, batch(half=rank))
    assert_close({name: g.full_tensor() for name, g in found.items()}, expected, 1e-5)
    assert groups_of(model) == groups_of(model_of())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    save_and_load(get_model_state_dict(model, options=options), rank, folder / "fsdp2.pth")


def under_fsdp(rank: int, folder: Path) -> None:
    expected = gradients(model_of(), batch())
    policy = ModuleWrapPolicy({Block})
    model = FullyShardedDataParallel(
        model_of(), auto_wrap_policy=policy, device_id=CPU, use_orig_params=True
    )
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))
    gradients(model, batch(half=rank))
    with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
        found = [p.grad.clone() for p in model.parameters()]
    assert_close(dict(zip(expected, found, strict=True)), expected, 1e-5)
    assert groups_of(model) == groups_of(model_of())
    options = StateDictOptions(full_state_dict=True)
    save_and_load(get_model_state_dict(model, options=options), rank, folder / "fsdp.pth")


def save_and_load(state: dict, rank: int, file: Path) -> None:
    """Our loader reads what rank 0 saves."""
    if rank == 0:
        torch.save({"model": state}, file)
        fresh = ConvNeXtV2(ARCH, out_indices=tuple(STAGES))
        load_pretrained(fresh, str(file))
        assert_close(fresh.state_dict(), model_of().state_dict(), 0.0)
    distributed.barrier()


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2
    )
    for check in (under_ddp, under_fsdp2, under_fsdp):
        check(rank, folder)
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_have_one_process_gradients_groups_and_weights(tmp_path):
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=2)


# ---- two nodes -----------------------------------------------------------------------------------
STEPS = """
import sys, torch
from torch.nn.parallel import DistributedDataParallel
sys.path[:0] = {paths!r}
from test_scaling import batch, loss_of, model_of

torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
model = DistributedDataParallel(model_of())
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(2):
    optimizer.zero_grad()
    loss_of(model(batch(half=rank))).backward()
    optimizer.step()
torch.save(model.module.state_dict(), sys.argv[1] + f"/rank{{rank}}.pth")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
HERE = Path(__file__).parent


def torchrun(node: str, own: str, meeting: str, folder: Path, is_host: bool) -> list[str]:
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--local-addr", own]
    return [
        *(["ip", "netns", "exec", node] if node else []),
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *(*rendezvous, "--rdzv-id", "two-nodes", "--rdzv-conf", f"is_host={is_host},timeout=60"),
        *(str(folder / "steps.py"), str(folder)),
    ]


def train_on(nodes: list[tuple[str, str, dict]], folder: Path) -> None:
    """torchrun on each node (name, own address, environment), which meet at the first."""
    (folder / "steps.py").write_text(STEPS.format(paths=[str(HERE), str(HERE.parent)]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for k, (name, own, environment) in enumerate(nodes):
        command = torchrun(name, own, f"{nodes[0][1]}:{port}", folder, k == 0)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        for process in processes:
            output = process.communicate(timeout=150)[0]
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()


def one_process() -> dict:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model(batch())).backward()
        optimizer.step()
    return model.state_dict()


@pytest.fixture
def namespaces():
    """Two network namespaces that see each other through a pair of virtual cards, and nothing else."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    names = [f"cnb{os.getpid()}{end}" for end in "ab"]
    cards = [f"v{name[3:]}" for name in names]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cards[0], "netns", names[0], "type", "veth", "peer", "name", cards[1],
           "netns", names[1])  # fmt: skip
        for k, (name, card) in enumerate(zip(names, cards, strict=True), start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{k}/24", "dev", card)
            ip("-n", name, "link", "set", card, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        pytest.skip(f"this machine gives no network namespaces: {error.stderr.strip()}")
    yield [
        (name, f"10.77.0.{k}", {"GLOO_SOCKET_IFNAME": card})
        for k, (name, card) in enumerate(zip(names, cards, strict=True), start=1)
    ]
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def assert_trained_as_one(folder: Path) -> None:
    expected = one_process()
    for rank in range(2):
        found = torch.load(folder / f"rank{rank}.pth", weights_only=True)
        assert_close(found, expected, 1e-5)


@pytest.mark.slow
def test_two_torchruns_that_meet_train_as_one_process(tmp_path):
    train_on([("", "127.0.0.1", {}), ("", "127.0.0.1", {})], tmp_path)
    assert_trained_as_one(tmp_path)


@pytest.mark.slow
def test_two_nodes_in_namespaces_of_their_own_train_as_one_process(namespaces, tmp_path):
    train_on(namespaces, tmp_path)
    assert_trained_as_one(tmp_path)
