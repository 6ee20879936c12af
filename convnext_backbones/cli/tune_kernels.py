"""Check the Triton kernels, choose their tiles, and write down where they are faster. Needs a GPU.

    convnext-backbones tune-kernels
    convnext-backbones tune-kernels --quick
    convnext-backbones tune-kernels --check-only
    convnext-backbones tune-kernels --output convnext_backbones/kernels/triton/tuned/nvidia-h200.json
    convnext-backbones tune-kernels --interpret

First every kernel in every configuration, and whole blocks with all their gradients, are compared
with plain PyTorch in float64, on fresh random inputs: the error may be at most twice that of plain
PyTorch in the same data type, plus one rounding of the largest value (1e-6 in float32). A kernel
that fails ends the run. Then the configurations are timed for the maps of Tiny's, Base's and Large's
stages, and the fastest beside the plain operators it replaces: interleaved rounds, CUDA events,
medians, launches included as in eager mode. Last a block with the faster ones is timed beside one of plain
steps, in a training step under autocast and in inference: no kernel runs where the block is not faster.

The table goes to ~/.cache/convnext-backbones/tuned/DEVICE.json, from where the kernels are switched
on for shapes near the measured ones, on this device alone. It is written after every shape, and a
table that is there already keeps its other shapes. TF32 is left as torch has it.

--interpret does the comparison of the kernels alone, on a CPU, in Triton's interpreter, on tiny maps.
The interpreter cuts float32 off where it should round to bfloat16, so bfloat16 may have twice the
error there. Whole blocks are interpreted by tests/kernels/test_triton_kernels.py.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..network.variants import VARIANTS
from . import make_parser, number

DTYPES = ("float32", "float16", "bfloat16")


def parse(argv: Sequence[str] | None):
    parser = make_parser("tune-kernels", __doc__)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base", "large"], metavar="SIZE")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], choices=DTYPES, help="timed")
    parser.add_argument("--quick", action="store_true", help="Tiny, two image sizes, fewer rounds")
    parser.add_argument("--check-only", action="store_true", help="time nothing, write nothing")
    parser.add_argument("--interpret", action="store_true", help="compare on a CPU, time nothing")
    jobs = min(16, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=number(int, 1), default=jobs, help="compilers")
    parser.add_argument("--output", type=Path, help="the table's file; default: the user's cache")
    args = parser.parse_args(argv)
    for size in args.sizes:
        if f"convnext_{size}" not in VARIANTS:
            known = ", ".join(n.removeprefix("convnext_") for n in VARIANTS if "v2" not in n)
            parser.error(f"--sizes: there is no {size!r}; choose from {known}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.interpret and os.environ.get("TRITON_INTERPRET") != "1":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: begin anew
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    import torch

    from ..kernels.triton import choice as triton_choice
    from ..lab import kernel_tuning

    device = "cpu" if args.interpret else "cuda"
    if not triton_choice.available(device):
        oldest = ".".join(map(str, triton_choice.OLDEST_TRITON))
        raise UserError(
            f"tune-kernels needs Triton {oldest} or later and an NVIDIA GPU of compute capability "
            "8.0 or later, and has not found both; --interpret checks the kernels without a GPU"
        )
    torch.manual_seed(torch.seed() % 2**32)  # fresh inputs; the seed is printed
    print(f"seed {torch.initial_seed()}")
    if args.interpret:
        kernel_tuning.check(device, list(kernel_tuning.INTERPRETED), interpret=True)
        return
    shapes = kernel_tuning.checked_shapes(args.sizes, args.quick)
    kernel_tuning.check(device, shapes, interpret=False, jobs=args.jobs)
    if not args.check_only:
        kernel_tuning.tune(args.sizes, args.dtypes, args.output, args.quick)
