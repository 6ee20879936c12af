"""Look at a folder of pictures and labels, say what is there, and write a config to train on it.

convnext-backbones new-config --data BCCD --out bccd.py
convnext-backbones new-config --data CamVid --void 11 --classes sky,building,.. --out camvid.py
convnext-backbones new-config --data cells --backbone convnextv2_atto --weights none --size 224 --out cells.py

COCO JSON, Pascal VOC XML, YOLO text and label maps are found by themselves, wherever they lie below the
folder. What the frameworks cannot read as it is (VOC, YOLO, coloured label maps, no split) is written
anew beside the config, in a folder of its name; the data stay as they are. The config is on a shipped
recipe; what it changes stands in it with the reason.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import counted
from ..errors import UserError
from ..network.variants import VARIANTS, nearest
from . import command_line, make_parser, number

if TYPE_CHECKING:
    from ..data.found import Found
    from ..data.new_config import Plan

TASKS = ("detection", "instance", "semantic")
MODELS = ("mask_rcnn", "faster_rcnn", "cascade", "rtmdet", "dino", "mask2former", "upernet", "sem_seg_fpn")  # fmt: skip
FRAMEWORKS = ("mmdet", "mmseg", "detectron2")


def parser():
    parser = make_parser("new-config", __doc__)
    add = parser.add_argument
    add("--data", type=_path, required=True, metavar="FOLDER", help="pictures and labels")
    add("--out", type=_path, required=True, metavar="FILE.py", help="the config")
    add("--task", choices=TASKS, help="default: what the labels are for")
    add(
        "--classes",
        metavar="A,B,C",
        help="of boxes, those to take; of label maps, the names of the values, or name=#rrggbb",
    )
    add("--void", type=number(int, 0), metavar="N", help="label maps: pixels without a class")
    add("--kind", help="coco, voc, yolo or label-maps, where a folder holds several")
    add("--model", choices=MODELS, help="default: by the task and the framework")
    add("--backbone", default="convnextv2_tiny", metavar="NAME", help="default: convnextv2_tiny")
    add("--framework", choices=FRAMEWORKS, help="default: OpenMMLab's if it is installed")
    add("--weights", metavar="NAME", help="published ones, a file, or none; default: published")
    add(
        "--size",
        type=number(int, 32),
        metavar="PIXELS",
        help="boxes: long side of the pictures; label maps: side of the training crop",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=number(int, 1), metavar="N")
    length.add_argument("--iters", type=number(int, 1), metavar="N", help="steps")
    add("--batch", type=number(int, 1), metavar="N", help="pictures a step")
    add("--force", action="store_true", help="write over an existing file")
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.backbone not in VARIANTS:
        raise UserError(
            f"there is no backbone {args.backbone!r}; {nearest(args.backbone, VARIANTS)}"
        )
    _check_out(args.out, args.force)
    from ..data.found import keep, look
    from ..data.new_config import FRAMEWORKS, Wishes, planned, written

    found = look(
        args.data,
        task=args.task,
        classes=[name.strip() for name in args.classes.split(",")] if args.classes else None,
        void=args.void,
        kind=args.kind and args.kind.replace("-", " "),
    )
    wishes = Wishes(
        args.model, args.backbone, args.framework, args.weights, args.size, args.epochs, args.iters,
        args.batch,
    )  # fmt: skip
    installed = [name for name in FRAMEWORKS if importlib.util.find_spec(name)]
    plan = planned(found, wishes, installed)  # refused before anything is written
    made = args.out.with_name(f"{args.out.stem}_data")
    kept = found if found.as_it_lies else keep(found, made)
    _tell(kept, plan)
    text = written(plan._replace(found=kept), args.out, command_line("new-config", argv))
    try:
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{args.out} cannot be written: {error.strerror}") from error
    from ..runs.commands import called

    print(f"\nconfig:  {args.out}" + ("" if kept is found else f"  (and {made})"))
    print(f"check:   {called('check-data')} {args.out}")
    print(f"train:   {called('train')} {args.out}")


def _check_out(out: Path, force: bool) -> None:
    if out.suffix != ".py" or not out.stem.isidentifier():
        raise UserError(
            f"--out {out}: a config is a Python file whose name is a word of letters, digits and _, such "
            "as my_data.py"
        )
    if out.exists() and not force:
        raise UserError(
            f"{out} is there already; add --force to write over it, or take another name"
        )
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} into")


def _tell(found: "Found", plan: "Plan") -> None:
    """What was found and decided, in a table, and the notes."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    width, height = found.sizes.width, found.sizes.height
    pictures = ", ".join(
        f"{split.count} {name}" + (f" ({split.objects} objects)" if split.objects else "")
        for name, split in found.splits.items()
    )
    names = ", ".join(found.classes[:12]) + (", ..." if len(found.classes) > 12 else "")
    length = (
        f"{counted(plan.epochs, 'epoch')}, {counted(plan.steps, 'step')}"
        if plan.epochs
        else f"{counted(plan.steps, 'step')}"
    )
    rows = [
        ("found", f"{found.kind} for {found.task} in {found.folder}"),
        ("pictures", pictures),
        (
            "sizes",
            f"{width.smallest:g}x{height.smallest:g} to {width.largest:g}x{height.largest:g}, "
            f"median {width.median:g}x{height.median:g}",
        ),
        ("classes", f"{len(found.classes)}: {names}"),
        *([("without a class", f"label {found.void}")] if found.void is not None else []),
        ("model", f"{plan.model} on {plan.variant.name}, {plan.framework}; {plan.recipe.name}"),
        ("weights", f"{plan.weights or 'none'}: {plan.why['weights']}"),
        ("size", f"{plan.scale[0]}x{plan.scale[1]}"
         + (f", crop {plan.crop[1]}x{plan.crop[0]}" if plan.crop else "")),
        ("batch, lr", f"{plan.batch}, {plan.lr:g}"),
        ("length", length),
    ]  # fmt: skip
    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1))
    for name, text in rows:
        table.add_row(name, escape(text))
    console = Console(soft_wrap=True)
    console.print(table)
    for note in found.notes:
        print(f"- {note}")
