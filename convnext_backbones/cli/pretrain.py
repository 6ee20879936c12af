"""Pretrain a ConvNeXt V2 on pictures without labels (FCMAE, arXiv:2301.00808), on CPU or GPU.

convnext-backbones pretrain --images FOLDER
convnext-backbones pretrain --sample                     # generated pictures, minutes
convnext-backbones pretrain --images FOLDER --arch tiny --size 192 256 --weights convnextv2_tiny.fcmae
torchrun --nproc-per-node 8 tools/pretrain.py --images FOLDER --arch base --batch 512 --launcher pytorch

The work directory then holds NETWORK_fcmae.pth, which every config's pretrained= takes, curves.png and
reconstruction.png.
"""

import os
from collections.abc import Sequence

from .. import __version__
from . import command_line, make_parser, number
from .train import add_guards


def parser():
    parser = make_parser("pretrain", __doc__)
    parser.add_argument("--images", metavar="FOLDER", help="pictures lie anywhere below it")
    parser.add_argument("--sample", action="store_true", help="small generated pictures")
    parser.add_argument(
        "--shrink", action="store_true", help="a network of four blocks, to see whether it runs"
    )
    parser.add_argument(
        "--arch",
        default="atto",
        help="atto (default) to huge, or a full name; V1's are not the paper's",
    )
    parser.add_argument(
        "--epochs", type=number(int, 1), help="passes over the pictures; default: the recipe's"
    )
    parser.add_argument(
        "--size", type=number(int, 32), nargs="+", metavar="PIXELS",
        help="side of the crops, or height and width, in multiples of 32 (224)",
    )  # fmt: skip
    parser.add_argument(
        "--mask-ratio", type=float, default=0.6, metavar="SHARE", help="removed of a crop (0.6)"
    )
    parser.add_argument("--batch", type=number(int, 1), help="pictures of a process (64)")
    parser.add_argument(
        "--accumulate", type=number(int, 1), default=1, metavar="N", help="batches to a step (1)"
    )
    parser.add_argument(
        "--recipe", choices=("published", "small"),
        help="default: small for fewer than 100000 pictures; the learning rate follows the batch",
    )  # fmt: skip
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="start from a checkpoint, with its decoder where it has one",
    )
    parser.add_argument("--seed", type=number(int, 0), default=0)
    parser.add_argument(
        "--workers", type=number(int, 0), default=min(4, os.cpu_count() or 1),
        help="processes that read pictures",
    )  # fmt: skip
    parser.add_argument("--amp", action="store_true", help="bfloat16 on a GPU")
    parser.add_argument(
        "--ema",
        type=number(float, 0, 1),
        default=0.0,
        metavar="DECAY",
        help="average the weights, e.g. 0.999",
    )
    parser.add_argument("--work-dir", help="default: work_dirs/pretrain_NETWORK")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0)
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="change the config, e.g. optim_wrapper.clip_grad.max_norm=1.0",
    )  # fmt: skip
    add_guards(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Pretrain by the command line."""
    args = parser().parse_args(argv)
    args.command_line = command_line("pretrain", argv)
    args.program = f"convnext_backbones {__version__}"
    for name in ("images", "work_dir"):
        if value := getattr(args, name):  # --work-dir=~/runs, which shells leave as it is
            setattr(args, name, os.path.expanduser(value))
    from ..adapters.openmmlab import pretraining

    pretraining.pretrain(args)
