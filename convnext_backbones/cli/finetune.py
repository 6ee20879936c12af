"""Fine-tune a classifier on your classes, from weights that were pretrained with or without labels.

convnext-backbones finetune --data CLASS_FOLDERS --checkpoint CHECKPOINT
convnext-backbones finetune --data CLASS_FOLDERS --checkpoint convnextv2_tiny.fcmae --size 288 --epochs 30
torchrun --nproc-per-node 8 tools/finetune.py --data IMAGENET --checkpoint convnextv2_base.fcmae --batch 128 --launcher pytorch

CLASS_FOLDERS has one folder of pictures a class, or train/ and val/ with such folders; without them a fifth
of each class is drawn to validate. The work directory then holds NETWORK_classifier.pth, which knows its
classes, curves.png, confusion.png and mistakes.png.
"""

from collections.abc import Sequence

from . import make_parser, number
from ._own_runs import add_run_options, parsed, path


def parser():
    parser = make_parser("finetune", __doc__)
    parser.add_argument("--data", required=True, type=path, metavar="CLASS_FOLDERS")
    parser.add_argument(
        "--checkpoint", metavar="CHECKPOINT",
        help="weights to start from: a file, a Hugging Face folder, a URL, or a name of the catalogue",
    )  # fmt: skip
    parser.add_argument("--section", metavar="NAME", help='entry of that file, e.g. "model_ema"')
    parser.add_argument(
        "--arch", help="atto to huge, or a full name; without --checkpoint from random weights"
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
        "--val-share", type=number(float, 0.01, 0.99), default=0.2, metavar="SHARE",
        help="of each class, where no folder says what validates (0.2)",
    )  # fmt: skip
    add_run_options(
        parser, place="work_dirs/finetune_NETWORK", example="model.recipe.smoothing=0.2"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune by the command line."""
    args = parsed("finetune", parser(), argv)
    from ..adapters.openmmlab import finetuning

    finetuning.finetune(args)
