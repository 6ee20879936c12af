"""The options that pretrain and finetune share: of a run whose config the command makes."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from . import command_line, number
from .train import add_guards


def add_run_options(parser: argparse.ArgumentParser, *, place: str, example: str) -> None:
    """place: the work directory without --work-dir; example: of --cfg-options."""
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
        "--accumulate", type=number(int, 1), default=1, metavar="N", help="batches to a step (1)"
    )
    parser.add_argument("--seed", type=number(int, 0), default=0)
    parser.add_argument(
        "--workers", type=number(int, 0), default=min(4, os.cpu_count() or 1),
        help="processes that read pictures",
    )  # fmt: skip
    parser.add_argument("--amp", action="store_true", help="bfloat16 on a GPU")
    parser.add_argument("--work-dir", type=path, help=f"default: {place}")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0)
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help=f"change the config, e.g. {example}",
    )  # fmt: skip
    add_guards(parser)


def path(text: str) -> Path:
    """Of --work-dir=~/runs too, which shells leave as it is."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; name a folder")
    return Path(text).expanduser()


def parsed(
    command: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """The arguments, and what the files of a run tell of their origin."""
    args = parser.parse_args(argv)
    args.command_line = command_line(command, argv)
    args.program = f"convnext_backbones {__version__}"
    return args
