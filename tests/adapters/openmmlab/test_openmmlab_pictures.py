"""What the pipelines of MMDetection and MMSegmentation read is what the one reader reads."""

import subprocess
import sys

import mmcv
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

import mmdet.datasets.transforms as of_mmdet
import mmseg.datasets.transforms as of_mmseg
from mmcv.transforms import Compose, LoadImageFromFile
from torch.utils.data import DataLoader, Dataset

import convnext_backbones.adapters.openmmlab  # noqa: F401
from convnext_backbones.adapters.openmmlab.patches import PICTURES
from convnext_backbones.data.pictures import read_picture
from convnext_backbones.errors import UserError, exit_with_sentence

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def photo(path, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)
    return str(path)


def labels(path, values):
    Image.fromarray(values).save(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_ordinary_pictures_stay_bit_by_bit_what_they_were(tmp_path, suffix, orientation, backend):
    path = photo(tmp_path / f"a.{suffix}", orientation)
    load = LoadImageFromFile(imdecode_backend=backend)
    ours = load(dict(img_path=path))
    with PICTURES:
        assert PICTURES.undo()
        plain = load(dict(img_path=path))
    PICTURES.apply()
    if suffix == "png" and orientation == 6:  # older OpenCVs do not look into a PNG's EXIF
        plain["img"] = read_picture(path)[..., ::-1]
    assert (ours["img"] == plain["img"]).all()
    assert ours["img"].flags.c_contiguous
    assert ours["img"].flags.writeable
    assert ours["img_shape"] == ours["ori_shape"] == ours["img"].shape[:2]


def test_other_readings_and_other_callers_stay_mmcvs(tmp_path):
    path = photo(tmp_path / "a.png")
    gray = LoadImageFromFile(color_type="grayscale")(dict(img_path=path))["img"]
    assert gray.shape == (24, 40)
    assert LoadImageFromFile(to_float32=True)(dict(img_path=path))["img"].dtype == np.float32
    assert LoadImageFromFile(ignore_empty=True)(dict(img_path=str(tmp_path / "none"))) is None
    content = (tmp_path / "a.png").read_bytes()
    assert (mmcv.imfrombytes(content) == PIXELS[..., ::-1]).all()
    assert (mmcv.imfrombytes(content, channel_order="rgb", backend="pillow") == PIXELS).all()


def test_a_turned_photo_is_in_the_frame_that_its_record_says(tmp_path):
    path, load = photo(tmp_path / "a.png", 6), LoadImageFromFile()
    assert load(dict(img_path=path, width=24, height=40))["img"].shape == (40, 24, 3)
    assert load(dict(img_path=path, width=40, height=24))["img"].shape == (24, 40, 3)
    with pytest.raises(UserError, match=r"a.png is 24x40 pixels, but its annotations say 32x24"):
        load(dict(img_path=path, width=32, height=24))
    raw = labels(tmp_path / "raw.png", np.zeros((24, 40), np.uint8))
    assert load(dict(img_path=path, seg_map_path=raw))["img"].shape == (24, 40, 3)


def segmentation(tmp_path, values, **options):
    path = labels(tmp_path / "labels.png", values)
    pipeline = Compose([LoadImageFromFile(), of_mmseg.LoadAnnotations(**options)])
    return pipeline(
        dict(img_path=photo(tmp_path / "a.png"), seg_map_path=path, seg_fields=[],
             reduce_zero_label=options.get("reduce_zero_label", False), label_map=None)
    )["gt_seg_map"]  # fmt: skip


def test_label_maps_keep_what_mmsegmentation_makes_of_them(tmp_path):
    values = np.arange(24 * 40).reshape(24, 40).astype(np.uint8) % 4
    assert (segmentation(tmp_path, values) == values).all()
    reduced = segmentation(tmp_path, values, reduce_zero_label=True)
    assert (reduced == values - np.uint8(1)).all()
    assert (segmentation(tmp_path, values.astype(np.uint16)) == values).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (PIXELS, r"label map .*labels.png holds colours \(RGB\)"),
        (np.full((24, 40), 300, np.uint16), "labels.png holds 300; labels go up to 255"),
        (np.zeros((24, 41), np.uint8), r"labels.png is 41x24 pixels and its picture .*a.png 40x24"),
    ],
)
def test_a_label_map_that_is_none_is_named(tmp_path, values, words):
    with pytest.raises(UserError, match=words):
        segmentation(tmp_path, values)


def test_mmdetection_reads_a_palette_as_its_indices(tmp_path):
    image = Image.fromarray(np.ones((24, 40), np.uint8), mode="P")
    image.putpalette([255, 255, 255] * 256)
    image.save(tmp_path / "labels.png")
    load = of_mmdet.LoadAnnotations(with_bbox=False, with_label=False, with_seg=True)
    found = load(dict(seg_map_path=str(tmp_path / "labels.png"), ori_shape=(24, 40)))
    assert (found["gt_seg_map"] == 1).all()


class Reading(Dataset):
    """A data set of broken pictures, as MMEngine's calls its pipeline."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return LoadImageFromFile()(dict(img_path=self.path))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty (0 bytes)"), (None, "No such file"), (b"text", "is no picture")],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_one_sentence_also_out_of_a_worker(
    tmp_path, content, words, workers, capsys
):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit), exit_with_sentence():
        next(iter(DataLoader(Reading(str(path)), num_workers=workers)))
    printed = capsys.readouterr().err
    assert "broken.jpg" in printed
    assert words in printed
    assert printed.count("\n") == 1


def test_reading_comes_back():
    """In a process of its own, which has mmcv's from before."""
    code = (
        "import mmcv\n"
        "from mmcv.transforms import BaseTransform\n"
        "before = mmcv.imfrombytes, BaseTransform.__call__\n"
        "from convnext_backbones.adapters.openmmlab.patches import PICTURES\n"
        "assert mmcv.imfrombytes is not before[0]\n"
        "assert PICTURES.undo()\n"
        "assert (mmcv.imfrombytes, BaseTransform.__call__) == before\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
