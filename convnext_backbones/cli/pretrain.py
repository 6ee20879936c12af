"""Pretrain a ConvNeXt V2 on pictures without labels (FCMAE, arXiv:2301.00808), on CPU or GPU.

convnext-backbones pretrain --images FOLDER
convnext-backbones pretrain --sample                     # generated pictures, minutes
convnext-backbones pretrain --images FOLDER --arch tiny --size 192 256 --weights convnextv2_tiny.fcmae
torchrun --nproc-per-node 8 tools/pretrain.py --images FOLDER --arch base --batch 512 --launcher pytorch

The work directory then holds NETWORK_fcmae.pth, which every config's pretrained= takes, curves.png and
reconstruction.png.
"""

from collections.abc import Sequence

from . import make_parser, number
from ._own_runs import add_run_options, parsed, path


def parser():
    parser = make_parser("pretrain", __doc__)
    parser.add_argument(
        "--images", type=path, metavar="FOLDER", help="pictures lie anywhere below it"
    )
    parser.add_argument("--sample", action="store_true", help="small generated pictures")
    parser.add_argument(
        "--arch",
        default="atto",
        help="atto (default) to huge, or a full name; V1's are not the paper's",
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
        "--weights",
        metavar="FILE",
        help="start from a checkpoint, with its decoder where it has one",
    )
    parser.add_argument(
        "--ema",
        type=number(float, 0, 1),
        default=0.0,
        metavar="DECAY",
        help="average the weights, e.g. 0.999",
    )
    add_run_options(
        parser,
        place="work_dirs/pretrain_NETWORK",
        example="optim_wrapper.clip_grad.max_norm=1.0",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Pretrain by the command line."""
    args = parsed("pretrain", parser(), argv)
    from ..adapters.openmmlab import pretraining

    pretraining.pretrain(args)
