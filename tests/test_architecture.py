"""Who may import whom, and what the wheel carries."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "convnext_backbones"
FRAMEWORKS = {"mmengine", "mmcv", "mmdet", "mmseg", "detectron2", "timm", "transformers"}
ANYONE = set(sys.stdlib_module_names)

# module or folder -> what it may import beside the standard library and the package itself
ALLOWED = {
    "variants.py": set(),
    "selection.py": set(),
    "errors.py": set(),
    "layer_decay.py": set(),
    "recipes.py": set(),
    "refusals.py": {"torch"},
    "padding.py": {"torch"},
    "convnext.py": {"torch"},
    "classifier.py": {"torch"},
    "create.py": set(),
    "inference.py": {"torch"},
    "preprocessing.py": {"torch", "torchvision", "PIL"},
    "imagenet.py": set(),
    "evaluation.py": {"torch", "torchvision", "PIL"},
    "peers.py": {"torch", "torchvision", "timm", "transformers"},
    "benchmarking.py": {"torch", "matplotlib"},
    "kernels": {"torch", "triton"},
    "checkpoints": {"torch", "numpy", "safetensors", "filelock", "tqdm"},
    "registry.py": {"mmengine"},
    "adapters/openmmlab.py": {"torch", "mmengine"},
    "adapters/detectron2.py": {"torch", "detectron2", "omegaconf"},
    "adapters/huggingface.py": {"torch"},
    "sample_data.py": {"numpy", "PIL", "pycocotools", "shapely"},
    "visualize.py": {"numpy", "PIL", "torch", "torchvision", "matplotlib"},
    "training/detectron2_checkpoints.py": {"torch", "detectron2"},
    "training/detectron2_padding.py": {"torch", "detectron2"},
    "training/mmengine_padding.py": {"torch", "mmengine"},
    "training/mmengine_checkpoints.py": {"numpy", "mmengine"},
    "training/mmengine_optimizer.py": {"torch", "mmengine"},
    "training/openmmlab.py": {"numpy", "torch", "PIL", "mmengine", "mmdet", "mmseg"},
    "training/detectron2.py": {"numpy", "torch", "detectron2", "fvcore"},
    "training/detectron2_configs.py": {"torch", "yaml", "detectron2", "omegaconf"},
    "training/detectron2_run.py": {"numpy", "torch", "PIL", "detectron2", "omegaconf"},
    "training/detectron2_sample.py": {"detectron2", "omegaconf"},
    "training/sample.py": {"filelock", "tqdm"},
    "training/report.py": {"matplotlib", "rich"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of the absolute imports in a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_module_imports_only_what_its_place_allows(path):
    place = str(path.relative_to(PACKAGE))
    if path.name == "__init__.py":
        allowed = set()
    else:
        rule = next((r for r in ALLOWED if place == r or place.startswith(f"{r}/")), None)
        assert rule, f"{place} has no rule here: add what it may import"
        allowed = ALLOWED[rule]
    assert imported(path) - ANYONE <= allowed


def test_importing_the_package_imports_no_framework():
    code = "import sys, convnext_backbones; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert "convnext_backbones.convnext" in modules
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
    assert "convnext_backbones/convnext.py" in names
    assert "convnext_backbones/kernels/cpu_block.cpp" in names
    assert not any(name.startswith(("tests/", "tools/")) for name in names)
