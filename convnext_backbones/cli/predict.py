"""Draw what a trained model sees in pictures, folders of them, and videos; or write it as data.

CONFIG is one of MMDetection, MMSegmentation or Detectron2 (LazyConfig or YAML). Pictures are prepared as
its test data are. With --model FILE, which export wrote, neither CONFIG nor CHECKPOINT is given. Results
keep their sources' folders; a video's overlays are a video.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..adapters import host_of
from . import make_parser, number
from ._framework import parsed

KINDS = ("overlays", "masks", "json")


def parser():
    parser = make_parser("predict", __doc__)
    parser.add_argument("config")
    parser.add_argument(
        "checkpoint", help="a run's file, or its work directory for its best or newest one"
    )
    parser.add_argument(
        "--model", metavar="FILE", help="an exported .onnx, .xml or .pt2 instead of these two"
    )
    _add_output(parser)
    parser.add_argument("--sample", action="store_true", help="as train --sample changed it")
    parser.add_argument("--shrink", action="store_true", help="as train --shrink changed it")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    return parser


def parser_of_exported():
    parser = make_parser("predict", __doc__)
    parser.add_argument("--model", metavar="FILE", required=True)
    parser.add_argument(
        "--throughput", action="store_true", help="tune the runtime for many pictures, not for one"
    )
    _add_output(parser)
    return parser


def _add_output(parser) -> None:
    parser.add_argument(
        "source", nargs="+", metavar="IMAGE_OR_FOLDER", help="or video; several, too"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for the results, apart from the sources"
    )
    parser.add_argument(
        "--save", type=_kinds, default=("overlays",), metavar="KIND,..",
        help="overlays: pictures drawn over (default). masks: label maps as PNG, of a segmentation the "
        "class numbers, of instances 1 for the first, 0 for none. json: results.json in COCO's format, "
        "masks as RLE. Several kinds get a folder each",
    )  # fmt: skip
    parser.add_argument(
        "--score", type=number(float, 0, 1), default=0.3, help="least score of an instance (0.3)"
    )
    parser.add_argument(
        "--batch-size", type=number(int, 1), default=1, metavar="N",
        help="pictures at once (1, as test has it); those of other sizes are padded, which changes "
        "results a little",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="also files that predict did not write before"
    )


def _kinds(text: str) -> tuple[str, ...]:
    kinds = [kind.strip() for kind in text.split(",")]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict by the command line."""
    if any(text.split("=")[0] == "--model" for text in (sys.argv[1:] if argv is None else argv)):
        from ..runs import predict

        predict.predict_exported(parser_of_exported().parse_args(argv))
        return
    args = parsed("predict", parser, argv)
    if hasattr(args, "options"):  # key=value, which argparse takes for sources
        pairs = [text for text in args.source if "=" in text and not Path(text).exists()]
        args.options = [*pairs, *args.options]
        args.source = [text for text in args.source if text not in pairs]
    host = host_of(args.framework)
    from ..runs import predict

    predict.predict(host, args)
