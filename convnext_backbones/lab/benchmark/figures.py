"""The figures to reach, and which of them a run reached."""

from collections.abc import Iterator
from typing import NamedTuple

from ...network.variants import VARIANTS, Variant
from .contests import OURS
from .machine import Size, limits


class Figure(NamedTuple):
    """A figure to reach: the ratio of a contest at a size, Tiny; quantity "time" or "memory"."""

    contest: str
    version: int
    size: Size
    most: float
    quantity: str = "time"


_CPU, _GPU = (1, 512, 512), ((2, 512, 512), (2, 800, 1344))
_SMALL, _LARGE = (1, 224, 224), (1, 800, 1344)
FIGURES = {
    "cpu": (
        Figure("inference, eager fp32", 1, _CPU, 0.80),
        Figure("inference, eager fp32", 2, _CPU, 0.40),
        Figure("inference, eager fp32", 1, _LARGE, 0.80),
        Figure("inference, eager fp32", 2, _LARGE, 0.45),
        Figure("inference, eager fp32", 1, _SMALL, 0.90),
        Figure("inference, eager fp32", 2, _SMALL, 0.75),
        Figure("prepared compiled fp32 / eager fp32", 1, _CPU, 0.80),
        Figure("prepared compiled fp32 / eager fp32", 2, _CPU, 0.45),
        Figure("prepared compiled fp32 / eager fp32", 1, _LARGE, 0.80),
        Figure("prepared compiled fp32 / eager fp32", 2, _LARGE, 0.45),
        Figure("prepared compiled fp32 / eager fp32", 1, _SMALL, 0.90),
        Figure("prepared compiled fp32 / eager fp32", 2, _SMALL, 0.75),
        Figure("training, eager fp32", 1, _CPU, 0.85),
        Figure("training, eager fp32", 2, _CPU, 0.55),
        Figure("training, eager fp32", 2, _CPU, 0.60, "memory"),
        Figure("prepared compiled bf16 / compiled bf16", 1, _CPU, 0.85),
        Figure("prepared compiled bf16 / compiled bf16", 2, _CPU, 0.70),
        Figure("prepared compiled bf16 / eager fp32", 1, _CPU, 0.12),
        Figure("prepared compiled bf16 / eager fp32", 2, _CPU, 0.12),
        Figure("prepared bf16 / eager fp32", 1, _CPU, 0.12),
        Figure("prepared bf16 / eager fp32", 2, _CPU, 0.12),
    ),
    "cuda": tuple(
        Figure(contest, version, size, most, quantity)
        for contest, most, quantity in (
            ("training, eager bf16 autocast", 0.60, "time"),
            ("training, compiled bf16 autocast", 0.85, "time"),
            ("training, eager bf16 autocast", 0.60, "memory"),
        )
        for version in (1, 2)
        for size in _GPU
    ),
}
# On a GPU: inference in at most twice the computed limit.
MOST_OF_FLOOR, _FLOOR_CONTEST = 2.0, "prepared compiled bf16 / compiled bf16"
# On every device. Time and training memory at twice the area; the first call at a new shape over the
# next ones; seconds.
MOST_GROWTH, MOST_MEMORY_GROWTH, MOST_NEW_SHAPE = 2.2, 2.05, 2.0
MOST_START_UP, MOST_IMPORT = 3.0, 0.2


def figures(results: dict) -> list[dict]:
    """Each figure to reach that was measured: its words, what was reached, and whether it holds.

    And of eager float32 on a CPU "products": what the network's arithmetic alone, at the speed of the machine's matrix
    products, takes of the peer's time, which nothing in float32 is below. A contest that was skipped has no figure.
    """
    parts = (_of_contests, _of_limits, _of_growth, _of_start_up)
    return [
        {"figure": words, "most": most, "reached": reached, "holds": reached <= most}
        | ({"products": floor[0]} if floor else {})
        for part in parts
        for words, reached, most, *floor in part(results)
    ]


Reached = Iterator[tuple]  # words, what was reached, the most that holds; and the products' share


def _of_contests(results: dict) -> Reached:
    for figure in FIGURES[results["machine"]["device"]]:
        wanted = (figure.contest, figure.version, figure.size, "tiny")
        for row in _contests_that_ran(results):
            if wanted == (row["contest"], row["version"], tuple(row["size"]), row["arch"]):
                words = f"V{row['version']}-T {_images(row)} {row['contest']}: {figure.quantity}"
                memory = figure.quantity == "memory"
                if memory:
                    yield words, row["memory_ratio"], figure.most
                else:
                    yield words, row["ratio"]["median"], figure.most, *_products(row, results)


def _products(row: dict, results: dict) -> Iterator[float]:
    """The arithmetic's share of the best peer's time; nothing but for eager float32 on a CPU."""
    speeds = results["machine"].get("speeds")
    work, _, form = row["contest"].partition(", ")
    if speeds is None or form != "eager fp32" or results["machine"]["device"] != "cpu":
        return
    variant = _variant(row["version"], row["arch"])
    arch = {"depths": variant.depths, "dims": variant.dims}
    passes = 3 if work == "training" else 1  # a backward pass multiplies twice
    arithmetic = limits(arch, row["size"], "fp32", speeds)["arithmetic"]
    yield passes * arithmetic / row["medians"][row["best_peer"]]


def _of_limits(results: dict) -> Reached:
    """On a GPU, our time over the computed limit."""
    if results["machine"]["device"] != "cuda":
        return
    for row in _contests_that_ran(results):
        if row["contest"] == _FLOOR_CONTEST and tuple(row["size"]) in _GPU:
            variant = _variant(row["version"], row["arch"])
            arch = {"depths": variant.depths, "dims": variant.dims}
            floor = max(limits(arch, row["size"], "bf16", results["machine"]["speeds"]).values())
            words = f"V{row['version']} {_images(row)} prepared compiled bf16: time / limit"
            yield words, row["medians"][OURS] / floor, MOST_OF_FLOOR


def _of_growth(results: dict) -> Reached:
    for version, growth in results["growth"].items():
        yield f"V{version} t(2A) / t(A), greatest", max(growth["growth"]), MOST_GROWTH
        words = f"V{version} training memory at twice the area, greatest"
        yield words, max(growth["memory_growth"]), MOST_MEMORY_GROWTH
        for name, cost in growth["new_shape"].items():
            words = f"V{version} first call at a new shape / later calls, {name}"
            yield words, cost, MOST_NEW_SHAPE


def _of_start_up(results: dict) -> Reached:
    for name, packages in results["start_up"].items():
        yield f"{name}: import and build, seconds", packages[OURS]["total"], MOST_START_UP
        yield f"{name}: import beyond torch, seconds", packages[OURS]["import"], MOST_IMPORT


def _contests_that_ran(results: dict) -> list[dict]:
    return [row for row in results["contests"] if "ratio" in row]


def _images(row: dict) -> str:
    return "{}x3x{}x{}".format(*row["size"])


def _variant(version: int, arch: str) -> Variant:
    return next(v for v in VARIANTS.values() if (v.version, v.size) == (version, arch))
