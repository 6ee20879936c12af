"""A plan -> the text of a config."""

import json
import math
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...console import counted
from ...recipes.table import FLIP, LAYER_SCALE, METHODS
from ...recipes.writers.render import python_literal
from ..found import Found
from .plan import FRAMEWORKS, TASKS, VALIDATIONS, Plan

WIDTH = 100
QUERIES = 900  # of DINO's recipe
TTA = (0.75, 1.0, 1.25)  # of the test size
HERE = {"openmmlab": "{{ fileDirname }}", "detectron2": "Path(__file__).resolve().parent"}


def written(plan: Plan, out: str | Path, command: str = "convnext-backbones new-config") -> str:
    """The text of the config that will lie at `out`; its paths follow it where the data lie beside it.

    command: the line that asked for it.
    """
    host = FRAMEWORKS[plan.framework][0]
    template = plan.framework if host == "openmmlab" else f"{host}_{_task(plan.found)}"
    places = _Places(plan.found, Path(out), host)
    return _ENVIRONMENT.get_template(f"{template}.py.jinja").render(
        plan=plan,
        found=plan.found,
        places=places,
        header=_header(plan, Path(out), command),
        name=Path(out).stem,
        base=plan.recipe.name if host == "openmmlab" else f"detectron2/{plan.recipe.name}.py",
        variant_differs=plan.variant.name != plan.recipe.variant,
        network="ConvNeXtV2" if plan.variant.version == 2 else "ConvNeXt",
        workers=min(4, os.cpu_count() or 1),
        by_epoch=plan.epochs is not None,
        length=plan.epochs or plan.iterations,
        norm_groups=_norm_groups(plan.channels),
        masks=plan.found.task == "instance",
        queries=_queries(plan.scale),
        most_queries=QUERIES,
        average_steps=max(2, plan.steps // 20),
        short_sides=_short_sides(plan),
        period=max(1, plan.steps // VALIDATIONS),
        tta_scales=tuple(tuple(int(side * ratio) for side in plan.scale) for ratio in TTA),
    )


def _task(found: Found) -> str:
    return "segmentation" if found.task == "semantic" else "detection"


def _header(plan: Plan, out: Path, command: str) -> str:
    found, splits = plan.found, plan.found.splits
    counts = ", ".join(f"{split.count} {name}" for name, split in splits.items())
    title = (
        f"{METHODS[plan.method].title} with ConvNeXt{' V2' if plan.variant.version == 2 else ''}-"
        f"{plan.variant.size.capitalize()} on {found.folder.resolve().name}: {TASKS[found.task]}, "
        f"{counted(len(found.classes), 'class')}, pictures: {counts}"
    )
    rows = [title, f"Written by  {command}", f"Train       convnext-backbones train {out.name}"]
    return comment(*rows)


def comment(*sentences: str, indent: int = 0) -> str:
    """Comment lines, each sentence wrapped."""
    lines = []
    for sentence in sentences:
        lines += textwrap.wrap(
            sentence, WIDTH - indent, initial_indent="# ", subsequent_indent="#   ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return f"\n{' ' * indent}".join(lines)


def _queries(scale: tuple[int, int]) -> int:
    """DINO's, which are chosen among the positions of all maps: half of those that the smallest training
    pictures have, which are half as long, and at most the recipe's."""
    positions = sum(
        math.prod(math.ceil(side / 2 / stride) for side in scale) for stride in (8, 16, 32, 64)
    )
    return min(QUERIES, positions // 2)


def _short_sides(plan: Plan) -> list[int]:
    """Of training pictures in Detectron2: the factors of the OpenMMLab configs."""
    low, high = (0.5, 2.0) if plan.found.task == "semantic" else (0.5, 1.5)
    return [round(plan.scale[1] * low), round(plan.scale[1] * high)]


def _norm_groups(channels: list[int]) -> int:
    from ...recipes.writers.openmmlab import norm_groups

    return norm_groups(channels)


class _Places:
    """How a config says where the files are: from data_root, from what keep() wrote (`made`), or else
    by absolute paths."""

    def __init__(self, found: Found, out: Path, host: str):
        self.host = host
        self.folder = out.resolve().parent
        self.root = found.folder.resolve()
        self.made = None
        for split in found.splits.values():
            for path in (split.annotations, split.listing, split.images):
                if path is not None and not path.resolve().is_relative_to(self.root):
                    self.made = out.with_suffix("").resolve()
        self.made = self.made and self.made.with_name(f"{self.made.name}_data")

    @property
    def data_root(self) -> str:
        return self._anchored(self.root)

    @property
    def made_root(self) -> str | None:
        return self._anchored(self.made) if self.made else None

    def _anchored(self, path: Path) -> str:
        """An expression: below the config's folder, which may be moved, or absolute."""
        below = (
            path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else None
        )
        here = HERE[self.host]
        if self.host == "openmmlab":
            return _quoted(path if below is None else here if below == "." else f"{here}/{below}")
        if below is None:
            return f"Path({_quoted(path)})"
        return here if below == "." else f"{here} / {_quoted(below)}"

    def below_root(self, path: Path) -> str:
        """As a data set takes it that has data_root."""
        return self._expression(path, lambda below: _quoted("" if below == "." else below))

    def whole(self, path: Path) -> str:
        """As everything else takes it."""
        if self.host == "openmmlab":
            return self._expression(path, lambda below: f"data_root + {_quoted('/' + below)}")
        return self._expression(path, lambda below: f"data_root / {_quoted(below)}")

    def _expression(self, path: Path, in_root: Callable[[str], str]) -> str:
        path = path.resolve()
        if path.is_relative_to(self.root):
            return in_root(path.relative_to(self.root).as_posix())
        if self.made and path.is_relative_to(self.made):
            below = path.relative_to(self.made).as_posix()
            if self.host == "openmmlab":
                return f"made + {_quoted('/' + below)}"
            return f"made / {_quoted(below)}"
        return _quoted(path)


def _quoted(text: str | Path) -> str:
    """A Python literal in double quotes."""
    return json.dumps(str(text), ensure_ascii=False)


def _quoted_each(texts: tuple[str, ...]) -> str:
    return f"({', '.join(map(_quoted, texts))})"


def _classes(names: tuple[str, ...]) -> str:
    """A tuple, wrapped."""
    line = ", ".join(map(_quoted, names)) + ("," if len(names) == 1 else "")
    if len(line) < WIDTH - 12:
        return f"({line})"
    lines = textwrap.wrap(line, WIDTH - 5, break_long_words=False, break_on_hyphens=False)
    return "(\n" + "".join(f"    {text}\n" for text in [*lines[:-1], f"{lines[-1]},"]) + ")"


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), finalize=python_literal,
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    autoescape=False,
)  # fmt: skip
_ENVIRONMENT.globals |= {"flip": FLIP, "layer_scale": LAYER_SCALE, "comment": comment}
_ENVIRONMENT.filters |= {"quoted": _quoted, "names": _classes, "quoted_each": _quoted_each}
