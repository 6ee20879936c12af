"""Draw what a trained model sees in a picture or in a folder of pictures.

CONFIG is one of MMDetection, MMSegmentation or Detectron2 (LazyConfig or YAML).
"""

from collections.abc import Sequence
from pathlib import Path

from ..adapters import host_of
from . import make_parser
from ._framework import parsed


def parser():
    parser = make_parser("predict", __doc__)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("source", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--out", required=True, type=Path, help="folder for the drawn pictures")
    parser.add_argument("--score", type=float, default=0.3, help="least score of a drawn instance")
    parser.add_argument("--sample", action="store_true", help="as train --sample changed it")
    parser.add_argument("--shrink", action="store_true", help="as train --shrink changed it")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw by the command line."""
    args = parsed("predict", parser, argv)
    host = host_of(args.framework)
    from ..runs import commands

    commands.predict(host, args)
