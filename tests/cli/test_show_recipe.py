"""tools/show_recipe.py and train.py's --auto-scale-lr: what a user is told before training."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_page import Page

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from convnext_backbones.adapters.openmmlab import run as run
from convnext_backbones.cli import show_recipe, train
from convnext_backbones.errors import UserError
from convnext_backbones.recipes import PROTOCOLS, RECIPES
from convnext_backbones.runs.report import scalars
from convnext_backbones.runs.sample_data import make_sample_data

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with configs, and with ADE20K's layout holding 6 + 2 pictures."""
    path = tmp_path_factory.mktemp("work")
    (path / "configs").symlink_to(ROOT / "configs")
    make_sample_data(path / "made", train=6, val=2, seed=0)
    (path / "data").mkdir()
    (path / "data" / "ade").symlink_to(path / "made" / "ade")
    return path


def tool(folder: Path, name: str, *arguments, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / f"{name}.py", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed[-3000:]
    return printed


@pytest.fixture
def here(folder, monkeypatch, capsys):
    """Runs a tool's main in the folder, in this process, which saves its imports."""

    def run_main(module, *arguments) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    return run_main


def config(name: str, **options):
    return run.load_config(str(ROOT / "configs" / f"{name}.py"), options=options)


def rows(printed: str) -> list[list[str]]:
    """The cells of every table row that is printed."""
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_command_shows_recipe_groups_and_length(folder):
    printed = tool(folder, "show_recipe", "configs/coco_mask_rcnn_convnextv2_b.py")
    cells = rows(printed)
    assert ["layer decay", "0.95 layer_wise", "0.95 layer_wise"] in cells
    assert ["initial weights", "convnextv2_base.fcmae", "convnextv2_base.fcmae"] in cells
    assert "coco_mask_rcnn_convnextv2_b (published)" in printed
    assert "box AP 52.9, mask AP 46.4" in printed
    groups = [row for row in cells if row[0].startswith("layer_")]
    assert len(groups) == 2 * 14
    assert groups[0][:2] == ["layer_0_no_decay", "stem"]
    assert groups[7][1:4] == ["downsampling 2, stage3 0-2", "5.99e-05", "0.05"]
    total = sum(int(row[-1].replace(",", "")) for row in groups)
    assert total == 108_091_376
    assert (
        "117266 images (published; the data set is not here), 8 devices x 4 = batch 32" in printed
    )
    assert "131940 steps, 36 epochs" in printed
    assert "differs" not in printed
    assert "warning" not in printed


def test_the_pictures_that_are_there_are_counted_and_what_no_longer_fits_is_said(here):
    printed = here(show_recipe, "configs/ade20k_upernet_convnextv2_atto.py", "--devices", "1",
                   "--cfg-options", "optim_wrapper.optimizer.lr=2e-4")  # fmt: skip
    text = " ".join(printed.split())
    assert ["lr", "0.0002", "0.0001"] in rows(printed)
    assert "differs from the table in: lr" in text
    assert "6 images (counted in data/ade/ADEChallengeData2016), 1 device x 2 = batch 2" in text
    assert "lr 0.0002 is for batch 16, this run has 2: add --auto-scale-lr" in text
    assert "which makes it 2.5e-05" in text
    assert "160000 steps of 2 are 53333.3 epochs of this data, where the recipe has 126.7" in text


def test_a_page_has_what_is_printed_and_the_whole_config(here, folder):
    name = "configs/ade20k_upernet_convnextv2_atto.py"
    printed = here(show_recipe, name, "--html", "recipe.html",
                   "--cfg-options", "optim_wrapper.optimizer.lr=2e-4")  # fmt: skip
    assert "page: recipe.html" in printed
    page = Page(folder / "recipe.html")
    assert ["lr", "0.0002", "0.0001"] in page.table("")
    assert page.table("group")[0][:2] == [
        "layer_0_no_decay",
        "stem, downsampling 1, downsampling 2, downsampling 3",
    ]
    assert page.table("group")[-1][0] == "all"
    for words in ("differs from the table in: lr", "6 images (counted in", "lr=0.0002"):
        assert words in page.words
    (folder / "mine.html").write_text("mine")
    with pytest.raises(UserError, match="is no page of a report; name another file"):
        here(show_recipe, name, "--html", "mine.html")


def test_auto_scale_lr_gives_the_learning_rate_that_was_announced(folder):
    name = "ade20k_upernet_convnextv2_atto"
    tool(folder, "train", f"configs/{name}.py", "--sample", "--shrink", "--auto-scale-lr", "--work-dir", "scaled",
         "--cfg-options", "train_cfg.max_iters=1", "train_cfg.val_interval=1",
         "val_dataloader.dataset.indices=1", "train_dataloader.batch_size=4",
         "optim_wrapper.optimizer.lr=2e-4", "default_hooks.logger.interval=1",
         "param_scheduler.0.start_factor=1.0")  # fmt: skip
    training, _ = scalars(run.read_log(folder / "scaled"))
    assert training[0]["lr"] == pytest.approx(5e-5)
    cfg = config(name, **{"train_dataloader.batch_size": 4, "optim_wrapper.optimizer.lr": 2e-4})
    length = show_recipe.length_of(cfg, 20210, "", devices=1)
    (first, *_) = show_recipe.warnings_of(cfg, length, PROTOCOLS["ade20k_160k"])
    assert "which makes it 5e-05" in first


def test_auto_scale_lr_without_a_batch_to_scale_from_is_refused(here):
    with pytest.raises(UserError, match="does not say for which batch its lr is"):
        here(train, "configs/ade20k_upernet_convnextv2_atto.py", "--auto-scale-lr",
             "--cfg-options", "auto_scale_lr.base_batch_size=0")  # fmt: skip


@pytest.mark.parametrize("recipe", [r for r in RECIPES.values() if r.method != "sem_seg_fpn"], ids=lambda r: r.name)  # fmt: skip
def test_every_config_says_what_its_row_says(recipe):
    """Read from the two sides by different code."""
    own = show_recipe.figures_of(config(recipe.name))
    published = show_recipe.figures_of_row(recipe)
    assert {k: show_recipe.show(v) for k, v in own.items()} == {k: show_recipe.show(v) for k, v in published.items()}  # fmt: skip


def test_a_derived_config_is_compared_with_the_recipe_it_follows(tmp_path):
    derived = tmp_path / "mine.py"
    base = ROOT / "configs" / "coco_cascade_mask_rcnn_convnext_b_22k.py"
    derived.write_text(f'_base_ = "{base}"\ntrain_cfg = dict(max_epochs=12)\n')
    cfg = run.load_config(str(derived))
    row = show_recipe.row_of(cfg, str(derived))
    assert row.name == base.stem
    assert show_recipe.figures_of(cfg)["length"] == "12 epochs"
    assert show_recipe.figures_of_row(row)["length"] == "36 epochs"


def test_a_short_run_is_warned_of_a_long_warm_up():
    cfg = config("coco_mask_rcnn_convnext_t")
    length = show_recipe.length_of(cfg, 500, "", devices=8)
    assert (length.batch, length.iterations) == (16, 36 * 32)
    found = show_recipe.warnings_of(cfg, length, PROTOCOLS["coco_3x"])
    assert len(found) == 1
    assert re.search(r"1000 steps of warm-up are much of a run of 1152", found[0])
    cfg.param_scheduler[0].end = 50
    assert show_recipe.warnings_of(cfg, length, PROTOCOLS["coco_3x"]) == []


def test_what_a_run_of_one_epoch_leaves_of_a_schedule_is_said():
    cfg = config("coco_mask_rcnn_convnext_t", **{"train_cfg.max_epochs": 1})
    length = show_recipe.length_of(cfg, 117266, "", devices=8)
    _, steps = show_recipe.warnings_of(cfg, length, PROTOCOLS["coco_3x"])
    assert "milestones 27, 33 lie beyond a run of 1 epochs" in steps


def test_a_pipeline_without_a_crop_has_none():
    pipeline = [dict(type="LoadImageFromFile"), dict(type="RandomFlip", prob=0.5)]
    assert show_recipe.crop_of(pipeline) == "none"
    assert show_recipe.crop_of([*pipeline, dict(type="RandomCrop", crop_size=(3, 4))]) == "3, 4"
    detr = config("coco_mask_rcnn_convnext_t").train_dataloader.dataset.pipeline
    assert show_recipe.crop_of(detr) == "DETR's"


def test_classes_that_disagree_are_said(here):
    printed = here(show_recipe, "configs/ade20k_upernet_convnextv2_atto.py", "--cfg-options",
                   "model.auxiliary_head.num_classes=11")  # fmt: skip
    text = " ".join(printed.split())
    assert "cannot run: the data has 150 classes" in text
    assert (
        "model.auxiliary_head.num_classes is 11: set model.auxiliary_head.num_classes=150" in text
    )


def test_a_data_set_without_any_picture_for_the_config_is_explained(folder, here):
    (folder / "data" / "coco").symlink_to(folder / "made" / "coco")  # shapes, not COCO's classes
    with pytest.raises(UserError, match=r"no category is named .*metainfo"):
        here(show_recipe, "configs/coco_rtmdet_convnextv2_pico.py")
