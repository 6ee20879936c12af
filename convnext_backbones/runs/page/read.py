"""What a work directory holds of a run, whoever trained it and however it ended."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checkpoints.catalogue import find_weights
from ...errors import UserError
from .. import report
from ..guards import SKIPPED, STALLED
from ..host import Host
from ..trained import best_or_newest
from .facts import read_facts
from .settings import settings_of, weights_of

SAID = 20  # warnings in full
LENGTH = 300  # characters of one


@dataclass
class Run:
    """A run as its page needs it.

    config: its own config. checkpoint: its best or newest one, and which. warnings: a sentence each, with how
    often it was said. facts: of facts.py, {} where there are none. lacks: what is not there, a sentence each.
    """

    name: str
    folder: Path
    config: Path | None
    settings: dict[str, str]
    training: list[dict]
    validation: list[dict]
    warnings: list[str]
    checkpoint: Path | None
    which: str
    facts: dict[str, Any]
    lacks: list[str] = field(default_factory=list)

    @property
    def last(self) -> int | None:
        """The last step in the log."""
        steps = [record["at"] for record in (*self.training, *self.validation)]
        return max(steps, default=None)

    @property
    def ended(self) -> bool:
        """Whether the training came to its end, and its page's facts are of this end."""
        return bool(self.facts) and self.facts.get("at") == self.last


def read_run(host: Host, folder: Path, config: Path | None) -> Run:
    """
    Args:
        config: the run's own config; None where it has none.

    Raises:
        UserError: the folder holds neither a log nor a checkpoint.
    """
    training, validation = report.scalars(host.read_log(folder))
    checkpoint, which = best_or_newest(folder)
    if not training and not validation and not checkpoint:
        raise UserError(
            f"{folder} holds no run: no log and no checkpoint is there; give a work directory (--work-dir of "
            "train)"
        )
    run = Run(
        name=folder.resolve().name,
        folder=folder,
        config=config,
        settings=settings_of(config) if config else {},
        training=training,
        validation=validation,
        warnings=_warnings(host, folder),
        checkpoint=checkpoint,
        which=which,
        facts=read_facts(folder),
    )
    run.lacks += _lacks(run)
    return run


def _warnings(host: Host, folder: Path) -> list[str]:
    count = Counter(line.strip()[:LENGTH] for line in host.read_warnings(folder))
    said = [f"{line} ({n} times)" if n > 1 else line for line, n in count.items()]
    if len(said) > SAID:
        said = [*said[:SAID], f"and {len(said) - SAID} others, in the log"]
    for file in sorted(folder.glob(SKIPPED.format("*"))):
        pictures = len(file.read_text(errors="replace").splitlines())
        said.append(f"{pictures} training pictures could not be read and were left out: {file}")
    for file in sorted(folder.glob(STALLED.format("*"))):
        if file.stat().st_size:
            said.append(f"the run stood still, and was ended; where, is in {file}")
    return said


def _lacks(run: Run) -> list[str]:
    found = []
    if not run.training:
        found.append(
            "No training step is in the log: there are no curves of losses and learning rates."
        )
    if not run.validation:
        found.append(
            "No validation is in the log: there are no metrics, and no table of classes. The run ended before "
            "the first one, or its config has none."
        )
    if not run.facts:
        found.append(
            "This run has not come to its end under this package's train, or an older version trained it: data "
            "counts, the machine, the confusion matrix and validation pictures are not known."
        )
    elif not run.ended:
        found.append(
            f"The log goes on to step {run.last}: data counts, the machine, the confusion matrix and pictures "
            f"are those of step {run.facts.get('at')}, where a training came to its end."
        )
    if not run.checkpoint:
        found.append("No checkpoint is in the folder: the run has saved none, or it was deleted.")
    return [
        *found,
        *(f"{sentence[0].upper()}{sentence[1:]}." for sentence in run.facts.get("lacks", ())),
    ]


def weights(run: Run) -> list[tuple[str, str, str, str]]:
    """With what the run began: the setting, the weights, their licence and what they were trained on."""
    found = []
    for name, text in weights_of(run.settings).items():
        row = find_weights(text)
        known = (row.licence, row.training_data) if row else ("not in the catalogue", "not known")
        found.append((name, text, *known))
    return found
