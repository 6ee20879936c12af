"""Packaging: the frameworks are extras, because both OpenMMLab lanes own the same import names."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "convnext_backbones" / "__init__.py").read_text(), re.M
).group(1)


class BuildWithConfigs(build_py):
    """Carry configs/ as convnext_backbones/configs."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        configs = ROOT / "configs"
        for config in [*configs.rglob("*.py"), *configs.rglob("*.yaml")]:
            target = Path(self.build_lib, "convnext_backbones", config.relative_to(ROOT))
            self.mkpath(str(target.parent))
            self.copy_file(str(config), str(target))


setup(
    name="convnext_backbones",
    version=VERSION,
    description="ConvNeXt and ConvNeXt V2 backbones for MMDetection, MMSegmentation and Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    cmdclass={"build_py": BuildWithConfigs},
    packages=find_packages(include=["convnext_backbones", "convnext_backbones.*"]),
    package_data={"convnext_backbones.kernels": ["amx/*.cpp", "triton/tuned/*.json"]},
    install_requires=["torch>=2.4", "torchvision", "numpy", "safetensors", "filelock", "tqdm"],
    extras_require={
        "openmmlab": [
            "mmengine>=0.10.7",
            "mmcv>=2.0.0rc4,<2.2",
            "mmdet>=3.3",
            "mmsegmentation>=1.2.2",
            "ftfy",
            "regex",
            "tqdm",
            "matplotlib",
        ],
        "detectron2": ["detectron2", "tqdm", "matplotlib", "rich", "filelock", "shapely"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "jinja2",
            "timm",
            "transformers",
            "fvcore",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
