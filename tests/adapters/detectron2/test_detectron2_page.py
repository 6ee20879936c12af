"""docs/detectron2.md: its YAML and its Python are configs of networks, without a network."""

from pathlib import Path

import pytest
from pages import run, yaml_of

pytest.importorskip("detectron2", reason="detectron2 is not installed (docs/install.md says how)")

from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.modeling import build_backbone


def test_the_text_in_yaml_and_the_lazy_config_give_one_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = yaml_of("detectron2.md")
    configs = Path(model_zoo.get_config_file("COCO-Detection/rpn_R_50_C4_1x.yaml")).parents[1]
    Path("mask_rcnn_convnextv2.yaml").write_text(
        text.replace("<detectron2>/configs", str(configs)).replace("tiny}", "atto}")
    )
    blocks = run(
        "detectron2.md", {"cfg = get_cfg()": "cfg = of_yaml = get_cfg()", '"tiny"': '"atto"'}
    )
    of_yaml, lazy = blocks["of_yaml"], blocks["cfg"]
    of_yaml.MODEL.DEVICE = "cpu"
    one, other = build_backbone(of_yaml).bottom_up, instantiate(lazy.model.backbone.bottom_up)
    assert str(one) == str(other)
    assert one.channels == (40, 80, 160, 320)
    assert lazy.train.init_checkpoint == of_yaml.MODEL.WEIGHTS
    assert (
        of_yaml.INPUT.FORMAT == lazy.model.input_format == lazy.dataloader.train.mapper.image_format
    )
    assert list(lazy.model.pixel_mean) == of_yaml.MODEL.PIXEL_MEAN
