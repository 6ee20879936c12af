"""What every framework's runs begin with: the config that a user means."""

from pathlib import Path

import pytest

from convnext_backbones.errors import UserError
from convnext_backbones.runs.preparation import existing_config, shipped_configs

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_shipped_config_has_a_name():
    files = {path for path in CONFIGS.rglob("*.[py]*") if "_base_" not in path.parts}
    assert set(shipped_configs().values()) == files
    name = "detectron2/coco_mask_rcnn_convnext_t"
    assert shipped_configs()[name] == shipped_configs()[f"{name}.py"] == CONFIGS / f"{name}.py"
    assert shipped_configs()[f"{name}.yaml"] == CONFIGS / f"{name}.yaml"


def test_a_config_is_found_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = CONFIGS / "ade20k_upernet_convnext_t.py"
    assert existing_config("ade20k_upernet_convnext_t") == shipped
    Path("ade20k_upernet_convnext_t").write_text("mine")
    assert existing_config("ade20k_upernet_convnext_t") == Path("ade20k_upernet_convnext_t")


def test_a_path_is_never_taken_for_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"there is no config configs/ade20k_upernet_convnext_t\.py"
    ):
        existing_config("configs/ade20k_upernet_convnext_t.py")
    with pytest.raises(UserError, match=r"near it: .*ade20k_upernet_convnext_t"):
        existing_config("ade20k_upernet_convnext")
