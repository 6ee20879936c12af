"""What a checkpoint is, whether it loads whole, and whether it predicts what it should.

    convnext-backbones check-weights CHECKPOINT
    convnext-backbones check-weights CHECKPOINT --peer timm
    convnext-backbones check-weights CHECKPOINT --data IMAGENET/val

CHECKPOINT is a file, a Hugging Face folder, a URL, or a name of the catalogue such as
convnextv2_tiny.fcmae_ft_in1k.
"""

import os
from pathlib import Path

from . import make_parser, number

PEERS = ("timm", "torchvision", "transformers")


def parse_args(argv):
    parser = make_parser("check-weights", __doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--section", metavar="NAME", help='entry of the file, e.g. "model_ema"')
    parser.add_argument("--prefix", help="take only names that start so, e.g. backbone")
    parser.add_argument("--peer", choices=PEERS, help="compare with its implementation")
    parser.add_argument("--data", type=Path, help="folder of class folders: top-1 and top-5")
    parser.add_argument(
        "--class-index", type=Path, metavar="FILE",
        help="folder names in the head's order: imagenet_class_index.json, or one name a line",
    )  # fmt: skip
    parser.add_argument("--limit", type=number(int, 1), metavar="N", help="only N pictures, spread")
    parser.add_argument("--image-size", type=number(int, 1), metavar="PIXELS")
    parser.add_argument("--crop-pct", type=number(float, 0.01, 1), metavar="PART")
    parser.add_argument("--batch-size", type=number(int, 1), default=32, metavar="N")
    parser.add_argument(
        "--workers", type=number(int, 0), default=min(4, os.cpu_count() or 1), metavar="N",
        help="processes that read pictures; 0: none beside this one",
    )  # fmt: skip
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """0; 1 where the peer disagrees."""
    args = parse_args(argv)
    from ..lab.weights_check import check

    return 0 if check(args) else 1
