"""The one reader of pictures and label maps, for training, test, predict and drawing (Pillow does the work).

A picture comes out as it is shown: turned as its EXIF says, with three channels of 8 bits. For ordinary
files of 8 bits these are the very numbers that OpenCV reads, channels in the other order; CMYK differs by 1.
Of a file with several frames the first counts.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UnreadableFileError, UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
ORIENTATION = 0x0112  # EXIF's tag
EXCHANGED = (5, 6, 7, 8)  # its values that exchange width and height
LABEL_MODES = ("1", "L", "P", "I", "LA", "PA")  # beside the kinds of I;16

# Pillow's, on odd headers and many pixels. Not by catch_warnings around each picture: that makes Python
# forget which warnings of others it has shown already.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Probe(NamedTuple):
    """What a picture's header says. width, height: as it is shown; mode: Pillow's ("RGB", "P", "I;16");
    orientation: EXIF's, 1 for none; format: Pillow's ("JPEG")."""

    width: int
    height: int
    mode: str
    orientation: int
    format: str

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height before EXIF turns the picture."""
        exchanged = self.orientation in EXCHANGED
        return (self.height, self.width) if exchanged else (self.width, self.height)


def read_picture(
    path: str | Path,
    *,
    content: bytes | None = None,
    size: tuple[int, int] | None = None,
    label_map: str | Path | None = None,
) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB.

    16 bits are scaled by their range, 65535 being white: of each value the upper 8 bits, as OpenCV has it.
    Transparency is left out, and what it hides is shown.

    Args:
        content: the file's bytes, where they are read already; `path` then names it in errors.
        size: (width, height) that its annotations were recorded with. Most tools annotate a picture as it
            is shown; where the recorded size is that of the stored pixels, EXIF does not turn it.
        label_map: the file whose size is the recorded one, asked only if EXIF turns the picture.

    Raises:
        UserError: the file is missing, empty, truncated, no picture, too large, without a white (floats),
            or of another size than the recorded one.
    """
    with _opened(path, content) as image:
        stored, orientation = image.size, _orientation(image)
        shown = stored[::-1] if orientation in EXCHANGED else stored
        if label_map is not None and size is None and shown != stored:
            labels = probe(label_map)
            size = (labels.width, labels.height)
        if size is not None and tuple(size) not in (shown, stored):
            raise UserError(
                f"{path} is {shown[0]}x{shown[1]} pixels, but its annotations say {size[0]}x{size[1]}: "
                "they are of another picture, or of one that was resized since"
            )
        if orientation != 1 and (size is None or tuple(size) == shown):
            image = ImageOps.exif_transpose(image)
        return _rgb(image, path)


def read_label_map(path: str | Path, *, content: bytes | None = None) -> np.ndarray:
    """A label map as (H, W) integers: a palette's indices, or the values of its one channel.

    Raises:
        UserError: as for pictures; or it holds colours, floats, or is a JPEG, which does not keep values.
    """
    with _opened(path, content) as image:
        if image.format == "JPEG":
            raise UserError(
                f"the label map {path} is a JPEG, which changes the values; save label maps as PNG"
            )
        if image.mode not in LABEL_MODES and not image.mode.startswith("I;16"):
            raise UserError(
                f"the label map {path} holds colours ({image.mode}) where class numbers are expected; "
                "save one channel with a number for each class, or let new-config make such files from "
                "a table of the colours"
            )
        image.load()
        labels = np.array(image)
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    return labels[..., 0] if labels.ndim == 3 else labels  # the other channel is transparency


def probe(path: str | Path) -> Probe:
    """A picture's header, without its pixels.

    Raises:
        UserError: the file is missing, empty, no picture or too large.
    """
    with _opened(path, None, header=True) as image:
        width, height = image.size
        # Pillow looks for a PNG's EXIF behind its pixels where none stands before them
        where = image.format != "PNG" or "exif" in image.info
        orientation = _orientation(image) if where else 1
        if orientation in EXCHANGED:
            width, height = height, width
        return Probe(width, height, image.mode, orientation, image.format or "")


def picture_files(folder: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The pictures anywhere below a folder, by their suffix in any case; sorted, hidden ones left out."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        own = Path(place).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not own.is_relative_to((own / name).resolve())  # a link to a folder that it is in
        ]
        found += [
            Path(place, name)
            for name in files
            if not name.startswith(".") and name.lower().endswith(suffixes)
        ]
    return sorted(found)


@contextlib.contextmanager
def _opened(
    path: str | Path, content: bytes | None, *, header: bool = False
) -> Iterator[Image.Image]:
    """The picture, opened; what goes wrong with it, also while the caller decodes it, as a sentence.

    header: read no more than that, of a file that may be large.
    """
    try:
        if content is None and not header:
            content = Path(path).read_bytes()
        if not (os.path.getsize(path) if content is None else content):
            raise UnreadableFileError(f"the picture {path} is empty (0 bytes)", str(path))
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"the picture {path} is too large ({error}); cut it into tiles, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:
        raise UnreadableFileError(f"{path} is no picture that can be read", str(path)) from error
    except OSError as error:
        said = f"the picture {path} is damaged: {error}"
        if error.strerror:  # of the file, such as "No such file or directory"
            said = f"the picture {path} cannot be read: {error.strerror}"
        raise UnreadableFileError(said, str(path)) from error
    except (SyntaxError, ValueError, IndexError, EOFError) as error:  # of Pillow's decoders
        raise UnreadableFileError(f"the picture {path} is damaged: {error}", str(path)) from error


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that Pillow cannot parse says nothing
        return 1
    return orientation if orientation in range(2, 9) else 1


def _rgb(image: Image.Image, path: str | Path) -> np.ndarray:
    if image.mode.startswith("I"):  # one channel of 16 or 32 bits, which convert() clips at 255
        values = np.asarray(image)
        if values.min() >= 0 and values.max() <= 0xFFFF:
            return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    elif image.mode != "F":
        return np.array(image.convert("RGB"))
    raise UserError(
        f"the picture {path} holds 32-bit values, of which none is known to be white; save it with 8 "
        "or 16 bits a channel"
    )
