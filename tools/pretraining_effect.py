"""Does pretraining on your own pictures help? Asked of BCCD's blood cells, with V2-Atto on a CPU.

git clone https://github.com/Shenggan/BCCD_Dataset
python tools/pretraining_effect.py BCCD_Dataset                  # every step, one after the other
python tools/pretraining_effect.py BCCD_Dataset probe detect     # some
python tools/pretraining_effect.py BCCD_Dataset --quick          # a few steps of each run: does it work?

lay-out    the training pictures without labels; each box cut out, a folder a class; 10 and 100 % of the labels
pretrain   convnext-backbones pretrain on those pictures alone
probe      convnext-backbones probe: frozen features, random and pretrained
detect     convnext-backbones new-config, train, test: RTMDet from random and from pretrained weights
page       the figures of the runs' records into docs/pretraining_effect.json, and its tables into the page

What has its result is not run again: an interrupted experiment goes on by the same line. OMP_NUM_THREADS says
how many threads a run has, --jobs how many detectors are trained at a time.
"""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of a clone that is not installed

PAGE, FIGURES = (ROOT / "docs" / f"pretraining_effect.{kind}" for kind in ("md", "json"))
BEGIN, END = "<!-- {}: written by tools/pretraining_effect.py -->", "<!-- until here -->"
STEPS = ("lay-out", "pretrain", "probe", "detect", "page")
NETWORK = "convnextv2_atto"
SEEDS = (0, 1, 2)
STARTS = ("random", "pretrained")
SHARES = (10, 100)  # per cent of the labelled training pictures
FEW = (5, 10)  # crops of a class that a harder probe has
CROP = 96  # pixels of a crop as it is probed; the evaluation transform keeps 0.875 of its sides
MARGIN = 1 / 0.875


class Budget(NamedTuple):
    """Of the runs. passes: of a detector over 100 % of the pictures; the steps are the same for a part of them,
    as its pictures are a whole number of batches, too."""

    epochs: int = 300
    pretrain_size: int = 128
    pretrain_batch: int = 41  # five batches of 205 pictures
    passes: int = 5
    detector_size: int = 192
    detector_batch: int = 4  # 52 batches of 205 pictures, five of 20


QUICK = Budget(epochs=1, passes=1, pretrain_size=64, detector_size=64)


# ---- the data ------------------------------------------------------------------------------------
def lay_out(data: Path, work: Path) -> None:
    """What the other steps read, by the data set's own split."""
    from convnext_backbones.data.found import keep, look

    done = work / "laid_out"
    if done.exists():
        return
    shutil.rmtree(work / "crops", ignore_errors=True)
    found = keep(look(data, task="detection"), work / "boxes")
    split_of = {name: json.loads(s.annotations.read_text()) for name, s in found.splits.items()}
    pictures = {
        name: [(found.splits[name].images / image["file_name"]) for image in content["images"]]
        for name, content in split_of.items()
    }
    copy(pictures["train"], work / "unlabelled")
    for name in ("train", "val"):
        cut_out(split_of[name], found.splits[name].images, work / "crops" / name)
    for count in FEW:
        for seed in SEEDS:
            few_crops(work / "crops", count, seed, work / few_name(count, seed))
    for share in SHARES:
        for seed in draws(share):
            parts = {**pictures, "train": part(pictures["train"], share, seed)}
            labelled(data, parts, work / labels_name(share, seed))
    done.touch()


def few_name(count: int, seed: int) -> str:
    return f"few_{count}_{seed}"


def labels_name(share: int, seed: int) -> str:
    return f"labels_{share}" + (f"_{seed}" if share < 100 else "")


def draws(share: int) -> Sequence[int]:
    """The seeds that draw a share; all of it is there once."""
    return SEEDS if share < 100 else (0,)


def part(items: Sequence, share: int, seed: int) -> list:
    """So many per cent of items, drawn by a seed, in their order."""
    count = len(items) * share // 100
    return sorted(random.Random(seed).sample(items, count), key=items.index)


def copy(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder)


def cut_out(content: dict, images: Path, folder: Path) -> None:
    """A square around each box of a COCO JSON, MARGIN as wide as its long side, into a folder a class."""
    from PIL import Image

    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for name in names.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    for box in content["annotations"]:
        file = files[box["image_id"]]
        with Image.open(images / file) as picture:
            crop = picture.convert("RGB").crop(square(box["bbox"], picture.size))
        place = folder / names[box["category_id"]] / f"{Path(file).stem}_{box['id']}.jpg"
        crop.save(place, quality=95)


def square(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the square around a box (left, top, width, height), moved into the picture
    where it would reach over it."""
    side = max(1, min(round(MARGIN * max(box[2:])), *size))
    corner = [
        min(max(round(start + length / 2 - side / 2), 0), whole - side)
        for start, length, whole in zip(box[:2], box[2:], size, strict=True)
    ]
    return corner[0], corner[1], corner[0] + side, corner[1] + side


def few_crops(crops: Path, count: int, seed: int, folder: Path) -> None:
    """So many training crops a class, and of each as many validating ones as the rarest class has."""
    draw = random.Random(seed)
    for split in ("train", "val"):
        of_class = {
            place.name: sorted(place.iterdir()) for place in sorted((crops / split).iterdir())
        }
        most = min(len(files) for files in of_class.values())
        for name, files in of_class.items():
            taken = draw.sample(files, min(count, most) if split == "train" else most)
            copy(sorted(taken), folder / split / name)


def labelled(data: Path, parts: dict[str, list[Path]], folder: Path) -> None:
    """Pictures and their XML files as Pascal VOC lays them out."""
    sheets = {file.stem: file for file in sorted(data.rglob("*.xml"))}
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    for split, files in parts.items():
        copy(files, folder / "JPEGImages")
        copy([sheets[file.stem] for file in files], folder / "Annotations")
        (lists / f"{split}.txt").write_text("".join(f"{file.stem}\n" for file in files))


# ---- the runs ------------------------------------------------------------------------------------
class RunError(Exception):
    """A command did not succeed; the message names its log."""


def run(log: Path, command: str, *arguments: object) -> float:
    """Carry out a command of tools/; its CPU time in seconds, that of sessions which were interrupted included.

    Raises:
        RunError: it failed, or was interrupted.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, ROOT / "tools" / f"{command}.py", *arguments]
    print(f"{command} {' '.join(map(str, arguments))}", flush=True)
    spent = log.with_suffix(".seconds")
    before = float(spent.read_text()) if spent.exists() else 0.0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with log.open("a") as out:
        process = subprocess.Popen(list(map(str, line)), stdout=out, stderr=out, env=environment)
        while True:
            try:
                _, status, usage = os.wait4(process.pid, 0)
                break
            except KeyboardInterrupt:
                print("the run saves and ends", flush=True)  # it has had the signal, too
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = before + usage.ru_utime + usage.ru_stime
    spent.write_text(f"{seconds:.1f}\n")
    if process.returncode:
        raise RunError(f"{command} ended with {process.returncode}; {log} says why")
    return seconds


def going_on(folder: Path) -> list[str]:
    return ["--resume"] if (folder / "last_checkpoint").exists() else []


def weights_of(work: Path, start: str, seed: int) -> Path:
    """The file of a start: random weights by their seed, or the pretrained ones."""
    if start == "pretrained":
        return work / "pretrain" / f"{NETWORK}_fcmae.pth"
    file = work / f"random_{seed}.pth"
    if not file.exists():
        import torch

        from convnext_backbones import create_backbone

        torch.manual_seed(seed)
        torch.save({"model": create_backbone(NETWORK).state_dict()}, file)
    return file


def pretrain(work: Path, budget: Budget) -> None:
    folder = work / "pretrain"
    if weights_of(work, "pretrained", 0).exists():
        return
    run(
        work / "pretrain.log", "pretrain", "--images", work / "unlabelled", "--arch", NETWORK,
        "--size", budget.pretrain_size, "--batch", budget.pretrain_batch, "--epochs", budget.epochs,
        "--workers", 0, "--seed", 0, "--work-dir", folder, *going_on(folder),
    )  # fmt: skip


def probed() -> Iterable[tuple[str, str, int, Sequence[object]]]:
    """Data, start, seed of the random weights and options of each probe."""
    for start in STARTS:
        for seed in SEEDS if start == "random" else (0,):
            yield "crops", start, seed, ("--k", 10, 20)
        for count in FEW:
            for draw in SEEDS:
                yield few_name(count, draw), start, draw if start == "random" else 0, ("--k", 5)


def probe(work: Path, starts: Sequence[str]) -> None:
    for data, start, seed, options in probed():
        file = work / "probes" / f"{data}-{start}-{seed}.json"
        if start in starts and not file.exists():
            run(
                file.with_suffix(".log"), "probe", "--data", work / data,
                "--checkpoint", weights_of(work, start, seed), "--size", CROP, "--workers", 0,
                "--json", file, *options,
            )  # fmt: skip


def detect(work: Path, budget: Budget, starts: Sequence[str], jobs: int) -> None:
    """Train and test every detector that has no result yet, some at a time."""
    for share in SHARES:
        for seed in draws(share):
            configured(work, budget, share, seed)
    wanted = [(share, seed, start) for seed in SEEDS for start in starts for share in SHARES]
    some_at_a_time(jobs, [partial(detector, work, budget, *which) for which in wanted])


def some_at_a_time(jobs: int, calls: Sequence[Callable[[], None]]) -> None:
    """Make calls in as many threads; after the first that raises, or Ctrl-C, none begins."""
    ended = threading.Event()

    def unless_ended(call: Callable[[], None]) -> None:
        if not ended.is_set():
            try:
                call()
            except BaseException:
                ended.set()
                raise

    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(unless_ended, call) for call in calls]
        try:
            for one in runs:
                one.result()
        finally:
            ended.set()


def detector_name(share: int, seed: int, start: str) -> str:
    return f"{share}_{seed}_{start}"


def detector(work: Path, budget: Budget, share: int, seed: int, start: str) -> None:
    """One detector, trained and tested: random weights and pretrained ones differ in the backbone's start alone."""
    name = detector_name(share, seed, start)
    folder, log = work / "detectors" / name, work / "detectors" / f"{name}.log"
    if tested(folder):
        return
    config, epochs = configured(work, budget, share, seed)
    last = folder / f"epoch_{epochs}.pth"
    options = [f"randomness.seed={seed}", f"train_cfg.val_interval={epochs}"]
    options += [f"default_hooks.checkpoint.interval={epochs}"]
    options += [
        f"{part}_dataloader.{option}"
        for part in ("train", "val", "test")
        for option in ("num_workers=0", "persistent_workers=False")
    ]
    if start == "pretrained":
        options += [f"model.backbone.pretrained={weights_of(work, start, seed)}"]
    if not last.exists():
        run(
            log, "train", config, "--work-dir", folder, *going_on(folder), "--cfg-options", *options
        )
    run(log.with_suffix(".test.log"), "test", folder / config.name, last)


def configured(work: Path, budget: Budget, share: int, seed: int) -> tuple[Path, int]:
    """The config for a share of the labels, and its epochs."""
    name = labels_name(share, seed)
    epochs = epochs_of(work / name, budget)
    config = work / "detectors" / f"{name}.py"
    if not config.exists():
        run(
            config.with_suffix(".log"), "new_config", "--data", work / name, "--backbone", NETWORK,
            "--weights", "none", "--model", "rtmdet", "--size", budget.detector_size,
            "--batch", budget.detector_batch, "--epochs", epochs, "--out", config,
        )  # fmt: skip
    return config, epochs


def epochs_of(data: Path, budget: Budget) -> int:
    """Passes over the training pictures of a folder that are as many steps as those over all of them."""
    main = data / "ImageSets" / "Main"
    pictures = len((main / "train.txt").read_text().split())
    whole = len(
        (data.parent / labels_name(100, 0) / "ImageSets/Main/train.txt").read_text().split()
    )
    steps = budget.passes * batches(whole, budget)
    return max(1, round(steps / batches(pictures, budget)))


def batches(pictures: int, budget: Budget) -> int:
    return math.ceil(pictures / budget.detector_batch)


def tested(folder: Path) -> dict | None:
    """The metrics that `test` has left in a run's folder."""
    for file in sorted(folder.glob("test/*/*.json")):
        return json.loads(file.read_text())
    return None


# ---- the figures ---------------------------------------------------------------------------------
def figures(work: Path, budget: Budget) -> dict:
    """What the runs' records say; a run without a result is missing.

    Raises:
        RunError: a step has no result at all.
    """
    from convnext_backbones.runs.machine import processor
    from convnext_backbones.runs.report import records_of

    folder = work / "pretrain"
    if not weights_of(work, "pretrained", 0).exists():
        raise RunError("there is no result of pretrain yet")
    logs = sorted(folder.glob("*/vis_data/scalars.json"))
    losses = [record["loss"] for log in logs for record in records_of(log) if "loss" in record]
    pictures = len(list((work / "unlabelled").iterdir()))
    pretraining = dict(
        pictures=pictures,
        size=budget.pretrain_size,
        batch=budget.pretrain_batch,
        epochs=budget.epochs,
        steps=pictures // budget.pretrain_batch * budget.epochs,
        cpu_seconds=seconds_of(work / "pretrain"),
        loss=[round(losses[0], 3), round(losses[-1], 3)],
    )
    probes = []
    for data, start, seed, _ in probed():
        file = work / "probes" / f"{data}-{start}-{seed}.json"
        if file.exists():
            said = json.loads(file.read_text())
            probes += [
                dict(data=data, start=start, seed=seed, method=score["method"].partition(", C=")[0],
                     train=sum(said["train"]), val=sum(said["val"]), top1=round(score["top1"], 4),
                     mean_of_classes=round(score["mean_of_classes"], 4))
                for score in said["scores"]
            ]  # fmt: skip
    detectors = []
    for share in SHARES:
        for start in STARTS:
            for seed in SEEDS:
                name = detector_name(share, seed, start)
                if metrics := tested(work / "detectors" / name):
                    listed = work / labels_name(share, seed) / "ImageSets" / "Main" / "train.txt"
                    detectors.append(dict(
                        share=share, pictures=len(listed.read_text().split()), start=start, seed=seed,
                        box_AP=metrics["coco/bbox_mAP"], box_AP50=metrics["coco/bbox_mAP_50"],
                        of_class={
                            key.removeprefix("coco/").removesuffix("_precision"): value
                            for key, value in metrics.items() if key.endswith("_precision")
                        },
                        cpu_seconds=seconds_of(work / "detectors" / name),
                    ))  # fmt: skip
    for step, runs in (("probe", probes), ("detect", detectors)):
        if not runs:
            raise RunError(f"there is no result of {step} yet")
    return dict(
        torch=version("torch"), processor=processor()[0], budget=budget._asdict(),
        cpu_seconds=round(sum(float(file.read_text()) for file in work.rglob("*.seconds"))),
        pretraining=pretraining, probes=probes, detectors=detectors,
    )  # fmt: skip


def seconds_of(run: Path) -> float:
    return float(run.with_name(f"{run.name}.seconds").read_text())


# ---- the page ------------------------------------------------------------------------------------
def spread(values: Sequence[float], digits: int, *, signed: bool = False) -> str:
    """Mean, and in brackets the least and the greatest."""
    sign = "+" if signed else ""
    mean, least, most = (f"{v:{sign}.{digits}f}" for v in (statistics.mean(values), min(values), max(values)))  # fmt: skip
    return f"{mean} ({least} to {most})" if len(values) > 1 else mean


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def detector_table(found: dict) -> str:
    """A row for each share of labels and start, and one for what the start changes, seed by seed."""
    rows = []
    of = {(one["share"], one["start"], one["seed"]): one for one in found["detectors"]}
    classes = list(found["detectors"][0]["of_class"])

    def columns(one: dict) -> list[float]:
        return [one["box_AP"], one["box_AP50"], *(one["of_class"][name] for name in classes)]

    for share in SHARES:
        by_start = {}
        for start in STARTS:
            runs = {seed: of[share, start, seed] for seed in SEEDS if (share, start, seed) in of}
            if not runs:
                continue
            by_start[start] = {seed: columns(one) for seed, one in runs.items()}
            pictures = next(iter(runs.values()))["pictures"]
            cells = [spread(values, 3) for values in zip(*by_start[start].values(), strict=True)]
            rows.append([f"{share} %, {pictures} pictures", start, *cells])
        both = sorted(set.intersection(*(set(by_start.get(start, ())) for start in STARTS)))
        if both:
            random_start, pretrained = (by_start[start] for start in STARTS)
            changes = [[b - a for a, b in zip(random_start[s], pretrained[s], strict=True)] for s in both]  # fmt: skip
            cells = [spread(values, 3, signed=True) for values in zip(*changes, strict=True)]
            rows.append(["", "pretrained less random", *cells])
    return table(["labels", "start", "box AP", "AP50", *classes], rows)


def probe_table(found: dict) -> str:
    """A row for each set of crops and method, in per cent."""
    rows = {}
    for one in found["probes"]:
        kind, _, count = one["data"].partition("_")
        what = "all" if kind == "crops" else f"{count.split('_')[0]} a class"
        key = what, one["train"], one["val"], one["method"]
        rows.setdefault(key, {}).setdefault(one["start"], []).append(one)
    lines = []
    for (what, train, val, method), by_start in rows.items():
        cells = [
            spread([100 * one[name] for one in by_start[start]], 1) if start in by_start else ""
            for name in ("top1", "mean_of_classes") for start in STARTS
        ]  # fmt: skip
        lines.append([f"{what}: {train}, {val}", method, *cells])
    header = ["crops: to train, to validate", "method", "top-1, random", "top-1, pretrained"]
    return table([*header, "mean of classes, random", "mean of classes, pretrained"], lines)


def budget_table(found: dict) -> str:
    """What was run, and what it took."""
    of, budget = found["pretraining"], Budget(**found["budget"])
    steps = budget.passes * batches(of["pictures"], budget)
    seconds = [one["cpu_seconds"] for one in found["detectors"]]
    return table(
        ["run", "what", "CPU time"],
        [
            [
                "pretraining",
                f"{of['pictures']} pictures without labels, crops of {of['size']}x{of['size']}, {of['epochs']} epochs, "
                f"{of['steps']} steps of {of['batch']}; loss {of['loss'][0]} to {of['loss'][1]}",
                f"{of['cpu_seconds']:.0f} s",
            ],
            [
                "each detector",
                f"RTMDet, pictures of {budget.detector_size} pixels, {steps} steps of {budget.detector_batch}",
                f"{spread(seconds, 0)} s" if seconds else "",
            ],
            ["all", "with tests, probes and configs", f"{found['cpu_seconds'] / 60:.0f} min"],
        ],
    ) + f"\n\n{found['processor']}, torch {found['torch']}."  # fmt: skip


TABLES = {"budget": budget_table, "detectors": detector_table, "probes": probe_table}


def written(text: str, found: dict) -> str:
    """The page's text with its tables by the figures."""
    for name, make in TABLES.items():
        before, rest = text.split(BEGIN.format(name))
        text = f"{before}{BEGIN.format(name)}\n{make(found)}\n{END}{rest.split(END, 1)[1]}"
    return text


def main() -> None:
    from convnext_backbones.cli import number

    parser = argparse.ArgumentParser(
        prog="tools/pretraining_effect.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="BCCD_DATASET", help="its clone")
    parser.add_argument(
        "steps", nargs="*", metavar="STEP", help=f"of: {', '.join(STEPS)}; default: all"
    )
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/pretraining_effect")
    parser.add_argument(
        "--jobs", type=number(int, 1), default=1, metavar="N", help="detectors at a time (1)"
    )
    parser.add_argument(
        "--start", choices=STARTS, action="append", help="of probes and detectors; default: both"
    )
    parser.add_argument("--quick", action="store_true", help="little of each, and no page")
    args = parser.parse_args()
    if unknown := [step for step in args.steps if step not in STEPS]:
        parser.error(f"there is no step {unknown[0]!r}; there are {', '.join(STEPS)}")
    budget = QUICK if args.quick else Budget()
    default = ROOT / "work_dirs" / ("pretraining_effect" + "_quick" * args.quick)
    work = (args.work_dir or default).resolve()
    work.mkdir(parents=True, exist_ok=True)
    lay_out(args.data.resolve(), work)
    for step in [step for step in STEPS if step in (args.steps or STEPS)]:
        if step == "pretrain":
            pretrain(work, budget)
        elif step == "probe":
            probe(work, args.start or STARTS)
        elif step == "detect":
            detect(work, budget, args.start or STARTS, args.jobs)
        elif step == "page":
            found = figures(work, budget)
            file = work / FIGURES.name if args.quick else FIGURES
            file.write_text(json.dumps(found, indent=1) + "\n")
            if not args.quick:
                PAGE.write_text(written(PAGE.read_text(), found))


if __name__ == "__main__":
    from convnext_backbones.errors import UserError

    try:
        main()
    except (RunError, UserError) as error:
        sys.exit(str(error))
