"""Try what this package says it works with: versions of Python, torch and the libraries beside it.

python tools/compatibility.py                       # every cell; 3 to 15 minutes each on 2 cores
python tools/compatibility.py "oldest torch"        # some
python tools/compatibility.py --page                # the page alone, from what was found before

A cell is an environment in a temporary folder, deleted afterwards (6 GB, one at a time), or one that set-up
made. In it the doctor tries each library, and some tests of the networks and of every layout of weights run.
What was found stands in convnext_backbones/doctor/tried.json, which the doctor reads, and in the table of
docs/compatibility.md. PYTHONS names interpreters, as PYTHONS="~/.pyenv/versions/*/bin/python".
"""

import argparse
import datetime
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from setup_environment import (
    COMPILER_FLAGS,
    REQUIREMENTS,
    ROOT,
    SetupError,
    let_torch_name_the_standard,
    merge_mmcv_sources,
    pinned,
)

FOUND = ROOT / "convnext_backbones" / "doctor" / "tried.json"
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- written by tools/compatibility.py -->", "<!-- until here -->"
TESTS = (
    "tests/network/test_convnext.py",
    "tests/network/test_selection.py",
    "tests/checkpoints/test_layouts.py",
)
SMALL = "atto or selection"  # of them, in a minute
SECONDS = 1500  # the longest of one command
CORE = [
    "numpy",
    "timm",
    "transformers",
    "safetensors",
    "filelock",
    "tqdm",
    "pytest",
    "hypothesis",
    "rich",
    "jinja2",
]
SHOWN = ("torch", "torchvision", "numpy", "timm", "transformers")
OF_LANES = (
    "mmcv",
    "onedl-mmcv",
    "mmdet",
    "onedl-mmdetection",
    "mmsegmentation",
    "onedl-mmsegmentation",
    "detectron2",
)
TRIALS = ("backbone", "timm", "transformers", "mmcv", "mmdet", "mmseg", "detectron2")


class Cell(NamedTuple):
    """What is tried together: an environment of set-up's (`venv`), or what to install into a new one."""

    python: str = "3.11"
    install: tuple[str, ...] = ()
    venv: str = ""
    mmcv: str = ""  # a distribution of mmcv, compiled there
    lane: str = ""  # whose other packages are installed as pinned


CELLS = {
    "pinned, classic lane": Cell(venv=".venv"),
    "pinned, onedl lane": Cell(venv=".venv-onedl"),
    "oldest torch": Cell(install=("torch==2.4.1", "torchvision==0.19.1", *CORE)),
    "oldest torch, transformers 4": Cell(
        install=("torch==2.4.1", "torchvision==0.19.1", *CORE, "transformers<5")
    ),
    "newest of everything": Cell(install=("torch", "torchvision", *CORE)),
    "newest, Python 3.12": Cell(python="3.12", install=("torch", "torchvision", *CORE)),
    "newest, Python 3.13": Cell(python="3.13", install=("torch", "torchvision", *CORE)),
    "newest torch, classic lane": Cell(install=("torch", "torchvision"), mmcv="mmcv", lane="classic"),
    "newest torch, onedl lane": Cell(install=("torch", "torchvision"), mmcv="onedl-mmcv", lane="onedl"),
}  # fmt: skip


class NotTriedError(Exception):
    """Something is not to be had here; the message says what."""


def interpreter(version: str) -> str:
    """An interpreter of this version.

    Raises:
        NotTriedError: there is none here.
    """
    places = os.environ.get("PYTHONS", "~/.pyenv/versions/*/bin/python").split()
    files = [file for place in places for file in sorted(glob.glob(os.path.expanduser(place)))]
    for file in [sys.executable, shutil.which(f"python{version}"), *files]:
        if file and _run([file, "--version"]).stdout.startswith(f"Python {version}."):
            return file
    raise NotTriedError(f"there is no Python {version} here")


def _run(command, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=SECONDS, **settings
    )


def make(cell: Cell, folder: Path) -> Path:
    """The environment of a cell; its interpreter.

    Raises:
        NotTriedError: a version cannot be installed; RuntimeError: mmcv does not compile.
    """
    _run([interpreter(cell.python), "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"

    def pip(*arguments, failing=NotTriedError, **variables):
        done = _run([python, "-m", "pip", "-q", *arguments], env=os.environ | variables)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            raise failing((lines or done.stderr.splitlines() or ["pip failed"])[-1][:200])

    pip("install", "--no-compile", *cell.install)
    if cell.lane:
        tools = ["setuptools", "wheel", "ninja", "psutil", "packaging"]
        pip("install", *(f"{name}=={pinned('build.txt', name)}" for name in tools))
        rest = folder / "rest.txt"
        texts = [(REQUIREMENTS / f"{name}.txt").read_text() for name in ("common", cell.lane)]
        rest.write_text(re.sub(r"^(onedl-)?mmcv==.*$", "", "\n".join(texts), flags=re.MULTILINE))
        pip("install", "--no-compile", "--no-deps", "--no-build-isolation", "-r", rest)
        archives = folder / "mmcv"
        version = pinned(f"{cell.lane}.txt", cell.mmcv)
        pip("download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "-d", archives,
            f"{cell.mmcv}=={version}")  # fmt: skip
        archive = next(archives.glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(archives, filter="data")
        source = archive.with_name(archive.name.removesuffix(".tar.gz"))
        let_torch_name_the_standard(source)
        merge_mmcv_sources(source)
        pip("install", "--no-deps", "--no-build-isolation", source, failing=RuntimeError,
            MMCV_WITH_OPS="1", CFLAGS=COMPILER_FLAGS, MAX_JOBS=str(os.cpu_count() or 2))  # fmt: skip
    return python


def try_cell(name: str) -> dict:
    """What a cell gives: versions, an outcome for each trial, the tests."""
    cell = CELLS[name]
    found = dict(name=name, date=datetime.date.today().isoformat(), python=cell.python)
    with tempfile.TemporaryDirectory(prefix="compatibility-") as folder:
        try:
            if cell.venv and not (ROOT / cell.venv / "bin" / "python").exists():
                raise NotTriedError(f"{cell.venv} is not made: make setup")
            python = ROOT / cell.venv / "bin" / "python" if cell.venv else make(cell, Path(folder))
            found |= look(python)
        except NotTriedError as error:
            found["not_tried"] = str(error)
        except subprocess.TimeoutExpired as error:
            found["not_tried"] = f"{Path(error.cmd[0]).name} did not end in {SECONDS} s here"
        except RuntimeError as error:
            found["fails"] = f"{cell.mmcv} does not compile: {error}"
    return found


def look(python: Path) -> dict:
    """The doctor's trials and the tests in an environment."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    told = _run([python, "-m", "convnext_backbones", "doctor", "--json"], env=env, cwd=ROOT)
    try:
        told = json.loads(told.stdout)
    except json.JSONDecodeError:
        raise NotTriedError(f"the doctor said no JSON: {told.stderr[-200:]}") from None
    tested = _run(
        [python, "-m", "pytest", *TESTS, "-k", SMALL, "-p", "no:cacheprovider", "-W", "default"],
        env=env, cwd=ROOT,
    )  # fmt: skip
    lines = tested.stdout.strip().splitlines() or ["nothing was said"]
    counts = re.search(r"(\d+) passed", lines[-1])
    failed = [line.split(" ")[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    trials = {name: told["trials"][name]["status"] for name in TRIALS}
    versions = told["facts"]["versions"]
    return dict(
        python=told["facts"]["python"],
        versions={name: versions[name] for name in (*SHOWN, *OF_LANES) if name in versions},
        trials=trials,
        said={k: told["trials"][k]["said"] for k, status in trials.items() if status == "fails"},
        passed=int(counts[1]) if counts else 0,
        failed=failed,
    )


# ---- the page ------------------------------------------------------------------------------------
def table(cells: list[dict]) -> str:
    """Markdown: a row a cell, and a line for what fails."""
    lines = [
        "| tried together | Python | torch | numpy | timm | transformers | mmcv | networks | weights of timm, "
        "transformers | MMDetection | MMSegmentation | Detectron2 | tests |",
        "|" + "---|" * 13,
    ]
    marks = {"works": "works", "fails": "**fails**", "absent": "-"}
    notes = []
    for cell in cells:
        if why := cell.get("not_tried") or cell.get("fails"):
            word = "not tried" if "not_tried" in cell else "**fails**"
            lines.append(f"| {cell['name']} | {cell['python']} |" + " |" * 10 + f" {word} |")
            notes.append(f"- {cell['name']}: {word.strip('*')}; {why}")
            continue
        versions, trials = cell["versions"], cell["trials"]
        of = [versions.get(name, "-") for name in ("torch", "numpy", "timm", "transformers")]
        mmcv = next((f"{n} {versions[n]}" for n in ("mmcv", "onedl-mmcv") if n in versions), "-")
        both = {trials["timm"], trials["transformers"]}
        works = [trials["backbone"], "fails" if "fails" in both else min(both, key=len)]
        works += [trials[name] for name in ("mmdet", "mmseg", "detectron2")]
        tests = f"{cell['passed']} passed" + f", **{len(cell['failed'])} failed**" * bool(
            cell["failed"]
        )
        row = [cell["name"], cell["python"], *of, mmcv, *(marks[word] for word in works), tests]
        lines.append(f"| {' | '.join(row)} |")
        notes += [f"- {cell['name']}: {name}: {said}" for name, said in cell["said"].items()]
        if failed := cell["failed"]:
            more = f" and {len(failed) - 2} more tests fail" if len(failed) > 2 else " fails"
            notes.append(f"- {cell['name']}: {', '.join(f'`{test}`' for test in failed[:2])}{more}")
    dates = sorted({cell["date"] for cell in cells if "date" in cell})
    lines += [
        "",
        *notes,
        *[""] * bool(notes),
        f"Tried on CPUs, {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}.",
    ]
    return "\n".join(lines)


def write_page(cells: list[dict]) -> None:
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(cells)}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tools/compatibility.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cells", nargs="*", help=f"of: {'; '.join(CELLS)}")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    args = parser.parse_args()
    if unknown := [name for name in args.cells if name not in CELLS]:
        parser.error(f"there is no cell {unknown[0]!r}; there are {'; '.join(CELLS)}")
    for name in [] if args.page else args.cells or CELLS:
        print(f"{name} ..", flush=True)
        found = try_cell(name)
        print(json.dumps(found, indent=2), flush=True)
        cells = {**known_cells(), name: found}  # read again: another process may try others
        ordered = [cells[known] for known in CELLS if known in cells]
        FOUND.write_text(json.dumps(ordered, indent=2) + "\n")
    write_page(every_cell())


def every_cell() -> list[dict]:
    """In the order of CELLS; "not tried" for those that never ran."""
    known = known_cells()
    return [
        known.get(name) or dict(name=name, python=cell.python, not_tried="it has not been run yet")
        for name, cell in CELLS.items()
    ]


def known_cells() -> dict[str, dict]:
    """What was found before, by the cells' names."""
    return {cell["name"]: cell for cell in json.loads(FOUND.read_text())} if FOUND.exists() else {}


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
