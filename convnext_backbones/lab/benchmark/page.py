"""The results as tables, and as a page in Markdown beside its plots."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .allocation import GIVEN_BACK, KEPT
from .contests import OURS
from .figures import figures
from .machine import slug
from .plots import plot_area, plot_ratios

LEAST_SHARE = 0.01  # of the time, to be told
BEGIN, END = "<!-- written by tools/benchmark.py --output -->", "<!-- until here -->"
# Rows of the table that has a column for each kind of processor: their contests, and the words for them.
OF_KINDS = {
    "inference, eager fp32": "inference, eager float32",
    "training, eager fp32": "training step, eager float32",
    "training, eager bf16 autocast": "training step, bfloat16 autocast",
    "prepared / eager fp32": "prepared, over the eager float32 peer",
    "prepared compiled fp32 / eager fp32": "prepared and compiled in float32, over the eager float32 peer",
    "prepared compiled bf16 / eager fp32": "prepared and compiled in bfloat16, over the eager float32 peer",
    "prepared compiled bf16 / compiled bf16": "prepared and compiled, over the peer compiled in bfloat16",
    "prepared compiled / onnxruntime": "prepared and compiled, over ONNX Runtime",
    "prepared compiled / openvino": "prepared and compiled, over OpenVINO",
}
# What is measured by runs of its own: its rows, and that run's command and date; its title in the page.
APART = (("models", "models_run"), ("runtimes", "runtimes_run"))
RUN_APART = {"Whole models": "models_run", "Other runtimes": "runtimes_run"}


def contest_table(results: dict) -> list[tuple[str, ...]]:
    """Header and rows: contest, size, our milliseconds, the best peer's, ratio, memory."""
    lines = [("network", "contest", "images", "ours", "best peer", "time ratio", "memory ratio")]
    for row in results["contests"]:
        network = f"V{row['version']} {row['arch']}"
        size = "{}x3x{}x{}".format(*row["size"])
        if "skipped" in row:
            lines.append(
                (network, row["contest"], size, "-", "-", f"skipped: {row['skipped']}", "")
            )
            continue
        best = row["best_peer"]
        peer = f"{1000 * row['medians'][best]:.1f} ms {best}, {row['layouts'][best]}"
        memory = f"{row['memory_ratio']:.2f}" if "memory_ratio" in row else ""
        own = f"{1000 * row['medians'][OURS]:.1f} ms"
        lines.append((network, row["contest"], size, own, peer, _spread(row["ratio"]), memory))
    return lines


def _spread(found: dict[str, float]) -> str:
    """Median and quartiles."""
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def figure_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("figure", "at most", "reached", "products alone", "")]
    for row in figures(results):
        words = "holds" if row["holds"] else "missed"
        products = f"{row['products']:.2f}" if "products" in row else ""
        reached = f"{row['reached']:.3f}"
        lines.append((row["figure"], f"{row['most']:g}", reached, products, words))
    return lines


def as_text(lines: list[tuple[str, ...]]) -> str:
    """Columns side by side."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_markdown(lines: list[tuple[str, ...]]) -> str:
    rule = ("---",) * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def growth_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("network", "image", "contestant", "inference", "t(2A) / t(A)", "training memory")]
    for version, growth in results["growth"].items():
        for name, times in growth["seconds"].items():
            before = [None, *times]
            for size, earlier, now, memory in zip(
                growth["sizes"], before, times, growth["memory"][name], strict=False
            ):
                grown = f"{now / earlier:.2f}" if earlier else ""
                image, bytes_ = "{}x{}".format(*size), f"{memory / 2**20:.0f} MiB"
                lines.append((f"V{version}", image, name, f"{1000 * now:.1f} ms", grown, bytes_))
    return lines


def model_table(results: dict) -> list[tuple[str, ...]]:
    """Whole models with our backbone, beside the same with timm's."""
    lines = [
        ("model", "backbone", "work", "images", "ours", "timm's", "time ratio", "memory ratio")
    ]
    for row in results.get("models", []):
        backbone = f"V{row['version']} tiny"
        pictures = 1 if row["work"] == "inference" else row["pictures"]
        size = "{}x3x{}x{}".format(pictures, *row["size"])
        if "skipped" in row:
            lines.append(
                (row["model"], backbone, "", "", "-", "-", f"skipped: {row['skipped']}", "")
            )
            continue
        own, other = (f"{1000 * row['medians'][name]:.0f} ms" for name in (OURS, "timm"))
        lines.append((
            row["model"], backbone, row["work"], size, own, f"{other}, {row['best_layout']}",
            _spread(row["ratio"]), f"{row['memory_ratio']:.2f}",
        ))  # fmt: skip
    return lines


def runtime_table(results: dict) -> list[tuple[str, ...]]:
    """Forms in which a network can be deployed on a CPU, each beside eager PyTorch."""
    lines = [("model", "backbone", "images", "computed by", "time", "time ratio", "outputs off")]
    for row in results.get("runtimes", []):
        about = row["model"], f"V{row['version']} tiny", "{}x3x{}x{}".format(*row["size"])
        if "skipped" in row:
            lines.append((*about, "-", "-", f"skipped: {row['skipped']}", ""))
            continue
        for name, median in row["medians"].items():
            spread = _spread(row["ratios"][name])
            lines.append(
                (*about, name, f"{1000 * median:.0f} ms", spread, f"{row['off'][name]:.1g}")
            )
        for name, why in row["left_out"].items():
            lines.append((*about, name, "-", f"left out: {why}", ""))
    return lines


def profile_table(results: dict) -> list[tuple[str, ...]]:
    """Where the time of whole models goes with our backbone: parts, and the largest operators."""
    lines = [("model", "backbone", "work", "parts", "largest operators")]
    for row in results.get("models", []):
        if "profile" in row:
            shares = [
                ", ".join(f"{name} {share:.0%}" for name, share in row["profile"][kind].items()
                          if share >= LEAST_SHARE)
                for kind in ("parts", "operators")
            ]  # fmt: skip
            lines.append((row["model"], f"V{row['version']} tiny", row["work"], *shares))
    return lines


def allocation_table(results: dict) -> list[tuple[str, ...]]:
    """A training step with freed memory kept, beside one with it given back to the system."""
    lines = [("network", "images", "kept", "given back", "time ratio", "page faults a step")]
    for version, row in results.get("allocation", {}).items():
        network, size = f"V{version}", "{}x3x{}x{}".format(*row["size"])
        if "skipped" in row:
            lines.append((network, size, "-", "-", f"skipped: {row['skipped']}", ""))
            continue
        kept, given_back = (f"{1000 * row['medians'][n]:.1f} ms" for n in (KEPT, GIVEN_BACK))
        faults = " and ".join(f"{row['faults'][n]:.0f}" for n in (KEPT, GIVEN_BACK))
        lines.append((network, size, kept, given_back, _spread(row["ratio"]), faults))
    return lines


def stream_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("network", "contestant", "images", "seconds in all")]
    for version, stream in results["stream"].items():
        for name, total in stream["seconds"].items():
            lines.append((f"V{version}", name, str(len(stream["shapes"])), f"{total:.2f}"))
    return lines


def start_up_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("model", "package", "import torch", "import beyond torch", "import and build")]
    for model, packages in results["start_up"].items():
        for package, times in packages.items():
            cells = (f"{times[key]:.2f} s" for key in ("torch", "import", "total"))
            lines.append((model, package, *cells))
    return lines


def report(results: dict, plots: Iterable[str] = ()) -> str:
    """The results as a page in Markdown: machine, contests, figures to reach, growth, start-up."""
    parts = [
        f"# {results['machine']['processor']}, {results['machine']['date']}",
        f"`{results['command']}`",
        *machine_lines(results["machine"]),
        *(f"![{name}]({name})" for name in plots),
    ]
    tables = {
        "Contests": contest_table,
        "Figures to reach": figure_table,
        "Freed memory": allocation_table,
        "Whole models": model_table,
        "Where their time goes": profile_table,
        "Other runtimes": runtime_table,
        "Growth with area": growth_table,
        "A stream of varying shapes": stream_table,
        "Start-up": start_up_table,
    }
    for title, table in tables.items():
        lines = table(results)
        if len(lines) > 1:
            parts.append(f"## {title}")
            if title in RUN_APART:
                parts.append("`{command}`, {date}".format(**results[RUN_APART[title]]))
            parts.append(as_markdown(lines))
        if title == "Contests" and (forms := prepared_forms(results)):
            parts.append("\n".join(f"- {line}" for line in forms))
    if results["left_out"]:
        parts += ["## Left out", "\n".join(f"- {n}: {r}" for n, r in results["left_out"].items())]
    return "\n\n".join(parts) + "\n"


def machine_lines(machine: dict) -> Iterator[str]:
    """Device, threads, versions, settings and speeds, a sentence each."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    flags = f" ({', '.join(machine['flags'])})" if machine["flags"] else ""
    yield f"{machine['device'].upper()}{flags}, {machine['threads']} threads; {versions}."
    if "masked" in machine:
        yield f"Masked: {', '.join(machine['masked'])}."
    if "tf32" in machine:
        state = {True: "on", False: "off"}
        yield (
            f"TF32: {state[machine['tf32']]} in matrix products, "
            f"{state[machine['tf32_convolutions']]} in convolutions."
        )
    speeds = [
        f"{name.removesuffix(', FLOP/s')} {speed / 1e9:.0f} GFLOP/s"
        if name.endswith("FLOP/s")
        else f"copy {speed / 1e9:.1f} GB/s"
        for name, speed in machine["speeds"].items()
    ]
    yield f"Measured on the machine: {', '.join(speeds)}."


def prepared_forms(results: dict) -> list[str]:
    """What computed the prepared networks, for each part of the results: dtype and path."""
    forms = {row["contest"]: row["prepared"] for row in results["contests"] if "prepared" in row}
    for part in ("growth", "stream"):
        forms |= {f"{part}, ours prepared": row["prepared"] for row in results[part].values()}
    return [f"{where}: {form}" for where, form in forms.items()]


def kinds_table(found: list[dict]) -> list[tuple[str, ...]]:
    """The main contests of Tiny, a column for each processor's results: time, and of training memory; ratios."""
    cells = {}
    for k, results in enumerate(found):
        for row in results["contests"]:
            if "ratio" not in row or row["contest"] not in OF_KINDS or row["arch"] != "tiny":
                continue
            size = tuple(row["size"])
            place = list(OF_KINDS).index(row["contest"]), row["version"], size[1] * size[2], size
            memory = f"; {row['memory_ratio']:.2f}" if "memory_ratio" in row else ""
            cells.setdefault(place, {})[k] = f"{row['ratio']['median']:.2f}{memory}"
    lines = [("", "images", *map(_kind, found))]
    for place in sorted(cells):
        contest, version, _, size = place
        words = f"V{version} {list(OF_KINDS.values())[contest]}"
        images = "{}x3x{}x{}".format(*size)
        lines.append((words, images, *(cells[place].get(k, "") for k in range(len(found)))))
    return lines


def runtimes_of_kinds(found: list[dict]) -> list[tuple[str, ...]]:
    """Every form's time by that of eager PyTorch, a column for each processor's results."""
    found = [results for results in found if results.get("runtimes")]
    cells = {}
    for k, results in enumerate(found):
        for row in results["runtimes"]:
            for name, ratios in row.get("ratios", {}).items():
                # "onnxruntime 1.32.0 int8": versions differ by machine
                form = re.sub(r" [\d.]+ ", " ", name)
                model = f"{row['model']}, V{row['version']}-T", "{}x3x{}x{}".format(*row["size"])
                cells.setdefault((*model, form), {})[k] = f"{ratios['median']:.2f}"
    lines = [("model", "images", "computed by", *map(_kind, found))]
    for place, ratios in cells.items():
        lines.append((*place, *(ratios.get(k, "") for k in range(len(found)))))
    return lines


def _kind(results: dict) -> str:
    """The head of a processor's column."""
    return ", ".join([results["machine"]["processor"], *results["machine"]["flags"]])


def with_kinds(text: str, folder: Path, table: Callable = kinds_table) -> str:
    """A page whose table of the kinds is that of the folder's results, of CPUs."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = [results for results in found if results["machine"]["device"] == "cpu"]
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{as_markdown(table(found))}\n{END}{rest.split(END)[1]}"


def no_results(command: str, machine: dict) -> dict:
    """What a run fills in."""
    return {
        "command": command,
        "machine": machine,
        "contests": [],
        "allocation": {},
        "models": [],
        "runtimes": [],
        "growth": {},
        "stream": {},
        "start_up": {},
        "left_out": {},
    }


def _beside(results: dict, path: Path) -> dict:
    """The results with what earlier runs of the other kinds have written."""
    if not path.exists():
        return results
    earlier = json.loads(path.read_text())
    kept = {key: earlier[key] for pair in APART for key in pair if key in earlier}
    for pair in APART:
        if results.get(pair[0]):
            return earlier | {key: results[key] for key in pair}
    return results | kept


def write(results: dict, folder: Path) -> list[Path]:
    """SLUG.json, SLUG.md and the plots SLUG-ratios.png and SLUG-area.png; returns their paths.

    A run of whole models, or of other runtimes, leaves the machine's other results as they are, and the other way
    round. Tables of the kinds in the folder's README.md, and of the runtimes in export.md beside it, are written again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = slug(results["machine"])
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    results = _beside(results, paths[0])
    paths[0].write_text(json.dumps(results | {"figures": figures(results)}, indent=1) + "\n")
    plots = []
    if any("ratio" in row for row in results["contests"]):
        plots.append(folder / f"{name}-ratios.png")
        plot_ratios(results, plots[-1])
    if results["growth"]:
        plots.append(folder / f"{name}-area.png")
        plot_area(results, plots[-1])
    paths[1].write_text(report(results, [path.name for path in plots]))
    pages = {folder / "README.md": kinds_table, folder.parent / "export.md": runtimes_of_kinds}
    for shown, table in pages.items():
        if shown.exists() and BEGIN in shown.read_text():
            shown.write_text(with_kinds(shown.read_text(), folder, table))
            paths.append(shown)
    return [*paths, *plots]
