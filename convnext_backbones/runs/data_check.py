"""check-data, and the part of it that train does before its first step."""

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..console import counted, is_first_process, progress, say
from ..data.checks import Counts, check, complete, files_of
from ..data.facts import Cache, Facts, read_facts
from ..data.findings import STOPS, TELLS, WARNS, Finding, Findings
from ..data.records import Records
from ..errors import UserError
from .host import Host

SPLITS = ("train", "val", "test")
LISTED = 40  # classes in a table
STYLES = {STOPS: "bold red", WARNS: "yellow", TELLS: ""}

# ---- before training
SAMPLE = 32  # files a split
SECONDS = 0.7  # a split, for reading them
LOOKED_FOR = 20_000  # files a split of which it is asked whether they are there
LARGEST = 32 * 2**20  # bytes of an annotation file; larger ones take their time
SAID = 4  # findings in full
# Of training data, what a run goes on without.
LEFT_OUT = (
    "picture is missing",
    "picture cannot be read",
    "label map is missing",
    "label map cannot be read",
)


# ---- check-data ----------------------------------------------------------------------------------
def check_data(host: Host, args: Namespace) -> int:
    """Everything about the data of args.config, in tables, and as args asks in files; the exit status:
    2 for what cannot work, 1 for warnings with args.strict, else 0."""
    from ..data.repair import check_copy, repair  # here: train needs neither, and starts sooner
    from .data_page import check_page, save_page

    if args.page:
        check_page(args.page)
    if args.fix:
        check_copy(args.fix)
    host.quiet_warnings()
    config = host.load_config(
        args.config, sample=args.sample, shrink=args.shrink, options=host.overrides(args)
    )
    refused = Findings("")
    try:
        host.check_data(config, ("train", "val"))
    except UserError as error:
        refused.add("the config and its data do not fit", str(error))
    splits = splits_of(host, config, SPLITS)
    for data in splits:
        complete(data)
    if not any(data.records for data in splits):
        raise UserError(
            "; ".join(finding.examples[0] for finding in refused)
            or f"{args.config} has no data to check"
        )
    facts = read_facts(
        files_of(splits),
        processes=args.workers,
        cache=None if args.no_cache else Cache(),
        progress=lambda files, total: progress(files, "reading", total=total, unit="file"),
    )
    findings, counts = check(splits, facts)
    findings = [*refused, *findings]
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 150)
    print_classes(console, splits, counts)
    print_findings(console, splits, facts, findings)
    if args.json:
        write_json(args.json, splits, findings, counts)
    if args.page:
        print(f"page: {save_page(args.page, splits, findings)}")
    if args.fix:
        done, lines = repair(splits, facts, args.fix, progress=_bar)
        print(f"repaired copy in {args.fix}", *done, sep="\n  ")
        print("set in the config:", *lines, sep="\n  ")
    grave = {finding.severity for finding in findings}
    return 2 if STOPS in grave else 1 if WARNS in grave and args.strict else 0


def _bar(items, total):
    return progress(items, "writing", total=total, unit="picture")


def splits_of(host: Host, config, names: Sequence[str], most: int | None = None) -> list[Records]:
    """The splits that the config has."""
    found = [host.records(config, name, most=most) for name in names]
    return [data for data in found if data is not None]


def print_classes(console: Console, splits: Sequence[Records], counts: Counts) -> None:
    """What each class has in each split."""
    boxes = splits[0].task == "boxes"
    table = Table("class")
    for data in splits:
        if boxes:
            table.add_column(f"{data.split}: boxes", justify="right")
            table.add_column("small / medium / large", justify="right")
            table.add_column("pixels across", justify="right")
        else:
            table.add_column(f"{data.split}: pictures", justify="right")
            table.add_column("% of pixels", justify="right")
    names = list(dict.fromkeys(name for data in splits for name in counts[data.split]))
    if len(names) > LISTED:
        first = counts[splits[0].split]
        names = sorted(names, key=lambda name: first[name].amount if name in first else 0)[:LISTED]
        console.print(f"the {LISTED} rarest classes:")
    for name in names:
        cells = []
        for data in splits:
            count = counts[data.split].get(name)
            if count is None:
                cells += [""] * (3 if boxes else 2)
            elif boxes:
                side = count.median_side
                sizes = " / ".join(str(count.sizes[size]) for size in ("small", "medium", "large"))
                cells += [str(count.amount), sizes, "" if side is None else f"{side:.0f}"]
            else:
                everything = sum(other.amount for other in counts[data.split].values()) or 1
                cells += [str(count.pictures), f"{100 * count.amount / everything:.2f}"]
        table.add_row(escape(name), *cells)
    console.print(table)
    if boxes:
        console.print("small: under 32x32 pixels, large: over 96x96; pixels across: the median of the "
                      "shorter sides, as the network sees them")  # fmt: skip


def print_findings(
    console: Console,
    splits: Sequence[Records],
    facts: dict[tuple[str, str], Facts],
    findings: Sequence[Finding],
) -> None:
    """One table, the gravest first."""
    if findings:
        table = Table("check", "split", "count", "severity", "first ones; what to do")
        for finding in findings:
            what = "; ".join(finding.examples)
            what += f"\n{finding.advice}" if what and finding.advice else finding.advice
            table.add_row(
                finding.check, finding.split, str(finding.count), finding.severity, escape(what),
                style=STYLES[finding.severity],
            )  # fmt: skip
        console.print(table)
    grave = [sum(f.severity == severity for f in findings) for severity in STYLES]
    pictures = ", ".join(f"{data.split} {len(data.records)}" for data in splits)
    console.print(f"{counted(len(facts), 'file')} read; pictures: {pictures}. "
                  f"{grave[0]} checks stop a training, {grave[1]} warn, {grave[2]} tell")  # fmt: skip


def write_json(
    file: Path, splits: Sequence[Records], findings: Sequence[Finding], counts: Counts
) -> None:
    """The findings and counts for other programs."""
    content = {
        "findings": [finding._asdict() for finding in findings],
        "splits": {
            data.split: {
                "pictures": len(data.records),
                "classes": {
                    name: {"amount": count.amount, "pictures": count.pictures, **count.sizes}
                    for name, count in counts[data.split].items()
                },
            }
            for data in splits
        },
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1))
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error


# ---- before training -----------------------------------------------------------------------------
def before_training(host: Host, config, *, goes_on: bool = False) -> None:
    """The quick part: classes and counts, and a sample of files; a few lines.

    goes_on: the run has begun before; training pictures that cannot be read since are left out (guards.py).

    Raises:
        UserError: something cannot work; it names the files.
    """
    if not is_first_process():
        return
    splits = splits_of(host, config, ("train", "val"), most=LARGEST)
    for data in splits:
        if data.unread:
            say(
                f"data: {data.split} not looked at: {data.annotations} has {data.unread / 2**20:.0f} MB, "
                f"more than {LARGEST / 2**20:.0f}; convnext-backbones check-data reads it"
            )
    splits = [data for data in splits if not data.unread]
    if not splits:
        return
    facts: dict[tuple[str, str], Facts] = {}
    for data in splits:
        complete(data)
        facts |= _sampled(data)
    findings, counts = check(splits, facts, sampled=True)
    looked_at = sum(1 for kind, _ in facts if kind == "picture")
    for data in splits:
        say(f"data: {data.split} {_line(data, counts[data.split])}")
    if goes_on:
        findings = [
            f._replace(severity=WARNS) if f.split == "train" and f.check in LEFT_OUT else f
            for f in findings
        ]
    stops = [finding for finding in findings if finding.severity == STOPS]
    warns = [finding for finding in findings if finding.severity == WARNS]
    whole = "convnext-backbones check-data looks at every file"
    if stops:
        said = "\n  ".join(finding.sentence() for finding in stops[:SAID])
        raise UserError(f"this data cannot be trained on:\n  {said}\n  {whole}")
    for finding in warns[:SAID]:
        say(f"data: warning: {finding.sentence()}", always=True)
    more = f", {len(warns) - SAID} more warnings" if len(warns) > SAID else ""
    say(
        f"data: {counted(looked_at, 'picture')} looked at, nothing stops the training{more}; {whole}"
    )


def _line(data: Records, counts) -> str:
    said = counted(len(data.records), "picture")
    if data.task == "boxes":
        said += f", {counted(sum(count.amount for count in counts.values()), 'box')}"
    shown = [
        f"{name} {count.amount}" if data.task == "boxes" else name for name, count in counts.items()
    ]
    more = f", .. ({len(shown)} classes)" if len(shown) > 12 else ""
    return f"{said}: {', '.join(shown[:12])}{more}"


def _sampled(data: Records) -> dict[tuple[str, str], Facts]:
    """The facts of files spread over the split, and of all that are missing or have no bytes."""
    facts = {}
    for job in files_of([data])[:LOOKED_FOR]:
        if not os.path.isfile(job[1]) or not os.path.getsize(job[1]):
            facts |= read_facts([job])
    step = max(1, len(data.records) // SAMPLE)
    until = time.monotonic() + SECONDS
    for record in data.records[::step][:SAMPLE]:
        files = [("picture", record.picture)]
        files += [("labels", record.label_map)] if record.label_map else []
        facts |= read_facts([job for job in files if job not in facts])
        if time.monotonic() > until:
            break
    return facts
