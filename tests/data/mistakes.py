"""THE table of planted mistakes: what a user does wrong on the way from a folder to predictions, and what
the command says. tests/data/test_planted_mistakes.py plants each; those in the text of configs stand in
tests/adapters/openmmlab/test_config_mistakes.py.

    python tests/data/mistakes.py     # the table, with the sentences as they are now

Each is planted in a copy of `ground`: small data sets of every kind, the configs that new-config writes
for them, and a run of two steps.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from data import folders
from PIL import Image

from convnext_backbones import cli


class Mistake(NamedTuple):
    """what: the mistake. line: the command. words: an expression that its output holds. plant: makes the
    mistake, in the current folder. status: the command's."""

    what: str
    line: str
    words: str
    plant: Callable[[], object] = lambda: None
    status: int = 2


class Answer(NamedTuple):
    status: int
    text: str  # of stdout and stderr


NEW = "new-config --weights none --backbone convnextv2_atto"
RUN = "work_dirs/semantic/semantic.py"
LAST = "work_dirs/semantic/iter_2.pth"
PICTURE = "maps/images/train/0003.jpg"
TRACE = re.compile(r'Traceback|^  File "|an unexpected error', re.MULTILINE)


def ground(root: Path) -> None:
    """Make the data sets, configs and the run in `root`."""
    with contextlib.chdir(root):
        folders.coco(Path("boxes"))
        folders.coco(Path("masks"), masks=True)
        folders.voc(Path("voc"))
        folders.yolo(Path("yolo"))
        folders.label_maps(Path("maps"))
        Path("notes.txt").write_text("buy milk\n")
        names = ",".join(("ground", *folders.CLASSES))
        short = f"{NEW} --size 64 --batch 2"
        for line in (
            f"{short} --data maps --classes {names} --iters 2 --out semantic.py",
            f"{short} --data boxes --epochs 1 --out boxes.py",
            f"{short} --data masks --model mask_rcnn --epochs 1 --out masks.py",
            f"{short} --data boxes --iters 2 --framework detectron2 --out d2.py",
            f"train semantic.py --shrink --cfg-options {LIGHT} {HEADS}",
        ):
            answer = say(line)
            assert answer.status == 0, answer.text


LIGHT = " ".join(
    f"{split}_dataloader.num_workers=0 {split}_dataloader.persistent_workers=False"
    for split in ("train", "val", "test")
)
HEADS = "model.decode_head.channels=16 model.auxiliary_head.channels=16"


def say(line: str) -> Answer:
    """Run a command in this process."""
    streams = io.StringIO()
    forget()
    with contextlib.redirect_stdout(streams), contextlib.redirect_stderr(streams):
        try:
            status = cli.main(shlex.split(line))
        except SystemExit as end:  # argparse's
            status = end.code
    return Answer(
        status, re.sub(r"[\u2500-\u257f]", " ", streams.getvalue())
    )  # without lines of tables


def forget() -> None:
    """What the frameworks keep by name for the life of a process: a command has one of its own."""
    if manager := sys.modules.get("mmengine.utils.manager"):
        kinds = [manager.ManagerMixin]
        for kind in kinds:
            kinds.extend(kind.__subclasses__())
            kind._instance_dict.clear()
    if own := sys.modules.get("convnext_backbones.adapters.detectron2.own_data"):
        for name in list(own._ENTRIES):
            del own._ENTRIES[name]
            own.DatasetCatalog.remove(name)
            own.MetadataCatalog.remove(name)


def answered(mistake: Mistake, root: Path, folder: Path) -> Answer:
    """Plant it in a copy of the ground `root` at `folder`, and run its command there."""
    shutil.copytree(root, folder, symlinks=True)
    with contextlib.chdir(folder):
        mistake.plant()
        return say(mistake.line)


# ---- what is done to files -----------------------------------------------------------------------
def text(file: str, content: str) -> Callable[[], object]:
    return lambda: Path(file).write_text(content)


def gone(path: str) -> Callable[[], object]:
    def remove():
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    return remove


def cut(file: str, bytes_kept: int = 200) -> Callable[[], object]:
    return lambda: os.truncate(file, bytes_kept)


def replaced(file: str, old: str, new: str) -> Callable[[], object]:
    def replace():
        before = Path(file).read_text()
        assert old in before, (file, old)
        Path(file).write_text(before.replace(old, new))

    return replace


def pixels(pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], object]:
    """Change label maps or pictures."""

    def rewrite():
        found = sorted(Path().glob(pattern))
        assert found, pattern
        for file in found:
            Image.fromarray(change(np.array(Image.open(file)))).save(file)

    return rewrite


def annotations(
    change: Callable[[dict], object], file: str = "boxes/annotations/train.json"
) -> Callable[[], object]:
    """Change a COCO JSON's content in place."""

    def rewrite():
        content = json.loads(Path(file).read_text())
        change(content)
        Path(file).write_text(json.dumps(content))

    return rewrite


def boxes(change: Callable[[list], list], first: int | None = None) -> Callable[[], object]:
    """Change the boxes of an annotation file, or its first few."""

    def rewrite(content):
        for annotation in content["annotations"][:first]:
            annotation["bbox"] = change(annotation["bbox"])

    return annotations(rewrite)


def added(file: str, line: str) -> Callable[[], object]:
    """Add a line to a config."""

    def append():
        with open(file, "a") as config:
            config.write(line + "\n")

    return append


def renamed_categories(content: dict) -> None:
    for category, name in zip(content["categories"], ("rot", "gruen", "blau"), strict=True):
        category["name"] = name


def other_category(content: dict) -> None:
    content["annotations"][0]["category_id"] = 77


def corners(box: list) -> list:
    left, top, width, height = box
    return [left, top, left + width, top + height]


def shares(box: list) -> list:
    return [value / 64 for value in box]


def doubled(content: dict) -> None:
    for annotation in content["annotations"]:
        annotation["id"] = 1


def same_pictures() -> None:
    shutil.copy("boxes/train/0000.jpg", "boxes/val/0008.jpg")


def torch_file(content) -> Callable[[], object]:
    def save():
        import torch

        torch.save(content, "other.pth")

    return save


def other_network() -> None:
    import torch

    torch.save({"state_dict": {"conv1.weight": torch.zeros(4, 3, 7, 7)}, "meta": {}}, "other.pth")


def nan_weights() -> None:
    import torch

    content = torch.load(LAST, weights_only=False)
    next(iter(content["state_dict"].values())).fill_(float("nan"))
    torch.save(content, LAST)


def cropped() -> None:
    with open("d2.py", "a") as file:
        file.write(
            "dataloader.train.mapper.augmentations = [L(T.RandomFlip)(), "
            'L(T.RandomCrop)(crop_type="relative_range", crop_size=[1.5, 1.5])]\n'
        )


BOXES, MASKS, SEMANTIC = (
    f"train {name}.py --shrink --cfg-options {LIGHT}" + f" {HEADS}" * (name == "semantic")
    for name in ("boxes", "masks", "semantic")
)
D2 = "train d2.py --shrink"
P = "--device cpu --out out"
TABLE = [
    # a folder
    Mistake("a folder that is not there", f"{NEW} --data nowhere --out a.py", "nowhere does not exist; give the folder"),
    Mistake("a file for a folder", f"{NEW} --data notes.txt --out a.py", "is a file; give the folder"),
    Mistake("an empty folder", f"{NEW} --data empty --out a.py", "holds no pictures; pictures end in", lambda: os.mkdir("empty")),
    Mistake("pictures without labels", f"{NEW} --data boxes/train --out a.py", "8 pictures and no labels that are known: COCO JSON"),
    Mistake("a misspelt backbone", f"{NEW} --backbone convnextv2_tny --data boxes --out a.py", "did you mean 'convnextv2_tiny'"),
    Mistake("a misspelt class of boxes", f"{NEW} --data boxes --classes red,gren --out a.py", r"'gren', which no label has \(nearest: 'green'\)"),
    Mistake("masks of boxes", f"{NEW} --data boxes --task instance --out a.py", "of 21 boxes none has one; take --task detection"),
    Mistake("a mask head for boxes", f"{NEW} --data boxes --model mask_rcnn --out a.py", "boxes without masks; take --model faster_rcnn"),
    Mistake("MMSegmentation for boxes", f"{NEW} --data boxes --framework mmseg --out a.py", "take --framework mmdet or detectron2"),
    Mistake("fewer names than values", f"{NEW} --data maps --classes a,b --out a.py", r"the label maps hold 0 .. 3\. Give a name for each"),
    Mistake("a void label that no byte holds", f"{NEW} --data maps --void 999 --out a.py", "No pixel .* has the void value 999", status=0),
    Mistake("the config of before", f"{NEW} --data boxes --out boxes.py", "is there already; add --force"),
    Mistake("a config in no folder", f"{NEW} --data boxes --out nowhere/a.py", "there is no folder nowhere"),
    Mistake("a config that is no Python", f"{NEW} --data boxes --out a.yaml", "a config is a Python file"),
    Mistake("weights that are not there", "new-config --weights mine.pth --data boxes --out a.py", "there is no file of weights mine.pth"),
    Mistake("a size of 3 pixels", f"{NEW} --data boxes --size 3 --out a.py", r"--size: invalid number \(from 32\) value: '3'"),
    Mistake("two lengths", f"{NEW} --data boxes --epochs 2 --iters 9 --out a.py", "--iters: not allowed with argument --epochs"),
    Mistake("colours without a table", f"{NEW} --data maps --out a.py", "4 colours, .*--classes .road=#804080", pixels("maps/labels/*/*.png", folders.in_colours)),
    Mistake("label maps as JPEG", f"{NEW} --data maps --out a.py", "JPEG files, which do not keep the values: save them as PNG", lambda: [Image.open(f).save(f.with_suffix(".jpg")) or f.unlink() for f in Path("maps/labels").glob("*/*.png")]),
    Mistake("a JSON cut in the middle", f"{NEW} --data boxes --out a.py", "Left out, 1 JSON file: annotations/train.json is no JSON", cut("boxes/annotations/train.json"), status=0),
    Mistake("XML cut in the middle", f"{NEW} --data voc --out a.py", r"\d+ XML files that cannot: Annotations/0000\.xml \(no element found: line 1, column 30\)", lambda: [os.truncate(f, 30) for f in Path("voc/Annotations").iterdir()]),
    Mistake("pixels in YOLO files", f"{NEW} --data yolo --out a.py", "counts pixels; YOLO's numbers are shares", lambda: [f.write_text("0 30 20 12 14\n") for f in Path("yolo/labels").glob("*/*.txt")]),
    Mistake("fewer names than YOLO's numbers", f"{NEW} --data yolo --out a.py", "7 objects of a class number without a name", text("yolo/data.yaml", "path: .\ntrain: images/train\nval: images/val\nnc: 1\nnames: [red, green]\n"), status=0),
    Mistake("a data.yaml that is no YAML", f"{NEW} --data yolo --out a.py", "data.yaml cannot be read as YAML", text("yolo/data.yaml", "names: [red\n"), status=0),
    # a command line
    Mistake("a misspelt command", "trian boxes.py", "did you mean 'train'"),
    Mistake("a config that is not there", "train boxs.py", "there is no config boxs.py"),
    Mistake("a folder for a config", "train boxes", "there is no config boxes"),
    Mistake("a picture for a config", "train boxes/train/0000.jpg", "is no text: a config is a .py or .yaml file"),
    Mistake("a config that is no Python inside", "train a.py", "was never closed", text("a.py", "model = dict(\n")),
    Mistake("a name that the config does not set", "train a.py", "name 'count' is not defined", text("a.py", "_base_ = './boxes.py'\nmodel = dict(bbox_head=dict(num_classes=count))\n")),
    Mistake("a base that is not there", "train a.py", r"it names \S+bxes\.py, and there is no such file; correct its _base_", text("a.py", "_base_ = './bxes.py'\n")),
    Mistake("no optimizer", "train a.py", "a.py has no optim_wrapper; it needs model, train_dataloader", text("a.py", "_base_ = './boxes.py'\noptim_wrapper = None\n")),
    Mistake("a config in YAML that calls Python", "train a.yaml", "a.yaml has type: os.system, which names a Python object", text("a.yaml", "default_scope: mmdet\nmodel: {type: os.system, command: touch called}\n")),
    Mistake("an empty config", "train a.py", "", text("a.py", "cannot be told.*Say it: --framework")),
    Mistake("an option without a value", "train semantic.py --cfg-options train_cfg.max_iters", "is no override; write key=value"),
    Mistake("another framework's option", "train semantic.py --num-gpus 2", "--num-gpus 2: not for semantic.py.*--cfg-options"),
    Mistake("a work directory that is a file", SEMANTIC + " --work-dir notes.txt", "nothing can be written to the folder notes.txt"),
    Mistake("a transform that is not there", SEMANTIC + " train_dataloader.dataset.pipeline.3.type=RandomCorp", "RandomCorp is not in"),
    Mistake("a text for a size", SEMANTIC + " train_dataloader.dataset.pipeline.2.scale=big", "RandomResize, number 2 of the pipeline for training, cannot take .*scale=.?big"),
    Mistake("a size below 0", SEMANTIC + " train_dataloader.dataset.pipeline.3.crop_size=(-4,64)", "RandomCrop"),
    Mistake("a probability of 7", SEMANTIC + " train_dataloader.dataset.pipeline.4.prob=7", "probs must be float"),
    Mistake("a text for a probability in the test data", SEMANTIC + " val_dataloader.dataset.pipeline.1.scale=3.5.6", "Resize, number 1 of the pipeline for validation"),
    Mistake("a learning rate in words", SEMANTIC + " optim_wrapper.optimizer.lr=small", "the optim_wrapper of this config cannot be built"),
    # files, before the first step
    Mistake("a picture that is gone", BOXES, "0003.jpg", gone("boxes/train/0003.jpg")),
    Mistake("a picture of 0 bytes", BOXES, r"0003.jpg is empty \(0 bytes\)", cut("boxes/train/0003.jpg", 0)),
    Mistake("a truncated picture", "check-data boxes.py", "image file is truncated", cut("boxes/train/0003.jpg", 900)),
    Mistake("a text called .jpg", "check-data boxes.py", "0009.jpg is no picture that can +be +read", text("boxes/val/0009.jpg", "buy milk\n")),
    Mistake("the pictures' folder renamed", BOXES, "boxes/train.* is missing", lambda: os.rename("boxes/train", "boxes/training")),
    Mistake("the data moved", SEMANTIC, r"maps/images/train is missing.*labels/train/\*.png.*set data_root", lambda: os.rename("maps", "street")),
    Mistake("a label map that is gone", SEMANTIC, "1 of 8 pictures .* have no label map of their name .*0003.png", gone("maps/labels/train/0003.png")),
    Mistake("a label map of 0 bytes", SEMANTIC, r"0003.png is empty \(0 bytes\)", cut("maps/labels/train/0003.png", 0)),
    Mistake("label values beyond the classes", SEMANTIC, r"0008.png holds 4 \(96 pixels\).*valid: 0 to 3, void 255", pixels("maps/labels/val/*.png", lambda m: m + 3)),
    Mistake("label maps of another size", SEMANTIC, "0000.png is 64x24, the picture 64x48", pixels("maps/labels/train/*.png", lambda m: m[::2])),
    Mistake("label maps in colours after all", SEMANTIC, r"holds colours \(RGB\) where class numbers are expected", pixels("maps/labels/train/*.png", folders.in_colours)),
    Mistake("nothing but void", SEMANTIC, "no labelled pixel at all", pixels("maps/labels/train/*.png", lambda m: np.full_like(m, 255))),
    Mistake("an annotation file that is gone", BOXES, "val.json is missing", gone("boxes/annotations/val.json")),
    Mistake("an annotation file cut in the middle", BOXES, "train.json.*JSON", cut("boxes/annotations/train.json")),
    Mistake("a list for an annotation file", BOXES, "train.json", text("boxes/annotations/train.json", "[]")),
    Mistake("categories of other names", BOXES, "rot", annotations(renamed_categories)),
    Mistake("a category that is not listed", "check-data boxes.py --strict", "annotation 1 of 0000.jpg: category_id 77", annotations(other_category), 1),
    Mistake("boxes as corners", "check-data boxes.py --strict", "boxes look like corners", boxes(corners)),
    Mistake("boxes as shares of the picture", "check-data boxes.py", "boxes look normalised", boxes(shares)),
    Mistake("a box of no width", "check-data boxes.py --strict", r"box is empty or negative .*\[3, 5, 0, 12\]", boxes(lambda b: [*b[:2], 0, b[3]], 1), 1),
    Mistake("a box beside the picture", "check-data boxes.py --strict", r"box is outside its picture .*\[500, 500, 8, 12\]", boxes(lambda b: [500, 500, *b[2:]], 1), 1),
    Mistake("a box of words", BOXES, "box is not four numbers: annotation 1 of 0000.jpg", boxes(lambda b: ["a", "b", "c", "d"], 1)),
    Mistake("annotations of one id", "check-data boxes.py --strict", "annotation id twice", annotations(doubled)),
    Mistake("no annotations", BOXES, "no annotations: .*A detector needs boxes", annotations(lambda c: c.update(annotations=[]))),
    Mistake("a picture of both splits", "check-data boxes.py --strict", "0008.jpg is train/0000.jpg of train", same_pictures, 1),
    Mistake("no masks for a mask head", MASKS, "object without a mask .15..*take a detector without masks", annotations(lambda c: [a.pop("segmentation") for a in c["annotations"]], "masks/annotations/train.json")),
    Mistake("polygons of two points", "check-data masks.py --strict", "mask of fewer than three points", annotations(lambda c: [a.update(segmentation=[[1, 2, 3, 4]]) for a in c["annotations"]], "masks/annotations/train.json"), 1),
    Mistake("a page that is no picture", "check-data boxes.py --page page.html", "--page page.html: a page is a picture; name a .png file"),
    Mistake("a page in a file", "check-data boxes.py --page notes.txt/page.png", "notes.txt is no folder; name a .png"),
    Mistake("a repaired copy over the data", "check-data boxes.py --fix boxes", "boxes is not empty; name a new folder"),
    # looking
    Mistake("samples of a damaged picture", "show-data boxes.py", "no picture that can be read; .*check-data boxes.py names all such files", lambda: [f.write_bytes(b"no") for f in Path("boxes").rglob("*.jpg")]),
    Mistake("samples on no page", "show-data boxes.py --out page.html", "--out page.html: a page is a picture; name a .png file"),
    Mistake("a look at no picture", f"visualize {RUN} {LAST} notes.txt", "notes.txt is no picture that can be read"),
    Mistake("a look for a class that is not there", f"visualize {RUN} {LAST} {PICTURE} --class cow", "--class cow: there is no such class; Valid: 0 to 3 and ground"),
    Mistake("a look at a stage that is not there", f"visualize {RUN} {LAST} {PICTURE} --features stage9", "no feature 'stage9'; did you mean"),
    Mistake("a look by a config alone", f"visualize {RUN} {PICTURE}", "after the config .*semantic.py come its checkpoint"),
    Mistake("a tracker that is not installed", SEMANTIC + " --tracker wandb", "--tracker wandb needs the package wandb, which is not installed: pip install wandb"),
    # weights and going on
    Mistake("going on from nothing", BOXES + " --resume", "nothing to resume"),
    Mistake("going on from a cut checkpoint", SEMANTIC + " --resume", "nothing to resume: work_dirs/semantic holds no checkpoint", lambda: [os.truncate(f, 999) for f in Path("work_dirs/semantic").glob("*.pth")]),
    Mistake("going on from weights that are no numbers", SEMANTIC + " --resume", "holds NaN or infinite numbers .*take an earlier checkpoint", nan_weights),
    Mistake("weights of no file", "train semantic.py --weights mine.pth", "mine.pth: there is no such file"),
    Mistake("a text for weights", "train semantic.py --weights notes.txt", "notes.txt: is damaged or no checkpoint"),
    Mistake("another network's weights", SEMANTIC + " --weights other.pth", "other.pth: no parameter of a ConvNeXt was recognised", other_network),
    Mistake("classes to keep from nowhere", "train semantic.py --keep-classes", "give that too"),
    Mistake("more stages frozen than there are", SEMANTIC + " --freeze 9", "frozen_stages must be a whole number.* got 9"),
    Mistake("a negative factor", SEMANTIC + " --lr-factor -1", "--lr-factor -1: a number above 0"),
    Mistake("an early stop after 0", SEMANTIC + " --early-stop 0", "--early-stop 0: a whole number from 1 on"),
    # test and predict
    Mistake("a checkpoint that is not there", f"test {RUN} best.pth", "best.pth"),
    Mistake("a text for a checkpoint", f"test {RUN} notes.txt", "notes.txt"),
    Mistake("another network's checkpoint", f"test {RUN} other.pth", "other.pth", other_network),
    Mistake("a list in a checkpoint", f"test {RUN} other.pth", "other.pth: holds a list", torch_file([1, 2])),
    Mistake("the config of another size", f"test semantic.py {LAST}", "does not fit this config.*own config is work_dirs/semantic/semantic.py"),
    Mistake("config and checkpoint swapped", f"predict {LAST} {RUN} maps/images/val {P}", "is no text: a config is a .py or .yaml file, and comes before a checkpoint"),
    Mistake("pictures that are not there", f"predict {RUN} {LAST} street {P}", "there is no picture or folder street"),
    Mistake("a folder without pictures", f"predict {RUN} {LAST} boxes/annotations {P}", "boxes/annotations holds no pictures"),
    Mistake("a text for a picture", f"predict {RUN} {LAST} notes.txt {P}", "notes.txt is no picture that can be read"),
    Mistake("results among the pictures", f"predict {RUN} {LAST} maps/images/val --out maps/images/val", "results would lie among the inputs"),
    Mistake("results in a file", f"predict {RUN} {LAST} maps/images/val --out notes.txt", "nothing can be written to the folder notes.txt"),
    Mistake("files of others in the way", f"predict {RUN} {LAST} maps/images/val {P}", "--overwrite", lambda: folders.pictures(Path("out"), range(8, 11), ".png")),
    Mistake("a score of 30", f"predict {RUN} {LAST} maps/images/val {P} --score 30", "--score: invalid number"),
    Mistake("a kind of result that is not there", f"predict {RUN} {LAST} maps/images/val {P} --save mask", "'mask' is none of overlays, masks, json"),
    Mistake("a device that is not there", f"predict {RUN} {LAST} maps/images/val --out out --device gpu", "--device gpu cannot be used here"),
    # Detectron2
    Mistake("Detectron2: the data moved", D2, "train.json, missing.*in the config that registers it", lambda: os.rename("boxes", "cells")),
    Mistake("Detectron2: a picture of 0 bytes", D2, r"0003.jpg is empty \(0 bytes\)", cut("boxes/train/0003.jpg", 0)),
    Mistake("Detectron2: a JSON cut in the middle", D2, "cannot be read as JSON", cut("boxes/annotations/train.json")),
    Mistake("Detectron2: categories of other names", D2, "number other classes: rot, gruen, blau; red, green, blue", annotations(renamed_categories)),
    Mistake("Detectron2: classes of COCO", D2 + " model.roi_heads.num_classes=80", "set model.roi_heads.num_classes=3"),
    Mistake("Detectron2: a head that is null", D2 + " model.roi_heads=null", r"model\.roi_heads=null: GeneralizedRCNN does not do without"),
    Mistake("Detectron2: a part of a head that is null", D2 + " model.roi_heads.box_head=null", r"model\.roi_heads\.box_head=null: StandardROIHeads does not"),
    Mistake("Detectron2: a crop larger than the picture", D2, r"RandomCrop, number 1 of the augmentations for training, cannot take \S+\.jpg: \w+Error: ", cropped),
    Mistake("Detectron2: a misspelt key", D2 + " train.max_itr=5", "did you mean 'max_iter'"),
    Mistake("Detectron2: a text for a number", D2 + " train.max_iter=many", "train.max_iter='many': give a number"),
    Mistake("Detectron2: OpenMMLab's option", D2 + " --cfg-options a=1", "not for d2.py"),
    Mistake("Detectron2: going on from nothing", D2 + " --resume", "nothing to resume"),
    Mistake("Detectron2: a checkpoint that is not there", "test d2.py --shrink none.pth", "none.pth: there is no such file"),
    Mistake("Detectron2: another network's checkpoint", "test d2.py --shrink other.pth", "other.pth does not fit this config", other_network),
    Mistake("Detectron2: OpenMMLab's checkpoint", f"test d2.py --shrink {LAST}", "iter_2.pth is a checkpoint of MMDetection or MMSegmentation, and the config is one of Detectron2"),
    Mistake("Detectron2: boxes as shares of the picture", "check-data d2.py", "boxes look normalised", boxes(shares)),
]  # fmt: skip


def main() -> None:
    """Print the table with the sentences as they are."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "ground"
        root.mkdir()
        ground(root)
        for number, mistake in enumerate(TABLE, start=1):
            answer = answered(mistake, root, Path(name) / str(number))
            text = " ".join(answer.text.split())
            found = re.search(mistake.words, text)
            end = found.start() if found else 0
            begin = max(text.rfind("error: ", 0, end), end - 80, 0)
            print(f"{number}. {mistake.what} ({answer.status}): {text[begin : begin + 300]}")


if __name__ == "__main__":
    main()
