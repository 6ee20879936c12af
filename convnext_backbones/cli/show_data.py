"""Draw training samples as the network is given them: augmented, padded, with their labels, on one page.

convnext-backbones show-data my.py
convnext-backbones show-data my.py --pictures 30 --seed 1 --out samples.jpg

Above them stands how many objects or pixels each class has, how large objects are in the network's pixels,
and in which order and range the network is given its values.
"""

from collections.abc import Sequence
from pathlib import Path

from ..adapters import host_of
from . import make_parser, number
from ._framework import parsed


def parser():
    parser = make_parser("show-data", __doc__)
    parser.add_argument("config")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="a .png or .jpg (<config name>_data.png)"
    )
    parser.add_argument(
        "--pictures",
        type=number(int, 1, 200),
        default=12,
        metavar="N",
        help="how many samples (12)",
    )
    parser.add_argument(
        "--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N",
        help="another one draws other samples; the same one the same (0)",
    )  # fmt: skip
    parser.add_argument("--sample", action="store_true", help="the data of train --sample")
    parser.add_argument("--shrink", action="store_true", help="as train --shrink changes it")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw by the command line."""
    args = parsed("show-data", parser, argv)
    host = host_of(args.framework)
    from ..runs.show_data import show_data

    show_data(host, args)
