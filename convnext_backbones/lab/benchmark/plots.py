"""The results as two plots."""

from pathlib import Path

from ...network.variants import VARIANTS
from .contests import OURS
from .figures import FIGURES
from .machine import limits


def plot_ratios(results: dict, path: Path) -> None:
    """One dot a contest, its quartiles as a line, and a bar at each figure to reach."""
    from matplotlib.figure import Figure as Canvas

    rows = [row for row in results["contests"] if "ratio" in row]
    limits_ = {
        (f.contest, f.version, f.size): f.most
        for f in FIGURES[results["machine"]["device"]]
        if f.quantity == "time"
    }
    canvas = Canvas(figsize=(9, 1.6 + 0.3 * len(rows)), layout="constrained")
    axes = canvas.subplots()
    colours = {1: "tab:blue", 2: "tab:orange"}
    for y, row in enumerate(rows):
        middle, low, high = (row["ratio"][k] for k in ("median", "low", "high"))
        colour = colours[row["version"]]
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot([middle], [y], "o", color=colour)
        axes.annotate(f"{middle:.2f}", (middle, y), (0, 5), textcoords="offset points",
                      ha="center", fontsize=7)  # fmt: skip
        most = limits_.get((row["contest"], row["version"], tuple(row["size"])))
        if most and row["arch"] == "tiny":
            axes.plot([most], [y], "|", color="black", markersize=12)
    labels = ["V{}-{}  {}  {}x{}x{}".format(r["version"], r["arch"], r["contest"], *r["size"])
              for r in rows]  # fmt: skip
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xlim(0, max(1.1, axes.get_xlim()[1]))
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(
        "our time / the best peer's (median of the rounds, line: quartiles; | to reach)"
    )
    machine = results["machine"]
    axes.set_title(f"{machine['processor']}, {machine['threads']} threads, {machine['date']}",
                   fontsize=10)  # fmt: skip
    canvas.savefig(path, dpi=120)


def plot_area(results: dict, path: Path) -> None:
    """Time and training memory against image area, and the computed limit."""
    from matplotlib.figure import Figure as Canvas

    growths, machine = results["growth"], results["machine"]
    canvas = Canvas(figsize=(max(7, 5.2 * len(growths)), 8), layout="constrained")
    all_axes = canvas.subplots(2, len(growths), squeeze=False, sharey="row")
    for (version, growth), (above, below) in zip(growths.items(), all_axes.T, strict=True):
        arch = VARIANTS[growth["model"]]
        network = {"depths": arch.depths, "dims": arch.dims}
        pixels = [p / 1e6 for p in growth["pixels"]]
        for name, times in growth["seconds"].items():
            marker = "o-" if name == OURS else "s--"
            above.plot(pixels, [1000 * t for t in times], marker, label=name)
            below.plot(pixels, [m / 2**20 for m in growth["memory"][name]], marker, label=name)
        bounds = [limits(network, (1, *s), "fp32", machine["speeds"]) for s in growth["sizes"]]
        words = {"arithmetic": "limit: FLOPs / matrix-product speed",
                 "traffic": "limit: 13 maps a block / copy bandwidth"}  # fmt: skip
        for (kind, label), style in zip(words.items(), ("k-", "k:"), strict=True):
            above.plot(pixels, [1000 * b[kind] for b in bounds], style, linewidth=1, label=label)
        above.set_title(f"V{version}-{arch.size}, eager fp32, one image", fontsize=10)
        names = [f"{height}x{width}" for height, width in growth["sizes"]]
        for axes in (above, below):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8, loc="upper left")
            axes.set_xlabel("image, on a scale of its area")
        above.set_xscale("log", base=2)
        above.set_yscale("log", base=2)
        above.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        above.minorticks_off()
        below.set_xlim(left=0)
        below.set_ylim(bottom=0)
        above.set_xticks(pixels, names)
        below.set_xticks(pixels, names, fontsize=8, rotation=20)
    all_axes[0][0].set_ylim(top=5 * all_axes[0][0].get_ylim()[1])  # room for the legend
    all_axes[0][0].set_ylabel("inference, milliseconds")
    all_axes[1][0].set_ylabel("peak memory of a training step, MiB")
    speeds = machine["speeds"]
    canvas.suptitle(
        f"{machine['processor']}, {machine['threads']} threads, {machine['date']}: fp32 matrix product "
        f"{speeds['matrix product fp32, FLOP/s'] / 1e9:.0f} GFLOP/s,\ncopy {speeds['copy, bytes/s'] / 1e9:.0f} GB/s, "
        "both measured in the same run",
        fontsize=10,
    )
    canvas.savefig(path, dpi=120)
