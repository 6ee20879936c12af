"""What is written from the table: every byte of configs/ and of the zoo's page, and every figure once."""

import re
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from convnext_backbones.cli import make_configs, model_zoo
from convnext_backbones.errors import UserError
from convnext_backbones.recipes import PROTOCOLS, RECIPES, table, writers
from convnext_backbones.recipes.writers import detectron2, openmmlab, text
from convnext_backbones.recipes.writers.render import TEMPLATES, python_literal, yaml_literal

ROOT = Path(__file__).parents[2]
FILES = writers.written_files()
CONFIGS = [path for path in FILES if path.startswith("configs/")]


# ---- files ---------------------------------------------------------------------------------------
def test_every_config_and_the_zoo_are_written_and_nothing_else_is_there():
    assert make_configs.shipped_configs() == set(CONFIGS)
    assert set(FILES) - set(CONFIGS) == {"docs/model_zoo.md"}


@pytest.mark.parametrize("path", FILES)
def test_writing_again_changes_no_byte(path):
    assert (ROOT / path).read_bytes() == FILES[path].encode(), "run python tools/make_configs.py"


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_is_complete_in_view(path):
    """Its figures are literals, and at most one layer of files lies below it."""
    code = "\n".join(line.split("#")[0] for line in FILES[path].splitlines())
    assert "convnext_backbones.recipes" not in code
    assert not re.search(r"(?:recipe|protocol)\[", code)
    if "/_base_/" in path:
        assert not re.search(r"^_base_ =|^_BASE_:|^from \.", code, re.M)
    elif path.endswith(".py"):
        assert f'\nrecipe = "{Path(path).stem}"' in code
    assert "\n\n\n" not in FILES[path]
    assert not re.search(r" $", FILES[path], re.M)


# ---- the command ---------------------------------------------------------------------------------
@pytest.fixture
def clone(tmp_path, monkeypatch):
    """An empty repository."""
    for folder in ("configs/_base_", "configs/detectron2/_base_", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(make_configs, "ROOT", tmp_path)
    return tmp_path


def test_the_command_writes_all_and_then_finds_nothing_to_write(clone, capsys):
    assert make_configs.main([]) == 0
    assert {line.removesuffix(": written") for line in capsys.readouterr().out.splitlines()} == set(
        FILES
    )
    assert make_configs.main(["--check"]) == 0
    assert make_configs.main([]) == 0
    assert capsys.readouterr().out == ""


def test_check_names_what_differs_and_leaves_it(clone, capsys):
    make_configs.main([])
    changed = clone / "configs" / "coco_dino_convnext_t_22k.py"
    changed.write_text("model = dict()\n")
    (clone / "docs" / "model_zoo.md").unlink()
    (clone / "configs" / "mine.py").write_text("model = dict()\n")
    capsys.readouterr()
    assert make_configs.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "configs/mine.py: no row of the table; delete it, or add its row",
        "configs/coco_dino_convnext_t_22k.py: differs from the table",
        "docs/model_zoo.md: differs from the table",
    ]
    assert changed.read_text() == "model = dict()\n"
    assert model_zoo.main(["--check"]) == 1
    assert model_zoo.main([]) == 0
    assert model_zoo.main(["--check"]) == 0
    assert make_configs.main([]) == 1  # of mine.py
    assert changed.read_text() == FILES["configs/coco_dino_convnext_t_22k.py"]


def test_outside_a_clone_or_without_jinja_a_sentence_says_what_to_do(clone, monkeypatch, tmp_path):
    for name in [n for n in sys.modules if n.startswith("convnext_backbones.recipes.writers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r'written by Jinja: pip install -e "\.\[dev\]"'):
        make_configs.main([])
    monkeypatch.setattr(make_configs, "ROOT", tmp_path / "site-packages")
    with pytest.raises(UserError, match="in a clone of the repository"):
        make_configs.main([])


# ---- figures -------------------------------------------------------------------------------------
def _code(path: str, written: str) -> str:
    return "\n".join(line for line in written.splitlines() if not line.lstrip().startswith("#"))


def _changed(figure):
    """The figure, another one of its kind."""
    if isinstance(figure, bool):
        return not figure
    if isinstance(figure, (int, float)):
        return figure * 2
    changed = (*figure[:-1], _changed(figure[-1]))
    return figure._make(changed) if hasattr(figure, "_make") else changed


# What acts elsewhere: named, counted, or told in headers only.
NOT_IN_CONFIGS = {"name", "dataset", "train_images", "gpus", "flops_size"}
# Soft-NMS, sliding windows, multi-scale testing.
DETECTRON2_LACKS = {"soft_nms", "slide_stride", "multi_scale"}
FIGURES = [
    (name, field)
    for name, protocol in PROTOCOLS.items()
    for field, figure in protocol._asdict().items()
    if field not in NOT_IN_CONFIGS and figure not in (None, (), False, 0)
    and not (field == "warmup_factor" and not protocol.warmup_iterations)
]  # fmt: skip


@pytest.mark.parametrize(("name", "field"), FIGURES)
def test_a_changed_figure_of_a_protocol_changes_its_configs(name, field, monkeypatch):
    """In each host that has the protocol: nothing beside the table says the figure."""
    figure = getattr(PROTOCOLS[name], field)
    changed = {**PROTOCOLS, name: PROTOCOLS[name]._replace(**{field: _changed(figure)})}
    for module in (openmmlab, detectron2, text):
        monkeypatch.setattr(module, "PROTOCOLS", MappingProxyType(changed))
    for host, folder in ((openmmlab, "configs/"), (detectron2, detectron2.FOLDER)):
        if host is detectron2 and (name not in detectron2.LAZY_DATA or field in DETECTRON2_LACKS):
            continue
        differing = [p for p, new in host.files().items() if _code(p, new) != _code(p, FILES[p])]
        assert differing, f"{folder} says {field}={figure} by itself"


@pytest.mark.parametrize(
    ("field", "host", "name"),
    [
        *((f, openmmlab, "coco_mask_rcnn_convnext_t") for f in ("lr", "layer_decay", "drop_path", "amp")),
        *((f, detectron2, "coco_mask_rcnn_convnext_t") for f in ("lr", "layer_decay", "drop_path", "amp")),
        ("backbone_lr", openmmlab, "coco_dino_convnext_t_22k"),
        ("small_head", openmmlab, "coco_rtmdet_convnextv2_t"),
        ("checkpointing", openmmlab, "coco_rtmdet_convnext_t"),
    ],
)  # fmt: skip
def test_a_changed_figure_of_a_recipe_changes_its_configs(field, host, name):
    recipe = RECIPES[name]
    changed = recipe._replace(**{field: _changed(getattr(recipe, field))})
    kinds = [host.config] if host is openmmlab else [host.lazy_config, host.yaml_config]
    for write in kinds:
        assert _code("", write(changed)) != _code("", write(recipe))


# Figures of heads and hosts that have the value of a figure of the table by chance: channels, pyramid
# strides, thresholds, loss weights, sample counts, intervals of the log.
HEADS = {0.05, 0.001, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 1e-2, 1e-5,
         10, 16, 32, 50, 100, 128, 256, 512, 1000, 1024, 2048}  # fmt: skip


def _figures(node) -> set[float]:
    if isinstance(node, (tuple, list)):
        return set().union(*map(_figures, node))
    return {float(node)} if isinstance(node, (int, float)) else set()


def test_no_template_types_a_figure_of_the_table():
    shared = [
        table.BETAS,
        table.PIXEL_MEAN,
        table.PIXEL_STD,
        [d.classes for d in table.DATASETS.values()],
    ]
    rows = [[r.lr, r.layer_decay, r.drop_path, r.backbone_lr] for r in RECIPES.values()]
    figures = _figures([*PROTOCOLS.values(), *shared, *rows])
    figures = {figure for figure in figures if figure not in HEADS and figure not in range(10)}
    assert {0.999, 123.675, 57.375, 1333, 384, 600, 640, 0.95, 1e-4, 80, 150, 368750} <= figures
    words = (
        "lr|betas|weight_decay|mean|std|pixel_mean|pixel_std|crop_size|drop_path_rate|max_norm|momentum|"
        "layer_scale_init_value|decay_rate|milestones|max_epochs|max_iters|val_interval|power|"
        "num_classes|batch_size|total_batch_size|max_iter|warmup_length|warmup_factor|start_factor|"
        "BASE_LR|WEIGHT_DECAY|MAX_ITER|STEPS|IMS_PER_BATCH|PIXEL_MEAN|PIXEL_STD|NUM_CLASSES"
    )
    for template in TEMPLATES.rglob("*.jinja"):
        typed = re.sub(r"\{[{%#].*?[}%#]\}", "FIGURE", template.read_text())
        numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])", typed)
        assert not figures & set(map(float, numbers)), template.name
        named = set(re.findall(rf"\b(?:{words})(?:=|: |\s=\s)[\[(]?[\d.].*", typed))
        assert named <= ALLOWED, template.name


ALLOWED = {
    "batch_size=1,",  # of ADE20K's validation
    "decay_rate=1.0),",  # none, until a config says its own
}


# ---- how figures look ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("figure", "python", "in_yaml"),
    [
        (1e-4, "1e-4", "1.0e-4"),
        (1.25e-5, "1.25e-5", "1.25e-5"),
        (0.001, "0.001", "0.001"),
        (0.0, "0.0", "0.0"),
        (1.0, "1.0", "1.0"),
        ((0.9, 0.999), "(0.9, 0.999)", "(0.9, 0.999)"),
        ([0.1, 1e-6], "[0.1, 1e-6]", "[0.1, 1.0e-6]"),
        ((11,), "(11,)", "(11,)"),
        (368750, "368750", "368750"),
        (True, "True", "True"),
        ("base", "base", "base"),
    ],
)
def test_figures_are_written_as_people_write_them(figure, python, in_yaml):
    assert python_literal(figure) == python
    assert yaml_literal(figure) == in_yaml


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_figure_is_read_exactly(figure):
    assert float(python_literal(figure)) == figure
    read = yaml.safe_load(yaml_literal(figure))
    assert float(read) == figure


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_yaml_takes_a_written_figure_for_a_number(figure):
    assert isinstance(yaml.safe_load(yaml_literal(figure)), float)


def test_headers_name_the_figures_in_words():
    assert text.augmentation(PROTOCOLS["coco_rtmdet_100e"]) == (
        "mosaic and mix-up, scale 0.1 to 2.0, crop 640x640, colour, flip; plain in the last 10 epochs; "
        "averaged weights"
    )
    assert text.schedule(PROTOCOLS["coco_3x"]) == (
        "36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from 0.001 "
        "of lr; lr x 0.1 after epochs 27 and 33"
    )
    assert text.figures(RECIPES["coco_dino_convnext_t_22k"]) == (
        "AdamW, lr 1e-4, weight decay 1e-4, 0.1 of lr in the backbone, drop path 0, gradient norm <= 0.1, "
        "float32"
    )
