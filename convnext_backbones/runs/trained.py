"""The checkpoint that a user means for test and predict, and the weights of a model that are in it.

A file; a run's work directory, for its best checkpoint or else its newest; its note `last_checkpoint`. In it
the state dict is an entry, as MMEngine and Detectron2 save it, or all there is.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..checkpoints import framework_of_names
from ..console import say
from ..errors import UserError

ENTRIES = ("state_dict", "model")  # MMEngine's and Detectron2's
# MMEngine's, where EMA is: it holds the weights as trained, and "state_dict" their averages.
AVERAGES = "ema_state_dict"


def checkpoint_file(path: str) -> str:
    """The checkpoint at a path; prints which one that is where the path names a run.

    Raises:
        UserError: nothing is there, or no checkpoint is in the folder.
    """
    place = Path(path).expanduser()
    if place.name == "last_checkpoint" and place.is_file():
        found, which = _noted(place), "the newest"
        if not found:
            raise UserError(
                f"{path} names no checkpoint that is beside it; give a checkpoint's own file"
            )
    elif place.is_dir() and not (place / ".metadata").exists():  # which a checkpoint in parts has
        found, which = best_or_newest(place)
        if not found:
            raise UserError(
                f"{path} is a folder without a checkpoint (*.pth); give a checkpoint's file, or the work "
                "directory of a run that has saved one"
            )
    else:
        return path
    if _prints():
        say(f"checkpoint:  {found}, {which} of the run")
    return str(found)


def best_or_newest(folder: Path) -> tuple[Path | None, str]:
    """The checkpoint of a run's work directory, and which it is; None where there is none."""
    if best := sorted([*folder.glob("best_*.pth"), *folder.glob("model_best.pth")], key=_age):
        return best[-1], "the best"
    newest = _noted(folder / "last_checkpoint") or max(folder.glob("*.pth"), key=_age, default=None)
    return newest, "the newest"


def _prints() -> bool:
    """Whether this is the first of the processes that a launcher started, before they know each other."""
    return os.environ.get("RANK", "0") == "0"


def _noted(note: Path) -> Path | None:
    """The file that a run's note names, where the note is now."""
    name = Path(note.read_text().strip()).name if note.is_file() else ""
    return note.with_name(name) if name and note.with_name(name).exists() else None


def _age(file: Path) -> float:
    return file.stat().st_mtime


def state_of(content: Mapping, checkpoint: str, framework: str) -> dict[str, Tensor]:
    """The model's state dict in what was read from a checkpoint.

    Raises:
        UserError: no weights in it, or another framework's.
    """
    entry = next((name for name in ENTRIES if isinstance(content.get(name), Mapping)), None)
    state = content[entry] if entry else content
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{checkpoint} holds no weights; give the checkpoint of a run")
    other = framework_of_names(state)
    if other and other != framework:
        raise UserError(
            f"{checkpoint} is a checkpoint of {other}, and the config is one of {framework}: their heads have "
            f"other names and shapes. Give a config of {other}, or train from its ConvNeXt with --weights"
        )
    return state


def tell_weights(content: Mapping) -> None:
    """Print which weights state_of gives."""
    if not _prints():
        return
    if content.get(AVERAGES):
        say(
            "weights:     the averages that EMA keeps; those as trained, also in the file, are not used"
        )
    else:
        say("weights:     as trained")
