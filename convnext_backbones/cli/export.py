"""Write a trained network as a file for ONNX Runtime, OpenVINO or torch.export, and check it there.

    convnext-backbones export CONFIG CHECKPOINT --to onnx --out detector.onnx
    convnext-backbones export convnextv2_tiny CHECKPOINT --to openvino --out classifier.xml
    convnext-backbones export CONFIG CHECKPOINT --to openvino --int8 --out segmentor.xml

CONFIG is one of MMDetection, MMSegmentation or Detectron2; a model's name, such as convnextv2_tiny, stands
for its classifier, with --features for its backbone. The written file is run at several sizes and
batches and compared with PyTorch; where it differs by more than --tolerance, no file is left. With --int8
its accuracy is measured before and after; where it loses more than --most-lost, none is left either.
"""

import argparse
import functools
import importlib
from collections.abc import Sequence
from pathlib import Path

from ..adapters import FRAMEWORKS, host_of
from . import make_parser, number
from ._framework import parsed

CONFIGS = (".py", ".yaml", ".yml")
FREE = ("hw", "batch")
OF_INT8 = ("calibration", "evaluate", "most_lost")  # what --int8 alone takes


def parser():
    parser = make_parser("export", __doc__)
    parser.add_argument("config", metavar="CONFIG_OR_MODEL")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT",
        help="a run's file or work directory; of a model's name whatever convert takes",
    )  # fmt: skip
    parser.add_argument("--to", required=True, choices=("onnx", "openvino", "exported-program"))
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="ends in .onnx, .xml or .pt2"
    )
    parser.add_argument(
        "--dynamic", type=_free, metavar="hw,batch",
        help="what may differ from call to call (default: both, as far as the network can)",
    )  # fmt: skip
    parser.add_argument("--fixed", metavar="HxW", help="one height and width instead, in pixels")
    parser.add_argument("--batch", type=number(int, 1), metavar="N", help="one batch size instead")
    low = parser.add_mutually_exclusive_group()
    low.add_argument(
        "--fp16", dest="precision", action="store_const", const="fp16",
        help="float16, but statistics and boxes in float32",
    )  # fmt: skip
    low.add_argument("--bf16", dest="precision", action="store_const", const="bf16")
    low.add_argument(
        "--int8", dest="precision", action="store_const", const="int8",
        help="convolutions and linear layers in int8, calibrated on pictures; for CPUs",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", metavar="N|FOLDER",
        help="of --int8: pictures of the config's training set (default: 32), or a folder of pictures",
    )  # fmt: skip
    parser.add_argument(
        "--evaluate", type=number(int, 1), metavar="N",
        help="of --int8: at most N pictures of the config's validation set (default: 500)",
    )  # fmt: skip
    parser.add_argument(
        "--most-lost", type=number(float, 0), metavar="POINTS",
        help="of --int8: of mIoU or AP in percent (default: 1); of a model's name, the outputs' difference in "
        "percent (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--normalised", action="store_true",
        help="the file takes normalised images; by default RGB pixels in 0..255, which it normalises",
    )  # fmt: skip
    parser.add_argument(
        "--features", type=_names, metavar="NAME,..",
        help="of a model's name: its backbone's maps, such as stage1,stage2,stage3,stage4",
    )  # fmt: skip
    parser.add_argument(
        "--pictures",
        nargs="+",
        default=[],
        metavar="FILE",
        help="compare with PyTorch on these, too",
    )
    parser.add_argument(
        "--tolerance", type=number(float, 0), metavar="X",
        help="greatest difference, as a part of an output's greatest value (1e-4; fp16 0.02, bf16 0.08)",
    )  # fmt: skip
    parser.add_argument("--sample", action="store_true", help="as train --sample changed it")
    parser.add_argument("--shrink", action="store_true", help="as train --shrink changed it")
    parser.set_defaults(precision="fp32")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _free(text: str) -> tuple[str, ...]:
    names = _names(text)
    if unknown := [name for name in names if name not in FREE]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(FREE)}")
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Export by the command line."""
    args, _ = parser().parse_known_intermixed_args(argv)
    is_config = Path(args.config).suffix in CONFIGS or Path(args.config).exists()
    args = parsed("export", parser, argv) if is_config else parser().parse_args(argv)
    from ..console import say
    from ..data.pictures import read_picture
    from ..errors import UserError
    from ..export import files
    from ..export.pictures import read_prepared
    from ..export.sizes import size_of

    dynamic = args.dynamic
    if args.fixed and dynamic and "hw" in dynamic:
        raise UserError("--fixed says one size, and --dynamic hw any; give one of the two")
    for name in OF_INT8:
        if getattr(args, name) is not None and args.precision != "int8":
            raise UserError(
                f"--{name.replace('_', '-')} is about --int8; add that, or leave this out"
            )
    options = files.Options(
        to=args.to,
        dynamic=FREE if dynamic is None else dynamic,
        fixed=size_of(args.fixed) if args.fixed else None,
        batch=args.batch,
        precision=args.precision,
        pixels=not args.normalised,
        tolerance=args.tolerance,
    )
    files.check_name(args.out, options)  # before what takes long
    for picture in args.pictures:
        read_picture(picture)
    model, int8 = (_of_config if is_config else _of_name)(args)
    about = {
        **model.about, "mean": model.mean, "size": options.fixed,
        "multiple": model.multiple, "least": model.least,
    }  # fmt: skip
    pictures = read_prepared(args.pictures, about)
    rows = files.export(model, args.out, options._replace(int8=int8), pictures)
    for row in rows:
        say(str(row))
    weights = args.out.with_suffix(".bin") if args.to == "openvino" else Path(f"{args.out}.data")
    size = sum(file.stat().st_size for file in (args.out, weights) if file.exists())
    told = _told_int8(args.out) if int8 else _told(rows)
    say(f"{args.out}: {size / 1e6:.1f} MB, {options.precision}; {told}", always=True)


def _told(rows) -> str:
    worst = max(rows, key=lambda row: row.relative)
    return f"agrees with PyTorch to {worst.relative:.1g} ({worst.output}, {worst.images})"


def _told_int8(out: Path) -> str:
    from ..export.opened import open_exported
    from ..export.quantising import Accuracy
    from ..kernels.processor import computes_in_int8

    found = open_exported(out).about["int8"]
    accuracy = Accuracy(**{name: found[name] for name in Accuracy._fields})
    spent = found["seconds"]
    before, after = (1000 * spent[name] for name in ("float32", "int8"))
    gain = f"{after:.0f} ms instead of {before:.0f} in float32 by ONNX Runtime ({spent['images']})"
    if after >= before:
        gain += ": int8 gains nothing here"
    if not computes_in_int8():
        gain += ", on a processor without instructions for int8 (VNNI, AMX)"
    return (
        f"{found['layers']} layers, calibrated on {found['calibration_pictures']} pictures; {accuracy}; {gain}; "
        f"the file before it agreed with PyTorch to {found['exact_form_agrees_to']:.1g}"
    )


def _of_name(args: argparse.Namespace):
    from ..console import say
    from ..errors import UserError
    from ..export.named import named
    from ..runs import calibration

    if args.sample or args.shrink:
        raise UserError("--sample and --shrink change a config; a model's name has none")
    int8 = calibration.of_name(**_of_int8(args)) if args.precision == "int8" else None
    model = named(args.config, args.checkpoint, args.features)
    say(model.about["weights"])
    return model, int8


def _of_int8(args: argparse.Namespace) -> dict:
    return {name: getattr(args, name) for name in OF_INT8}


def _of_config(args: argparse.Namespace):
    from ..errors import UserError
    from ..runs import calibration
    from ..runs.trained import checkpoint_file

    if args.features:
        raise UserError(
            "--features is for a model's name, as convnextv2_tiny; a config is exported whole"
        )
    host = host_of(args.framework)
    host.quiet_warnings()
    config = host.load_config(
        args.config, sample=args.sample, shrink=args.shrink, options=host.overrides(args)
    )
    package = FRAMEWORKS[args.framework].run.rpartition(".")[0]
    int8 = None
    if args.precision == "int8":
        host.check_data(config, ("val",))
        measure = functools.partial(importlib.import_module(f"{package}.judged").accuracy, config)
        int8 = calibration.of_config(host, config, measure, **_of_int8(args))
    model = host.load_model(config, checkpoint_file(args.checkpoint), "cpu")
    return importlib.import_module(f"{package}.export").exportable(config, model), int8
