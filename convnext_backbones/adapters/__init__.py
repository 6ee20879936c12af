"""A framework a folder, with everything that is its own; each imports it when it is imported itself.

The commands (cli/train.py, test.py, predict.py) know the frameworks by the table below. Adding one is a
folder here, whose run.py fulfils runs.host.Host, and a row. Importing this module imports no framework.
"""

import ast
import importlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError


class Option(NamedTuple):
    """An option of a framework's runs, as argparse's add_argument takes it, and its commands."""

    flags: tuple[str, ...]
    settings: dict[str, Any]
    commands: tuple[str, ...] = ("train", "test")


class Framework(NamedTuple):
    """What the commands know of a framework before it is imported."""

    title: str  # in sentences
    run: str  # the module that fulfils runs.host.Host
    keys: frozenset[str]  # a config that sets one of these at its top level is its
    imports: frozenset[str]  # as is, where keys do not tell, one that imports one of these
    options: tuple[Option, ...]


LAUNCHERS = ["none", "pytorch", "slurm", "mpi"]

FRAMEWORKS = {
    "openmmlab": Framework(
        title="MMDetection or MMSegmentation",
        run="convnext_backbones.adapters.openmmlab.run",
        keys=frozenset(
            {"_base_", "custom_imports", "default_scope", "optim_wrapper", "param_scheduler", "train_cfg"}
        ),
        imports=frozenset(
            {"mmcv", "mmdet", "mmengine", "mmpretrain", "mmseg", f"{__name__}.openmmlab"}
        ),
        options=(
            Option(("--launcher",), dict(default="none", choices=LAUNCHERS)),
            Option(
                ("--cfg-options",),
                dict(nargs="+", metavar="K=V", default=[],
                     help="override config entries, e.g. train_dataloader.batch_size=4"),
                ("train", "test", "predict", "export", "check-data", "show-data", "visualize"),
            ),
            Option(
                ("--auto-scale-lr",),
                dict(action="store_true",
                     help="multiply lr by batch / the recipe's batch; show-recipe shows the result"),
                ("train",),
            ),
            Option(
                ("--tta",),
                dict(action="store_true", help="multi-scale and flip (segmentation)"),
                ("test",),
            ),
            Option(
                ("--local-rank", "--local_rank"),
                dict(type=int, default=0, metavar="K", help="given by torch.distributed.launch"),
            ),
        ),
    ),
    "detectron2": Framework(
        title="Detectron2",
        run="convnext_backbones.adapters.detectron2.run",
        keys=frozenset(
            {"_BASE_", "DATASETS", "INPUT", "MODEL", "SOLVER", "dataloader", "lr_multiplier"}
        ),
        imports=frozenset({"detectron2", f"{__name__}.detectron2"}),
        options=(
            Option(
                ("--eval-only",),
                dict(action="store_true",
                     help="evaluate the initial weights (train.init_checkpoint=..., MODEL.WEIGHTS=...), "
                     "or with --resume the last checkpoint"),
                ("train",),
            ),
            Option(
                ("--num-gpus",),
                dict(type=int, default=1, metavar="N",
                     help="processes of this machine, one a GPU; without a GPU, N processes on the CPU "
                     "(gloo)"),
            ),
            Option(("--num-machines",), dict(type=int, default=1, metavar="N")),
            Option(("--machine-rank",), dict(type=int, default=0, metavar="K")),
            Option(("--dist-url",), dict(default="auto", help="tcp://HOST:PORT of machine 0")),
            Option(
                ("options",),
                dict(nargs="*", default=[], metavar="key=value",
                     help="override config entries; import=FILE.py runs your Python first, which "
                     "registers data sets"),
                ("train", "test", "predict", "export", "check-data", "show-data", "visualize"),
            ),
        ),
    ),
}  # fmt: skip


def host_of(framework: str):
    """The framework's module that fulfils runs.host.Host, imported.

    Raises:
        UserError: the framework, or something that it needs, is not installed.
    """
    row = FRAMEWORKS[framework]
    try:
        with warnings.catch_warnings():
            # a framework's own, on packages that it would like to have beside it
            warnings.filterwarnings(
                "ignore", module=r"(mmengine|mmcv|mmdet|mmseg|detectron2)(\.|$)"
            )
            return importlib.import_module(row.run)
    except ImportError as error:
        raise UserError(
            f"a config of {row.title} needs a framework that is not here: {error}"
        ) from error


# ---- whose config is it? -------------------------------------------------------------------------
def framework_of(config: str) -> str:
    """The framework of a config file, read without executing it: by the keys that it and its bases
    set, or by what they import.

    Raises:
        UserError: there is no such file, it cannot be read, or it does not tell.
    """
    from ..runs.preparation import existing_config

    keys, imports = _told_by(existing_config(config), seen=set())
    for told, column in ((keys, "keys"), (imports, "imports")):
        names = [name for name, row in FRAMEWORKS.items() if getattr(row, column) & told]
        if len(names) == 1:
            return names[0]
    known = "; ".join(f"{r.title}: {', '.join(sorted(r.keys))}" for r in FRAMEWORKS.values())
    raise UserError(
        f"whose config {config} is cannot be told: neither it nor its bases set keys of one framework "
        f"({known}). Say it: --framework {' or '.join(FRAMEWORKS)}"
    )


def _told_by(file: Path, seen: set[Path]) -> tuple[set[str], set[str]]:
    """The top-level keys of a config and its bases, and what they import."""
    if file.resolve() in seen:  # bases in a circle, or one of two
        return set(), set()
    seen.add(file.resolve())
    text = file.read_text(errors="replace")
    if "\0" in text:
        raise UserError(
            f"config {file} is no text: a config is a .py or .yaml file, and comes before a checkpoint or "
            "pictures"
        )
    keys, imports, bases = (_python if file.suffix == ".py" else _yaml)(text, file)
    for base in bases:
        if base.is_file():  # what is missing or elsewhere, the framework itself complains of
            more_keys, more_imports = _told_by(base, seen)
            keys, imports = keys | more_keys, imports | more_imports
    return keys, imports


def _python(text: str, file: Path) -> tuple[set[str], set[str], list[Path]]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"config {file} cannot be read: {error}") from error
    keys: set[str] = set()
    imports: set[str] = set()
    bases: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update(*(_prefixes(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imports.update(*(_prefixes(f"{node.module}.{alias.name}") for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            folder = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            bases += [folder.with_suffix(".py")] if node.module else []
            bases += [folder / f"{alias.name}.py" for alias in node.names]
            keys |= {alias.asname or alias.name for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            keys |= names
            if "_base_" in names:
                bases += _bases(_strings(node.value), file)
    return keys, imports, bases


def _prefixes(module: str) -> list[str]:
    """The module and the packages that it is in."""
    parts = module.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _strings(node: ast.expr) -> list[str]:
    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return [value for value in constants if isinstance(value, str)]


def _yaml(text: str, file: Path) -> tuple[set[str], set[str], list[Path]]:
    """Composed, not constructed: a tag such as !!python/object is no call here."""
    import yaml

    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"config {file} cannot be read: {error}") from error
    if not isinstance(top, yaml.MappingNode):
        return set(), set(), []
    entries = {key.value: value for key, value in top.value if isinstance(key, yaml.ScalarNode)}
    paths = []
    for node in (entries[key] for key in ("_base_", "_BASE_") if key in entries):
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        paths += [n.value for n in nodes if isinstance(n, yaml.ScalarNode)]
    return set(entries), set(), _bases(paths, file)


def _bases(paths: Iterable[str], file: Path) -> list[Path]:
    return [file.parent / Path(path).expanduser() for path in paths]
