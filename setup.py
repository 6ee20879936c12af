"""The wheel carries configs/ as convnext_backbones/configs; all else stands in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


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


setup(cmdclass={"build_py": BuildWithConfigs})
