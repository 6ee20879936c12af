"""What only a run that has just ended knows, kept beside it for its page: WORK_DIR/report/."""

import datetime
import itertools
import json
import os
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ...console import progress
from ...errors import UserError
from ...network.convnext import Trunk
from ...network.variants import VARIANTS
from ..data_check import LARGEST
from ..host import Host
from ..machine import TOLD, installed, memory, normal, processor
from ..whole_files import write_whole
from .groups import groups_of
from .looking import Looked

try:
    import resource
except ImportError:  # Windows
    resource = None

FOLDER, FILE = "report", "run.json"
VERSION = 1  # of what stands in it
PARTS = ("picture", "truth", "prediction")  # of a validation picture, a file each

LOOKED_AT = 200  # pictures at most, and of a training's time
SHARE, LEAST, MOST = 0.05, 2.0, 120.0  # in seconds the last two
TRIED = 4  # pictures, for how long one takes
LONG = 600  # seconds of a training, after which a large annotation file is read once more
HUGE = 2**30  # bytes of one that is not


def keep_facts(
    host: Host, config: Any, trained: Any, *, score: float, seconds: float, at: int | None
) -> None:
    """Look at the run that has just ended, and write what is known of it.

    Args:
        trained: what host.train returned.
        score: the least of an instance that is drawn.
        seconds: that the training took.
        at: the last step in its log.
    """
    lacks: list[str] = []

    def part(what: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:  # a page without a part of it is better than none
            words = str(error) or type(error).__name__
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            lacks.append(f"{what} could not be told: {kind}{words}")
            return None

    looked = part(
        "what the model sees in validation pictures",
        lambda: _looked(host, config, trained, score, seconds),
    )
    optimized = part("the optimizer", lambda: host.optimized(config, trained))
    facts = dict(
        version=VERSION,
        command=shlex.join(sys.argv),
        ended=datetime.datetime.now().isoformat(" ", "seconds"),
        seconds=seconds,
        at=at,
        config=host.own_config(config).name,
        machine=part("the machine", _machine),
        versions=part("versions", _versions),
        data=part("the data", lambda: _data(host, config, seconds)),
        network=optimized and part("the network", lambda: _network(optimized.model)),
        groups=optimized and part(
            "parameter groups", lambda: [g._asdict() for g in groups_of(optimized)]
        ),
        looked=None,
    )  # fmt: skip
    folder = host.work_dir(config) / FOLDER
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9][0-9]_*.jpg"):
        old.unlink()
    if looked:
        facts["looked"] = part("validation pictures", lambda: _kept(looked, folder))
    facts["lacks"] = lacks
    write_whole(folder / FILE, json.dumps(facts, indent=1))


def read_facts(work_dir: Path) -> dict[str, Any]:
    """What keep_facts wrote there; {} where it did not, or another version did."""
    try:
        facts = json.loads((work_dir / FOLDER / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and facts.get("version") == VERSION else {}


# ---- validation pictures -------------------------------------------------------------------------
def _looked(host: Host, config: Any, trained: Any, score: float, seconds: float) -> Looked | None:
    """As many pictures as a twentieth of the training's time allows; None where the config has none."""
    budget = min(max(SHARE * seconds, LEAST), MOST)
    started = time.monotonic()
    tried = Looked(score)
    times = []
    for example in host.examples(config, trained, TRIED):
        tried.look(host, example)
        times.append(time.monotonic())
    if not tried.count:
        return None
    a_picture = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0] - started
    count = min(LOOKED_AT, int(budget / max(a_picture, 1e-4)))
    if count <= tried.count:
        return tried
    looked = Looked(score)
    examples = host.examples(config, trained, count)
    for example in progress(examples, "report", total=count, unit="picture"):
        looked.look(host, example)
        if time.monotonic() - started > 3 * budget:  # the first ones were quick
            break
    return looked


def _kept(looked: Looked, folder: Path) -> dict[str, Any]:
    pictures = []
    for k, seen in enumerate(looked.worst):
        for name, content in zip(PARTS, seen.drawn(looked.score), strict=True):
            (folder / f"{k:02}_{name}.jpg").write_bytes(content)
        pictures.append(dict(file=seen.file, words=seen.words))
    return dict(
        task=looked.task,
        count=looked.count,
        without_truth=looked.without_truth,
        score=looked.score,
        names=looked.class_names(),
        matrix=[[row, column, n] for (row, column), n in sorted(looked.matrix.items())],
        pictures=pictures,
    )


# ---- the rest ------------------------------------------------------------------------------------
def _machine() -> dict[str, Any]:
    name, instructions = processor()
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    gpu = torch.cuda.is_available()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else None
    return dict(
        processor=name,
        instructions=instructions,
        cores=os.cpu_count(),
        memory=memory(),
        platform=platform.platform(),
        processes=torch.distributed.get_world_size() if group else 1,
        gpu=torch.cuda.get_device_name() if gpu else None,
        used=used and used * (1 if sys.platform == "darwin" else 1024),
        used_on_gpu=torch.cuda.max_memory_allocated() if gpu else None,
    )


def _versions() -> dict[str, str]:
    packages = installed()
    found = {name: packages[normal(name)].version for name in TOLD if normal(name) in packages}
    return {"python": platform.python_version(), **found}


def _data(host: Host, config: Any, seconds: float) -> list[dict[str, Any]]:
    return list(_splits(host, config, HUGE if seconds > LONG else LARGEST))


def _splits(host: Host, config: Any, most: int) -> Iterator[dict[str, Any]]:
    for split in ("train", "val"):
        data = host.records(config, split, most=most)
        if data is None:
            continue
        count = Counter(
            label
            for record in data.records
            for label, crowd in itertools.zip_longest(record.labels, record.crowd)
            if not crowd
        )
        yield dict(
            split=split,
            task=data.task,
            pictures=len(data.records),
            place=data.annotations or data.images or "",
            classes=list(map(str, data.classes)),
            objects={data.classes[k]: n for k, n in count.items() if 0 <= k < len(data.classes)},
            unread=data.unread,
            error=data.error,
        )


def _network(model: torch.nn.Module) -> dict[str, Any]:
    trunk = next((module for module in model.modules() if isinstance(module, Trunk)), None)
    parameters = list(model.parameters())
    counts = dict(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
    )
    if trunk is None:
        return counts
    size = next(
        (v.name for v in VARIANTS.values()
         if (v.version, v.depths, v.dims) == (trunk.version, trunk.depths, trunk.dims)), None,
    )  # fmt: skip
    whole = f"{type(model).__module__.partition('.')[0]}'s {type(model).__name__}"
    own = f"ConvNeXt{' V2' * (trunk.version == 2)}, depths {trunk.depths}, dims {trunk.dims}"
    return dict(backbone=size or own, whole=whole, **counts)
