"""pyproject.toml: each room's packages are declared, in the base or in the extra of who uses the room."""

import ast
import re
import sys
from pathlib import Path

import pytest
import tomllib

from convnext_backbones.cli import COMMANDS, EXTRAS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What a package is imported as, where its name in a registry is another.
IMPORTED_AS = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "huggingface-hub": "huggingface_hub",
    "scikit-learn": "sklearn",
    "mmsegmentation": "mmseg",
    "grad-cam": "pytorch_grad_cam",
    "opencv-python": "cv2",  # what mmcv and supervision ask for
}
# Imported only where they are: detectron2 is in no registry, and Triton comes with torch where it runs.
NOWHERE = {"detectron2", "triton"}
# mmdet and mmsegmentation import these without declaring them (ours does not): mmcv holds their operators.
FOR_OTHERS = {"openmmlab": {"mmcv", "ftfy", "regex"}}
ROOMS = {
    "network": (),
    "kernels": (),
    "checkpoints": (),
    "create.py": (),
    "console.py": (),
    "pretraining": ("pretraining", "runs"),
    "data": ("runs",),
    "runs": ("runs", "trackers"),
    "looking": ("looking", "runs"),
    "adapters/__init__.py": ("runs",),
    "adapters/huggingface": ("huggingface",),
    "adapters/openmmlab": ("openmmlab", "runs", "trackers"),
    "registry.py": ("openmmlab",),
    "adapters/detectron2": ("detectron2", "runs", "trackers"),
    "adapters/keras": ("keras",),
    "adapters/timm": ("timm",),
    "adapters/torchvision": (),
    "lab": ("lab",),
    "export": ("export", "runs"),
    "doctor": ("detectron2", "lab", "openmmlab", "runs"),  # it tries what is there
    "recipes": ("runs",),  # Jinja writes the configs
}
# What a room imports where it is installed, and asks for in a sentence where not: the extra it is in.
OPTIONAL = {"checkpoints": "names"}
# They import nothing, or what the commands they run need: cli/__init__.py answers with the extra to install.
WITHOUT_A_ROW = {"__init__.py", "__main__.py", "adapters", "cli", "errors.py"}


def declared(extra: str | None = None) -> set[str]:
    """Import names of the base's dependencies, or of an extra's own."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in lines}
    return {IMPORTED_AS.get(name, name) for name in names - {"convnext_backbones"}}


def imported(room: str) -> set[str]:
    """The packages that a room's files import, without the standard library."""
    place = ROOT / "convnext_backbones" / room
    names = set()
    for path in place.rglob("*.py") if place.is_dir() else [place]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - NOWHERE


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_imports_is_declared(room):
    known = declared().union(*(declared(extra) for extra in ROOMS[room]))
    if room in OPTIONAL:
        known |= declared(OPTIONAL[room])
    assert imported(room) <= known


def test_every_room_has_its_row():
    rooms = {path.name for path in (ROOT / "convnext_backbones").iterdir()} - {"__pycache__"}
    assert rooms - WITHOUT_A_ROW == {room.split("/")[0] for room in ROOMS} - WITHOUT_A_ROW
    adapters = {f"adapters/{p.name}" for p in (ROOT / "convnext_backbones/adapters").iterdir()}
    assert adapters - {"adapters/__pycache__"} == {r for r in ROOMS if r.startswith("adapters/")}


def test_what_a_command_imports_has_an_extra_or_is_in_the_base():
    known = declared().union(*EXTRAS.values())
    assert imported("cli") <= known


@pytest.mark.parametrize(("room", "extra"), OPTIONAL.items())
def test_an_optional_extra_holds_only_what_its_room_imports(room, extra):
    assert declared(extra) == imported(room) - declared()


@pytest.mark.parametrize(
    "extra",
    ["runs", "openmmlab", "detectron2", "export", "huggingface", "keras", "lab", "pretraining", "timm"],
)  # fmt: skip
def test_an_extra_holds_only_what_its_rooms_import(extra):
    rooms = [room for room, extras in ROOMS.items() if extra in extras]
    used = set().union(*map(imported, rooms), FOR_OTHERS.get(extra, ()))
    assert declared(extra) <= used


def test_the_base_holds_only_what_rooms_without_an_extra_import():
    bare = [room for room, extras in ROOMS.items() if not extras]
    used = set().union(*map(imported, bare), {"PIL"})  # EvaluationTransform takes PIL's pictures
    assert declared() <= used


def test_no_extra_asks_for_what_no_registry_has():
    extras = PROJECT["optional-dependencies"].values()
    everything = [*PROJECT["dependencies"], *(line for lines in extras for line in lines)]
    assert not any(re.match(r"detectron2\b", line) or "@" in line for line in everything)


def test_the_command_line_names_an_extra_for_each_of_its_packages():
    for extra, names in EXTRAS.items():
        assert set(names) <= declared(extra) | declared("runs"), extra


def test_the_wheel_has_one_command():
    assert PROJECT["scripts"] == {"convnext-backbones": "convnext_backbones.cli:main"}
    assert all((ROOT / f"convnext_backbones/cli/{c.module}.py").exists() for c in COMMANDS.values())
