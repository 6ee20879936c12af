"""Read every picture and label as a config will, and name what is wrong: in a table, the gravest first.

convnext-backbones check-data my.py
convnext-backbones check-data my.py --page data.png      # pictures with their labels drawn
convnext-backbones check-data my.py --fix repaired       # a copy without what is wrong

Exit status: 0 fine, 1 warnings with --strict, 2 something that cannot work. What was read once is kept
by file time and size in ~/.cache/convnext-backbones.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ..adapters import host_of
from . import make_parser, number
from ._framework import parsed


def parser():
    parser = make_parser("check-data", __doc__)
    parser.add_argument("config")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 where there are warnings"
    )
    parser.add_argument("--json", type=_path, metavar="FILE", help="the findings for programs")
    parser.add_argument("--page", type=_path, metavar="FILE.png", help="pictures with labels drawn")
    parser.add_argument(
        "--fix", type=_path, metavar="FOLDER",
        help="write a repaired copy there, and say what to set in the config; originals stay",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=number(int, 1), default=os.cpu_count() or 1, help="processes that read"
    )
    parser.add_argument("--no-cache", action="store_true", help="read again what was read before")
    parser.add_argument("--sample", action="store_true", help="the data of train --sample")
    parser.add_argument("--shrink", action="store_true", help="as train --shrink changes it")
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def main(argv: Sequence[str] | None = None) -> int:
    """Check by the command line; returns the exit status."""
    args = parsed("check-data", parser, argv)
    host = host_of(args.framework)
    from ..runs import data_check

    return data_check.check_data(host, args)
