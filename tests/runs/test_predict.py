"""predict: what goes into which file, over nobody's; pictures, videos, label maps and COCO's format."""

import json

import cv2
import numpy as np
import pytest
import tiny_host
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from convnext_backbones.adapters import FRAMEWORKS, Framework
from convnext_backbones.cli import predict, run
from convnext_backbones.data.pictures import read_picture
from convnext_backbones.errors import UserError
from convnext_backbones.runs.host import Classes, Result
from convnext_backbones.runs.results import filled, label_map_image


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A folder with a config and a checkpoint of tiny_host, whose model finds the left half of a picture."""
    row = Framework("Tiny", "tiny_host", frozenset({"tiny"}), frozenset(), ())
    monkeypatch.setitem(FRAMEWORKS, "tiny", row)
    monkeypatch.setattr(tiny_host, "overrides", lambda args: {})
    monkeypatch.setattr(tiny_host, "infer", lambda model, files: [sizes(f) for f in files])
    monkeypatch.setattr(tiny_host, "result_of", segmented)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"tiny": 1, "work_dir": "run"}))
    (tmp_path / "run").mkdir()
    tiny_host.train({"work_dir": "run", "tiny": 1}, resume=False)
    return tmp_path


def sizes(file):
    return read_picture(file).shape[1::-1]


def segmented(prediction, meta, score):
    width, height = prediction
    labels = np.zeros((height, width), int)
    labels[:, : width // 2] = 1
    return Result(Classes(("ground", "thing"), [(0, 0, 0), (255, 0, 0)]), label_map=labels)


def detected(prediction, meta, score):
    width, height = prediction
    masks = np.zeros((2, height, width), bool)
    masks[0, :4, : width // 2] = masks[1, 2:6, 2:6] = True
    boxes = np.array([[0, 0, width // 2, 4], [2, 2, 6, 6]])
    kept = np.array([0.9, 0.4]) >= score
    return Result(
        Classes(("a", "b"), None), boxes=boxes[kept], labels=np.array([1, 0])[kept],
        scores=np.array([0.9, 0.4])[kept], masks=masks[kept],
    )  # fmt: skip


def picture(path, size=(12, 8), value=100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path, **options)
    return str(path)


def video(path, frames=5, size=(16, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, size)
    for k in range(frames):
        writer.write(np.full((size[1], size[0], 3), 40 * k, np.uint8))
    writer.release()
    return str(path)


def predicted(*arguments, out="out"):
    predict.main(["config.json", "run/last.pth", *map(str, arguments), "--out", out])


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_results_keep_subfolders_and_no_two_get_one_name(tiny, capsys):
    for name in ("ok.jpg", "ok.png", "OK.bmp", "a/x.y.jpg", "a/b/ok.JPG", "c.png", "c.png.tif"):
        picture(tiny / "in" / name, format=None if name.lower().endswith("g") else "PNG")
    predicted("in")
    assert files(tiny / "out") == [
        "OK.bmp.png",
        "a/b/ok.png",
        "a/x.y.png",
        "c.png",
        "c.png.png",
        "ok.jpg.png",
        "ok.png.png",
    ]
    assert "7 pictures drawn in out" in capsys.readouterr().out


def test_several_sources_of_one_name_stay_apart(tiny):
    one, two = picture(tiny / "x/1.jpg"), picture(tiny / "y/1.jpg")
    predicted(one, two, "x", "--save", "json,overlays")  # x/1.jpg once
    assert files(tiny / "out/overlays") == ["1.jpg.png", "1.jpg_2.png"]
    names = [image["file_name"] for image in json.loads((tiny / "out/results.json").read_text())["images"]]  # fmt: skip
    assert names == [one, two]
    picture(tiny / "y/2.jpg")
    predicted("x", "y", out="both")
    assert files(tiny / "both") == ["x/1.png", "y/1.png", "y/2.png"]


@pytest.mark.parametrize("out", ["in", ".", "in/../in"])
def test_results_never_lie_among_the_inputs(tiny, out):
    before = picture(tiny / "in/a.png")
    content = (tiny / "in/a.png").read_bytes()
    for source in ("in", before):
        with pytest.raises(UserError, match=r"--out .* (is|contains) the source .*--out predicted"):
            predicted(source, out=out)
    assert (tiny / "in/a.png").read_bytes() == content


def test_results_below_the_source_are_not_taken_for_pictures(tiny, capsys):
    picture(tiny / "in/a.png")
    for _ in range(2):
        predicted("in", out="in/out")
        assert "1 picture drawn" in capsys.readouterr().out
    assert files(tiny / "in") == ["a.png", "out/a.png"]


@pytest.mark.parametrize("save", ["overlays", "masks", "json", "masks,overlays,json"])
def test_a_file_that_predict_did_not_write_stays(tiny, save):
    picture(tiny / "in/a.png")
    video(tiny / "in/clip.avi")
    predicted("in", "--save", save)
    predicted("in", "--save", save)  # the same again
    written = [tiny / "out" / name for name in files(tiny / "out")]
    mine = written[0]
    mine.write_bytes(b"mine")
    with pytest.raises(
        UserError, match=rf"out holds .*{mine.name}: not written by predict.*--over"
    ):
        predicted("in", "--save", save)
    assert mine.read_bytes() == b"mine"
    predicted("in", "--save", save, "--overwrite")
    assert mine.read_bytes() != b"mine"


def test_results_of_other_sources_stay(tiny):
    picture(tiny / "in/a.png")
    picture(tiny / "other/a.png")
    predicted("in")
    with pytest.raises(UserError, match=r"out holds a.png: .*from other sources"):
        predicted("other")


def test_unreadable_files_are_skipped_counted_and_named(tiny, capsys):
    picture(tiny / "in/a.jpg")
    (tiny / "in/empty.jpg").touch()
    (tiny / "in/cut.jpg").write_bytes((tiny / "in/a.jpg").read_bytes()[:-150])
    (tiny / "in/bad.mp4").write_bytes(b"x" * 100)
    arguments = ["config.json", "run/last.pth", "in", "--out", "out", "--batch-size", "2"]
    with pytest.raises(SystemExit) as caught:
        run("predict", arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert "1 picture drawn in out" in printed.out
    for words in ("3 files skipped: ", "in/empty.jpg is empty",
                  "in/cut.jpg is damaged", "bad.mp4 cannot be read"):  # fmt: skip
        assert words in printed.err
    assert "Traceback" not in printed.err
    assert files(tiny / "out") == ["a.png"]


@pytest.mark.parametrize(
    ("source", "words"),
    [("nowhere", "there is no picture or folder nowhere"), ("empty", "holds no pictures")],
)
def test_nothing_to_read_is_a_sentence(tiny, source, words):
    (tiny / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        predicted(source)


def test_a_home_folder_is_found_and_an_unwritable_one_is_a_sentence(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny))
    picture(tiny / "in/a.png")
    predicted("~/in", out="~/out")
    assert files(tiny / "out") == ["a.png"]
    with pytest.raises(UserError, match=r"nothing can be written to the folder .*e.g. --out"):
        predicted("in", out="config.json/x")


def test_photos_are_drawn_right_side_up_and_16_bits_not_white(tiny):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tiny / "in/turned.jpg", size=(400, 600), exif=exif)
    deep = np.full((400, 340), 100 * 257, np.uint16)
    Image.fromarray(deep).save(tiny / "in/deep.png")
    predicted("in")
    drawn = Image.open(tiny / "out/turned.png")
    assert drawn.width == 600
    assert np.asarray(Image.open(tiny / "out/deep.png"))[10, 300].tolist() == [45, 45, 45]


def test_a_video_becomes_a_video_of_its_frames(tiny, capsys):
    video(tiny / "in/a/clip.avi", frames=7)
    predicted("in", "--save", "overlays,masks,json", "--batch-size", 3)
    assert "1 video drawn in out (overlays, masks, json)" in capsys.readouterr().out
    capture = cv2.VideoCapture(str(tiny / "out/overlays/a/clip.mp4"))
    read = []
    while (frame := capture.read())[0]:
        read.append(frame[1])
    assert len(read) == 7
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    assert read[6][10, 300].mean() > read[0][10, 300].mean() + 60
    assert files(tiny / "out/masks/a/clip.avi") == [f"{k:06d}.png" for k in range(7)]
    images = json.loads((tiny / "out/results.json").read_text())["images"]
    assert [(i["file_name"], i["frame"]) for i in images] == [("a/clip.avi", k) for k in range(7)]


def test_a_segmentation_is_saved_by_number_and_as_regions(tiny):
    picture(tiny / "in/a.png")
    predicted("in", "--save", "masks,json")
    labels = Image.open(tiny / "out/masks/a.png")
    assert labels.mode == "P"
    assert labels.getpalette()[:6] == [0, 0, 0, 255, 0, 0]
    expected = segmented((12, 8), None, 0).label_map
    assert (np.asarray(labels) == expected).all()
    coco = COCO(tiny / "out/results.json")
    assert [c["name"] for c in coco.loadCats([1, 2])] == ["ground", "thing"]
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert (coco.annToMask(annotation) == (expected == annotation["category_id"] - 1)).all()
    thing = coco.loadAnns(coco.getAnnIds(catIds=[2]))[0]
    assert (thing["bbox"], thing["area"]) == ([0, 0, 6, 8], 48)


def test_instances_are_saved_by_number_and_in_cocos_format(tiny, monkeypatch):
    monkeypatch.setattr(tiny_host, "result_of", detected)
    picture(tiny / "in/a.png")
    predicted("in", "--save", "masks,json", "--score", 0.3)
    masks = detected((12, 8), None, 0).masks
    labels = np.asarray(Image.open(tiny / "out/masks/a.png"))
    assert (labels == np.where(masks[0], 1, np.where(masks[1], 2, 0))).all()
    coco = COCO(tiny / "out/results.json")
    found = coco.loadRes(coco.dataset["annotations"]).loadAnns([1, 2])
    assert [(a["category_id"], a["score"], a["bbox"]) for a in found] == [
        (2, 0.9, [0, 0, 6, 4]),
        (1, 0.4, [2, 2, 4, 4]),
    ]
    assert (coco.annToMask(found[1]) == masks[1]).all()
    predicted("in", "--save", "json", "--score", 0.5, out="sure")
    assert len(json.loads((tiny / "sure/results.json").read_text())["annotations"]) == 1


def test_boxes_have_no_masks_to_save_and_nothing_found_is_said(tiny, monkeypatch):
    def boxes(prediction, meta, score):
        return detected(prediction, meta, score)._replace(masks=None)

    monkeypatch.setattr(tiny_host, "result_of", boxes)
    picture(tiny / "in/a.png", size=(340, 330), value=100)
    with pytest.raises(UserError, match="finds boxes without masks; leave out masks"):
        predicted("in", "--save", "masks,json")
    predicted("in", "--score", 1, out="none")
    drawn = np.asarray(Image.open(tiny / "none/a.png"))
    assert (drawn[:330] == 100).all()
    assert drawn.shape[0] > 330
    assert drawn[330:].min() < 50  # the word


def test_more_instances_than_a_byte_holds_are_kept_in_16_bits():
    masks = np.zeros((300, 20, 20), bool)
    for k in range(300):
        masks[k, k // 20, k % 20] = True
    image = label_map_image(Result(masks=masks, boxes=np.zeros((300, 4))))
    assert np.asarray(image).max() == 300


def test_polygons_and_both_kinds_of_rle_are_filled():
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:5] = True
    polygon = [[2, 1, 5, 1, 5, 4, 2, 4]]
    flat = expected.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    plain = dict(size=[6, 8], counts=counts)
    packed = rle.encode(np.asfortranarray(expected.astype(np.uint8)))
    for segmentation in (polygon, plain, packed):
        assert (filled(segmentation, 6, 8) == expected).all()
