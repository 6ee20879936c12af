"""The page that a training ends with."""

from pathlib import Path
from typing import Any

from .. import report
from ..host import Host
from .facts import keep_facts
from .making import PAGE, save_page
from .read import read_run


def write_page(host: Host, config: Any, trained: Any, *, score: float, seconds: float) -> Path:
    """Keep what is known of a run that has just ended, and write its page beside it; on the main process alone.

    Args:
        trained: what host.train returned.
        score: the least of an instance that is drawn.
        seconds: that the training took.
    """
    folder = host.work_dir(config)
    training, validation = report.scalars(host.read_log(folder))
    at = max((record["at"] for record in (*training, *validation)), default=None)
    keep_facts(host, config, trained, score=score, seconds=seconds, at=at)
    return save_page(read_run(host, folder, host.own_config(config)), folder / PAGE)
