"""The results as tables, and as a page in Markdown beside its plots."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from .contests import OURS
from .figures import figures
from .machine import slug
from .plots import plot_area, plot_ratios


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
        best, ratio_ = row["best_peer"], row["ratio"]
        peer = f"{1000 * row['medians'][best]:.1f} ms {best}, {row['layouts'][best]}"
        spread = f"{ratio_['median']:.2f} ({ratio_['low']:.2f} to {ratio_['high']:.2f})"
        memory = f"{row['memory_ratio']:.2f}" if "memory_ratio" in row else ""
        own = f"{1000 * row['medians'][OURS]:.1f} ms"
        lines.append((network, row["contest"], size, own, peer, spread, memory))
    return lines


def figure_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("figure", "at most", "reached", "")]
    for row in figures(results):
        words = "holds" if row["holds"] else "missed"
        lines.append((row["figure"], f"{row['most']:g}", f"{row['reached']:.3f}", words))
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
        "Growth with area": growth_table,
        "A stream of varying shapes": stream_table,
        "Start-up": start_up_table,
    }
    for title, table in tables.items():
        lines = table(results)
        if len(lines) > 1:
            parts += [f"## {title}", as_markdown(lines)]
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


def write(results: dict, folder: Path) -> list[Path]:
    """SLUG.json, SLUG.md and the plots SLUG-ratios.png and SLUG-area.png; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = results["machine"]
    name = slug(machine["processor"])
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[0].write_text(json.dumps(results | {"figures": figures(results)}, indent=1) + "\n")
    plots = []
    if any("ratio" in row for row in results["contests"]):
        plots.append(folder / f"{name}-ratios.png")
        plot_ratios(results, plots[-1])
    if results["growth"]:
        plots.append(folder / f"{name}-area.png")
        plot_area(results, plots[-1])
    paths[1].write_text(report(results, [path.name for path in plots]))
    return [*paths, *plots]
