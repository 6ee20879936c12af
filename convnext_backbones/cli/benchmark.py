"""Measure our ConvNeXt against timm, transformers, torchvision and, where found, MMPretrain and the
official code: same weights, same process, turn about. docs/benchmarks/README.md explains the rows.

    python tools/benchmark.py --quick                       # under 2 minutes on 2 cores
    python tools/benchmark.py --output docs/benchmarks      # what is committed, about 15 minutes
    python tools/benchmark.py --only training --versions 2 --sizes 1x224x224 --peers timm
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

from .. import VARIANTS, create_classifier
from ..errors import UserError
from ..lab.benchmark import contests as bench

STARTED = time.perf_counter()
PARTS = ("inference", "prepared", "training", "compiled_training", "growth", "stream", "start_up")
# What --quick runs, and what runs at the further sizes.
MAIN = ("inference, eager fp32", "training, eager fp32", "prepared compiled bf16 / eager fp32")
# The first of them get all contests.
SIZES = {
    "cpu": ((1, 512, 512), (1, 224, 224), (1, 800, 1344)),
    "cuda": ((2, 512, 512), (2, 800, 1344), (1, 224, 224), (64, 224, 224)),
}
FIRST = {"cpu": 1, "cuda": 2}
FULL = ((1, 224, 224), (64, 224, 224), (1, 512, 512), (2, 512, 512), (1, 800, 1344), (2, 800, 1344))


def size(text):
    """An argparse type for 1x512x512."""
    parts = [int(part) for part in text.split("x")]
    if len(parts) != 3 or parts[0] < 1 or min(parts[1:]) < 32:
        raise ValueError
    return tuple(parts)


def positive(text):
    """An argparse type for a whole number from 1 on."""
    if int(text) < 1:
        raise ValueError
    return int(text)


size.__name__, positive.__name__ = "size (BATCHxHEIGHTxWIDTH, 32 or more)", "number (1 or more)"


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="the main figures")
    extent.add_argument("--full", action="store_true", help="every contest at every size: hours")
    parser.add_argument("--arch", default="tiny", help="a size of the variants, tiny by default")
    parser.add_argument("--versions", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    parser.add_argument("--sizes", type=size, nargs="+", metavar="NxHxW", help="e.g. 1x512x512")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="leave the others out")
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="all that can be imported")
    parser.add_argument("--finalists", type=positive, help="peers that run on after the trial")
    parser.add_argument("--rounds", type=positive, default=7, help="calls of each, 7 by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=positive, help="of the CPU; PyTorch's choice by default")
    parser.add_argument("--output", type=Path, help="folder for the results, tables and plots")
    return parser.parse_args()


def model_name(arch, version):
    name = f"convnext{'v2' if version == 2 else ''}_{arch}"
    if name not in VARIANTS:
        sizes = sorted({v.size for v in VARIANTS.values() if v.version == version})
        raise UserError(
            f"there is no ConvNeXt V{version} {arch!r}; choose out of {', '.join(sizes)}"
        )
    return name


def say(line):
    """With the seconds since the start."""
    print(f"{time.perf_counter() - STARTED:4.0f} s  {line}", flush=True)


def parts_to_run(args):
    if args.only:
        return args.only
    slow = args.device == "cpu" and not args.full
    return [part for part in PARTS if part != "compiled_training" or not slow]


def contests_to_run(args, parts, first):
    """Titles, at one of the first sizes or a further one."""
    titles = [title for title, contest in bench.CONTESTS.items() if contest.group in parts]
    if args.quick or not (first or args.full):
        return [title for title in titles if title in MAIN]
    return titles


def field(args, contest, first, peers, eager):
    """Who tries a contest in which layouts, and how many run in its rounds.

    `eager` is the row of eager float32 inference that ranked the peers; None before there is one.
    --full lets everyone try everything.
    """
    both = tuple(bench.LAYOUTS)
    if args.full or eager is None:
        return peers, both, args.finalists or (1 if args.quick else None if args.full else 2)
    ranked = eager["peers_ranked"]
    if contest.prepared and contest.dtype == "fp32":  # against the winner of eager float32
        return ranked[:1], [eager["best_layout"]], 1
    if contest.compiled:  # a minute of compilation each; Inductor lays convolutions out by itself
        return ranked[: 2 if contest.prepared else 1], ["channels_last"], None
    everyone = first and contest.work == "training" and not contest.typed and not args.quick
    return peers if everyone else ranked[:2], both, args.finalists or (2 if everyone else 1)


def run_contests(args, parts, version, ours, peers, results):
    """Every contest of a version at every size. Returns the best peer of the first and its layout."""
    default = FULL if args.full else SIZES[args.device][: 1 if args.quick else None]
    sizes = args.sizes or default
    best = peers[0], "NCHW"
    ranking = None
    for i, size in enumerate(sizes):
        eager = ranking
        for title in contests_to_run(args, parts, i < FIRST[args.device]):
            contest = bench.CONTESTS[title]
            trying, layouts, finalists = field(args, contest, i < FIRST[args.device], peers, eager)
            row = {"version": version, "arch": args.arch, "contest": title, "size": list(size)}
            try:
                row |= bench.run_contest(
                    title,
                    ours,
                    trying,
                    size,
                    rounds=args.rounds,
                    finalists=finalists,
                    layouts=layouts,
                )
            except bench.NotPreparedError as error:
                row["skipped"] = str(error)
            results["contests"].append(row)
            say(bench.as_text(bench.contest_table({"contests": [row]})[1:]))
            torch.compiler.reset()
            if title == "inference, eager fp32":
                eager = row
                if ranking is None:
                    ranking, best = row, (row["peers_ranked"][0], row["best_layout"])
    return best


def measure(args, results):
    """Fill in the results, printing each row as it comes."""
    parts = parts_to_run(args)
    device = torch.device(args.device)
    for version in args.versions:
        name = model_name(args.arch, version)
        ours = bench.fill_randomly(create_classifier(name)).to(device)
        peers, left_out = bench.available_peers(args.peers, ours)
        if "speeds" not in results["machine"]:
            results["machine"]["speeds"] = bench.machine_speed(device)
        for peer, reason in left_out.items():
            say(f"V{version}: {peer} is left out: {reason}")
            results["left_out"][f"V{version} {peer}"] = reason
        best, layout = run_contests(args, parts, version, ours, peers, results)
        if "growth" in parts:
            say(f"V{version}: growth")
            growth = bench.measure_growth(
                ours,
                None if args.quick else best,
                layout=layout,
                sizes=bench.DOUBLING[: 3 if args.quick else None],
                rounds=3 if args.quick else args.rounds,
            )
            results["growth"][str(version)] = {"model": name} | growth
        if "stream" in parts and not args.quick:
            say(f"V{version}: stream of varying shapes")
            shapes = bench.STREAM[: None if args.full else 8]
            results["stream"][str(version)] = bench.measure_stream(
                ours, best, layout=layout, shapes=shapes
            )
        if "start_up" in parts and not (args.quick and results["start_up"]):  # one version will do
            say(f"V{version}: start-up")
            results["start_up"][name] = bench.measure_start_up(
                name, () if args.quick else peers, processes=3 if args.full else 1
            )


def main():
    args = parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that PyTorch can use; leave out --device")
    for version in args.versions:
        model_name(args.arch, version)
    if args.threads:
        torch.set_num_threads(args.threads)
    results = {
        "command": shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]),
        "machine": bench.describe_machine(torch.device(args.device)),
        "contests": [],
        "growth": {},
        "stream": {},
        "start_up": {},
        "left_out": {},
    }
    measure(args, results)
    say("done")
    print()
    print(bench.as_text(bench.contest_table(results)))
    print()
    print(bench.as_text(bench.figure_table(results)))
    if args.output:
        for path in bench.write(results, args.output):
            print(f"wrote {path}")
