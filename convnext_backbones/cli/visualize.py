"""Look inside a network: its feature maps, and what in a picture speaks for a class, laid over the picture.

convnext-backbones visualize convnext_tiny.fb_in1k cat.jpg --class tabby
convnext-backbones visualize my.pth cat.jpg dog.jpg --features stage3,stage4 --channels 4
convnext-backbones visualize my.py work_dirs/my cat.jpg --class cat

MODEL is a name of published weights or a checkpoint of a classifier; or a config of MMDetection,
MMSegmentation or Detectron2, after which its checkpoint comes. A feature map is drawn as how far each
position is from the picture's mean, over all channels. The class-activation map is made by the library
grad-cam: of a classifier's class, of the pixels that a segmentor sees as the class, of the scores of the
objects that a detector finds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from . import make_parser, number
from ._framework import parsed

# Of looking.maps, which imports torch.
METHODS = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigengradcam", "eigencam",
           "ablationcam", "scorecam", "none")  # fmt: skip
CONFIGS = (".py", ".yaml", ".yml")


def parser():
    parser = make_parser("visualize", __doc__)
    parser.add_argument("config", metavar="MODEL")
    parser.add_argument(
        "source", nargs="+", metavar="PICTURE", help="after a config first its checkpoint"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("visualized.png"), metavar="FILE",
        help="a .png or .jpg (visualized.png)",
    )  # fmt: skip
    parser.add_argument(
        "--features", type=_names, metavar="A,B", help="stem, stage1 .. stage4 (all)"
    )
    parser.add_argument(
        "--channels", type=number(int, 0, 32), default=0, metavar="N",
        help="of each feature the N channels that differ most over the picture, too (0)",
    )  # fmt: skip
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME",
        help="a name or number; default: the first guess, the most frequent class, the best object's",
    )  # fmt: skip
    parser.add_argument(
        "--method", choices=METHODS,
        help="of grad-cam; eigencam, ablationcam and scorecam need no gradients, eigencam is of no class. "
        "Default: gradcam, of segmentors and detectors layercam, which keeps the gradient of a place at that place",
    )  # fmt: skip
    parser.add_argument(
        "--layer",
        metavar="FEATURE",
        help="where the class is looked for: an earlier stage shows smaller things (the last)",
    )
    parser.add_argument(
        "--score", type=number(float, 0, 1), default=0.3, help="least score of an object (0.3)"
    )
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--sample", action="store_true", help="as train --sample changed it")
    parser.add_argument("--shrink", action="store_true", help="as train --shrink changed it")
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name features, e.g. stage3,stage4")
    return names


def _is_config(model: str) -> bool:
    """A file, or the name of a shipped config."""
    from ..runs.preparation import shipped_configs

    return Path(model).suffix in CONFIGS or model in shipped_configs()


def main(argv: Sequence[str] | None = None) -> None:
    """Look by the command line."""
    first, _ = parser().parse_known_intermixed_args(argv)
    if not _is_config(first.config):
        args = parser().parse_args(argv)
        if args.sample or args.shrink:
            raise UserError(
                f"--sample and --shrink are of configs, and {args.config} is none (.py, .yaml)"
            )
        from ..looking.page import visualize_classifier

        visualize_classifier(args)
        return
    args = parsed("visualize", parser, argv)
    if hasattr(args, "options"):  # key=value, which argparse takes for pictures
        pairs = [text for text in args.source if "=" in text and not Path(text).exists()]
        args.options = [*pairs, *args.options]
        args.source = [text for text in args.source if text not in pairs]
    if len(args.source) < 2:
        raise UserError(
            f"after the config {args.config} come its checkpoint, or its run's folder, and a picture"
        )
    args.checkpoint, *args.source = args.source
    from ..adapters import host_of
    from ..looking.page import visualize_with_config

    visualize_with_config(host_of(args.framework), args)
