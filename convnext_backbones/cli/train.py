"""Train a detector or segmentor, on CPU or GPU: a config of MMDetection, MMSegmentation or Detectron2.

convnext-backbones train configs/ade20k_upernet_convnext_t.py
convnext-backbones train configs/ade20k_upernet_convnext_t.py --sample      # generated data, minutes
convnext-backbones train configs/detectron2/coco_mask_rcnn_convnext_t.yaml --num-gpus 8 SOLVER.BASE_LR=5e-5
convnext-backbones train mine.py --weights work_dirs/coco/best.pth --keep-classes --freeze 1 --lr-factor 0.1
torchrun --nproc-per-node 8 tools/train.py configs/coco_mask_rcnn_convnext_t.py --launcher pytorch
"""

from collections.abc import Sequence

from ..adapters import host_of
from ..runs.trackers import TRACKERS
from . import make_parser
from ._framework import parsed


def parser():
    parser = make_parser("train", __doc__)
    parser.add_argument("config")
    parser.add_argument(
        "--work-dir",
        help="default: the config's, or work_dirs/<config name>[_sample], in Detectron2 "
        "work_dirs/detectron2/...",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--sample", action="store_true", help="small generated data, small heads")
    parser.add_argument(
        "--shrink", action="store_true",
        help="a backbone of four blocks: with --sample, whether a config of any size runs, in seconds",
    )  # fmt: skip
    parser.add_argument(
        "--tracker", action="append", choices=TRACKERS, default=[],
        help="config, losses, metrics and validation pictures in TensorBoard, Weights & Biases or MLflow, too; "
        "can be given several times, and --resume goes on with the same series",
    )  # fmt: skip
    tuning = parser.add_argument_group("fine-tuning")
    tuning.add_argument(
        "--weights", metavar="FILE",
        help="start from another run's weights: what counts its classes starts new, and is named",
    )  # fmt: skip
    tuning.add_argument(
        "--keep-classes", action="store_true",
        help="with --weights: classes that both have by name keep their rows of the heads",
    )  # fmt: skip
    tuning.add_argument(
        "--freeze", type=int, metavar="N",
        help="keep the stem and the first N stages as they are (frozen_stages); 0 trains all",
    )  # fmt: skip
    tuning.add_argument(
        "--lr-factor", type=float, metavar="F", help="multiply all learning rates, e.g. by 0.1"
    )
    tuning.add_argument(
        "--early-stop", type=int, metavar="N",
        help="end after N validations without a better metric",
    )  # fmt: skip
    add_guards(parser)
    return parser


def add_guards(parser) -> None:
    """The limits of runs.guards."""
    guards = parser.add_argument_group("when something goes wrong")
    guards.add_argument(
        "--not-finite", type=int, metavar="N",
        help="stop after N steps in a row whose loss is NaN or infinite; their updates are left out (5)",
    )  # fmt: skip
    guards.add_argument(
        "--skip-share", type=float, metavar="S",
        help="stop when more than this share of the training pictures read are missing or damaged, and more "
        "than 5; until then the next picture takes their place (0.01; 0: stop at the first)",
    )  # fmt: skip
    guards.add_argument(
        "--stall-timeout", type=float, metavar="SECONDS",
        help="end a run that does nothing for so long, with its stack in a file (1800; 0: never)",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None, framework: str | None = None) -> None:
    """Train by the command line, for the config's framework or the given one."""
    args = parsed("train", parser, argv, framework)
    host = host_of(args.framework)
    from ..runs import commands

    commands.train(host, args)
