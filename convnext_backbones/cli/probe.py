"""What a checkpoint's frozen features tell of your classes: k nearest neighbours and a linear classifier.

    convnext-backbones probe --data CLASS_FOLDERS --checkpoint CHECKPOINT

CLASS_FOLDERS has one folder of pictures a class, or train/ and val/ with such folders; without them a fifth
of each class is drawn to validate. CHECKPOINT is a file, a Hugging Face folder, a URL, or a name of the
catalogue such as convnextv2_atto.fcmae. Features are kept in ~/.cache/convnext-backbones.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from . import make_parser, number


def parser():
    parser = make_parser("probe", __doc__)
    parser.add_argument("--data", required=True, type=_path, metavar="CLASS_FOLDERS")
    parser.add_argument("--checkpoint", required=True, metavar="CHECKPOINT")
    parser.add_argument("--method", choices=("knn", "linear"), help="default: both")
    parser.add_argument(
        "--k", type=number(int, 1), nargs="+", default=(10, 20), metavar="N",
        help="how many neighbours vote; several, too (10 20)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=number(int, 1), metavar="PIXELS",
        help="of the pictures; default: what the checkpoint was trained for, else 224",
    )  # fmt: skip
    parser.add_argument(
        "--val-share", type=number(float, 0.01, 0.99), default=0.2, metavar="SHARE",
        help="of each class, where no folder says what validates (0.2)",
    )  # fmt: skip
    parser.add_argument("--seed", type=number(int, 0), default=0, help="of that draw (0)")
    parser.add_argument("--section", metavar="NAME", help='entry of the file, e.g. "model_ema"')
    parser.add_argument("--prefix", help="take only names that start so, e.g. backbone")
    parser.add_argument("--batch-size", type=number(int, 1), default=64, metavar="N")
    parser.add_argument(
        "--workers", type=number(int, 0), default=min(4, os.cpu_count() or 1), metavar="N",
        help="processes that read pictures; 0: none beside this one",
    )  # fmt: skip
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--no-cache", action="store_true", help="compute features again")
    parser.add_argument("--json", type=_path, metavar="FILE", help="the figures for programs")
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def main(argv: Sequence[str] | None = None) -> None:
    """Probe by the command line."""
    args = parser().parse_args(argv)
    from ..pretraining.probing import probe

    probe(args)
