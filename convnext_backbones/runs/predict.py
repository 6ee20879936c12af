"""predict, for any framework that fulfils runs.host.Host: pictures, folders and videos into new files.

Nothing is written over an input, over a file that predict did not write, or twice into one file: what goes
where is planned before the first picture is read. Each result holds a mark of its source (MARK), so that the
same command can be called again.
"""

import contextlib
import hashlib
import json
import struct
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..console import counted, progress, say
from ..data.pictures import SUFFIXES, picture_files, read_picture
from ..errors import UserError
from . import exported, preparation
from .host import Host, Result
from .results import CocoResults, draw, label_map_image, nothing
from .trained import checkpoint_file
from .visualize import FONT_SIZE, enlarged

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".wmv")
JSON = "results.json"
MARK = "convnext-backbones predict"  # the key under which a result holds its source's digest
LEGEND = 3 * (FONT_SIZE + 6)  # pixels below a segmented frame
CODEC = "mp4v"  # the one that every build of OpenCV writes


class Source(NamedTuple):
    """An input file; its name in results.json; the path of its results below the folder for them, without
    an ending."""

    file: Path
    title: str
    target: PurePath

    @property
    def is_video(self) -> bool:
        return self.file.suffix.lower() in VIDEOS


def predict(host: Host, args: Namespace) -> None:
    """Write what args.checkpoint sees in each picture and video of args.source, in the kinds of files
    args.save, to the folder args.out.

    Raises:
        UserError: there is nothing to read, or it cannot be written without harm; or some files are
            unreadable, after the others are done.
    """

    def load():
        config = host.load_config(
            args.config, sample=args.sample, shrink=args.shrink, options=host.overrides(args)
        )
        _check_device(args.device)
        return host.load_model(config, checkpoint_file(args.checkpoint), args.device)

    host.quiet_warnings()
    _write(host, load, args)


def predict_exported(args: Namespace) -> None:
    """As predict, by the exported file args.model."""
    _write(exported, lambda: exported.load(args.model, throughput=args.throughput), args)


def _write(host, load: Callable[[], object], args: Namespace) -> None:
    sources = sources_of(args.source, args.out)
    output = Output(args.out, args.save, sources, args.score, overwrite=args.overwrite)
    predictor = Predictor(host, load(), args.score, args.batch_size)
    preparation.check_writable(args.out, "--out")
    unreadable = []
    pictures = [source for source in sources if not source.is_video]
    bar = progress(pictures, "predicting", unit="picture")
    for source, image, result in predictor.pictures(bar, unreadable):
        output.picture(source, image, result)
    for source in sources:
        if source.is_video:
            try:
                output.video(source, predictor)
            except VideoError as error:
                unreadable.append(str(error))
    say(output.end(), always=True)
    if unreadable:
        more = f"; and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        raise UserError(
            f"{counted(len(unreadable), 'file')} skipped: {'; '.join(unreadable[:5])}{more}"
        )


def _check_device(device: str | None) -> None:
    """Refuse a device that torch does not know or that this machine has not."""
    try:
        torch.empty(0, device=device or "cpu")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device {device} cannot be used here; leave it out, or give cpu, cuda or cuda:N"
        ) from error


class VideoError(UserError):
    """A video without a frame that can be read."""


# ---- sources -------------------------------------------------------------------------------------
def sources_of(given: Sequence[str], out: Path) -> list[Source]:
    """The pictures and videos that are named, or in the folders that are, each with a name of its own.

    Raises:
        UserError: one does not exist, or a folder holds neither; or `out` is or contains one.
    """
    found: dict[Path, tuple[Path, PurePath]] = {}  # by the resolved path: each file once
    for text in given:
        path = Path(text).expanduser()
        if not path.exists():
            raise UserError(f"there is no picture or folder {path}")
        _check_apart(path, out)
        if path.is_dir():
            files = _files_in(path, out)
            above = path.resolve().name if len(given) > 1 else ""
            names = [PurePath(above, file.relative_to(path)) for file in files]
        else:
            files, names = [path], [PurePath(path.name)]
        for file, name in zip(files, names, strict=True):
            found.setdefault(file.resolve(), (file, name))
    count = Counter(name for _, name in found.values())
    targets = _distinct([name for _, name in found.values()])
    return [
        Source(file, name.as_posix() if count[name] == 1 else str(file), target)
        for (file, name), target in zip(found.values(), targets, strict=True)
    ]


def _files_in(folder: Path, out: Path) -> list[Path]:
    """The pictures and videos below a folder, without those that are results."""
    files = [*picture_files(folder), *picture_files(folder, VIDEOS)]
    files = sorted(file for file in files if not file.resolve().is_relative_to(out.resolve()))
    if not files:
        raise UserError(
            f"{folder} holds no pictures ({', '.join(SUFFIXES)}) and no videos ({', '.join(VIDEOS)})"
        )
    return files


def _check_apart(path: Path, out: Path) -> None:
    if path.resolve().is_relative_to(out.resolve()):
        raise UserError(
            f"--out {out} {'is' if path.resolve() == out.resolve() else 'contains'} the source {path}: "
            "results would lie among the inputs; give a folder of their own, e.g. --out predicted"
        )


def _distinct(names: Sequence[PurePath]) -> list[PurePath]:
    """The names without their endings; with them where two would be one, as for a.jpg and a.png."""
    stems = [name.with_suffix("") for name in names]
    count = Counter(str(stem).casefold() for stem in stems)
    distinct, taken = [], set()
    for name, stem in zip(names, stems, strict=True):
        wanted = stem if count[str(stem).casefold()] == 1 else name
        unique, number = wanted, 1
        while str(unique).casefold() in taken:
            number += 1
            unique = wanted.with_name(f"{wanted.name}_{number}")
        taken.add(str(unique).casefold())
        distinct.append(unique)
    return distinct


# ---- predictions ---------------------------------------------------------------------------------
class Predictor(NamedTuple):
    """A model that looks at files, `batch` at a time."""

    host: Host
    model: object
    score: float
    batch: int

    def pictures(
        self, sources: Iterable[Source], unreadable: list[str]
    ) -> Iterator[tuple[Source, np.ndarray, Result]]:
        """Each picture, (H, W, 3) uint8 RGB, with what is in it; a sentence in `unreadable` for one that
        cannot be read."""
        for group in _groups(sources, self.batch):
            read = []
            for source in group:
                try:
                    read.append((source, read_picture(source.file)))
                except UserError as error:
                    unreadable.append(str(error))
            results = self.results([source.file for source, _ in read])
            for (source, image), result in zip(read, results, strict=True):
                yield source, image, result

    def frames(self, video: Path) -> Iterator[tuple[np.ndarray, Result]]:
        """Each frame of a video, the same way: by a file of its pixels, which the host reads as any."""
        with tempfile.TemporaryDirectory() as folder:
            for group in _groups(_frames(video), self.batch):
                files = [Path(folder, f"{k}.bmp") for k in range(len(group))]
                for file, frame in zip(files, group, strict=True):
                    Image.fromarray(frame).save(file)
                yield from zip(group, self.results(files), strict=True)

    def results(self, files: Sequence[Path]) -> list[Result]:
        if not files:
            return []
        predictions = self.host.infer(self.model, files)
        meta = self.model.dataset_meta
        return [self.host.result_of(prediction, meta, self.score) for prediction in predictions]


def _groups(items: Iterable, size: int) -> Iterator[list]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


@contextlib.contextmanager
def _opened(video: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(video))
    try:
        if not capture.isOpened():
            raise VideoError(f"the video {video} cannot be read: damaged, or of an unknown kind")
        yield capture
    finally:
        capture.release()


def _frames(video: Path) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, turned as the video says."""
    with _opened(video) as capture:
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


# ---- results -------------------------------------------------------------------------------------
class Output:
    """The folder of the results: what is written where.

    Raises:
        UserError: a file is there that predict did not write from the same source, and `overwrite` does
            not allow it.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        sources: Sequence[Source],
        score: float,
        *,
        overwrite: bool,
    ):
        self.folder, self.kinds, self.score = folder, tuple(kinds), score
        self.coco = CocoResults() if "json" in kinds else None
        self.all = digest(*(source.file for source in sources))
        self.pictures = self.videos = 0
        if not overwrite:
            self._check(sources)

    def _check(self, sources: Sequence[Source]) -> None:
        plan = {self.folder / JSON: self.all} if self.coco is not None else {}
        for source in sources:
            kinds = [kind for kind in ("overlays", "masks") if kind in self.kinds]
            plan |= {self.path(kind, source): digest(source.file) for kind in kinds}
        others = [
            str(path.relative_to(self.folder))
            for path, made_of in plan.items()
            if path.exists() and mark_of(path) != made_of
        ]
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise UserError(
                f"{self.folder} holds {', '.join(others[:3])}{more}: not written by predict, or from other "
                "sources. Nothing is written over it: give another --out, or --overwrite"
            )

    def path(self, kind: str, source: Source, frame: int = 0) -> Path:
        """Of a result; of a video's masks the file of a frame. A folder a kind, if there are several."""
        folder = self.folder if self.kinds == (kind,) else self.folder / kind
        target = folder / source.target
        if not source.is_video:
            return target.with_name(f"{target.name}.png")
        if kind == "masks":
            return target.with_name(f"{target.name}{source.file.suffix}") / f"{frame:06d}.png"
        return target.with_name(f"{target.name}.mp4")

    def picture(self, source: Source, image: np.ndarray, result: Result) -> None:
        if "overlays" in self.kinds:
            drawn = draw(image, result, nothing(self.score))
            _save(Image.fromarray(drawn), self.path("overlays", source), source)
        self._data(source, image, result)
        self.pictures += 1

    def video(self, source: Source, predictor: Predictor) -> None:
        """A video of the overlays, of masks a folder with a file a frame.

        Raises:
            VideoError: it holds no frame that can be read.
        """
        with _opened(source.file) as capture:
            rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
            count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        with contextlib.ExitStack() as stack:
            bar = progress(desc=source.file.name, total=count or None, unit="frame")
            stack.enter_context(bar)
            video = None
            for number, (image, result) in enumerate(predictor.frames(source.file)):
                if "overlays" in self.kinds:
                    drawn = draw(image, result)
                    if video is None:
                        path = self.path("overlays", source)
                        video = stack.enter_context(_video(path, rate, image, drawn, source))
                    video(drawn)
                self._data(source, image, result, number)
                bar.update()
            done = bar.n
        if not done:
            raise VideoError(f"the video {source.file} holds no frame that can be read")
        if done < count:
            say(f"{source.file} can be read up to frame {done} of {count}", always=True)
        self.videos += 1

    def _data(self, source: Source, image: np.ndarray, result: Result, frame: int | None = None):
        if "masks" in self.kinds:
            labels = label_map_image(result)
            if labels is None:
                raise UserError(
                    "--save masks: this model finds boxes without masks; leave out masks, and take json "
                    "or overlays"
                )
            _save(labels, self.path("masks", source, frame or 0), source)
        if self.coco is not None:
            more = {} if frame is None else {"frame": frame}
            self.coco.add(result, image, source.title, **more)

    def end(self) -> str:
        """Write what is of all sources; a line that says what is there."""
        if self.coco is not None:
            content = {"info": {MARK: self.all}, **self.coco.content()}
            (self.folder / JSON).write_text(json.dumps(content))
        counts = [counted(self.pictures, "picture")] if self.pictures or not self.videos else []
        counts += [counted(self.videos, "video")] if self.videos else []
        kinds = "" if self.kinds == ("overlays",) else f" ({', '.join(self.kinds)})"
        done = "drawn" if "overlays" in self.kinds else "predicted"
        return f"{' and '.join(counts)} {done} in {self.folder}{kinds}"


@contextlib.contextmanager
def _video(path: Path, rate: float, image: np.ndarray, drawn: np.ndarray, source: Source):
    """A function that adds a drawn frame; the file has its name when it is whole. Frames are as large as
    the enlarged picture, with room for three lines of a legend where the first one has a legend."""
    height, width = enlarged(image)[0].shape[:2]
    height += LEGEND * (drawn.shape[0] > height)
    size = (width + width % 2, height + height % 2)  # codecs take even ones
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter_fourcc(*CODEC), rate, size)
    if not writer.isOpened():
        raise UserError(f"OpenCV cannot write a video of {size[0]}x{size[1]} pixels to {path}")

    def add(frame: np.ndarray) -> None:
        canvas = np.full((size[1], size[0], 3), 255, np.uint8)
        part = frame[: size[1], : size[0]]
        canvas[: part.shape[0], : part.shape[1]] = part
        writer.write(cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))

    try:
        yield add
    except BaseException:
        writer.release()
        unfinished.unlink(missing_ok=True)
        raise
    writer.release()
    text = f"{MARK}: {digest(source.file)}".encode()
    with unfinished.open("ab") as file:  # a box of MP4 that players pass over
        file.write(struct.pack(">I4s", 8 + len(text), b"free") + text)
    unfinished.replace(path)


def _save(image: Image.Image, path: Path, source: Source) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    info.add_text(MARK, digest(source.file))
    image.save(path, pnginfo=info)


# ---- whose a result is ---------------------------------------------------------------------------
def digest(*files: Path) -> str:
    """Stands for the files' paths, which nobody else needs to know."""
    return hashlib.blake2b(
        "\0".join(str(file.resolve()) for file in files).encode(), digest_size=16
    ).hexdigest()


def mark_of(path: Path) -> str | None:
    """The digest of the sources that predict made a file of; None for a file that is not predict's."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                return image.info.get(MARK)
        if path.suffix == ".json":
            return json.loads(path.read_text())["info"][MARK]
        with path.open("rb") as file:
            file.seek(-len(f"{MARK}: {digest()}"), 2)
            name, _, found = file.read().decode().partition(": ")
            return found if name == MARK else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
