"""Curves as SVG inside of a page, in its colours; their keys are the page's."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

POINTS = 400  # of a curve; of more, every n-th is drawn
INK, GRID = "#010203", "#010204"  # stand for the page's own colour of text
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.edgecolor": GRID, "grid.color": GRID, "axes.formatter.useoffset": False,
}  # fmt: skip

Points = Sequence[tuple[int, float]]


class Key(NamedTuple):
    """A line's name, its colour, and its id in the SVG."""

    label: str
    colour: str
    line: str


class Chart(NamedTuple):
    title: str
    svg: str
    keys: list[Key]
    note: str = ""


def chart(
    title: str, lines: Mapping[str, Points], *, log: bool = False, from_zero: bool = True
) -> Chart | None:
    """The lines over a run's steps, those without a finite point left out; None where none is left. The n-th
    has the n-th colour, in every chart of as many."""
    colours = dict(zip(lines, _colours(len(lines)), strict=True))
    lines = {label: _finite(points) for label, points in lines.items()}
    lines = {label: points for label, points in lines.items() if _any_finite(points)}
    if not lines:
        return None
    slug = re.sub(r"\W+", "-", title.lower()).strip("-")
    keys = [Key(label, colours[label], f"{slug}-line-{k}") for k, label in enumerate(lines)]
    every = max(-(-len(points) // POINTS) for points in lines.values())
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": slug}):
        figure = Figure(figsize=(5.4, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for key, points in zip(keys, lines.values(), strict=True):
            step = -(-len(points) // POINTS)
            drawn = [*points[:-1:step], points[-1]]
            few = {"marker": "o", "markersize": 3} if len(drawn) <= 30 else {}
            axes.plot(
                *zip(*drawn, strict=True), color=key.colour, gid=key.line, linewidth=1.4, **few
            )
        positive = all(v > 0 for points in lines.values() for _, v in points if math.isfinite(v))
        if log and positive:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())  # the default's are formulas
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
        elif from_zero and positive:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    note = f"every {every}th value is drawn" if every > 1 else ""
    return Chart(title, _inline(text.getvalue(), slug), keys, note)


def _finite(points: Points) -> list[tuple[int, float]]:
    """What is no number or infinite leaves a gap."""
    return [(at, float(v) if math.isfinite(v) else math.nan) for at, v in points]


def _any_finite(points: Points) -> bool:
    return any(math.isfinite(value) for _, value in points)


def _colours(count: int) -> list[str]:
    if count <= 10:
        chosen = matplotlib.colormaps["tab10"].colors[:count]
    else:
        turbo = matplotlib.colormaps["turbo"]
        chosen = [turbo(0.08 + 0.84 * k / (count - 1))[:3] for k in range(count)]
    return [matplotlib.colors.to_hex(colour) for colour in chosen]


def _inline(svg: str, slug: str) -> str:
    """Without the header of a file, with ids that are the page's only ones, in its colour of text."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)  # matplotlib's, the same in every figure
    svg = re.sub(r'( id="|url\(#|xlink:href="#)([mp][0-9a-f]{8,})', rf"\g<1>{slug}-\g<2>", svg)
    svg = svg.replace(INK, "currentColor").replace(GRID, "currentColor")
    return re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', ' role="img"', svg, count=1)
