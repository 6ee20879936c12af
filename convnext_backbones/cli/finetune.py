"""Fine-tune a classifier on your classes, from weights that were pretrained with or without labels.

convnext-backbones finetune --data CLASS_FOLDERS --checkpoint CHECKPOINT
convnext-backbones finetune --data CLASS_FOLDERS --checkpoint convnextv2_tiny.fcmae --size 288 --epochs 30
torchrun --nproc-per-node 8 tools/finetune.py --data IMAGENET --checkpoint convnextv2_base.fcmae --batch 128 --launcher pytorch

CLASS_FOLDERS has one folder of pictures a class, or train/ and val/ with such folders; without them a fifth
of each class is drawn to validate. The work directory then holds NETWORK_classifier.pth, which knows its
classes, curves.png, confusion.png and mistakes.png.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from . import command_line, make_parser, number
from .train import add_guards


def parser():
    parser = make_parser("finetune", __doc__)
    parser.add_argument("--data", required=True, type=_path, metavar="CLASS_FOLDERS")
    parser.add_argument(
        "--checkpoint", metavar="CHECKPOINT",
        help="weights to start from: a file, a Hugging Face folder, a URL, or a name of the catalogue",
    )  # fmt: skip
    parser.add_argument("--section", metavar="NAME", help='entry of that file, e.g. "model_ema"')
    parser.add_argument(
        "--arch", help="atto to huge, or a full name; without --checkpoint from random weights"
    )
    parser.add_argument(
        "--shrink", action="store_true", help="a network of four blocks, to see whether it runs"
    )
    parser.add_argument(
        "--recipe", choices=("published", "small"),
        help="default: small for fewer than 100000 pictures; the learning rate follows the batch",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", type=number(int, 1), help="passes over the pictures; default: the recipe's"
    )
    parser.add_argument(
        "--size", type=number(int, 1), metavar="PIXELS",
        help="side of the pictures; default: what the checkpoint was trained for, else the recipe's",
    )  # fmt: skip
    parser.add_argument("--lr", type=number(float, 1e-12), help="default: the recipe's")
    parser.add_argument("--drop-path", type=number(float, 0, 1), help="default: the recipe's")
    parser.add_argument(
        "--batch", type=number(int, 1), default=64, help="pictures of a process (64)"
    )
    parser.add_argument(
        "--accumulate", type=number(int, 1), default=1, metavar="N", help="batches to a step (1)"
    )
    parser.add_argument(
        "--val-share", type=number(float, 0.01, 0.99), default=0.2, metavar="SHARE",
        help="of each class, where no folder says what validates (0.2)",
    )  # fmt: skip
    parser.add_argument("--seed", type=number(int, 0), default=0)
    parser.add_argument(
        "--workers", type=number(int, 0), default=min(4, os.cpu_count() or 1),
        help="processes that read pictures",
    )  # fmt: skip
    parser.add_argument("--amp", action="store_true", help="bfloat16 on a GPU")
    parser.add_argument("--work-dir", help="default: work_dirs/finetune_NETWORK")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0)
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="change the config, e.g. model.recipe.smoothing=0.2",
    )  # fmt: skip
    add_guards(parser)
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune by the command line."""
    args = parser().parse_args(argv)
    args.command_line = command_line("finetune", argv)
    args.program = f"convnext_backbones {__version__}"
    from ..adapters.openmmlab import finetuning

    finetuning.finetune(args)
