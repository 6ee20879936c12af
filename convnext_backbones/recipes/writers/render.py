"""A template of templates/ and figures -> the text of a file."""

import re
from decimal import Decimal
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..table import BETAS, FLIP, LAYER_SCALE, MILESTONE_FACTOR, PIXEL_MEAN, PIXEL_STD

TEMPLATES = Path(__file__).parent / "templates"


def python_literal(value) -> str:
    """A figure as a config says it, exactly: 1e-4, (0.9, 0.999), [96, 192]; a text stays as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        items = ", ".join(map(python_literal, value))
        if isinstance(value, list):
            return f"[{items}]"
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, float) and 0 < value < 1e-3:
        return f"{Decimal(repr(value)):e}"
    return repr(value)


def yaml_literal(value) -> str:
    """The same in YAML, which takes 1e-4 for a text, 1.0e-4 for a number."""
    text = python_literal(value)
    return text if isinstance(value, str) else re.sub(r"(?<![\d.])(\d+)e", r"\1.0e", text)


def _environment(literal) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), finalize=literal, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.globals |= {
        "betas": BETAS,
        "layer_scale": LAYER_SCALE,
        "pixel_mean": list(PIXEL_MEAN),
        "pixel_std": list(PIXEL_STD),
        "flip": FLIP,
        "milestone_factor": MILESTONE_FACTOR,
    }
    return environment


_ENVIRONMENTS = {".py": _environment(python_literal), ".yaml": _environment(yaml_literal)}


def render(template: str, **figures) -> str:
    """The text of templates/<template>.jinja; its ending, .py or .yaml, says how figures look."""
    return _ENVIRONMENTS[Path(template).suffix].get_template(f"{template}.jinja").render(figures)
