"""What is installed here, what of it works, what conflicts, and the command that mends each finding.

    convnext-backbones doctor             # half a minute
    convnext-backbones doctor --json      # the same for a program
    convnext-backbones doctor --quick     # from the metadata of what is installed; nothing is tried

Each library is tried in a process of its own: a small model is built, and trained one step. The exit status
is 1 where something that is installed does not work.
"""

import json
import sys

from . import make_parser

MARKS = {"works": "[green]works[/]", "fails": "[bold red]fails[/]", "absent": "[dim]absent[/]"}
COLOURS = {"stops": "bold red", "warns": "yellow", "tells": "dim"}


def parse_args(argv):
    parser = make_parser("doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="try nothing, read metadata")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """0; 1 where something that is installed does not work."""
    args = parse_args(argv)
    from ..doctor.facts import read_facts
    from ..doctor.findings import STOPS, commands, findings
    from ..doctor.trials import TRIALS, try_all

    facts = read_facts()
    if not (args.json or args.quick or args.quiet):
        print(f"trying {', '.join(TRIALS)}: half a minute", file=sys.stderr)
    outcomes = {} if args.quick else try_all(list(TRIALS))
    found = findings(facts, outcomes)
    works = commands(outcomes) if outcomes else {}
    if args.json:
        print(
            json.dumps(
                {
                    "facts": facts.as_json(),
                    "trials": {name: outcome._asdict() for name, outcome in outcomes.items()},
                    "findings": [finding._asdict() for finding in found],
                    "commands": {group: missing or "works" for group, missing in works.items()},
                },
                indent=2,
            )
        )
    else:
        _print(facts, outcomes, found, works)
    return int(any(finding.severity == STOPS for finding in found))


def _print(facts, outcomes, found, works) -> None:
    """In lines, without rich where that is not installed: a doctor needs nothing."""
    try:
        from rich.console import Console

        say = Console(soft_wrap=True, highlight=False).print
    except ImportError:
        say = _plain
    from ..doctor.facts import GIB
    from ..runs.machine import TOLD, normal

    told = {name: facts.versions.get(normal(name)) for name in TOLD}
    say(f"[bold]machine[/]    {facts.platform}, Python {facts.python} in {facts.prefix}")
    memory = f"{facts.memory / GIB:.0f} GiB" if facts.memory else "unknown"
    say(f"           {facts.processor}: {', '.join(facts.instructions) or 'unknown instructions'}; "
        f"memory {memory}; C++ compiler {facts.compiler or 'none'}")  # fmt: skip
    for folder, free in facts.free.items():
        room = "cannot be written" if free is None else f"{free / GIB:.0f} GiB free"
        say(f"           {folder}: {room}")
    say("[bold]installed[/]  " + ", ".join(f"{n} {v}" for n, v in told.items() if v))
    for name, outcome in outcomes.items():
        said = "not installed" if outcome.status == "absent" else outcome.said
        say(f"  {MARKS[outcome.status]}  {name:14}{_escape(said)}")
    if works:
        say("[bold]commands[/]")
        for group, missing in works.items():
            mark = "[dim]no[/]   " if missing else "[green]yes[/]  "
            say(f"  {mark}   {group}" + (f": {_escape(missing)}" if missing else ""))
    if not found:
        say("[bold]findings[/]   none")
        return
    say("[bold]findings[/]")
    for finding in found:
        say(f"  [{COLOURS[finding.severity]}]{finding.severity}[/]   {_escape(finding.said)}")
        say(f"          mend: {_escape(finding.mend)}")


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


def _plain(text: str) -> None:
    import re

    print(re.sub(r"(?<!\\)\[/?[a-z ]*\]", "", text).replace("\\[", "["))
