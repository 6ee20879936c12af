"""Measure our ConvNeXt against timm, transformers, torchvision and, where found, MMPretrain and the
official code: same weights, same process, turn about. docs/benchmarks/README.md explains the rows.

    convnext-backbones benchmark --quick                    # under 2 minutes on 2 cores
    convnext-backbones benchmark --output docs/benchmarks   # what is committed, about 15 minutes
    convnext-backbones benchmark --only training --versions 2 --sizes 1x224x224 --peers timm
    convnext-backbones benchmark --models               # whole detectors and segmentors
    convnext-backbones benchmark --runtimes             # beside ONNX Runtime and OpenVINO, to int8
"""

import time
from pathlib import Path

from .. import console
from ..errors import UserError
from ..network.variants import VARIANTS
from . import command_line, make_parser, number

STARTED = time.perf_counter()
PARTS = (
    "inference", "prepared", "runtimes", "training", "compiled_training", "allocation", "growth",
    "stream", "start_up",
)  # fmt: skip
# What --quick runs, and what runs at the further sizes.
MAIN = {
    "cpu": (
        "inference, eager fp32",
        "training, eager fp32",
        "prepared compiled fp32 / eager fp32",
        "prepared compiled bf16 / eager fp32",
        "prepared / eager fp32",
    ),
    "cuda": (
        "inference, eager fp32",
        "prepared bf16 / eager bf16",
        "prepared captured bf16 / eager bf16",
        "training, eager fp32",
        "training, eager bf16 autocast",
    ),
}
# Options that --models and --runtimes do not take.
OF_CONTESTS = {"full": False, "arch": "tiny", "sizes": None, "only": None, "peers": None,
               "finalists": None, "device": "cpu"}  # fmt: skip
# The first of them get all contests.
SIZES = {
    "cpu": ((1, 512, 512), (1, 224, 224), (1, 800, 1344)),
    "cuda": ((2, 512, 512), (2, 800, 1344), (1, 224, 224), (64, 224, 224)),
}
FIRST = {"cpu": 1, "cuda": 2}
# With --quick: seconds after which a contest begins no further round, beyond the least of three.
MOST_SECONDS = 2.0
# The same of a whole model's training step or inference; by whether --quick.
MOST_SECONDS_OF_MODELS = {False: 60.0, True: 10.0}
FULL = ((1, 224, 224), (64, 224, 224), (1, 512, 512), (2, 512, 512), (1, 800, 1344), (2, 800, 1344))


def size(text):
    """An argparse type for 1x512x512."""
    parts = [int(part) for part in text.split("x")]
    if len(parts) != 3 or parts[0] < 1 or min(parts[1:]) < 32:
        raise ValueError
    return tuple(parts)


size.__name__ = "size (BATCHxHEIGHTxWIDTH, 32 or more)"


def parse_args(argv):
    parser = make_parser("benchmark", __doc__)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="the main figures")
    extent.add_argument("--full", action="store_true", help="every contest at every size: hours")
    parser.add_argument(
        "--models",
        action="store_true",
        help="whole detectors and segmentors of OpenMMLab and Detectron2, with our backbone and with timm's",
    )
    parser.add_argument(
        "--runtimes",
        action="store_true",
        help="a backbone and a UPerNet by PyTorch, and exported, by ONNX Runtime and OpenVINO in float32, "
        "bfloat16 and int8",
    )
    parser.add_argument("--arch", default="tiny", help="a size of the variants, tiny by default")
    parser.add_argument("--versions", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    parser.add_argument("--sizes", type=size, nargs="+", metavar="NxHxW", help="e.g. 1x512x512")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="leave the others out")
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="all that can be imported")
    parser.add_argument(
        "--finalists", type=number(int, 1), help="peers that run on after the trial"
    )
    parser.add_argument(
        "--rounds", type=number(int, 1), default=7, help="calls of each, 7 by default"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--threads", type=number(int, 1), help="of the CPU; PyTorch's choice by default"
    )
    parser.add_argument("--output", type=Path, help="folder for the results, tables and plots")
    return parser.parse_args(argv)


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
    console.say(f"{time.perf_counter() - STARTED:4.0f} s  {line}")


def parts_to_run(args):
    if args.only:
        return args.only
    slow = args.device == "cpu" and not args.full
    return [part for part in PARTS if part != "compiled_training" or not slow]


def contests_to_run(args, parts, first):
    """Titles, at one of the first sizes or a further one."""
    from ..lab.benchmark.contests import CONTESTS

    titles = [title for title, contest in CONTESTS.items() if contest.group in parts]
    if args.quick or not (first or args.full):
        return [title for title in titles if title in MAIN[args.device]]
    return titles


def field(args, contest, first, peers, eager):
    """Who tries a contest in which layouts, and how many run in its rounds.

    `eager` is the row of eager float32 inference that ranked the peers; None before there is one.
    --full lets everyone try everything.
    """
    from ..lab.benchmark.contests import LAYOUTS

    both = tuple(LAYOUTS)
    if args.full or eager is None:
        return peers, both, args.finalists or (1 if args.quick else None if args.full else 2)
    ranked = eager["peers_ranked"]
    if contest.prepared and contest.dtype == "fp32":  # against the winner of eager float32
        return ranked[:1], [eager["best_layout"]], 1
    if args.quick:
        return ranked[:1], both, 1
    if contest.compiled:  # a minute of compilation each; Inductor lays convolutions out by itself
        return ranked[: 2 if contest.prepared else 1], ["channels_last"], None
    everyone = first and contest.work == "training" and not contest.typed and not args.quick
    return peers if everyone else ranked[:2], both, args.finalists or (2 if everyone else 1)


def run_contests(args, parts, version, ours, peers, results):
    """Every contest of a version at every size. Returns the best peer of the first and its layout."""
    import torch

    from ..lab.benchmark.contests import CONTESTS, run_contest, why_not
    from ..lab.benchmark.machine import compiles_in_seconds
    from ..lab.benchmark.page import as_text, contest_table

    default = FULL if args.full else SIZES[args.device][: 1 if args.quick else None]
    sizes = args.sizes or default
    best = peers[0], "NCHW"
    ranking, device = None, torch.device(args.device)
    for i, size in enumerate(sizes):
        first, eager = i < FIRST[args.device], ranking
        for title in contests_to_run(args, parts, first):
            contest = CONTESTS[title]
            row = {"version": version, "arch": args.arch, "contest": title, "size": list(size)}
            reason = why_not(contest, device)
            if args.quick and contest.ours_compiled and not compiles_in_seconds(device):
                reason = (
                    reason or "with --quick nothing is compiled by torch.compile on a CPU: a minute"
                )
            if reason:
                row["skipped"] = reason
            else:
                trying, layouts, finalists = field(args, contest, first, peers, eager)
                row |= run_contest(
                    title,
                    ours,
                    trying,
                    size,
                    rounds=args.rounds,
                    finalists=finalists,
                    layouts=layouts,
                    most_seconds=MOST_SECONDS if args.quick else None,
                )
                torch.compiler.reset()
            results["contests"].append(row)
            say(as_text(contest_table({"contests": [row]})[1:]))
            if title == "inference, eager fp32":
                eager = row
                if ranking is None:
                    ranking, best = row, (row["peers_ranked"][0], row["best_layout"])
    return best


def measure_apart(args, results, kind):
    """Fill in the rows of "models" or of "runtimes", printing each as it comes, and writing the results each
    time: it takes half an hour.

    Freed memory is kept, as the commands that train, test and predict keep it.
    """
    import torch

    from ..kernels.allocation import keep_freed_memory
    from ..lab.benchmark.machine import machine_speed
    from ..lab.benchmark.page import as_text, model_table, runtime_table, write
    from ._whole_models import measure_deployed, measure_models

    measured, table = {
        "models": (measure_models, model_table),
        "runtimes": (measure_deployed, runtime_table),
    }[kind]
    keep_freed_memory()
    results["machine"]["speeds"] = machine_speed(torch.device(args.device))
    results[f"{kind}_run"] = {"command": results["command"], "date": results["machine"]["date"]}
    rows = measured(
        args.versions,
        rounds=args.rounds,
        quick=args.quick,
        most_seconds=MOST_SECONDS_OF_MODELS[args.quick],
    )
    for row in rows:
        results[kind].append(row)
        say(as_text(table({kind: [row]})[1:]))
        if args.output:
            write(results, args.output)


def measure(args, results):
    """Fill in the results, printing each row as it comes."""
    import torch

    from ..create import create_classifier
    from ..lab.benchmark import allocation, growth
    from ..lab.benchmark.contests import available_peers
    from ..lab.benchmark.machine import machine_speed
    from ..lab.benchmark.page import allocation_table, as_text
    from ..lab.random_weights import fill_randomly

    parts = parts_to_run(args)
    device = torch.device(args.device)
    for version in args.versions:
        name = model_name(args.arch, version)
        ours = fill_randomly(create_classifier(name)).to(device)
        peers, left_out = available_peers(args.peers, ours)
        if "speeds" not in results["machine"]:
            results["machine"]["speeds"] = machine_speed(device)
        for peer, reason in left_out.items():
            say(f"V{version}: {peer} is left out: {reason}")
            results["left_out"][f"V{version} {peer}"] = reason
        best, layout = run_contests(args, parts, version, ours, peers, results)
        if "allocation" in parts and (args.only or not args.quick):
            size = (args.sizes or SIZES[args.device])[0]
            measured = allocation.measure_allocation(ours, size, rounds=args.rounds)
            results["allocation"][str(version)] = {"model": name} | measured
            say(as_text(allocation_table(results)[-1:]))
        if "growth" in parts:
            say(f"V{version}: growth")
            grown = growth.measure_growth(
                ours,
                None if args.quick else best,
                layout=layout,
                sizes=growth.DOUBLING[: 2 if args.quick else None],
                rounds=3 if args.quick else args.rounds,
                new_shapes=1 if args.quick else 3,
            )
            results["growth"][str(version)] = {"model": name} | grown
        if "stream" in parts and not args.quick:
            say(f"V{version}: stream of varying shapes")
            shapes = growth.STREAM[: None if args.full else 8]
            results["stream"][str(version)] = growth.measure_stream(
                ours, best, layout=layout, shapes=shapes
            )
        if "start_up" in parts and not (args.quick and results["start_up"]):  # one version will do
            say(f"V{version}: start-up")
            results["start_up"][name] = growth.measure_start_up(
                name, () if args.quick else peers, processes=3 if args.full else 1
            )


def main(argv=None):
    args = parse_args(argv)
    import torch

    from ..lab.benchmark.machine import describe_machine
    from ..lab.benchmark.page import (
        as_text,
        contest_table,
        figure_table,
        model_table,
        no_results,
        prepared_forms,
        profile_table,
        runtime_table,
        write,
    )

    if args.models and args.runtimes:
        raise UserError("--models and --runtimes are two measurements; give one of the two")
    whole = "--models" if args.models else "--runtimes" if args.runtimes else None
    for name, default in OF_CONTESTS.items():
        if whole and getattr(args, name) != default:
            raise UserError(
                f"--{name} is about networks alone; leave it out beside {whole}, which times Tiny in fixed "
                "models and sizes, on the CPU"
            )
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that PyTorch can use; leave out --device")
    for version in args.versions:
        model_name(args.arch, version)
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = describe_machine(torch.device(args.device))
    results = no_results(command_line("benchmark", argv), machine)
    if args.models:
        measure_apart(args, results, "models")
        tables = (model_table, profile_table)
    elif args.runtimes:
        measure_apart(args, results, "runtimes")
        tables = (runtime_table,)
    else:
        measure(args, results)
        tables = (contest_table, figure_table)
    say("done")
    for table in tables:
        print(f"\n{as_text(table(results))}")
    for form in prepared_forms(results):
        print(f"\n{form}")
    if args.output:
        for path in write(results, args.output):
            print(f"wrote {path}")
