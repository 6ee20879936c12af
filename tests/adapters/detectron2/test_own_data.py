"""One's own data in Detectron2: registered, checked against the model, trained on, and there again."""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2", reason="detectron2 is not installed (docs/install.md says how)")

from data import folders
from detectron2.data import DatasetCatalog, MetadataCatalog

from convnext_backbones.adapters.detectron2 import (
    agreement,
    loop,
    own_data,
    register_coco,
    register_label_maps,
    run,
)
from convnext_backbones.cli import run as command
from convnext_backbones.errors import UserError
from convnext_backbones.runs import preparation, report

COUNTER = itertools.count()  # a name stands for one data set as long as the process lives
BOXES = "detectron2/coco_faster_rcnn_convnextv2_atto"
MASKS = "detectron2/coco_mask_rcnn_convnextv2_atto"
MAPS = "detectron2/ade20k_sem_seg_fpn_convnextv2_atto"
# Of a written config: the smallest that trains.
SMALL = """
INPUT: {MIN_SIZE_TRAIN: [48], MIN_SIZE_TEST: 48}
MODEL: {ROI_HEADS: {NUM_CLASSES: 3}}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 2, CHECKPOINT_PERIOD: 1}
TEST: {EVAL_PERIOD: 1}
"""


@pytest.fixture
def name():
    return f"own_{next(COUNTER)}"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return folders.coco(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return folders.coco(tmp_path_factory.mktemp("masks"), masks=True)


def changed(root, path, change):
    """A copy of root's training JSON at `path`, after change(content)."""
    content = json.loads((root / "annotations/train.json").read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def yaml_config(path, base, name, root, more=SMALL):
    """A YAML config that registers root's splits as name_train and name_val."""
    entries = "\n".join(
        f"    - {{name: {name}_{split}, annotations: {root}/annotations/{split}.json, images: {root}/{split}}}"
        for split in ("train", "val")
    )
    path.write_text(
        f"_BASE_: {preparation.shipped_configs()[f'{base}.yaml']}\nDATASETS:\n  REGISTER:\n{entries}\n"
        f'  TRAIN: ("{name}_train",)\n  TEST: ("{name}_val",)\n{more}'
    )
    return path


# ---- registering ---------------------------------------------------------------------------------
def test_coco_is_registered_with_its_classes_in_the_order_of_their_ids(name, boxes, tmp_path):
    def spread(content):
        content["categories"].reverse()
        for entry in content["categories"]:
            entry["id"] *= 10
        for entry in content["annotations"]:
            entry["category_id"] *= 10

    register_coco(name, changed(boxes, tmp_path / "a.json", spread), boxes / "train")
    meta = MetadataCatalog.get(name)
    assert (meta.thing_classes, meta.boxes_only) == (list(folders.CLASSES), True)
    assert (meta.evaluator_type, meta.image_root) == ("coco", str(boxes / "train"))
    records = DatasetCatalog.get(name)
    assert len(records) == 8
    first = records[0]
    assert [e["category_id"] for e in first["annotations"]] == folders.scene(0).labels


def test_a_name_stands_for_one_data_set(name, boxes):
    register_coco(name, boxes / "annotations/train.json", boxes / "train")
    register_coco(name, str(boxes / "annotations/train.json"), str(boxes / "train"))
    with pytest.raises(
        UserError, match=rf"{name}.* is registered already, with annotations .*another"
    ):
        register_coco(name, boxes / "annotations/val.json", boxes / "val")
    with pytest.raises(UserError, match="registered already, by Detectron2"):
        register_coco("coco_2017_val", boxes / "annotations/val.json", boxes / "val")


def test_missing_files_are_told_when_they_are_read(name, tmp_path):
    register_coco(name, tmp_path / "none.json", tmp_path)
    with pytest.raises(UserError, match=r"there is no annotation file .*none\.json"):
        DatasetCatalog.get(name)
    register_label_maps(f"{name}_maps", tmp_path / "none", tmp_path, classes=["a"])
    with pytest.raises(UserError, match=r"there is no folder .*none"):
        DatasetCatalog.get(f"{name}_maps")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), "no COCO JSON"),
        (lambda c: c.update(categories=[]), "has no categories"),
        (lambda c: c["annotations"][1].update(id=1), "not unique"),
        (lambda c: c["annotations"][0].update(category_id=9), "category_id=9"),
        (lambda c: c["annotations"][0].update(bbox=[]), "empty 'bbox'"),
        (lambda c: c["images"][0].pop("height"), "lacks 'height'"),
    ],
)
def test_a_broken_annotation_file_is_named(name, boxes, tmp_path, change, words):
    file = changed(boxes, tmp_path / "broken.json", change)
    register_coco(name, file, boxes / "train")
    with pytest.raises(UserError, match=words) as caught:
        DatasetCatalog.get(name)
    assert str(file) in str(caught.value)


def test_wrong_classes_are_named(name, boxes):
    file = boxes / "annotations/train.json"
    with pytest.raises(UserError, match=r"give a list of names, \['red'\]"):
        register_coco(name, file, boxes, classes="red")
    register_coco(name, file, boxes / "train", classes=["green", "red", "blue"])
    with pytest.raises(
        UserError, match=r"has the classes red, green, blue .*registered with green"
    ):
        DatasetCatalog.get(name)


@pytest.mark.parametrize("ending", [".jpg", ".PNG", ".tif"])
def test_a_picture_and_its_label_map_are_found_by_their_name(name, tmp_path, ending):
    for k in range(3):
        one = folders.scene(k)
        folders.write(tmp_path / f"pictures/day/{k:04d}{ending}", one.pixels)
        folders.write(tmp_path / f"maps/day/{k:04d}_mask.png", one.label_map)
    register_label_maps(name, tmp_path / "pictures", tmp_path / "maps", ["ground", *folders.CLASSES],
                        void=7)  # fmt: skip
    records = DatasetCatalog.get(name)
    pairs = [(r["file_name"][-len(ending) - 4 :], r["sem_seg_file_name"][-13:]) for r in records]
    assert pairs == [(f"{k:04d}{ending}", f"{k:04d}_mask.png") for k in range(3)]
    meta = MetadataCatalog.get(name)
    assert (meta.evaluator_type, meta.ignore_label, len(meta.stuff_classes)) == ("sem_seg", 7, 4)


def test_void_0_means_that_the_maps_hold_one_more(name, tmp_path):
    register_label_maps(name, tmp_path, tmp_path, classes=folders.CLASSES, void=0)
    meta = MetadataCatalog.get(name)
    assert (meta.evaluator_type, meta.ignore_label) == ("sem_seg_labels_from_1", 255)
    for wrong, words in (
        (dict(palette=[[0, 0, 0]]), "3 classes and 1 colour;"),
        (dict(void=-1), "void=-1"),
    ):
        with pytest.raises(UserError, match=words):
            register_label_maps(f"{name}_x", tmp_path, tmp_path, folders.CLASSES, **wrong)


def test_pictures_without_label_maps_are_told(name, tmp_path, caplog):
    folders.pictures(tmp_path / "pictures", range(2))
    folders.write(tmp_path / "maps/0000.png", folders.scene(0).label_map)
    register_label_maps(name, tmp_path / "pictures", tmp_path / "maps", ["a", "b"])
    with caplog.at_level(logging.WARNING, "detectron2.convnext_backbones"):
        logging.getLogger("detectron2").propagate = True
        assert len(DatasetCatalog.get(name)) == 1
    assert "1 of 2 pictures" in caplog.text
    (tmp_path / "maps/0000.png").rename(tmp_path / "maps/other.png")
    with pytest.raises(UserError, match=r"no picture in .* has a label map of the same name"):
        DatasetCatalog.get(name)


# ---- in configs ----------------------------------------------------------------------------------
def test_a_yaml_config_registers_and_its_saved_form_does_again(name, boxes, tmp_path):
    file = yaml_config(tmp_path / "mine.yaml", BOXES, name, boxes)
    config = run.load_config(str(file))
    run.check_data(config)
    for split in ("train", "val"):  # as in a new process
        DatasetCatalog.remove(f"{name}_{split}")
        MetadataCatalog.remove(f"{name}_{split}")
        own_data._ENTRIES.pop(f"{name}_{split}")
    (tmp_path / "saved.yaml").write_text(config.cfg.dump())
    again = run.load_config(str(tmp_path / "saved.yaml"))
    run.check_data(again)
    assert MetadataCatalog.get(f"{name}_val").thing_classes == list(folders.CLASSES)
    assert again.registered == config.registered


@pytest.mark.parametrize(("base", "key", "names"), [
    (f"{BOXES}.yaml", "DATASETS.REGISTER", "DATASETS.TRAIN=('{}',)"),
    (f"{BOXES}.py", "dataloader.register", "dataloader.train.dataset.names={}"),
])  # fmt: skip
def test_the_command_line_registers(name, boxes, base, key, names):
    entry = f"{{name: {name}, annotations: {boxes}/annotations/train.json, images: {boxes}/train}}"
    config = run.load_config(base, options=[f"{key}=[{entry}]", names.format(name)])
    assert name in DatasetCatalog.list()
    [saved] = config.registered
    assert saved["classes"] == list(folders.CLASSES)
    with pytest.raises(UserError, match="TRAIN names no data set"):
        run.check_data(run.load_config(f"{BOXES}.yaml", options=["DATASETS.TRAIN=()"]), ["train"])
    for wrong, words in (
        ("[3]", "3 registers no data set"),
        ("[{name: x, annotation: y, images: z}]", "did you mean 'annotations'"),
        ("[{name: x, images: z}]", "lacks annotations"),
        ("nonsense", "registers no data set"),
        ("[{", "cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            run.load_config(base, options=[f"{key}={wrong}"])


def test_what_detectron2s_tutorial_registers_is_in_the_saved_config(name, boxes, tmp_path):
    code = tmp_path / f"{name}.py"
    code.write_text(
        "from detectron2.data.datasets import register_coco_instances\n"
        f"register_coco_instances({name!r}, {{}}, '{boxes}/annotations/train.json', '{boxes}/train')\n"
    )
    config = run.load_config(
        f"{BOXES}.yaml", options=[f"import={code}", f"DATASETS.TRAIN=('{name}',)"]
    )
    run.load_config(f"{BOXES}.yaml", options=[f"import={code}"])  # runs once
    assert [entry["annotations"] for entry in config.registered] == [
        str(boxes / "annotations/train.json")
    ]
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for file, words in (("none.py", "no such file"), ("broken.py", "ZeroDivisionError")):
        with pytest.raises(UserError, match=words):
            run.load_config(f"{BOXES}.yaml", options=[f"import={tmp_path / file}"])


def test_an_unknown_name_says_how_ones_own_gets_known(boxes, name):
    register_coco(name, boxes / "annotations/train.json", boxes / "train")
    config = run.load_config(f"{BOXES}.yaml", options=[f"DATASETS.TRAIN=('{name}x',)"])
    with pytest.raises(UserError, match=rf"did you mean '{name}'.*DATASETS.REGISTER=.*import=FILE"):
        run.check_data(config)


# ---- data and model ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["yaml", "py"])
def test_a_model_that_does_not_fit_its_data_is_refused_before_the_first_step(
    name, boxes, masks, tmp_path, kind
):
    yaml = kind == "yaml"

    def refusal(root, base, *options, change=None):
        own = f"{name}_{next(COUNTER)}"
        file = root / "annotations/train.json"
        if change:
            file = changed(root, tmp_path / f"{own}.json", change)
        register_coco(own, file, root / "train")
        names = [f"DATASETS.{s}=('{own}',)" for s in ("TRAIN", "TEST")]
        if not yaml:
            names = [f"dataloader.{s}.dataset.names={own}" for s in ("train", "test")]
        config = run.load_config(f"{base}.{kind}", options=[*names, *options])
        try:
            run.check_data(config)
        except UserError as error:
            return str(error)

    three = "MODEL.ROI_HEADS.NUM_CLASSES=3" if yaml else "model.roi_heads.num_classes=3"
    bare = "MODEL.MASK_ON=False" if yaml else "model.roi_heads.mask_in_features=null"
    encoded = "INPUT.MASK_FORMAT=bitmask" if yaml else (
        "dataloader.train.mapper.instance_mask_format=bitmask")  # fmt: skip

    def without_first_mask(content):
        content["annotations"][0].pop("segmentation")

    def run_lengths(content):
        content["annotations"][0]["segmentation"] = dict(size=[48, 64], counts=[0, 48 * 64])

    assert refusal(boxes, BOXES, three) is None
    assert refusal(masks, MASKS, three) is None
    assert refusal(boxes, MASKS, three, bare) is None
    assert refusal(masks, MASKS, three, encoded, change=run_lengths) is None
    found = refusal(boxes, BOXES)
    assert all(words in found for words in (three, "is 80", "red, green, blue"))
    found = refusal(boxes, MASKS, three)
    assert "detectron2/coco_faster_rcnn" in found
    assert f".{kind}, or {bare}" in found
    assert "1 of 15 boxes without" in refusal(masks, MASKS, three, change=without_first_mask)
    assert f"set {encoded}" in refusal(masks, MASKS, three, change=run_lengths)
    for change, words in (
        (lambda c: c.update(annotations=[]), "has an annotation to learn from"),
        (lambda c: c["annotations"][0].pop("iscrowd"), "have no 'iscrowd'"),
        (lambda c: [e.pop("area") for e in c["annotations"]], "15 annotations have no 'area'"),
        (lambda c: c["images"][2].update(file_name="x.jpg"), "1 of 8 files"),
        (lambda c: c.update(images=[], annotations=[]), "holds no pictures"),
    ):
        assert words in (refusal(boxes, BOXES, three, change=change) or ""), words


def test_train_and_test_data_number_the_same_classes(name, boxes, tmp_path):
    def swap(content):
        content["categories"][0]["name"], content["categories"][1]["name"] = "green", "red"

    register_coco(f"{name}_a", boxes / "annotations/train.json", boxes / "train")
    register_coco(f"{name}_b", changed(boxes, tmp_path / "b.json", swap), boxes / "train")
    config = run.load_config(f"{BOXES}.yaml", options=[
        f"DATASETS.TRAIN=('{name}_a',)", f"DATASETS.TEST=('{name}_b',)",
        "MODEL.ROI_HEADS.NUM_CLASSES=3"])  # fmt: skip
    with pytest.raises(UserError, match=r"number other classes: .*red, green, blue"):
        run.check_data(config)


def test_a_function_of_ones_own_is_looked_through(name):
    records = [dict(file_name=__file__, annotations=[dict(category_id=3, bbox=[0, 0, 1, 1])])]
    DatasetCatalog.register(name, lambda: records)
    config = run.load_config(f"{BOXES}.py", options=[
        f"dataloader.train.dataset.names={name}", "model.roi_heads.num_classes=3"])  # fmt: skip
    with pytest.raises(UserError, match="category_id 3; Detectron2 wants 0 to 2"):
        agreement.check(config, ["train"])
    DatasetCatalog.register(f"{name}_x", lambda: 1 / 0)
    config.cfg.dataloader.train.dataset.names = f"{name}_x"
    with pytest.raises(UserError, match="cannot be read: ZeroDivisionError"):
        agreement.check(config, ["train"])


@pytest.mark.parametrize("kind", ["yaml", "py"])
def test_the_void_label_of_head_and_maps_agree(name, tmp_path, kind):
    for k in range(2):
        folders.pictures(tmp_path / "pictures", [k])
        folders.write(tmp_path / f"maps/{k:04d}.png", folders.scene(k).label_map)
    register_label_maps(name, tmp_path / "pictures", tmp_path / "maps", list("abcd"), void=9)
    if kind == "yaml":
        four, void = "MODEL.SEM_SEG_HEAD.NUM_CLASSES=4", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE=9"
        names = [f"DATASETS.{s}=('{name}',)" for s in ("TRAIN", "TEST")]
    else:
        four, void = "model.sem_seg_head.num_classes=4", "model.sem_seg_head.ignore_value=9"
        names = [f"dataloader.{s}.dataset.names={name}" for s in ("train", "test")]
    for options, words in (([four], f"set {void}"), ([void], f"set {four}")):
        with pytest.raises(UserError, match=words):
            run.check_data(run.load_config(f"{MAPS}.{kind}", options=[*names, *options]))
    config = run.load_config(f"{MAPS}.{kind}", options=[*names, four, void])
    if kind == "yaml":
        run.check_data(config)
        return
    with pytest.raises(UserError, match=r"hold k for class k, .* SemSegMapper, which takes 1 off"):
        run.check_data(config)  # the shipped mapper is ADE20K's


# ---- a run ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained(tmp_path_factory, boxes):
    """The folder of a run on boxes alone by its YAML config, what it printed, and where it lies now."""
    folder = tmp_path_factory.mktemp("run")
    file = yaml_config(folder / "mine.yaml", BOXES, f"own_{next(COUNTER)}", boxes)
    status, printed = called(folder, "train", file, "--shrink", "--work-dir", "out")
    assert status == 0, printed
    (folder / "out").rename(folder / "moved")
    return folder, printed


def called(folder, name, *arguments):
    """The status and the output of a command of its own process."""
    done = subprocess.run(
        [sys.executable, "-m", "convnext_backbones", name, *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_boxes_alone_train_and_are_reported_by_class(trained):
    folder, printed = trained
    assert "predictions: out/predictions.png" in printed
    table = printed[printed.index("last validation:") :]
    assert all(f"│ {name}" in table for name in folders.CLASSES)
    assert "best:        out/model_best.pth" in printed
    _, validation = report.scalars(run.read_log(folder / "moved"))
    assert [r["at"] for r in validation] == [0, 2]  # Detectron2 counts once more at the end
    assert {"AP-red", "box AP75"} <= validation[0].keys()
    assert not any("num_fg" in key for record in validation for key in record)
    with Image.open(folder / "moved/predictions.png") as grid:
        assert np.asarray(grid).std() > 10
    assert loop.evaluated(folder / "moved")["best"]["metric"] == "bbox/AP"


def test_the_log_file_keeps_what_the_console_leaves_out(trained):
    folder, printed = trained
    log = (folder / "moved/log.txt").read_text()
    assert all(words in log for words in ("Per-category bbox AP", "Running with full config"))
    assert "Running with full config" not in printed


def test_the_saved_config_of_a_run_that_was_moved_tests_predicts_and_goes_on(
    trained, boxes, tmp_path
):
    folder, _ = trained
    config, best = folder / "moved/config.yaml", folder / "moved/model_best.pth"
    status, printed = called(tmp_path, "test", config, best, "--work-dir", "t")
    assert (status, "│ red" in printed) == (0, True), printed
    status, printed = called(tmp_path, "predict", config, best, boxes / "val", "--out", "p")
    assert (status, len(list((tmp_path / "p").rglob("*.png")))) == (0, 3), printed
    status, printed = called(tmp_path, "train", config, "--resume", "SOLVER.MAX_ITER=3")
    assert status == 0, printed
    assert (folder / "moved/last_checkpoint").read_text() == "model_final.pth"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["yaml", "py"])
def test_what_a_function_gives_is_evaluated_and_its_python_is_asked_for(
    name, boxes, tmp_path, kind
):
    register_coco(f"{name}_json", boxes / "annotations/val.json", boxes / "val")
    DatasetCatalog.register(name, lambda: DatasetCatalog.get(f"{name}_json"))
    MetadataCatalog.get(name).set(thing_classes=list(folders.CLASSES), evaluator_type="coco")
    options = [f"DATASETS.TEST=('{name}',)", f"OUTPUT_DIR={tmp_path}"]
    if kind == "py":
        options = [f"dataloader.test.dataset.names={name}", f"train.output_dir={tmp_path}"]
    config = run.load_config(f"{BOXES}.{kind}", options=options)
    evaluator = config.build_evaluator(name)
    assert len(evaluator._coco_api.anns) == len(json.loads((boxes / "annotations/val.json").read_text())["annotations"])  # fmt: skip
    assert own_data.only_known_here([name, f"{name}_json", "coco_2017_val"]) == [name]


def test_divergence_and_signals_end_a_run_in_a_sentence(name, boxes, tmp_path, monkeypatch):
    file = yaml_config(tmp_path / "mine.yaml", BOXES, name, boxes)
    options = [
        "TEST.EVAL_PERIOD=0",
        "SOLVER.MAX_ITER=9",
        "SOLVER.WARMUP_ITERS=0",
        "SOLVER.CHECKPOINT_PERIOD=5",
    ]
    config = run.load_config(
        str(file),
        shrink=True,
        options=[*options, "SOLVER.BASE_LR=1e10", f"OUTPUT_DIR={tmp_path}/nan"],
    )
    (tmp_path / "nan").mkdir()
    run.fit_to_device(config)
    with pytest.raises(UserError, match=r"diverged in step .*SOLVER.BASE_LR.*nothing was saved"):
        run.train(config, resume=False)
    config = run.load_config(
        str(file), shrink=True, options=[*options, f"OUTPUT_DIR={tmp_path}/stop"]
    )
    (tmp_path / "stop").mkdir()
    run.fit_to_device(config)
    monkeypatch.setattr(
        loop.Stopping, "before_step",
        lambda self: os.kill(os.getpid(), signal.SIGTERM) if self.trainer.iter == 1 else None,
        raising=False,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt, match=r"after step 2 of 9: .*--resume") as stopped:
        run.train(config, resume=False)
    assert stopped.value.status == 143
    assert run.last_checkpoint(config) == tmp_path / "stop/model_0000001.pth"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_metrics_have_words_and_scales():
    record = {"segm/AP-dog": 50.0, "val/bbox/AP50": 20.0, "sem_seg/IoU-sky": 30.0, "mine/score": 2.0,
              "sem_seg/BoundaryIoU-sky": 1.0, "bbox/AP": 10.0}  # fmt: skip
    assert run._metrics(record, record) == {
        "coco/bbox_mAP": 0.1, "mask AP-dog": 0.5, "box AP50 (val)": 0.2, "IoU-sky (%)": 30.0,
        "mine/score": 2.0,
    }  # fmt: skip
    assert loop.main_metric({"x/bbox/AP": 1.0, "x/segm/AP": 2.0}) == "x/segm/AP"
    assert loop.main_metric({"bbox/AP": float("nan")}) is None


# ---- mistakes in configs -------------------------------------------------------------------------
@pytest.mark.parametrize(("base", "option", "words"), [
    ("yaml", "SOLVER.MAX_ITR=3", "did you mean 'MAX_ITER'"),
    ("yaml", "SOLVER.MAX_ITER=soon", "SOLVER.MAX_ITER=soon: a int is wanted"),
    ("yaml", "SOLVER.MAX_ITER=0", "give a number, 1 or more"),
    ("yaml", "SOLVER.CHECKPOINT_PERIOD=0", "give a number, 1 or more"),
    ("yaml", "SOLVER.STEPS=5", r"a tuple is wanted, such as \(5,\)"),
    ("yaml", "DATASETS.TRAIN=mine", r"such as \"\('mine',\)\""),
    ("yaml", "train.max_iter=3", "key of LazyConfigs; in this config, of YAML, it is SOLVER.MAX_ITER"),
    ("yaml", "model.foo=3", "key of LazyConfigs"),
    ("yaml", "MODEL.ROI_HEADS=3", "group of keys"),
    ("yaml", "MODEL.DEVICE=gpu", "write cuda or cpu"),
    ("yaml", "INPUT.FORMAT=GBR", "did you mean 'RGB'|Valid"),
    ("yaml", "INPUT.RANDOM_FLIP=sideways", "'horizontal', 'vertical', 'none'"),
    ("yaml", "SOLVER.WARMUP_ITERS=-1", "give 0 or more"),
    ("py", "train.max_itr=3", "did you mean 'max_iter'"),
    ("py", "SOLVER.MAX_ITER=3", "key of YAML; in this config, of LazyConfigs, it is train.max_iter"),
    ("py", "train.max_iter=soon", "give a number"),
    ("py", "train.checkpointer.period=0", "give a number"),
    ("py", "dataloader.train.total_batch_size=two", "give a number"),
    ("py", "lr_multiplier.warmup_length=1000", "part of the whole run"),
    ("py", "dataloader.train.mapper.image_format=XYZ", "Valid: 'RGB'"),
])  # fmt: skip
def test_a_mistake_in_an_option_gets_a_sentence(base, option, words):
    with pytest.raises(UserError, match=words):
        run.load_config(f"{BOXES}.{base}", options=[option])


@pytest.mark.parametrize(("text", "words"), [
    ("_BASE_: nowhere.yaml\n", "nowhere.yaml: No such file.*_BASE_"),
    ("_BASE_: FILE\nMODEL: {MASK_ON: True}\n", "its _BASE_ leads back to it"),
    ("MODEL: {CONVNEXTT: {ARCH: tiny}}\n", "did you mean 'CONVNEXT'"),
    ("MODEL: 3\n", "cannot be read"),
    ("MODEL: {WEIGHTS: [}\n", "cannot be read"),
    ("train: {max_iter: 3}\n", "train is a key of LazyConfigs; this config is YAML"),
    ("DATASETS: {TRAIN: mine}\n", r"\('mine',\)"),
])  # fmt: skip
def test_a_mistake_in_a_yaml_file_gets_a_sentence(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("FILE", str(file)))
    with pytest.raises(UserError, match=words):
        run.load_config(str(file))


@pytest.mark.parametrize(("line", "words"), [
    ("train.max_itr = 3", "nothing reads train.max_itr; is train.max_iter meant"),
    ("optimzer = dict(lr=1)", "nothing reads optimzer; is optimizer meant"),
    ("dataloader.test = None", "dataloader.test is no group of keys"),
    ("from ._base_.nowhere import model", "nowhere.py does not exist"),
    ("my_notes = dict(a=1)", None),
])  # fmt: skip
def test_a_mistake_in_a_lazyconfig_gets_a_sentence(tmp_path, line, words):
    base = preparation.shipped_configs()[f"{BOXES}.py"]
    file = tmp_path / "mine.py"
    (tmp_path / "_base_").symlink_to(base.parent / "_base_")
    file.write_text(f"{base.read_text()}\n{line}\n")
    if words is None:
        run.load_config(str(file))
        return
    with pytest.raises(UserError, match=words):
        run.load_config(str(file))


def test_no_mistake_leaves_a_trace(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(SystemExit):
        command("train", [str(tmp_path / "mine.yaml"), "--framework", "detectron2"])
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert printed.startswith("error: config ")
