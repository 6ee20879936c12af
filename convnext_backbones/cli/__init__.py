"""The command line: `convnext-backbones COMMAND ...`, a file a command.

A command's module has `main(argv=None)`, which parses argv (None: sys.argv[1:]) and returns an exit status
or None. It is imported when its command is asked for, and imports torch and frameworks inside its
functions, so that `--help` answers at once:

    def main(argv=None):
        parser = make_parser("train", __doc__)
        ...
        args = parser.parse_args(argv)
        import torch

tools/*.py are the same commands in a clone: `sys.exit(run("train"))`.
"""

import argparse
import importlib
import math
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import __version__, console
from ..errors import exit_with_sentence
from ..kernels.allocation import keep_freed_memory

PROGRAM = "convnext-backbones"


class Command(NamedTuple):
    """Its module in this package, and what it does in a line."""

    module: str
    line: str


COMMANDS = {
    "new-config": Command("new_config", "write a config for a folder of pictures and labels"),
    "train": Command("train", "train a detector or segmentor of OpenMMLab or Detectron2"),
    "pretrain": Command("pretrain", "learn from pictures without labels (FCMAE)"),
    "probe": Command("probe", "what frozen features tell of your classes: k-NN, linear"),
    "finetune": Command("finetune", "train a classifier of your classes from pretrained weights"),
    "test": Command("test", "evaluate a trained checkpoint on its config's test data"),
    "predict": Command("predict", "draw what a trained model sees in pictures"),
    "report": Command("report", "one page of a run, or of several beside each other"),
    "check-data": Command("check_data", "read every picture and label, and name what is wrong"),
    "show-data": Command("show_data", "draw training samples as the network is given them"),
    "visualize": Command(
        "visualize", "draw feature maps, and what in a picture speaks for a class"
    ),
    "check-weights": Command("check_weights", "what a checkpoint is, and whether it loads whole"),
    "convert": Command("convert", "a checkpoint into the names and shapes of another source"),
    "show-recipe": Command("show_recipe", "what a config trains, beside the published recipe"),
    "export": Command("export", "a trained network as a checked file for ONNX Runtime or OpenVINO"),
    "benchmark": Command("benchmark", "time and memory beside timm, transformers and torchvision"),
    "sample-data": Command("sample_data", "write the generated data set"),
    "doctor": Command("doctor", "what is installed, what works, what conflicts, how to mend it"),
    "padding-effect": Command("padding_effect", "how far a batch's padding changes the maps"),
    "model-table": Command("model_table", "parameters and FLOPs, published and counted"),
    "tune-kernels": Command("tune_kernels", "check the Triton kernels and choose their tiles"),
}
# Modules of commands whose steps each take the memory that the last one freed.
STEPPING = {"train", "train_detectron2", "pretrain", "finetune", "probe", "test", "predict"}
# Packages that come with an extra, by the names they are imported under.
EXTRAS = {
    "openmmlab": ("mmengine", "mmcv", "mmdet", "mmseg", "ftfy", "regex"),
    "detectron2": ("fvcore", "omegaconf"),
    "runs": (
        "cv2",
        "defusedxml",
        "jinja2",
        "matplotlib",
        "pycocotools",
        "rich",
        "shapely",
        "supervision",
        "yaml",
    ),
    "lab": ("timm", "transformers"),
    "export": ("onnxruntime", "onnxscript", "openvino"),
    "pretraining": ("sklearn",),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND ...",
        description="ConvNeXt and ConvNeXt V2 backbones: "
        f"`{PROGRAM} COMMAND --help` tells what a command takes.",
        epilog="\n".join(
            ["commands:", *(f"  {name:{width}}  {c.line}" for name, c in COMMANDS.items())]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("command", metavar="COMMAND", type=_known, help="one of those below")
    args = parser.parse_args(argv[:1])
    return run(COMMANDS[args.command].module, argv[1:])


def _known(name: str) -> str:
    if name in COMMANDS:
        return name
    from ..network.variants import nearest

    raise argparse.ArgumentTypeError(f"there is no command {name!r}; {nearest(name, COMMANDS)}")


def run(module: str, argv: Sequence[str] | None = None) -> int:
    """Run a command's main, and return its exit status.

    What a user can mend ends in a sentence on stderr and status 2, an interruption in status 130 (SIGTERM:
    143); output that nobody reads any more (`| head`) ends the command quietly. Any other error is a fault
    of ours or of a framework: it ends in a sentence and status 1, its trace is kept in a file. With --debug
    every error shows its trace.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    if module in STEPPING:
        keep_freed_memory()
    try:
        with exit_with_sentence(debug), console.session():
            status = importlib.import_module(f".{module}", __name__).main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        if debug:
            traceback.print_exc()
        print(str(error) or "interrupted", file=sys.stderr)
        return getattr(error, "status", 130)  # of errors.Stopped
    except BrokenPipeError as error:
        if not _stdout_is_closed():
            return _unexpected(error, debug)
        return 1
    except ImportError as error:
        if (sentence := _what_to_install(error)) is None:
            return _unexpected(error, debug)
        if debug:
            traceback.print_exc()
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    except Exception as error:
        return _unexpected(error, debug)
    return status or 0


def _unexpected(error: Exception, debug: bool) -> int:
    """The end of a command by an error that nobody foresaw, which has to stay reportable."""
    trace = "".join(traceback.format_exception(error))
    what = "".join(traceback.format_exception_only(error)).strip()
    if debug:
        print(f"{trace}\nan unexpected error: please report it with these lines", file=sys.stderr)
        return 1
    place = traceback.extract_tb(error.__traceback__)[-1]
    with tempfile.NamedTemporaryFile(
        "w", prefix="convnext-backbones-", suffix=".txt", delete=False
    ) as file:
        file.write(f"{shlex.join(sys.argv)}\n\n{trace}")
    print(
        f"an unexpected error, in {place.filename}, line {place.lineno}: {what}\n"
        f"If nothing in your config or data explains it, please report it with {file.name}, which holds "
        "its stack trace; --debug shows that here",
        file=sys.stderr,
    )
    return 1


def _stdout_is_closed() -> bool:
    """Was it stdout whose reader went away? Then Python must not try it again at exit."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _what_to_install(error: ImportError) -> str | None:
    """A sentence about a package that is missing or broken; None where the fault is in this one."""
    name = (error.name or "").split(".")[0]
    if name == "convnext_backbones":
        return None
    if not isinstance(error, ModuleNotFoundError):  # an adapter's own sentence, or a broken library
        cause = error.__cause__
        missing = cause is None or isinstance(cause, ModuleNotFoundError)
        return str(error) if missing else f"{error} ({cause})"
    extra = next((extra for extra, names in EXTRAS.items() if name in names), None)
    wanted = f'"convnext_backbones[{extra}]"' if extra else name
    return f"this needs the package {name}, which is not installed: pip install {wanted}"


def make_parser(command: str, description: str, **options) -> argparse.ArgumentParser:
    """A command's parser, named as the user called it, with --debug, which `run` reads, --quiet and
    --verbose; the description keeps its lines."""
    parser = Parser(
        prog=called_as(command),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )
    parser.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--quiet",
        action="store_true",
        help="show warnings and the result, no steps and no progress",
    )
    shown.add_argument(
        "--verbose", action="store_true", help="show all that frameworks and libraries say, too"
    )
    return parser


class Parser(argparse.ArgumentParser):
    """Chooses the console's level as soon as it has read the command line."""

    def parse_known_args(self, args=None, namespace=None):
        found, others = super().parse_known_args(args, namespace)
        console.choose(console.level_in(found))
        return found, others


def number(kind: type, least: float, most: float = math.inf) -> Callable[[str], int | float]:
    """An argparse type for a number from `least` to `most`."""

    def parse(text: str) -> int | float:
        value = kind(text)
        if not least <= value <= most:
            raise ValueError
        return value

    upper = "" if most == math.inf else f" to {most:g}"
    parse.__name__ = f"number (from {least:g}{upper})"
    return parse


def called_as(command: str) -> str:
    """How the user called this process: tools/train.py in a clone, else `convnext-backbones train`."""
    script = Path(sys.argv[0])
    if script.suffix == ".py" and script.parent.name == "tools":
        return f"tools/{script.name}"
    return f"{PROGRAM} {command}"


def command_line(command: str, argv: Sequence[str] | None) -> str:
    """The whole line that the user typed, to be noted beside results."""
    called = called_as(command)
    interpreter = ["python"] if called.endswith(".py") else []
    return shlex.join([*interpreter, *called.split(), *(sys.argv[1:] if argv is None else argv)])
