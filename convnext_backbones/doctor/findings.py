"""THE table of what is known to go wrong, each with the command that mends it, and which commands work."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from .facts import GIB, Facts, numbers
from .trials import Outcome

STOPS, WARNS, TELLS = "stops", "warns", "tells"
LANES = {
    "mmengine": "onedl-mmengine",
    "mmcv": "onedl-mmcv",
    "mmdet": "onedl-mmdetection",
    "mmsegmentation": "onedl-mmsegmentation",
}
FORKS = tuple(LANES.values())
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
DETECTRON2 = "git+https://github.com/facebookresearch/detectron2"
FORK_OF = {**LANES, "mmseg": LANES["mmsegmentation"]}  # by names of trials, too
MMCV = "MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps mmcv==2.1.0"
OLDER_SETUPTOOLS = 'pip install "setuptools<82"'


class Finding(NamedTuple):
    """What is wrong, how much it matters, and the command that mends it."""

    severity: str
    said: str
    mend: str


Outcomes = Mapping[str, Outcome]
Rule = Callable[[Facts, Outcomes], Finding | None]


# ---- what metadata tell --------------------------------------------------------------------------
def both_lanes(facts: Facts, outcomes: Outcomes) -> Finding | None:
    both = [f"{classic} and {fork}" for classic, fork in LANES.items() if facts.has(classic) and facts.has(fork)]  # fmt: skip
    if both:
        return Finding(
            STOPS,
            f"{', '.join(both)} are installed side by side: they own the same import names, and which "
            "files are whose is chance",
            f"pip uninstall -y {' '.join([*LANES, *FORKS])}, then install one of the two",
        )


def mmpretrain(facts: Facts, outcomes: Outcomes) -> Finding | None:
    if facts.has("mmpretrain") and facts.version("transformers") >= (5,):
        return Finding(
            STOPS,
            f"mmpretrain {facts.versions['mmpretrain']} does not import beside transformers "
            f"{facts.versions['transformers']}, and MMDetection and MMSegmentation import it wherever it "
            "is installed; nothing of this package needs it",
            "pip uninstall -y mmpretrain",
        )


def pkg_resources(facts: Facts, outcomes: Outcomes) -> Finding | None:
    if facts.version("setuptools") >= (82,) and (facts.has("mmengine") or facts.has("mmcv")):
        return Finding(
            STOPS,
            f"setuptools {facts.versions['setuptools']} has no pkg_resources any more, which MMEngine "
            "imports and mmcv's installation needs",
            OLDER_SETUPTOOLS,
        )


def mmcv_of_range(facts: Facts, outcomes: Outcomes) -> Finding | None:
    hosts = [name for name in ("mmdet", "mmsegmentation") if facts.has(name)]
    if hosts and facts.has("mmcv") and not (2, 0) <= facts.version("mmcv") < (2, 2):
        return Finding(
            STOPS,
            f"{' and '.join(hosts)} refuse mmcv {facts.versions['mmcv']}: they take 2.0 up to 2.2",
            MMCV,
        )


def mmcv_without_operators(facts: Facts, outcomes: Outcomes) -> Finding | None:
    for name in ("mmcv-lite", "mmcv-full"):
        if facts.has(name):
            why = "has no operators" if name == "mmcv-lite" else "is of MMDetection 2"
            return Finding(
                STOPS,
                f"{name} is installed, which {why}; detectors need mmcv's operators",
                f"pip uninstall -y {name} && {MMCV}",
            )


def torchvision_of_torch(facts: Facts, outcomes: Outcomes) -> Finding | None:
    wanted = [r for r in facts.requires.get("torchvision", []) if re.match(r"torch\s*==", r)]
    have = facts.versions.get("torch", "")
    if not wanted or not have:
        return None
    asked = numbers(wanted[0].split("==")[1])
    builds = [facts.versions[name].partition("+")[2] for name in ("torch", "torchvision")]
    if asked != facts.version("torch")[: len(asked)]:
        why = f"asks for torch {'.'.join(map(str, asked))}"
    elif all(builds) and builds[0] != builds[1]:
        why = f"is a build for {builds[1]}, torch one for {builds[0]}"
    else:
        return None
    return Finding(
        STOPS,
        f"torchvision {facts.versions['torchvision']} {why}; torch {have} is installed: its operators do "
        "not load",
        f"pip install --force-reinstall torch=={have.partition('+')[0]} torchvision",
    )


def two_opencv(facts: Facts, outcomes: Outcomes) -> Finding | None:
    found = [name for name in OPENCV if facts.has(name)]
    if len({facts.versions[name] for name in found}) > 1:
        return Finding(
            WARNS,
            f"{' and '.join(found)} lie in one folder, in different versions: files of both are mixed",
            f"pip uninstall -y {' '.join(found)} && pip install opencv-python-headless",
        )


def old_python(facts: Facts, outcomes: Outcomes) -> Finding | None:
    if numbers(facts.python) < (3, 11):
        return Finding(STOPS, f"Python {facts.python}: this package needs 3.11 or newer",
                       "python3.11 -m venv .venv")  # fmt: skip


def old_torch(facts: Facts, outcomes: Outcomes) -> Finding | None:
    if facts.has("torch") and facts.version("torch") < (2, 4):
        return Finding(STOPS, f"torch {facts.versions['torch']}: this package needs 2.4 or newer",
                       "pip install --upgrade torch torchvision")  # fmt: skip


# ---- what the machine tells ----------------------------------------------------------------------
def no_compiler(facts: Facts, outcomes: Outcomes) -> Finding | None:
    if facts.compiler is None:
        return Finding(
            WARNS,
            "there is no C++ compiler: torch.compile, prepare_for_inference(compile=True) and the "
            "building of mmcv and Detectron2 need one; everything else works",
            "apt-get install g++ (Debian, Ubuntu), or conda install gxx",
        )


def unwritable(facts: Facts, outcomes: Outcomes) -> Finding | None:
    shut = [folder for folder, free in facts.free.items() if free is None]
    if shut:
        return Finding(
            STOPS,
            f"nothing can be written in {' or '.join(shut)}",
            "chmod u+w on it, or TORCH_HOME=, TMPDIR=, --work-dir for another folder",
        )


def full_disk(facts: Facts, outcomes: Outcomes) -> Finding | None:
    tight = [f for f, free in facts.free.items() if free is not None and free < 2 * GIB]
    if tight:
        return Finding(
            WARNS,
            f"less than 2 GiB are free for {' and '.join(tight)}: a run's checkpoints may not fit",
            "free some, or TORCH_HOME=, TMPDIR=, --work-dir for another disk",
        )


def little_memory(facts: Facts, outcomes: Outcomes) -> Finding | None:
    if facts.memory is not None and facts.memory < 8 * GIB:
        return Finding(
            WARNS,
            f"{facts.memory / GIB:.1f} GiB of memory: detectors at their published sizes want 16",
            "new-config --size 320 --batch 2 --backbone convnextv2_atto",
        )


def gpu_not_seen(facts: Facts, outcomes: Outcomes) -> Finding | None:
    told = outcomes.get("torch")
    if told and told.status == "works" and told.facts.get("cuda") and not told.facts["devices"]:
        return Finding(
            TELLS,
            f"torch is built for CUDA {told.facts['cuda']} and sees no GPU: everything runs on the CPU",
            "nvidia-smi tells whether there is one, and its driver",
        )


def newer_than_tried(facts: Facts, outcomes: Outcomes) -> Finding | None:
    """What is newer than in any environment of tools/compatibility.py's table."""
    newer = []
    for name in ("python", "torch", "numpy", "timm", "transformers"):
        have = facts.python if name == "python" else facts.versions.get(name, "")
        most = max((tried[name] for tried in _tried() if name in tried), key=numbers, default="")
        if most and numbers(have)[:2] > numbers(most)[:2]:
            newer.append(f"{name} {have} (tried up to {most})")
    if newer:
        return Finding(
            TELLS,
            f"{', '.join(newer)}: newer than anything this release was tried with; it may well work",
            "docs/compatibility.md has the versions; pip install those if something fails",
        )


def _tried() -> list[dict[str, str]]:
    """The versions of each environment in which the networks work."""
    cells = json.loads(Path(__file__).with_name("tried.json").read_text())
    works = [cell for cell in cells if cell.get("trials", {}).get("backbone") == "works"]
    return [cell["versions"] | {"python": cell["python"]} for cell in works]


METADATA: tuple[Rule, ...] = (
    *(old_python, old_torch, both_lanes, mmpretrain, pkg_resources, mmcv_of_range),
    *(mmcv_without_operators, torchvision_of_torch, two_opencv),
    *(no_compiler, unwritable, full_disk, little_memory, gpu_not_seen, newer_than_tried),
)

# ---- what a failed trial tells -------------------------------------------------------------------
# Words of an error, what they mean, and the command that mends it; None: the library's own, of MENDS.
CAUSES = (
    (r"undefined symbol|DLL load failed|mmcv\._ext|cannot import name '_C'|libtorch|libc10",
     "its compiled part is of another torch, or missing: it has to be built against the one installed", None),
    (r"numpy\.(dtype|ufunc) size changed|compiled using NumPy 1|_ARRAY_API not found|multiarray failed",
     "something was compiled for another numpy",
     "pip install --force-reinstall --no-deps pycocotools opencv-python-headless numpy"),
    (r"requires PyTorch >= [\d.]+", "this transformers is for a newer torch",
     'pip install --upgrade torch torchvision, or pip install "transformers<5"'),
    (r"torchvision::nms", "torchvision is not of the installed torch's build", None),
    (r"libGL\.so|libgthread|libSM\.so|libXext", "OpenCV's build for desktops misses system libraries",
     "pip uninstall -y opencv-python && pip install opencv-python-headless"),
    (r"pkg_resources", "setuptools 82 and newer have no pkg_resources", OLDER_SETUPTOOLS),
    (r"GLIBCXX|GLIBC_", "it was compiled on a newer system than this one", None),
    (r"ended by signal", "a compiled part ends the process, mostly one of another torch or numpy", None),
    (r"out of memory|Killed", "the memory does not suffice", None),
)  # fmt: skip
MENDS = {
    "torch": "pip install --force-reinstall torch torchvision",
    "torchvision": "pip install --force-reinstall torch torchvision",
    "backbone": "pip install --force-reinstall convnext_backbones",
    "pictures": 'pip install --force-reinstall "convnext_backbones[runs]"',
    "mmcv": MMCV,
    "mmdet": "pip install --force-reinstall --no-deps mmdet==3.3.0 mmengine==0.10.7",
    "mmseg": "pip install --force-reinstall --no-deps mmsegmentation==1.2.2 mmengine==0.10.7 && pip install ftfy regex",
    "detectron2": f"pip install --no-build-isolation --force-reinstall --no-deps {DETECTRON2}",
    "timm": "pip install --upgrade timm",
    "transformers": "pip install --upgrade transformers",
}
NEEDED = {"mmdet": ("mmcv",), "mmseg": ("mmcv",)}  # whose failure is theirs too


def of_trial(name: str, outcome: Outcome, outcomes: Outcomes, forks: bool) -> Finding | None:
    """The finding of a trial that failed; None where another one says it."""
    if outcome.status != "fails":
        return None
    if any(
        outcomes[other].status == "fails" for other in NEEDED.get(name, ()) if other in outcomes
    ):
        return None
    cause, mend = next(
        ((means, command) for words, means, command in CAUSES if re.search(words, outcome.said)),
        (None, None),
    )
    missing = re.match(r"needs (\w+), which", outcome.said)
    if missing and not cause:
        mend = MENDS.get(missing[1], f"pip install {missing[1]}")
    fork = FORK_OF.get(name) if forks else None
    if mend is None and fork:
        mend = f"pip install --no-build-isolation --force-reinstall --no-deps {fork}"
    mend = mend or MENDS[name]
    said = f"{name}: {outcome.said}" + (f" ({cause})" if cause else "")
    return Finding(STOPS, said, mend)


def findings(facts: Facts, outcomes: Outcomes) -> list[Finding]:
    """All of them, what stops first."""
    found = [rule(facts, outcomes) for rule in METADATA]
    forks = any(facts.has(name) for name in FORKS)
    found += [of_trial(name, outcome, outcomes, forks) for name, outcome in outcomes.items()]
    kept: dict[str, Finding] = {}
    for finding in filter(None, found):
        kept.setdefault(finding.mend, finding)  # one command mends it once
    order = (STOPS, WARNS, TELLS)
    return sorted(kept.values(), key=lambda finding: order.index(finding.severity))


# ---- which commands work -------------------------------------------------------------------------
COMMANDS = {
    "create_backbone, create_classifier, check-weights, convert": ("torch", "torchvision", "backbone"),
    "new-config, check-data": ("torch", "torchvision", "backbone", "pictures"),
    "train, test, predict with MMDetection": ("torch", "torchvision", "backbone", "pictures", "mmcv", "mmdet"),
    "train, test, predict with MMSegmentation": ("torch", "torchvision", "backbone", "pictures", "mmcv", "mmseg"),
    "train, test, predict with Detectron2": ("torch", "torchvision", "backbone", "pictures", "detectron2"),
    "benchmark, check-weights --peer": ("torch", "torchvision", "backbone", "timm", "transformers"),
}  # fmt: skip


def commands(outcomes: Outcomes) -> dict[str, str | None]:
    """Per group of commands: None where it works, else what it waits for."""
    return {
        group: ", ".join(
            f"{name} {'is not installed' if outcomes[name].status == 'absent' else 'fails'}"
            for name in needed
            if outcomes[name].status != "works"
        )
        or None
        for group, needed in COMMANDS.items()
    }
