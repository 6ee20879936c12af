"""docs/model_zoo.md: in step with the table, with links that lead somewhere."""

import re
from pathlib import Path

import pytest
import torch

from convnext_backbones.recipes import COUNTED_DETECTRON2, METHODS, RECIPES
from convnext_backbones.recipes.writers import zoo

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "model_zoo.md"


def test_the_page_is_what_the_table_says():
    assert PAGE.read_text() == zoo.page(), "run python tools/model_zoo.py"


def test_every_config_is_on_the_page_and_every_link_leads_to_a_file():
    links = set(re.findall(r"\]\(\.\./([^)]+)\)", PAGE.read_text()))
    assert all((ROOT / link).is_file() for link in links)
    configs = ROOT / "configs"
    shipped = [*configs.glob("*.py"), *configs.glob("detectron2/*.py"), *configs.glob("detectron2/*.yaml")]  # fmt: skip
    assert links == {str(path.relative_to(ROOT)) for path in shipped}


def test_detectron2s_parameters_are_counted_on_its_models():
    pytest.importorskip("detectron2")
    from detectron2.config import LazyConfig, instantiate
    from omegaconf import OmegaConf

    def without_sync_bn(node):
        if isinstance(node, dict):
            return {key: without_sync_bn(value) for key, value in node.items()}
        if isinstance(node, list):
            return [without_sync_bn(value) for value in node]
        return "BN" if node == "SyncBN" else node

    names = {r.name for r in RECIPES.values() if "detectron2" in METHODS[r.method].hosts}
    assert COUNTED_DETECTRON2.keys() == names
    for name, expected in COUNTED_DETECTRON2.items():
        config = LazyConfig.load(str(ROOT / "configs" / "detectron2" / f"{name}.py"))
        model = OmegaConf.to_container(config.model, resolve=True)
        with torch.device("meta"):
            built = instantiate(
                OmegaConf.create(without_sync_bn(model), flags={"allow_objects": True})
            )
        millions = sum(p.numel() for p in built.parameters()) / 1e6
        assert round(millions, 1) == expected, name
