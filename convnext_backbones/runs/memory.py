"""Out of memory, in a sentence: what the run held, and which option saves most of it."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn

from ..console import counted
from ..errors import UserError
from ..network.convnext import GRN, Block, Trunk
from .whole_files import bytes_in_words

# Maps of a block's width that its steps keep for the backward pass: the depthwise convolution's input and
# output, the norm's output, the wide layer's before and after GELU (4 each), and the branch; GRN's, 4 more.
MAPS_OF_BLOCK, MAPS_OF_GRN = 12, 4

GPU = (
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "HIP out of memory",
)
CPU = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory", "std::bad_alloc")


class Picture(NamedTuple):
    """One of a batch. path: "" where it is not known; width and height in pixels, 0 where they are not."""

    path: str
    width: int = 0
    height: int = 0


class Options(NamedTuple):
    """What a framework calls the options that save memory, as they are written to a config."""

    batch: str  # the pictures of all processes or of one
    with_cp: str
    amp: str
    size: str
    workers: str


class Use(NamedTuple):
    """What a run needs memory for. batch: the option's value; amp: None where the device has none."""

    step: int
    pictures: list[Picture]
    model: nn.Module
    optimizer_copies: int
    batch: int
    amp: bool | None
    workers: int


def out_of_memory(
    error: BaseException, use_of_run: Callable[[], Use], options: Options
) -> UserError | None:
    """The sentence for an error, with the option that saves most; None where memory was not what failed, nor
    a data worker."""
    words = str(error)
    of_worker = re.search(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)(.*)", words)
    if of_worker:
        return _of_a_worker(of_worker[1], of_worker[2], use_of_run(), options)
    if isinstance(error, torch.cuda.OutOfMemoryError) or any(text in words for text in GPU):
        where = "the GPU's memory"
    elif isinstance(error, MemoryError) or any(text in words for text in CPU):
        where = "the machine's memory"
    else:
        return None
    use = use_of_run()
    asked = re.search(r"to allocate (?:([\d.]+ [KMGT]iB)|(\d+) bytes)", words)
    asked = f" (asked for {asked[1] or bytes_in_words(int(asked[2]))} more)" if asked else ""
    return UserError(
        f"{where} is full in step {use.step}{asked}, with {_batch(use)}; weights, gradients and optimizer take "
        f"{bytes_in_words(_of_weights(use))} of it. {_advice(use, options)}"
    )


def _of_a_worker(pid: str, end: str, use: Use, options: Options) -> UserError:
    held = f"{use.workers} workers ({options.workers}) hold some batches each, of {_batch(use)}"
    if "Killed" in end:
        return UserError(
            f"the system killed the data worker {pid}, as a rule because the machine's memory is full: {held}. "
            f"What saves most: {options.workers}={use.workers // 2}, and then {options.batch}="
            f"{max(1, use.batch // 2)}; with {options.workers}=0 the run reads its pictures itself"
        )
    if "Terminated" in end:
        return UserError(
            f"the data worker {pid} was sent SIGTERM, as a rule because the run is ended: another process's "
            "message says why"
        )
    if "Bus error" in end or "shared memory" in end:
        return UserError(
            f"the data worker {pid} found no room in shared memory (/dev/shm): {held}. In a container give it more "
            f"(docker run --shm-size=8g), or set {options.workers}=0"
        )
    return UserError(
        f"the data worker {pid} ended by itself{end.rstrip('.')}, before it had its batch. Run again with "
        f"{options.workers}=0: the picture that ends it then shows its error"
    )


def _batch(use: Use) -> str:
    sizes = [(p.width, p.height) for p in use.pictures if p.width]
    if not sizes:
        return f"a batch of {counted(use.batch, 'picture')}"
    width, height = (max(side) for side in zip(*sizes, strict=True))
    return f"a batch of {counted(len(sizes), 'picture')} of up to {width}x{height} pixels in this process"


def _of_weights(use: Use) -> int:
    trained = sum(p.numel() * p.element_size() for p in use.model.parameters() if p.requires_grad)
    every = sum(p.numel() * p.element_size() for p in use.model.parameters())
    return every + trained * (1 + use.optimizer_copies)


def _advice(use: Use, options: Options) -> str:
    """The options by what they save of the maps that the backbone keeps for the backward pass."""
    trunk = next((module for module in use.model.modules() if isinstance(module, Trunk)), None)
    kept, with_cp = _kept_maps(trunk, use) if trunk is not None else (0, 0)
    ways = {}
    if trunk is None or not trunk.with_cp:
        ways[options.with_cp] = kept - with_cp
    now = with_cp if trunk is not None and trunk.with_cp else kept
    if use.amp is False:
        ways[options.amp] = now // 2
    if use.batch > 1:
        ways[f"{options.batch}={max(1, use.batch // 2)} for {use.batch}"] = now - now * max(1, use.batch // 2) // use.batch  # fmt: skip
    ways[f"pictures of half the area ({options.size})"] = now // 2
    ordered = sorted(
        ways, key=lambda way: -ways[way]
    )  # equal ones stay: those that change least first
    if not kept:
        return f"What saves memory, most first: {', '.join(ordered)}"
    first, *others = [f"{way} saves about {bytes_in_words(ways[way])}" for way in ordered]
    rest = f"; {', '.join(others)}" if others else ""
    return (
        f"Of the {bytes_in_words(now)} that the backbone keeps for the backward pass, {first}, which is most"
        f"{rest}"
    )


def _kept_maps(trunk: Trunk, use: Use) -> tuple[int, int]:
    """Bytes that the trained blocks keep for the backward pass, as they are and with with_cp."""
    sizes = [(p.width, p.height) for p in use.pictures if p.width]
    if not sizes:
        return 0, 0
    width, height = (max(side) for side in zip(*sizes, strict=True))
    every, inputs, largest = 0, 0, 0
    stride = trunk.first_layer().stride[0] if trunk.first_layer() is not None else 4
    for number, stage in enumerate(trunk.stages):
        for block in _trained_blocks(stage):
            of_map = block.dwconv.out_channels * (width * height) // (stride * 2**number) ** 2
            has_grn = any(isinstance(module, GRN) for module in block.modules())
            whole = of_map * (MAPS_OF_BLOCK + MAPS_OF_GRN * has_grn)
            every, inputs, largest = every + whole, inputs + of_map, max(largest, whole)
    size = len(sizes) * (2 if use.amp else 4)
    return every * size, (inputs + largest) * size


def _trained_blocks(stage: nn.Module) -> Iterable[Block]:
    """The blocks that are trained."""
    for block in stage.modules():
        if isinstance(block, Block) and any(p.requires_grad for p in block.parameters()):
            yield block
