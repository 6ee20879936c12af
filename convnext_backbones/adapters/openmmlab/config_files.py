"""What the files of a config set and use, read beside MMEngine's merged result: keys that no part reads,
variables that are set again in vain, and one place for data (data_root).

MMEngine merges any key into a config and reads those it knows. A file's own variables are keys like others:

    crop_size = (512, 512)                                   # a variable, used below
    train_dataloader = dict(dataset=dict(pipeline=[dict(type="RandomCrop", crop_size=crop_size)]))

so that a misspelt key, and a variable of a base that a config sets again, change nothing and say nothing.
"""

import ast
import inspect
import logging
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner

from ...errors import UserError
from ...runs.preparation import shipped_configs
from .signatures import OF_BUILDERS, keys_of, near, strangers, walk

LOGGER = logging.getLogger("convnext_backbones")

# The keys that MMEngine's Runner, the hosts' tools and this package read.
RUNNERS = set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}
KNOWN = RUNNERS | {
    "_base_", "custom_imports", "auto_scale_lr", "tta_model", "tta_pipeline", "recipe", "data_root",
    "runner_type", "compile", "strategy", "env_cfg", "gpu_ids", "mp_start_method",
    "opencv_num_threads",
}  # fmt: skip


class Source(NamedTuple):
    """A file of a config: the names that it sets at its top level, those it uses, and its bases."""

    path: Path
    sets: frozenset[str]
    uses: frozenset[str]
    bases: tuple["Source", ...]

    @property
    def is_flat(self) -> bool:
        """A config that a run wrote: every variable replaced by its value."""
        return not self.bases and not self.uses

    def below(self) -> Iterator["Source"]:
        """The files that it builds on, all the way down."""
        for base in self.bases:
            yield base
            yield from base.below()


def source_of(path: Path) -> Source:
    """The files of a config, none of them executed. What is not Python sets and uses nothing here."""
    sets, uses, bases = set(), set(), []
    if path.suffix == ".py":
        tree = ast.parse(path.read_text(errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                uses.add(node.id)
            elif isinstance(node, ast.Attribute) and _is_base(node.value):
                uses.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and node.level:  # of read_base()
                folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                bases.append(folder.with_suffix(".py"))
        for node in tree.body:
            if isinstance(node, ast.Assign):
                names = {target.id for target in node.targets if isinstance(target, ast.Name)}
                sets |= names
                if "_base_" in names:
                    values = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)]
                    bases += [path.parent / value for value in values if isinstance(value, str)]
    found = tuple(source_of(base) for base in bases if base.is_file())
    return Source(path, frozenset(sets), frozenset(uses) - {"dict", "_base_"}, found)


def _is_base(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "_base_"


def base_of(source: Source) -> dict:
    """The merged bases of a config, as it found them; their keys exclude each other."""
    merged: dict = {}
    for base in source.bases:
        merged.update(Config.fromfile(base.path, import_custom_modules=False).items())
    return merged


# ---- keys that no part reads ---------------------------------------------------------------------
def unread_keys(cfg: Config, source: Source) -> list[str]:
    """A sentence for every top-level key of the user's own files that changes nothing. A key near no known
    one, and those of a run's own config, are told in a line instead."""
    mistakes = []
    for file in (source, *source.below()):
        if file.path in set(shipped_configs().values()) or "_base_" in file.path.parts:
            continue  # a base is made for others, which read its variables
        users = [file] if file is source else [source, *source.below()]
        unused = file.sets - KNOWN - set().union(*(user.uses for user in users))
        base = base_of(file) if unused else {}
        for key in sorted(unused & set(cfg)):
            if key in base:
                if cfg[key] != base[key]:
                    mistakes.append(_set_again(key, base, cfg))
                continue
            meant = near(key, KNOWN | set(base))
            if meant and not file.is_flat:
                mistakes.append(f"no part of a run reads {key!r}; did you mean {meant!r}?")
            elif not file.is_flat:
                LOGGER.warning("%s sets %r, which no part of a run reads", file.path, key)
    return mistakes


def _set_again(key: str, base: Mapping, cfg: Mapping) -> str:
    """The sentence for a variable of a base, set to another value."""
    places = _holding(base[key], {k: v for k, v in cfg.items() if k in RUNNERS})
    read = f", e.g. {' and '.join(places[:3])}" if places else ""
    return (
        f"{key!r} is a variable of the base file, already put where it is used: setting it again changes "
        f"nothing. Set the entries that are read{read}"
    )


def _holding(value: Any, node: Any, path: str = "") -> list[str]:
    """The paths below a node at which a value stands."""
    if path and type(node) is type(value) and node == value:
        return [path]
    items = node.items() if isinstance(node, Mapping) else ()
    if isinstance(node, (list, tuple)):
        items = enumerate(node)
    return [found for key, part in items
            for found in _holding(value, part, f"{path}.{key}" if path else str(key))]  # fmt: skip


def misplaced_entries(cfg: Config, source: Source) -> list[str]:
    """A sentence for every entry that its class does not take, in what a run builds."""
    base = base_of(source)
    mistakes = []
    for path, node in walk({k: v for k, v in cfg.items() if k in RUNNERS}):
        if not node.get("type"):
            continue
        before = _entry(base, path)
        inherited = [
            key for key, _ in strangers(node, cfg.default_scope)
            if isinstance(before, Mapping) and key in before and before.get("type") != node["type"]
        ]  # fmt: skip
        name = getattr(node["type"], "__name__", node["type"])
        if inherited:
            last = path.rsplit(".", 1)[-1]
            mistakes.append(
                f"{path}: {name} does not take {', '.join(map(repr, inherited))}, left over from the base's "
                f"{before.get('type')}: write {last}=dict(_delete_=True, type={str(name)!r}, ...), which "
                "replaces the base's entry instead of adding to it"
            )
            continue
        for key, meant in strangers(node, cfg.default_scope):
            hint = f"; did you mean {meant!r}?" if meant else ""
            mistakes.append(f"{path}: {name} does not take {key!r}{hint}")
    return mistakes


def _entry(node: Any, path: str) -> Any:
    """What stands at a path; None for nothing."""
    for key in path.split("."):
        if isinstance(node, (list, tuple)):
            node = node[int(key)] if key.isdigit() and int(key) < len(node) else None
        else:
            node = node.get(key) if isinstance(node, Mapping) else None
    return node


def unknown_options(cfg: Config, options: Mapping[str, Any]) -> list[str]:
    """A sentence for every path of --cfg-options that would make a new entry which nothing reads."""
    mistakes = []
    for option in options:
        keys = option.split(".")
        if keys[0] not in KNOWN:
            if keys[0] in cfg:
                mistakes.append(_set_again(keys[0], cfg, cfg))
            else:
                meant = near(keys[0], KNOWN)
                hint = f"; did you mean {meant!r}?" if meant else ""
                mistakes.append(f"{option}: no part of a run reads {keys[0]!r}{hint}")
            continue
        node: Any = cfg._cfg_dict
        for depth, key in enumerate(keys):
            if isinstance(node, (list, tuple)):
                if not key.isdigit() or int(key) >= len(node):
                    break  # MMEngine says so
                node = node[int(key)]
            elif isinstance(node, Mapping) and key in node:
                node = node[key]
            elif depth == 0 or not isinstance(node, Mapping):
                break
            else:
                valid = keys_of(keys[:depth], node, cfg.default_scope)
                if valid is None and keys[:depth] == ["default_hooks"] and near(key, node):
                    valid = set()  # it can get any hook, but not one beside its namesake
                if valid is not None and key not in valid:
                    mistakes.append(_no_entry(option, keys[:depth], key, valid | set(node)))
                break
    return mistakes


def _no_entry(option: str, parent: Sequence[str], key: str, valid: set[str]) -> str:
    meant = near(key, valid)
    valid = sorted(valid - OF_BUILDERS - {"self"})
    if meant:
        hint = f"did you mean {meant!r}?"
    elif 0 < len(valid) <= 20:
        hint = f"valid: {', '.join(map(repr, valid))}"
    else:
        hint = "if it is meant, write it into a config file"
    return f"{option}: {'.'.join(parent)} has no {key!r}; {hint}"


# ---- places --------------------------------------------------------------------------------------
def expand_homes(node: Any) -> Any:
    """The node with every text that begins with ~ expanded, in place where it can be."""
    if isinstance(node, str):
        return str(Path(node).expanduser()) if node.startswith("~") else node
    if isinstance(node, MutableMapping):
        for key, value in node.items():
            if (expanded := expand_homes(value)) is not value:
                node[key] = expanded
    elif isinstance(node, (list, tuple)):
        expanded = [expand_homes(value) for value in node]
        if any(a is not b for a, b in zip(expanded, node, strict=True)):
            return type(node)(expanded)
    return node


def roots_of(source: Source) -> set[str]:
    """The data_root of every file that a config builds on."""
    found = {
        Config.fromfile(base.path, import_custom_modules=False).get("data_root")
        for base in source.below() if "data_root" in base.sets
    }  # fmt: skip
    return {root for root in found if isinstance(root, str)}


def move_data(cfg: Config, roots: set[str]) -> int:
    """Put everything that lies at one of `roots` (data_root of the bases) to cfg.data_root, in place; how
    many entries that were."""
    new = cfg.get("data_root")
    old = {root.rstrip("/") for root in roots if isinstance(root, str)} - {""}
    if not isinstance(new, str) or not new or {new.rstrip("/")} == old:
        return 0

    def moved(node: Any) -> int:
        if not isinstance(node, (MutableMapping, list)):
            return 0
        count = 0
        for key, value in list(node.items() if isinstance(node, Mapping) else enumerate(node)):
            if not isinstance(value, str):
                count += moved(value)
                continue
            root = next((r for r in old if f"{value}/".startswith(f"{r}/")), None)
            if root is not None:
                node[key] = new.rstrip("/") + value.rstrip("/")[len(root) :]
                count += 1
        return count

    parts = [key for key in cfg if str(key).endswith(("_dataloader", "_evaluator"))]
    return sum(moved(cfg[key]) for key in parts)


def apply_data_root(cfg: Config, roots: set[str], used: bool) -> None:
    """data_root as the one place of the data: of the file, where it is not the base's, or of --cfg-options.

    Raises:
        UserError: it was changed, and no data set lies where it was before.
    """
    new = cfg.get("data_root")
    if not isinstance(new, str) or not roots or move_data(cfg, roots) or used:
        return
    places = {
        str(node["data_root"]) for key in cfg if str(key).endswith("_dataloader")
        for _, node in walk(cfg[key] or {}) if node.get("data_root")
    }  # fmt: skip
    if new.rstrip("/") not in {place.rstrip("/") for place in places | roots}:
        raise UserError(
            f"data_root={new!r} reaches no data set: theirs lie at {', '.join(sorted(places)) or 'no data_root'} "
            f"and not at {', '.join(sorted(roots))}; set train_dataloader.dataset.data_root and the others'"
        )
