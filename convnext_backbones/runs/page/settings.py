"""The settings of a run's own config as names and texts. The file is read; nothing in it is executed."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# Where configs say with which weights a run begins: MMEngine's, Detectron2's of both kinds.
WEIGHTS = (
    "load_from", "model.backbone.init_cfg.checkpoint", "MODEL.WEIGHTS", "train.init_checkpoint",
)  # fmt: skip
# And which network it trains: MMEngine's, Detectron2's.
NETWORK = (
    ("model.backbone.type", "model.backbone.arch"), ("MODEL.BACKBONE.NAME", "MODEL.CONVNEXT.ARCH"),
    ("model.backbone.bottom_up._target_", "model.backbone.bottom_up.arch"),
    ("model.backbone._target_", "model.backbone.arch"),
)  # fmt: skip
NOTHING = ("", "None", "null", "''", '""')
# What every run has of its own, and no comparison is after.
OWN = ("work_dir", "OUTPUT_DIR", "train.output_dir")


def settings_of(config: Path) -> dict[str, str]:
    """Each setting by its full name, "model.backbone.arch": "'tiny'"; {} for a file that cannot be read."""
    try:
        text = config.read_text(errors="replace")
        content = _python(text) if config.suffix == ".py" else yaml.load(text, yaml.BaseLoader)
    except (OSError, SyntaxError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return dict(_flat(content)) if isinstance(content, Mapping) else {}


def weights_of(settings: Mapping[str, str]) -> dict[str, str]:
    """Of WEIGHTS, those that the settings name, without quotes."""
    found = {name: settings[name].strip("'\"") for name in WEIGHTS if name in settings}
    return {name: text for name, text in found.items() if text not in NOTHING}


def network_of(settings: Mapping[str, str]) -> str | None:
    """The backbone and its size, by the first of NETWORK that the settings name."""
    for kind, size in NETWORK:
        if kind in settings:
            name = settings[kind].strip("'\"").rpartition(".")[2]
            return f"{name} {settings.get(size, '')}".replace("'", "").strip()
    return None


def differences(runs: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """Each setting that is not the same in all runs, with its text in each; None where it is not set."""
    names = dict.fromkeys(name for settings in runs for name in settings)
    rows = {name: [settings.get(name) for settings in runs] for name in sorted(names)}
    return {name: row for name, row in rows.items() if len(set(row)) > 1 and name not in OWN}


def _python(text: str) -> dict[str, Any]:
    """What a config's top level assigns, dict(..) as well as literals; the text of anything else."""
    return {
        target.id: _value(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.unparse(k).strip("'\"") if k else "**": _value(v) for k, v in pairs}
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
        return {keyword.arg or "**": _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(element) for element in node.elts]
    return ast.unparse(node)


def _flat(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """A list of settings counts them; one of plain values is a text."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list) and any(isinstance(v, (Mapping, list)) and v for v in node):
        for number, value in enumerate(node):
            yield from _flat(value, f"{name}[{number}]")
    elif isinstance(node, list):
        yield name, f"[{', '.join(map(str, node))}]"
    else:
        yield name, "{}" if isinstance(node, Mapping) else str(node)
