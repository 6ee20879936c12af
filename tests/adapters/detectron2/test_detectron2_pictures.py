"""What Detectron2's mappers and evaluators read is what the one reader reads."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, detection_utils
from detectron2.evaluation import SemSegEvaluator

from convnext_backbones.adapters.detectron2 import load_label_map
from convnext_backbones.adapters.detectron2.patches import PICTURES
from convnext_backbones.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


@pytest.fixture
def photo(tmp_path):
    """Stored as 40x24, shown as 24x40."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "photo.jpg", exif=exif)
    return str(tmp_path / "photo.jpg")


def labels(tmp_path, values, mode=None):
    image = Image.fromarray(values, mode=mode)
    if mode == "P":
        image.putpalette([*range(255, -1, -1)] * 3)
    image.save(tmp_path / "labels.png")
    return str(tmp_path / "labels.png")


def mapped(record, **options):
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB", **options)
    return mapper(record)


@pytest.mark.parametrize("format", ["RGB", "BGR", "L", "YUV-BT.601", None])
def test_ordinary_pictures_stay_bit_by_bit_what_they_were(photo, format):
    ours = detection_utils.read_image(photo, format)
    assert PICTURES.undo()
    try:
        plain = detection_utils.read_image(photo, format)
    finally:
        PICTURES.apply()
    assert (ours == plain).all()


def test_16_bit_pictures_are_not_white(tmp_path):
    values = np.linspace(0, 65535, 24 * 40).astype(np.uint16).reshape(24, 40)
    Image.fromarray(values).save(tmp_path / "a.png")
    for format in ("RGB", "L"):
        mapper = DatasetMapper(is_train=False, augmentations=[], image_format=format)
        found = mapper({"file_name": str(tmp_path / "a.png")})["image"]
        assert (found.numpy() == values >> 8).all()


def test_a_turned_photo_is_in_the_frame_that_its_record_says(photo):
    shown = mapped({"file_name": photo, "width": 24, "height": 40})["image"]
    stored = mapped({"file_name": photo, "width": 40, "height": 24})["image"]
    assert (shown.shape, stored.shape) == ((3, 40, 24), (3, 24, 40))
    assert mapped({"file_name": photo})["image"].shape == (3, 40, 24)
    with pytest.raises(UserError, match=r"photo.jpg is 24x40 pixels, but its annotations say 9x9"):
        mapped({"file_name": photo, "width": 9, "height": 9})


def test_a_label_map_says_the_frame_and_keeps_its_values(tmp_path, photo):
    values = np.arange(24 * 40).reshape(24, 40).astype(np.uint8) % 5
    for path in (
        labels(tmp_path, values),
        labels(tmp_path, values, "P"),
        labels(tmp_path, values.astype(np.uint16)),
    ):
        found = mapped({"file_name": photo, "sem_seg_file_name": path})
        assert (found["sem_seg"].numpy() == values).all()
        assert found["image"].shape == (3, 24, 40)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (PIXELS, r"label map .*labels.png holds colours \(RGB\)"),
        (np.full((24, 40), 300, np.uint16), "labels.png holds 300; labels go up to 255"),
        (np.zeros((24, 41), np.uint8), "photo.jpg is 24x40 pixels, but its annotations say 41x24"),
    ],
)
def test_a_label_map_that_is_none_is_named(tmp_path, photo, values, words):
    with pytest.raises(UserError, match=words):
        mapped({"file_name": photo, "sem_seg_file_name": labels(tmp_path, values)})


def test_sizes_that_differ_are_a_sentence_in_any_mapper(tmp_path, photo):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    path = labels(tmp_path, np.zeros((24, 41), np.uint8))
    with pytest.raises(
        UserError, match=r"labels.png is 41x24 pixels and its picture .*a.png 40x24"
    ):
        mapped({"file_name": str(tmp_path / "a.png"), "sem_seg_file_name": path})
    with pytest.raises(UserError, match="Mismatched image shape"):
        detection_utils.check_image_size(dict(width=9, height=9, file_name="a"), PIXELS)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such file"), (b"", "is empty"), (b"text", "is no picture")],
)
def test_a_broken_file_is_a_sentence(tmp_path, content, words):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    for format in ("RGB", None):
        with pytest.raises(UserError, match=rf"broken.jpg {words}"):
            detection_utils.read_image(str(path), format)


@pytest.fixture
def evaluator():
    DatasetCatalog.register("evaluated_here", list)
    MetadataCatalog.get("evaluated_here").set(stuff_classes=["a"], ignore_label=255)
    yield SemSegEvaluator("evaluated_here")
    DatasetCatalog.remove("evaluated_here")
    MetadataCatalog.remove("evaluated_here")


def test_evaluators_read_label_maps_as_mappers_do(tmp_path, evaluator):
    values = np.full((4, 6), 3, np.uint8)
    for read, value in ((evaluator.sem_seg_loading_fn, 3), (load_label_map, 2)):
        found = read(labels(tmp_path, values, "P"), dtype=int)
        assert (found == value).all()
        assert found.dtype == int
        with pytest.raises(UserError, match="holds colours"):
            read(labels(tmp_path, PIXELS), dtype=int)
