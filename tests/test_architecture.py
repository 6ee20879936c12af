"""Who may import whom, and what the wheel carries."""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "convnext_backbones"
FRAMEWORKS = {"mmengine", "mmcv", "mmdet", "mmseg", "detectron2", "timm", "transformers", "keras"}

# The rooms of the package, each with the rooms and the packages that it may import beside itself and the
# standard library. A room below another in a table of its own, such as network/variants, has its own rule.
ROOMS = {
    "errors": "",
    "console": "tqdm",
    "network/variants": "",
    "network/selection": "",
    "network/geometry": "",
    "network/wrappers": "",
    "network/refusals": "errors torch",
    "network/padding": "errors torch",
    "network/preprocessing": "network/variants torch torchvision",
    "network": "errors kernels kernels/cpp network/geometry network/padding network/refusals network/selection network/variants torch",
    "kernels/triton": "kernels torch triton",
    "kernels/cpp": "kernels torch",
    "kernels": "errors kernels/triton torch",
    "checkpoints/class_names": "checkpoints errors network/variants timm torchvision",
    "checkpoints": "checkpoints/class_names errors filelock network network/preprocessing network/selection network/variants "
    "network/wrappers numpy safetensors torch tqdm",
    "recipes/layer_decay": "errors network/wrappers",
    "recipes": "network/variants recipes/layer_decay",
    "recipes/writers": "checkpoints jinja2 network/variants recipes",
    "create": "checkpoints errors network network/variants",
    "data": "checkpoints console defusedxml errors jinja2 network/variants numpy PIL recipes recipes/writers supervision yaml",
    "pretraining": "checkpoints console data errors kernels matplotlib network network/preprocessing network/refusals numpy PIL recipes rich runs "
    "safetensors sklearn timm torch torchvision",
    "runs": "checkpoints console cv2 data errors export filelock matplotlib mlflow network network/wrappers numpy PIL pycocotools rich runs/page shapely torch torchvision wandb",
    "export": "checkpoints cv2 data errors network network/preprocessing network/selection network/variants numpy onnx onnxruntime onnxscript openvino PIL torch "
    "torchvision",
    "runs/page": "checkpoints console errors jinja2 matplotlib network network/variants network/wrappers numpy PIL runs supervision torch yaml",
    "lab": "checkpoints console create errors export kernels kernels/cpp kernels/triton matplotlib numpy network network/preprocessing network/variants PIL timm torch "
    "torchvision transformers triton",
    "looking": "checkpoints data errors lab matplotlib network network/preprocessing network/selection network/variants numpy PIL "
    "pytorch_grad_cam runs torch",
    "doctor": "checkpoints detectron2 kernels mmcv mmdet mmengine mmseg network numpy runs safetensors "
    "timm torch torchvision transformers",
    "registry": "mmengine",
    "adapters": "errors runs yaml",
    "adapters/openmmlab": "checkpoints console data errors export mmcv mmdet mmengine mmseg network network/geometry network/padding network/refusals "
    "network/preprocessing network/variants network/wrappers numpy pretraining recipes recipes/layer_decay registry runs tensorboard torch yaml",
    "adapters/detectron2": "checkpoints console data detectron2 errors export fvcore mlflow network network/padding "
    "network/preprocessing network/refusals network/variants network/wrappers numpy omegaconf PIL recipes/layer_decay runs torch wandb yaml",
    "adapters/huggingface": "checkpoints checkpoints/class_names errors huggingface_hub network network/preprocessing "
    "network/selection network/variants torch torchvision transformers",
    "adapters/keras": "checkpoints checkpoints/class_names errors keras network network/refusals network/selection network/variants numpy torch",
    "adapters/timm": "checkpoints errors network network/preprocessing network/refusals network/variants timm torch",
    "adapters/torchvision": "checkpoints create errors network network/variants torch torchvision",
}
ANYTHING = {"cli", "__main__"}  # nothing imports them
WITH_FRAMEWORKS = {
    "doctor",
    "lab",
    "pretraining",
    "registry",
    "checkpoints/class_names",
}  # beside the adapters


class Import(NamedTuple):
    """One import of a file: of a module of the package ("network.convnext"), or of another package."""

    file: str
    line: int
    target: str
    inside: bool


def imports(file: str, source: str, modules: set[str]) -> Iterator[Import]:
    """All imports in a file of the package, relative ones and those inside functions too."""
    parts = [PACKAGE, *Path(file).with_suffix("").parts]
    package = parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base
                for alias in node.names
            ]
        else:
            continue
        for target in targets:
            root, _, rest = target.partition(".")
            inside = root == PACKAGE
            yield Import(file, node.lineno, rest if inside else root, inside)


def room_of(module: str) -> str:
    """The room of a module such as "network.convnext": the narrowest that ROOMS names."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = "/".join(parts[:length])
        if name in ROOMS or name in ANYTHING:
            return name
    return "the package itself" if module == "" else f"{parts[0]}, which has no rule"


def problems(files: dict[str, str]) -> list[str]:
    """What in the files, path to source, goes against ROOMS; a permission that nobody uses, too."""
    modules = {
        ".".join([PACKAGE, *Path(file).with_suffix("").parts]).removesuffix(".__init__")
        for file in files
    }
    found, used = [], {}
    for file, source in files.items():
        own = ".".join(Path(file).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        room = room_of(own)
        if room in ANYTHING or own == "":
            continue
        if room not in ROOMS:
            found.append(f"{file} is in {room}")
            continue
        for entry in imports(file, source, modules):
            target = room_of(entry.target) if entry.inside else entry.target
            if target == room or (not entry.inside and target in sys.stdlib_module_names):
                continue
            used.setdefault(room, set()).add(target)
            if target not in ROOMS[room].split():
                found.append(f"{file}:{entry.line} imports {target}, which {room} may not")
    for room, allowed in ROOMS.items():
        unused = set(allowed.split()) - used.get(room, set())
        found += [f"{room} may import {name} and does not" for name in sorted(unused)]
    found += [f"the rooms {' -> '.join(circle)} import each other" for circle in circles(used)]
    return found


def circles(used: dict[str, set[str]]) -> Iterable[list[str]]:
    """Rooms that import each other, by any way round; the parts of one room count as that room."""
    graph: dict[str, set[str]] = {}
    for room, targets in used.items():
        graph.setdefault(outer(room), set()).update(
            outer(target) for target in targets if target in ROOMS and outer(target) != outer(room)
        )

    def visit(path):
        for target in sorted(graph.get(path[-1], ())):
            if target == path[0]:
                yield [*path, target]
            elif target > path[0] and target not in path:
                yield from visit([*path, target])

    for room in sorted(graph):
        yield from visit([room])


def outer(room: str) -> str:
    """An adapter is a room of its own; the others' parts are not."""
    return room if room.startswith("adapters/") else room.split("/")[0]


@pytest.fixture(scope="module")
def files():
    package = ROOT / PACKAGE
    return {
        str(path.relative_to(package)): path.read_text() for path in sorted(package.rglob("*.py"))
    }


def test_every_room_imports_what_its_rule_allows_and_all_of_it(files):
    assert problems(files) == []


def test_no_adapter_may_import_another_and_only_an_adapter_a_framework():
    for room, allowed in ROOMS.items():
        adapters = [name for name in allowed.split() if name.startswith("adapters")]
        assert adapters == [], room
        frameworks = FRAMEWORKS & set(allowed.split())
        assert not frameworks or room in WITH_FRAMEWORKS or room.startswith("adapters/"), room


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("network/variants.py", "from ..runs import report", "imports runs, which network/variants may not"),
        ("network/variants.py", "import torch", "imports torch, which network/variants may not"),
        ("recipes/table.py", "def f():\n    from ..checkpoints.reading import read_checkpoint",
         "imports checkpoints, which recipes may not"),
        ("adapters/openmmlab/run.py", "from ..detectron2 import run", "imports adapters/detectron2, which adapters/openmmlab may not"),
        ("adapters/detectron2/run.py", "import mmengine", "imports mmengine, which adapters/detectron2 may not"),
        ("lab/evaluation.py", "from ..cli import train", "imports cli, which lab may not"),
        ("lab/evaluation.py", "from .. import prepare_for_inference", "imports the package itself, which lab may not"),
        ("kernels/dispatch.py", "from ..network.convnext import Block", "the rooms kernels -> network -> kernels import each other"),
        ("newroom/new.py", "import json", "newroom/new.py is in newroom, which has no rule"),
    ],
)  # fmt: skip
def test_a_planted_import_is_found(files, file, line, words):
    planted = {**files, file: f"{files.get(file, '')}\n{line}\n"}
    assert any(words in problem for problem in problems(planted))


def test_a_permission_that_nobody_uses_is_found(files, monkeypatch):
    monkeypatch.setitem(ROOMS, "errors", "torch")
    assert "errors may import torch and does not" in problems(files)


def test_importing_the_package_imports_no_framework():
    code = "import sys; from convnext_backbones import ConvNeXt; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert "convnext_backbones.network.convnext" in modules
    assert FRAMEWORKS.isdisjoint(modules)


def test_the_wheel_carries_the_configs(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "-w", tmp_path, ROOT],
        check=True, capture_output=True,
    )  # fmt: skip
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    configs = ROOT / "configs"
    for config in [*configs.rglob("*.py"), *configs.rglob("*.yaml")]:
        inside = f"convnext_backbones/configs/{config.relative_to(ROOT / 'configs')}"
        assert inside in names
    assert "convnext_backbones/network/convnext.py" in names
    assert "convnext_backbones/kernels/cpp/vector.cpp" in names
    assert "convnext_backbones/kernels/cpp/tiles.h" in names  # which they include
    assert "convnext_backbones/data/new_config/templates/mmdet.py.jinja" in names
    for name in ("run.html.jinja", "style.css", "script.js"):
        assert f"convnext_backbones/runs/page/templates/{name}" in names
    assert not any(name.startswith(("tests/", "tools/")) for name in names)


def test_no_two_files_of_tests_have_one_name():  # pytest imports them by it
    names = [path.name for path in ROOT.glob("tests/**/test_*.py")]
    assert sorted(set(names)) == sorted(names)
