"""The reader of pictures: right side up, 8 bits, OpenCV's numbers, and a sentence for what is no picture."""

import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from convnext_backbones.data.pictures import picture_files, probe, read_label_map, read_picture
from convnext_backbones.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (9, 13, 3), np.uint8)).resize((40, 24), Image.BICUBIC)
)


def saved(tmp_path, name, pixels=PIXELS, mode=None, **options):
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(tmp_path / name, **options)
    return tmp_path / name


def turned(tmp_path, orientation, name="photo.jpg"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(tmp_path, name, exif=exif, quality=95)


KINDS = [
    *[(".jpg", mode) for mode in ("RGB", "L")],
    *[
        (suffix, mode)
        for suffix in (".png", ".tif")
        for mode in ("RGB", "L", "P", "RGBA", "LA", "1")
    ],
    *[(".bmp", mode) for mode in ("RGB", "L", "P", "1")],
    *[(".webp", mode) for mode in ("RGB", "RGBA")],
]


@pytest.mark.parametrize(("suffix", "mode"), KINDS)
def test_ordinary_pictures_have_the_numbers_that_opencv_reads(tmp_path, suffix, mode):
    path = saved(tmp_path, f"picture{suffix}", mode=mode)
    picture = read_picture(path)
    assert (picture.shape, picture.dtype, picture.flags.writeable) == ((24, 40, 3), np.uint8, True)
    assert (picture == cv2.imread(str(path))[..., ::-1]).all()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_has_the_numbers_that_opencv_reads(tmp_path, subsampling, progressive):
    path = saved(
        tmp_path, "a.jpg", PIXELS[:23, :39], subsampling=subsampling, progressive=progressive
    )
    assert (read_picture(path) == cv2.imread(str(path))[..., ::-1]).all()


def test_cmyk_is_converted(tmp_path):
    picture = read_picture(saved(tmp_path, "a.jpg", mode="CMYK", quality=100))
    assert np.abs(picture.astype(int) - PIXELS).mean() < 4


def test_16_bits_are_scaled_by_their_range(tmp_path):
    values = np.linspace(0, 65535, 24 * 40).astype(np.uint16).reshape(24, 40)
    path = saved(tmp_path, "a.png", values)
    picture = read_picture(path)
    assert (picture == (values >> 8)[..., None]).all()
    assert (picture == cv2.imread(str(path))[..., ::-1]).all()
    colours = RNG.integers(0, 65536, (24, 40, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "b.png"), colours)
    assert (read_picture(tmp_path / "b.png")[..., ::-1] == colours >> 8).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_photo_as_opencv_does(tmp_path, orientation):
    path = turned(tmp_path, orientation)
    assert (read_picture(path) == cv2.imread(str(path))[..., ::-1]).all()
    header = probe(path)
    assert (header.width, header.height) == ((24, 40) if orientation > 4 else (40, 24))
    assert (header.stored, header.orientation, header.mode) == ((40, 24), orientation, "RGB")


def test_the_recorded_size_says_in_which_frame_a_photo_was_annotated(tmp_path):
    path = turned(tmp_path, 6)
    assert read_picture(path, size=(24, 40)).shape == (40, 24, 3)
    raw = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
    assert (read_picture(path, size=(40, 24)) == raw).all()
    labels = saved(tmp_path, "labels.png", np.zeros((24, 40), np.uint8))
    assert (read_picture(path, label_map=labels) == raw).all()
    with pytest.raises(
        UserError, match=r"photo.jpg is 24x40 pixels, but its annotations say 24x41"
    ):
        read_picture(path, size=(24, 41))


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (np.arange(24, dtype=np.uint8).reshape(4, 6), None),
        (np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000, None),
        (np.arange(24, dtype=np.int32).reshape(4, 6) * 70000, None),
        (np.eye(4, 6, dtype=np.uint8) * 255, "1"),
        (np.arange(24, dtype=np.uint8).reshape(4, 6), "LA"),
    ],
)
def test_a_label_map_keeps_its_values(tmp_path, values, mode):
    name = "labels.tif" if values.dtype == np.int32 else "labels.png"
    found = read_label_map(saved(tmp_path, name, values, mode=mode))
    assert (found == (values // 255 if mode == "1" else values)).all()


def test_a_palette_of_a_label_map_is_only_its_colouring(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    image = Image.fromarray(values, mode="P")
    image.putpalette([*range(255, -1, -1)] * 3)
    image.save(tmp_path / "labels.png")
    assert (read_label_map(tmp_path / "labels.png") == values).all()


def test_what_is_no_label_map_is_named(tmp_path):
    with pytest.raises(UserError, match=r"label map .*a.png holds colours \(RGB\)"):
        read_label_map(saved(tmp_path, "a.png"))
    with pytest.raises(UserError, match=r"a.jpg is a JPEG, which changes the values"):
        read_label_map(saved(tmp_path, "a.jpg", PIXELS[..., 0]))


def broken(tmp_path):
    whole = saved(tmp_path, "whole.jpg").read_bytes()
    png = saved(tmp_path, "whole.png").read_bytes()
    return {
        "missing.jpg": (None, "No such file"),
        "empty.jpg": (b"", "is empty"),
        "text.jpg": (b"<html>not found</html>", "is no picture"),
        "cut.jpg": (whole[:-200], "is damaged: .*truncated"),
        "cut.png": (png[: len(png) // 2], "is damaged"),
        "head.jpg": (whole[:30], "is no picture|is damaged"),
    }


@pytest.mark.parametrize(
    "name",
    ["missing.jpg", "empty.jpg", "text.jpg", "cut.jpg", "cut.png", "head.jpg"],
)
def test_a_broken_file_is_a_sentence_with_its_name_and_cause(tmp_path, name):
    content, words = broken(tmp_path)[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} .*({words})") as caught:
        read_picture(tmp_path / name)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_damaged_label_map_is_a_sentence(tmp_path):
    path = saved(tmp_path, "labels.png", PIXELS[..., 0])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"labels.png is damaged"):
        read_label_map(path)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(UserError, match="Is a directory"):
        read_picture(tmp_path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path, "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(UserError, match=r"large.png is too large .*tiles"):
        read_picture(path)


def test_values_without_a_white_are_refused(tmp_path):
    for name, dtype in (("a.tif", np.float32), ("b.tif", np.int32)):
        path = saved(tmp_path, name, np.full((4, 6), 70000, dtype))
        with pytest.raises(UserError, match="holds 32-bit values, of which none is known to be"):
            read_picture(path)


def test_pictures_are_found_at_any_depth_by_suffixes_in_any_case(tmp_path):
    for name in ("b.JPG", "a/ü c.png", "a/b/c.TIFF", ".hidden/d.png", "a/._e.jpg", "f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/b/above").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a/bb").mkdir()
    (tmp_path / "a/bb/link").symlink_to(tmp_path / "a/b", target_is_directory=True)
    assert [str(p.relative_to(tmp_path)) for p in picture_files(tmp_path)] == [
        "a/b/c.TIFF",
        "a/bb/link/c.TIFF",
        "a/ü c.png",
        "b.JPG",
    ]
