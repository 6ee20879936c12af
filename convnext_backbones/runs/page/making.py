"""The page of a run, and the page of several beside each other."""

import math
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import report
from ..commands import called
from .charts import Chart, Points, chart
from .facts import FOLDER, PARTS
from .groups import Group
from .looking import IOU, NONE, confused
from .read import Run, weights
from .render import DASH, LARGEST, Cell, Table, cell, cells, data_uri, duration, gib, save
from .settings import differences, network_of

MATRIX = 25  # classes of a confusion matrix in full; of more, the most confused
PAIRS = 20  # of classes that are taken for each other
LONG = 30  # rows that are shown of a long table, before one asks for the rest
PAGE = "report.html"


# ---- one run -------------------------------------------------------------------------------------
def save_page(run: Run, path: Path) -> Path:
    """
    Raises:
        UserError: it cannot be written, or another file is there.
    """
    settings = _settings_table(run.settings)
    looked = run.facts.get("looked") or {}
    return save(
        path,
        "run",
        run=run,
        trained=_trained(run),
        tiles=_tiles(run),
        charts=_charts(run),
        metrics=_metrics_table(run.validation),
        classes=_classes_table(run),
        looked=looked,
        looked_words=_looked_words(run),
        matrix=_matrix(looked),
        pairs=_pairs_table(looked),
        pictures=_pictures(run),
        commands=_commands(run),
        groups=_groups_table(run.facts.get("groups") or ()),
        data=_data_table(run.facts.get("data") or ()),
        machine=run.facts.get("machine") or {},
        versions=run.facts.get("versions") or {},
        settings=settings,
        long=LONG,
    )


def _tiles(run: Run) -> list[tuple[str, str]]:
    """The few figures that one looks for first: names and values."""
    tiles = []
    if run.validation:
        found = report.metrics_of(run.validation[-1])
        names = [name for name in report.headlines_of(run.validation) if name in found]
        tiles += [(name, report.in_digits(name, found[name])) for name in names[:4]]
    if run.last is not None:
        tiles.append(("last step", f"{run.last:,}"))
    if seconds := run.facts.get("seconds"):
        tiles.append(("last session", duration(seconds)))
    return tiles


def _trained(run: Run) -> list[tuple[str, str]]:
    """What was trained, a line each."""
    facts = run.facts
    network, machine = facts.get("network") or {}, facts.get("machine") or {}
    lines = [("config", str(run.config))] if run.config else []
    if network.get("backbone"):
        lines.append(("network", f"{network['whole']} with {network['backbone']}"))
    elif backbone := network_of(run.settings):
        lines.append(("backbone", backbone))
    if network:
        frozen = network["parameters"] - network["trained"]
        lines.append((
            "parameters", f"{network['parameters']:,}" + (f", {frozen:,} of them frozen" if frozen else ""),
        ))  # fmt: skip
    begun = weights(run)
    for name, text, licence, data in begun:
        lines.append(
            ("weights at the start", f"{text} ({name}); licence: {licence}; trained on: {data}")
        )
    if run.settings and not begun:
        lines.append(("weights at the start", "none: from scratch"))
    for data in facts.get("data") or ():
        lines.append((f"data, {data['split']}", _data_words(data)))
    if facts.get("seconds"):
        lines.append(
            ("ended", f"{facts['ended']}, after {duration(facts['seconds'])} of its last session")
        )
    if machine:
        device = machine["gpu"] or machine["processor"]
        of = f"{machine['processes']} processes" if machine["processes"] > 1 else "one process"
        lines.append(
            ("machine", f"{device}, {of}; {machine['cores']} cores, {gib(machine['memory'])}")
        )
    if versions := facts.get("versions"):
        told = ("convnext_backbones", "torch", "mmdet", "mmsegmentation", "onedl-mmdetection",
                "onedl-mmsegmentation", "detectron2")  # fmt: skip
        lines.append(("versions", ", ".join(f"{n} {versions[n]}" for n in told if n in versions)))
    if facts.get("command"):
        lines.append(("command", facts["command"]))
    if run.checkpoint:
        lines.append(("checkpoint", f"{run.checkpoint}, {run.which}"))
    return lines


def _data_words(data: Mapping[str, Any]) -> str:
    where = f" in {data['place']}" if data["place"] else ""
    if data["unread"]:
        return f"{data['place']}, {data['unread'] / 2**20:.0f} MB, was not read again"
    if data["error"] and not data["pictures"]:
        return str(data["error"])
    objects = sum(data["objects"].values())
    boxes = f", {objects:,} objects" if data["task"] == "boxes" else ""
    return f"{data['pictures']:,} pictures{boxes}, {len(data['classes'])} classes{where}"


def _charts(run: Run) -> list[Chart]:
    training, validation = run.training, run.validation
    groups = [Group(**group) for group in run.facts.get("groups") or ()]
    memory = [(r["at"], r["memory"] / 1024) for r in training if r.get("memory")]
    return _existing(
        chart("Losses", report.losses_of(training) if training else {}),
        chart("Metrics", _metric_lines(validation)),
        chart("Learning rates by group", _rates(training, groups), log=True),
        chart("Seconds a step", _seconds(training)),
        chart("GPU memory in GiB", {"the most so far": memory} if memory else {}),
    )


def _existing(*charts: Chart | None) -> list[Chart]:
    return [found for found in charts if found]


def _metric_lines(validation: list[dict]) -> dict[str, Points]:
    return {
        name: [
            (r["at"], found[name]) for r in validation if name in (found := report.metrics_of(r))
        ]
        for name in report.headlines_of(validation)
    }


def _of(training: list[dict], name: str) -> Points:
    return [(r["at"], r[name]) for r in training if isinstance(r.get(name), (int, float))]


def _seconds(training: list[dict]) -> dict[str, Points]:
    return {"a step": _of(training, "time"), "of it, waiting for data": _of(training, "data_time")}


def _rates(training: list[dict], groups: Sequence[Group]) -> dict[str, Points]:
    """The logged learning rate, of one group, and those of the others by it: a schedule multiplies all of them
    alike. Where it did not, the logged one alone."""
    logged = _of(training, "lr")
    factors = [group.factor for group in groups if group.factor is not None]
    alike = not factors or all(math.isclose(f, factors[0], rel_tol=1e-3) for f in factors)
    if not groups or not alike:
        return {"the logged group's": logged}
    if len({group.rate for group in groups}) == 1:
        return {"all parameters": logged}
    lines: dict[str, Points] = {}
    parts: dict[float, list[str]] = {}
    for group in groups:
        parts.setdefault(group.rate, []).extend(group.of.split(", "))
    for rate, of in parts.items():
        names = ", ".join(dict.fromkeys(of))
        lines[names if len(names) < 80 else f"{names[:76]} .."] = [
            (at, lr * rate) for at, lr in logged
        ]
    return lines


# ---- tables --------------------------------------------------------------------------------------
def _metrics_table(validation: list[dict]) -> Table | None:
    """Each metric at its last validation and where it was highest."""
    found = [(record["at"], report.metrics_of(record)) for record in validation]
    names = dict.fromkeys(n for _, metrics in found for n in metrics if not report.is_of_class(n))
    rows = []
    for name in names:
        values = [(at, metrics[name]) for at, metrics in found if name in metrics]
        highest = max(
            (pair for pair in values if _is_measured(pair[1])), key=lambda p: p[1], default=None
        )
        rows.append(cells(
            name, _metric(name, values[-1][1]), _metric(name, highest[1] if highest else math.nan),
            highest[0] if highest else None,
        ))  # fmt: skip
    columns = ["metric", "last", "highest", "highest at step"]
    return Table(columns, rows, sortable=True, label="metrics") if rows else None


def _metric(name: str, value: float) -> Cell:
    if not _is_measured(value):
        return cell(math.nan)
    return cell(float(value), report.in_digits(name, value))


def _is_measured(value: float) -> bool:
    """COCO's -1 says that there was nothing to measure."""
    return math.isfinite(value) and value != -1


def _of_classes(validation: list[dict]) -> dict[str, dict[str, float]]:
    """The last metrics by class: class, name of the metric, value."""
    scores: dict[str, dict[str, float]] = {}
    for record in reversed(validation):
        for name, value in report.metrics_of(record).items():
            if match := report.OF_CLASS.fullmatch(name):
                scores.setdefault(match[2], {})[match[1] + (match[3] or "")] = value
        if scores:
            break
    return scores


def _classes_table(run: Run) -> Table | None:
    """The last metrics by class, with what there was of it to learn, and what it is taken for."""
    scores = _of_classes(run.validation)
    metrics = list(dict.fromkeys(name for values in scores.values() for name in values))
    data = [d for d in run.facts.get("data") or () if d["task"] == "boxes" and d["objects"]]
    names = list(dict.fromkeys([*scores, *(name for d in data for name in d["classes"])]))
    looked = run.facts.get("looked") or {}
    taken: dict[str, str] = {}
    for row, column, _, part in reversed(confused(looked.get("matrix", ()), 10**6)):
        if row != NONE:
            percent = f"{100 * part:.0f}" if part >= 0.005 else "<1"
            taken[_class(looked, row)] = f"{_class(looked, column, missed=True)} ({percent} %)"
    if not names:
        return None
    columns = ["class", *metrics, *(f"objects, {d['split']}" for d in data)]
    columns += ["most often taken for"] * bool(taken)
    rows = []
    for name in names:
        row = [name, *(_metric(m, scores.get(name, {}).get(m, math.nan)) for m in metrics)]
        row += [d["objects"].get(name, 0) for d in data]
        rows.append(cells(*row, *([Cell(taken.get(name, DASH))] * bool(taken))))
    return Table(columns, rows, sortable=True, label="classes")


def _class(looked: Mapping[str, Any], number: int, *, missed: bool = False) -> str:
    if number == NONE:
        return "missed" if missed else "nothing"
    return looked["names"].get(str(number), str(number))


def _matrix(looked: Mapping[str, Any]) -> Table | None:
    """Truth in rows, prediction in columns, each in percent of its row; of many classes those that are most
    confused."""
    entries = {(row, column): n for row, column, n in looked.get("matrix", ())}
    if not entries:
        return None
    numbers = sorted({number for pair in entries for number in pair} - {NONE})
    if len(numbers) > MATRIX:
        wrong: Counter[int] = Counter()
        for (row, column), n in entries.items():
            if row != column:
                wrong[row] += n
                wrong[column] += n
        numbers = sorted(sorted(numbers, key=lambda k: -wrong[k])[:MATRIX])
    totals: Counter[int] = Counter()
    for (row, _), n in entries.items():
        totals[row] += n
    missed = any(column == NONE for _, column in entries)
    false = any(row == NONE for row, _ in entries)
    across = numbers + [NONE] * missed
    rows = []
    for row in numbers + [NONE] * false:
        line = [Cell(_class(looked, row))]
        for column in across:
            count = entries.get((row, column), 0)
            part = count / totals[row] if totals[row] else 0.0
            kind = "right" if row == column else "wrong"
            if row == NONE:  # false objects, each a count: no part of anything
                line.append(Cell(f"{count:,}" if count else "", float(count), ""))
            else:
                text = f"{100 * part:.0f}" if part >= 0.005 else ("<1" if count else "")
                line.append(Cell(text, part, kind))
        line.append(Cell(f"{totals[row]:,}", float(totals[row])))
        rows.append(line)
    columns = ["truth", *(_class(looked, k, missed=True) for k in across), "count"]
    return Table(columns, rows, label="confusion matrix")


def _pairs_table(looked: Mapping[str, Any]) -> Table | None:
    boxes = looked.get("task") == "boxes"
    rows = [
        cells(
            _class(looked, row), _class(looked, column, missed=True), n,
            cell(part, f"{100 * part:.1f} %") if row != NONE else cell(math.nan),
        )
        for row, column, n, part in confused(looked.get("matrix", ()), PAIRS)
    ]  # fmt: skip
    columns = ["truth", "taken for", "objects" if boxes else "pixels", "of the truth's"]
    return Table(columns, rows, sortable=True, label="confused pairs") if rows else None


def _groups_table(groups: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [
        cells(g["of"], g["lr"], g["weight_decay"], g["tensors"], g["parameters"]) for g in groups
    ]
    columns = ["parameters of", "learning rate at first", "weight decay", "tensors", "parameters"]
    return Table(columns, rows, sortable=True, label="parameter groups") if rows else None


def _data_table(data: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [
        cells(d["split"], None if d["unread"] else d["pictures"],
              sum(d["objects"].values()) if d["task"] == "boxes" else None, len(d["classes"]) or None)
        for d in data
    ]  # fmt: skip
    return Table(["split", "pictures", "objects", "classes"], rows, label="data") if rows else None


def _settings_table(settings: Mapping[str, str]) -> Table | None:
    rows = [cells(Cell(name), Cell(text)) for name, text in settings.items()]
    return Table(["setting", "value"], rows, sortable=True, label="settings") if rows else None


# ---- pictures ------------------------------------------------------------------------------------
def _looked_words(run: Run) -> str:
    looked = run.facts.get("looked")
    if not looked:
        return ""
    total = next((d["pictures"] for d in run.facts.get("data") or () if d["split"] == "val"), 0)
    of = f" of {total:,}" if total and not looked["without_truth"] > total else ""
    words = f"The best weights that are known looked at {looked['count']:,}{of} validation pictures"
    words += (
        ", spread over the data, in a twentieth of the training's time."
        if looked["count"] < total
        else "."
    )
    if looked["task"] == "boxes":
        words += (
            f" Predictions of a score from {looked['score']:g} count; an object is found by a box of an IoU "
            f"from {IOU:g}."
        )
    if looked["without_truth"]:
        words += f" {looked['without_truth']:,} of them are not annotated and count for nothing."
    return words


def _pictures(run: Run) -> list[dict[str, Any]]:
    """The worst first, each a title, words and three pictures, as many as the page has room for."""
    looked = run.facts.get("looked") or {}
    found, size = [], 0
    for k, entry in enumerate(looked.get("pictures", ())):
        files = [run.folder / FOLDER / f"{k:02}_{part}.jpg" for part in PARTS]
        try:
            contents = [file.read_bytes() for file in files]
        except OSError:
            run.lacks.append(f"Pictures are missing in {run.folder / FOLDER}.")
            break
        size += sum(4 * -(-len(content) // 3) for content in contents)
        if size > 0.8 * LARGEST:
            break
        found.append(dict(entry, images=[data_uri(content) for content in contents]))
    return found


# ---- what comes next -----------------------------------------------------------------------------
def _commands(run: Run) -> list[tuple[str, str]]:
    folder = shlex.quote(str(run.folder))
    again = ("the page again, or of several runs", f"{called('report')} {folder}")
    if not run.config:
        return [again]
    config = shlex.quote(str(run.config))
    found = []
    if run.checkpoint:
        checkpoint = shlex.quote(str(run.checkpoint))
        found = [
            ("evaluate", f"{called('test')} {config} {checkpoint}"),
            ("predict", f"{called('predict')} {config} {checkpoint} IMAGE_OR_FOLDER --out DIR"),
        ]
        if not run.ended:
            found.append(("go on", f"{called('train')} {config} --work-dir {folder} --resume"))
        found.append((
            "another run from these weights",
            f"{called('train')} CONFIG --weights {checkpoint}",
        ))  # fmt: skip
    return [*found, ("look at the data", f"{called('check-data')} {config}"), again]


# ---- several runs --------------------------------------------------------------------------------
def save_comparison(runs: Sequence[Run], path: Path) -> Path:
    """
    Raises:
        UserError: it cannot be written, or another file is there.
    """
    for run, name in zip(runs, _names(runs), strict=True):
        run.name = name
    names = [run.name for run in runs]
    differing = differences([run.settings for run in runs])
    return save(
        path,
        "comparison",
        runs=runs,
        names=names,
        overview=_overview(runs),
        charts=_overlaid(runs),
        metrics=_compared(runs, lambda run: _last_metrics(run), "metric"),
        classes=_compared(runs, _class_scores, "class"),
        settings=Table(["setting", *names], [
            cells(Cell(name), *(Cell("not set" if v is None else v) for v in row))
            for name, row in differing.items()
        ], sortable=True, label="settings that differ") if differing else None,
        without=[run.name for run in runs if not run.settings],
        long=LONG,
    )  # fmt: skip


def _names(runs: Sequence[Run]) -> list[str]:
    """The folders' names; their paths where two would be one."""
    count = Counter(run.name for run in runs)
    return [run.name if count[run.name] == 1 else str(run.folder) for run in runs]


def _overview(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        facts = run.facts
        network, machine = facts.get("network") or {}, facts.get("machine") or {}
        train = next(
            (d["pictures"] for d in facts.get("data") or () if d["split"] == "train"), None
        )
        seconds = facts.get("seconds")
        begun = ", ".join(text for _, text, _, _ in weights(run))
        rows.append(cells(
            run.name, network.get("backbone") or network_of(run.settings) or "not known", begun or "none", train, run.last,
            cell(seconds, duration(seconds)) if seconds else None,
            machine.get("gpu") or machine.get("processor") or "not known",
            "came to its end" if run.ended else "did not, or is not known",
        ))  # fmt: skip
    columns = ["run", "network", "weights at the start", "training pictures", "last step", "training",
               "device", "end"]  # fmt: skip
    return Table(columns, rows, sortable=True, label="runs")


def _overlaid(runs: Sequence[Run]) -> list[Chart]:
    names = dict.fromkeys(n for run in runs for n in report.headlines_of(run.validation))
    charts = [chart("Loss", {run.name: _of(run.training, "loss") for run in runs})]
    for name in list(names)[: report.LINES]:
        charts.append(chart(name, {
            run.name: _metric_lines(run.validation).get(name, ()) for run in runs
        }))  # fmt: skip
    charts += [
        chart("Learning rate", {run.name: _of(run.training, "lr") for run in runs}, log=True),
        chart("Seconds a step", {run.name: _of(run.training, "time") for run in runs}),
    ]
    return _existing(*charts)


def _last_metrics(run: Run) -> dict[str, tuple[str, float]]:
    if not run.validation:
        return {}
    found = report.metrics_of(run.validation[-1])
    return {name: (name, v) for name, v in found.items() if not report.is_of_class(name)}


def _class_scores(run: Run) -> dict[str, tuple[str, float]]:
    """The first metric of each class, such as its AP of boxes."""
    scores = _of_classes(run.validation)
    return {
        f"{metric} of {name}": (metric, value)
        for name, values in scores.items()
        for metric, value in values.items()
    }


def _compared(
    runs: Sequence[Run], values_of: Callable[[Run], dict[str, tuple[str, float]]], what: str
) -> Table | None:
    """A row a metric, a column a run; the highest is marked."""
    found = [values_of(run) for run in runs]
    rows = []
    for name in dict.fromkeys(name for values in found for name in values):
        given = [values.get(name, (name, math.nan)) for values in found]
        line = [_metric(metric, value) for metric, value in given]
        numbers = [c.value for c in line if c.value is not None and math.isfinite(c.value)]
        if len(set(numbers)) > 1:
            line = [c._replace(kind="best") if c.value == max(numbers) else c for c in line]
        rows.append([Cell(name), *line])
    columns = [what, *(run.name for run in runs)]
    return Table(columns, rows, sortable=True, label=what) if rows else None
