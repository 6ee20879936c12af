"""What the hosts have in common before a run: configs, data, devices, consoles, checkpoints."""

import contextlib
import difflib
import logging
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import console
from ..errors import OptionError, UserError
from .fine_tuning import refuse_not_finite

# What a config that is wrong raises in the callables that it names.
CONFIG_ERRORS = (KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError)

# How the files of a data set lie, by its kind.
LAYOUTS = {
    "coco": """\
    {root}/
      train2017/*.jpg   val2017/*.jpg
      annotations/instances_train2017.json   annotations/instances_val2017.json
  from cocodataset.org: train2017.zip, val2017.zip, annotations_trainval2017.zip""",
    "ade20k": """\
    {root}/
      images/training/*.jpg        images/validation/*.jpg
      annotations/training/*.png   annotations/validation/*.png
  from ADEChallengeData2016.zip of the MIT scene parsing benchmark""",
}


def shipped_configs() -> dict[str, Path]:
    """The configs of this package by their names, such as "ade20k_upernet_convnext_t" and
    "detectron2/coco_mask_rcnn_convnext_t.yaml"; one that ends in .py with that ending and without."""
    package = Path(__file__).parents[1]
    folder = package / "configs"  # in a wheel
    if not folder.is_dir():
        folder = package.parent / "configs"  # in a clone
    named = {}
    for file in sorted(folder.rglob("*.[py]*")):
        if "_base_" not in file.parts and file.suffix in (".py", ".yaml"):
            name = file.relative_to(folder).as_posix()
            named[name] = named[name.removesuffix(".py")] = file
    return named


def shipped_config(name: str) -> str:
    """The path of a shipped config by its name, for the `_base_` of one's own, wherever this package is
    installed."""
    configs = shipped_configs()
    if name not in configs:
        near = difflib.get_close_matches(name, configs, n=5, cutoff=0.0)
        raise UserError(f"this package ships no config {name}; near it: {', '.join(near)}")
    return str(configs[name])


def existing_config(path: str) -> Path:
    """The file, or the shipped config of this name; else a UserError with the names nearest to it."""
    file = Path(path).expanduser()
    if file.is_file():
        return file
    shipped = shipped_configs()
    if str(path) in shipped:
        return shipped[str(path)]
    here = [str(p) for p in Path("configs").rglob("*.[py]*") if "_base_" not in p.parts]
    names = here or [name for name in shipped if not name.endswith(".py")]
    near = difflib.get_close_matches(str(path), names, n=5, cutoff=0.0)
    raise UserError(f"there is no config {path}; near it: {', '.join(near) or 'none'}")


@contextlib.contextmanager
def refused(part: str):
    """A UserError for what the callables that a config names refuse; `part` of it is being built."""
    try:
        yield
    except CONFIG_ERRORS as error:
        if isinstance(error, UserError) and not isinstance(error, OptionError):
            raise
        what = str(error) or type(error).__name__
        if type(error) is KeyError:  # a key, or a sentence, which Python would put in quotes
            what = str(error.args[0]) if " " in str(error.args[0]) else f"no {error}"
        maker = _made_in(error)
        if maker and maker not in what:
            what = f"{maker}: {what}"
        raise UserError(f"the {part} of this config cannot be built: {what}") from error


def _made_in(error: Exception) -> str | None:
    """The class in whose __init__ an error arose."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    made = [f.f_locals["self"] for f in frames
            if f.f_code.co_name == "__init__" and "self" in f.f_locals]  # fmt: skip
    return type(made[-1]).__name__ if made else None


def print_changes(option: str, lines: Iterable[str]) -> None:
    """Say what --sample or --shrink does to a config."""
    console.say(f"{option} changes this config:")
    for line in lines:
        console.say(f"  {line}")


def missing_data(split: str, missing: Path, expected: str, way: str) -> UserError:
    """The error for a data set whose files are not there; `way` is how the framework is told where."""
    return UserError(
        f"the {split} data is not there: {missing} is missing. Expected layout:\n"
        f"{expected}\n"
        f"  Link or copy it there, or {way}, or try the run on generated data first: add --sample"
    )


def check_writable(folder: Path, option: str = "--work-dir") -> None:
    """Make a folder for results; UserError, with the option that names another, when nothing can be written
    there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"nothing can be written to the folder {folder}: {error.strerror}; give another, e.g. {option}"
        ) from error


def replace_sync_bn(node) -> int:
    """Change every "SyncBN" below a node of a config to "BN"; returns how many there were."""
    if isinstance(node, MutableMapping):
        keys = list(node)
    elif isinstance(node, MutableSequence):
        keys = range(len(node))
    else:
        return sum(map(replace_sync_bn, node)) if isinstance(node, tuple) else 0
    count = 0
    for key in keys:
        if isinstance(node[key], str):
            if node[key] == "SyncBN":
                node[key] = "BN"
                count += 1
        else:
            count += replace_sync_bn(node[key])
    return count


def keep_log(loggers: Iterable[logging.Logger], lines: console.Lines) -> None:
    """Show on the console what a user looks for of a framework's lines, and write to its log file what
    the rest of this process says."""
    for logger in loggers:
        for handler in logger.handlers:
            # Detectron2's log file is a plain stream too
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                console.shorten(handler, lines)
            else:
                console.keep_in(handler)


def tell_run(model: nn.Module, log: Path | str | None) -> None:
    """What is trained or evaluated, on what, and where the log lies, in a line each."""
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    name = (
        f"{device}, {torch.cuda.get_device_name(device)}"
        if device.type == "cuda"
        else (f"{device}, {console.counted(torch.get_num_threads(), 'thread')}")
    )
    frozen = f", {trained / 1e6:.1f} of them trained" if trained < count else ""
    console.say(f"model:  {type(model).__name__}, {count / 1e6:.1f} million parameters{frozen}")
    console.say(f"device: {name}")
    if log:
        console.say(f"log:    {log}")


def load_whole(
    model: nn.Module, state: Mapping[str, Tensor], checkpoint: str, own_config: Path | None
) -> None:
    """Load a run's state dict into its model, all of it.

    Raises:
        UserError: a parameter is missing, left over or of another shape; it names the run's own
            config, where there is one. Or weights are not finite.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    left = [name for name in state if name not in wanted]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if missing or left or shapes:
        example = (
            shapes or [f"{n} is missing" for n in missing] or [f"{n} is left over" for n in left]
        )[0]
        advice = f"; its run's own config is {own_config}" if own_config else ""
        raise UserError(
            f"{checkpoint} does not fit this config: {len(missing)} parameters missing, {len(left)} "
            f"left over, {len(shapes)} of another shape ({example}){advice}"
        )
    refuse_not_finite(state, checkpoint)
    model.load_state_dict(state)
