"""Label maps: a picture that holds the class of each pixel, by number or by colour."""

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..console import counted
from ..errors import UserError
from .boxes import class_file, common_folder, picture_sizes
from .colours import HOW, Colour, named_colours, table_of
from .described import VOID, Found, Plan, Split
from .pictures import probe, read_label_map, read_picture
from .splits import divide
from .tree import Header, Tree, headers, some, split_of

COLOURED = ("RGB", "RGBA", "CMYK")
LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
FEW = 64  # different values in a picture, at most, for a label map
SAMPLED = 4  # pictures of a folder that are opened to tell label maps
PIXELS = 150_000_000  # that are read for the values
SHARE = 0.01  # of pixels of colours without a name that are taken for blurred borders
VOID_NAMES = re.compile(r"void|un-?label+ed|ignored?|unknown|no[ _-]?label|other[ _-]?void", re.I)
# Of several label maps of a picture the first of these endings.
PREFERRED = ("labeltrainids", "labelids", "")
NEVER = ("instanceids", "instance", "color", "colour", "vis", "overlay")


class Family(NamedTuple):
    """Pictures of one folder whose names end alike. files: the path by what is left of the name."""

    folder: str
    suffix: str  # after what is left, with the file's ending
    files: dict[str, str]


class Pair(NamedTuple):
    picture: str
    label_map: str


def find(tree: Tree) -> list[Pair]:
    """Pictures with their label maps, as their names fit; empty where there are none."""
    families = _families(tree)
    maps = [family for family in families if _holds_maps(tree, family)]
    photos = [family for family in families if family not in maps]
    if (
        not photos and len(maps) > 1
    ):  # pictures of few values, such as scans: told by the folder's name
        photos = [f for f in maps if not _MAP_WORDS.search(f"{f.folder}/{f.suffix}".lower())]
        maps = [f for f in maps if f not in photos]
    pairs: dict[str, tuple[tuple, str]] = {}
    for photo in photos:
        for labels in maps:
            fits = [name for name in photo.files if name in labels.files]
            if not fits:
                continue
            rank = _rank(photo, labels, len(fits))
            for name in fits:
                picture = photo.files[name]
                if picture not in pairs or rank < pairs[picture][0]:
                    pairs[picture] = (rank, labels.files[name])
    owners: dict[str, tuple[tuple, str]] = {}  # a label map is that of one picture
    for picture, (rank, label_map) in sorted(pairs.items()):
        if label_map not in owners or rank < owners[label_map][0]:
            owners[label_map] = (rank, picture)
    return sorted(Pair(picture, label_map) for label_map, (_, picture) in owners.items())


def in_jpeg(tree: Tree) -> str | None:
    """A folder that seems to hold label maps as JPEG, for the sentence that refuses it."""
    families = _families(tree)
    for family in families:
        lossy = not family.suffix.lower().endswith(LOSSLESS)
        if (
            lossy
            and _MAP_WORDS.search(f"{family.folder}/{family.suffix}".lower())
            and any(
                family.files.keys() & other.files.keys()
                for other in families
                if other.folder != family.folder
            )
        ):
            return family.folder
    return None


_MAP_WORDS = re.compile(r"mask|label|annot|gt|seg|truth")


def _rank(photo: Family, labels: Family, fits: int) -> tuple:
    """Smaller for label maps that are likelier those of the pictures."""
    suffix = labels.suffix.lower().rpartition(".")[0].strip("_-. ")
    likes = next(
        (k for k, word in enumerate(PREFERRED) if word and suffix.endswith(word)), len(PREFERRED)
    )
    odd = any(word in suffix or word in labels.folder.lower().split("/") for word in NEVER)
    split = split_of(photo.folder) != split_of(labels.folder)
    shared = len(set(photo.folder.split("/")) & set(labels.folder.split("/")))
    inner = (
        photo.folder.rsplit("/", 1)[-1] != labels.folder.rsplit("/", 1)[-1]
    )  # a city's, a video's
    return split, odd, likes, inner, -fits, -shared, labels.folder, labels.suffix


def _families(tree: Tree) -> list[Family]:
    """The pictures by folder and by how their names end, each ending a guess of its own."""
    folders: dict[tuple[str, str], list[str]] = {}
    for picture in tree.pictures:
        base, end = os.path.splitext(picture)
        folders.setdefault((os.path.dirname(picture), end), []).append(base.rsplit("/", 1)[-1])
    families = []
    for (folder, end), names in folders.items():
        inside = f"{folder}/" if folder else ""
        endings: Counter[str] = Counter()
        # "_mask" of "0001_mask", "_gtFine_labelIds" of "aachen_0_gtFine_labelIds"
        for name in names:
            marks = [m.start() for m in re.finditer(r"[_\-. ]", name) if m.start()]
            endings.update({name[k:] for k in marks[-3:] if not name[k + 1 :].isdigit()})
        common = [e for e, count in endings.items() if 5 * count >= len(names) and count > 1]
        if len(names) == 1:
            common = list(endings)
        for ending in ("", *common):
            files = {
                n[: len(n) - len(ending)]: f"{inside}{n}{end}" for n in names if n.endswith(ending)
            }
            families.append(Family(folder, ending + end, files))
        for ending in _beside(names):
            if ending not in common:
                files = {
                    n[: -len(ending)]: f"{inside}{n}{end}" for n in names if n.endswith(ending)
                }
                families.append(Family(folder, ending + end, files))
                others = {n: f"{inside}{n}{end}" for n in names if not n.endswith(ending)}
                families.append(Family(folder, end, others))
    return families


def _beside(names: Sequence[str]) -> list[str]:
    """The endings of those names that are another one's with something behind: "_mask" where "0001" and
    "0001_mask" lie in one folder."""
    known, endings = set(names), Counter()
    for name in names:
        for mark in re.finditer(r"[_\-. ]", name):
            if name[: mark.start()] in known and not name[mark.end() :].isdigit():
                endings[name[mark.start() :]] += 1
    return [ending for ending, count in endings.items() if 4 * count >= len(names)]


def _holds_maps(tree: Tree, family: Family) -> bool:
    """Whether a few pictures of the family have few values each."""
    if not family.suffix.lower().endswith(LOSSLESS):
        return False
    files = list(family.files.values())
    for file in files[:: max(1, len(files) // SAMPLED)][:SAMPLED]:
        try:
            if probe(tree.path(file)).mode == "P":
                continue
            if len(_counted_values(values_in(tree.path(file)))) > FEW:
                return False
        except UserError:  # said where all of them are read
            continue
    return True


# ---- values --------------------------------------------------------------------------------------
def values_in(path: str | os.PathLike) -> np.ndarray:
    """A label map as it is: (H, W) integers, palette indices or numbers; (H, W, 3) uint8 colours.

    Raises:
        UserError: it cannot be read; names it.
    """
    return read_picture(path) if probe(path).mode in COLOURED else read_label_map(path)


def _counted_values(values: np.ndarray) -> Counter:
    """How many pixels have each number or each packed colour."""
    if values.dtype in (np.uint8, np.uint16) and values.ndim == 2:
        counts = np.bincount(values.ravel())  # ten times as fast
        numbers = np.flatnonzero(counts)
        counts = counts[numbers]
    else:
        numbers, counts = np.unique(_one_number(values), return_counts=True)
    return Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))


def _one_number(values: np.ndarray) -> np.ndarray:
    """(H, W) of (H, W, 3) colours: red << 16 | green << 8 | blue; numbers as they are."""
    if values.ndim == 2:
        return values
    values = values.astype(np.int32)
    return values[..., 0] << 16 | values[..., 1] << 8 | values[..., 2]


class Values(NamedTuple):
    """counts: pixels by value. where: a file with each. read: how many files were. colours: whether the
    values are colours; gray: colours of three equal numbers, which are class numbers."""

    counts: Counter
    where: dict[int, str]
    read: int
    colours: bool
    gray: bool


def _values(tree: Tree, files: Sequence[str], budget: float, pixels: float) -> Values:
    """The values of as many label maps as the budget of pixels allows, evenly spread."""
    some_files = files[:: max(1, round(len(files) * pixels / budget))]
    counts, where, dimensions = Counter(), {}, set()

    def read(file):
        values = values_in(tree.path(file))
        return file, values.ndim, _counted_values(values)

    with ThreadPoolExecutor(4) as pool:
        for file, ndim, found in pool.map(read, some_files):
            counts.update(found)
            dimensions.add(ndim)
            for value in found:
                where.setdefault(value, file)
    if len(dimensions) > 1:
        raise UserError(
            f"some label maps in {tree.root} hold colours and some numbers; take one kind"
        )
    colours = dimensions == {3}
    gray = (
        colours and all(v >> 16 == (v >> 8 & 255) == (v & 255) for v in counts) and len(counts) > 2
    )
    if gray:
        counts = Counter({v & 255: n for v, n in counts.items()})
        where = {v & 255: file for v, file in where.items()}
    return Values(counts, where, len(some_files), colours and not gray, gray)


class Classes(NamedTuple):
    """names, palette: of the classes. number: of each value the class number, VOID for no class. void:
    the value of pixels without a class. rest: whether values that are not in `number` count for none."""

    names: tuple[str, ...]
    palette: tuple[Colour, ...] | None
    number: dict[int, int]
    void: int | None
    rest: bool = False


def read(
    tree: Tree, classes: Sequence[str] | None, void: int | None, pairs: Sequence[Pair]
) -> Found:
    """Say what label maps hold.

    Args:
        pairs: those of `find`.

    Raises:
        UserError: they cannot be read, or their values or colours do not fit the classes.
    """
    notes: list[str] = []
    rows = _readable(tree, pairs, notes)
    files = [row.pair.label_map for row in rows]
    pixels = sum(row.label_map.width * row.label_map.height for row in rows) / len(rows)
    values = _values(tree, files, PIXELS, pixels)
    usual = _gapless(values.counts.keys() - {VOID, 65535}) or values.counts.keys() == {0, 255}
    if not (values.colours or usual):
        values = _values(tree, files, float("inf"), pixels)  # each value becomes a class of its own
    if values.read < len(files):
        notes.append(
            f"The values are those of {values.read} of {len(files)} label maps, evenly drawn."
        )
    if values.gray:
        notes.append(
            "The label maps are RGB with three equal numbers, which are taken as class numbers."
        )
    if values.colours:
        chosen = _by_colour(tree, values, classes, void, notes)
    else:
        chosen = _by_number(tree, values, classes, void, _palette(tree, files[0]), notes)
    total = sum(values.counts.values())
    held = Counter()
    for value, count in values.counts.items():
        held[chosen.number.get(value, VOID)] += count
    if not total - held[VOID]:
        raise UserError(
            f"the label maps in {tree.root} hold no pixel of a class; is void={chosen.void} right?"
        )
    absent = [name for k, name in enumerate(chosen.names) if not held[k]]
    if absent:
        notes.append(f"Without a pixel in the label maps read: {some(map(repr, absent), 6)}.")
    return _answer(tree, rows, chosen, notes)


class Seen(NamedTuple):
    """A pair and the headers of its two files."""

    pair: Pair
    picture: Header
    label_map: Header


def _readable(tree: Tree, pairs: Sequence[Pair], notes: list[str]) -> list[Seen]:
    """Those of which both files can be read; says what cannot, has no other half or another size."""
    photo = headers(tree.path(pair.picture) for pair in pairs)
    maps = headers(tree.path(pair.label_map) for pair in pairs)
    bad = [h.error for h in (*photo, *maps) if h.error]
    if bad:
        notes.append(f"Left out, {counted(len(bad), 'file')} that cannot be read: {some(bad)}.")
    rows = map(Seen, pairs, photo, maps)
    kept = [row for row in rows if not (row.picture.error or row.label_map.error)]
    if not kept:
        raise UserError(
            f"no picture in {tree.root} can be read together with its label map: {some(bad)}"
        )
    used = {file for pair in pairs for file in pair}
    picture_folders, map_folders = (
        {os.path.dirname(f) for f in files} for files in zip(*pairs, strict=True)
    )
    alone = [(p, os.path.dirname(p)) for p in tree.pictures if p not in used]
    for kind, other, lost in (
        ("picture", "label map", [p for p, folder in alone if folder in picture_folders]),
        ("label map", "picture", [p for p, f in alone if f in map_folders - picture_folders]),
    ):
        if lost:
            notes.append(f"Left out, {counted(len(lost), kind)} without a {other}: {some(lost)}.")
    differ = [
        f"{row.pair.label_map} is {row.label_map.width}x{row.label_map.height}, {row.pair.picture} "
        f"{row.picture.width}x{row.picture.height}"
        for row in kept
        if (row.label_map.width, row.label_map.height) != (row.picture.width, row.picture.height)
    ]
    if differ:
        notes.append(
            f"{counted(len(differ), 'label map')} of another size than its picture, on which training "
            f"stops: {some(differ)}."
        )
    return kept


def _gapless(values: Iterable[int]) -> bool:
    """0, 1, 2, .. with few left out."""
    numbers = sorted(values)
    return bool(numbers) and numbers[0] == 0 and len(numbers) >= 0.7 * (numbers[-1] + 1)


def _palette(tree: Tree, file: str) -> list[Colour] | None:
    with Image.open(tree.path(file)) as image:
        flat = image.getpalette() if image.mode == "P" else None
    return flat and [tuple(flat[k : k + 3]) for k in range(0, len(flat), 3)]


def _by_number(
    tree: Tree,
    values: Values,
    classes: Sequence[str] | None,
    void: int | None,
    palette: list[Colour] | None,
    notes: list[str],
) -> Classes:
    """The classes of label maps that hold numbers."""
    numbers = sorted(values.counts)
    coloured = named_colours(classes) if classes else None
    names, colours = (list(coloured), list(coloured.values())) if coloured else (classes, None)
    if names is None:
        names, colours = _names_there(tree, notes)
    if void is None:
        void = _guessed_void(numbers, names, notes)
    elif void not in numbers:
        notes.append(f"No pixel of the label maps read has the void value {void}.")
    own = [value for value in numbers if value != void]
    if not own:
        raise UserError(f"all pixels of the label maps in {tree.root} have the void value {void}")
    if (
        names is not None
        and void is not None
        and len(names) > void
        and VOID_NAMES.fullmatch(names[void])
    ):
        colours = colours and [c for k, c in enumerate(colours) if k != void]
        names = [name for k, name in enumerate(names) if k != void]
    taken = _taken(tree, own, void, names, values, notes)
    if names is None:
        names = ["background", "foreground"] if taken == [0, 255] else [f"class_{v}" for v in taken]
        notes.append(
            f"Nothing names the classes, so they are {some(names)}: --classes, or a file classes.txt with a "
            "name a line, does."
        )
    elif taken == [0, 255] and len(names) == 1:
        names, colours = ["background", *names], None
    if colours is None and palette and max(taken) < len(palette):
        colours = [palette[value] for value in taken]
        if len(set(colours)) < len(colours):
            colours = None  # a palette that tells nothing apart
    number = {value: k for k, value in enumerate(taken)}
    if void is not None:
        number[void] = VOID
        if void != VOID:
            notes.append(f"The void value {void} is 255 in the label maps that are written.")
    moved = {v: k for v, k in number.items() if v != k and k != VOID}
    if moved:
        said = ", ".join(f"{v} is class {k}" for v, k in list(moved.items())[:6])
        notes.append(
            f"Values of the label maps are not 0, 1, 2, ..: {said}{', ..' * (len(moved) > 6)}."
        )
    return Classes(tuple(names), tuple(colours) if colours else None, number, void)


def _names_there(tree: Tree, notes: list[str]) -> tuple[list[str] | None, list[Colour] | None]:
    """Class names that a file of the folder says, with colours or without."""
    if table := table_of(tree):
        notes.append(f"The class names are those of {table[0]}, in its order.")
        return list(table[1]), list(table[1].values())
    if listed := class_file(tree):
        notes.append(f"The class names are those of {listed[0]}, in its order.")
        return [re.sub(r"^\d+\s*[:.,;\t ]\s*", "", name) for name in listed[1]], None
    return None, None


def _guessed_void(
    numbers: Sequence[int], names: Sequence[str] | None, notes: list[str]
) -> int | None:
    """The value of pixels without a class, where nobody says it; always with a sentence."""
    for value in (VOID, 65535):
        if value in numbers and len(numbers) > 2 and (names is None or value >= len(names)):
            notes.append(
                f"The value {value} was taken for void, pixels without a class; --void says another."
            )
            return value
    void = [k for k, name in enumerate(names or ()) if VOID_NAMES.fullmatch(name)]
    if void:
        notes.append(
            f"The value {void[0]}, {names[void[0]]!r}, was taken for void; --void says another."
        )
        return void[0]
    last = max(numbers)
    notes.append(
        f"No value was taken for void: if one of {numbers[0]} .. {last} stands for pixels without a class, "
        f"often the last or 0, say --void {last}."
    )
    return None


def _taken(
    tree: Tree,
    own: Sequence[int],
    void: int | None,
    names: Sequence[str] | None,
    values: Values,
    notes: list[str],
) -> list[int]:
    """The values of class 0, 1, 2, .. in the label maps."""
    if names is None:
        if own[0] == 0 and _gapless(own):
            return [value for value in range(own[-1] + 1) if value != void]
        if void is not None and _gapless([*own, void]) and 0 in (*own, void):
            return [value for value in range(own[-1] + 1) if value != void]
        if len(own) > 256:
            raise UserError(
                f"the label maps in {tree.root} hold {len(own)} different values, up to {own[-1]} "
                f"({values.where[own[-1]]}): these are no class numbers"
            )
        return list(own)
    counting = [value for value in range(len(names) + 1) if value != void][: len(names)]
    beyond = [value for value in own if value not in counting]
    if not beyond:
        return counting
    if len(own) == len(names) or (list(own) == [0, 255] and len(names) == 1):
        return list(own)
    example = beyond[0]
    raise UserError(
        f"{len(names)} class names for the values {counting[0]} .. {counting[-1]}, and "
        f"{tree.path(values.where[example])} holds {example}; the label maps hold {_runs(own)}. Give a name "
        "for each, or say which value is void (--void)"
    )


def _runs(values: Sequence[int]) -> str:
    """ "0 .. 11, 255"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    said = [str(a) if a == b else f"{a} .. {b}" for a, b in runs]
    return ", ".join(said[:8]) + ", .." * (len(said) > 8)


def _by_colour(
    tree: Tree, values: Values, classes: Sequence[str] | None, void: int | None, notes: list[str]
) -> Classes:
    """The classes of label maps that hold colours."""
    table = named_colours(classes) if classes else None
    if table is None:
        listed = table_of(tree)
        total = sum(values.counts.values())
        if listed is None:
            most = [
                f"#{colour:06x} ({100 * count / total:.1f} %)"
                for colour, count in values.counts.most_common(12)
            ]
            raise UserError(
                f"the label maps in {tree.root} hold {len(values.counts)} colours, {', '.join(most)}, and "
                f"nothing says which class each is. {HOW}"
            )
        table = dict(listed[1])
        notes.append(f"The classes are the colours of {listed[0]}.")
        if classes:
            unknown = [name for name in classes if name not in table]
            if unknown:
                raise UserError(
                    f"--classes names {', '.join(map(repr, unknown))}, which {listed[0]} does not: it has "
                    f"{', '.join(table)}"
                )
            table = {name: table[name] for name in classes}
    twice = [name for name, colour in table.items() if list(table.values()).count(colour) > 1]
    if twice:
        raise UserError(f"the classes {', '.join(twice)} have the same colour")
    if void is not None:
        notes.append(
            f"--void {void} has no meaning for label maps of colours: name the colour void."
        )
    empty = [name for name in table if VOID_NAMES.fullmatch(name)]
    if empty:
        notes.append(f"{', '.join(map(repr, empty))} was taken for void, pixels without a class.")
    names = [name for name in table if name not in empty]
    if not names:
        raise UserError("all colours of the table are void; name those of the classes")
    number = {_packed(table[name]): k for k, name in enumerate(names)}
    number |= {_packed(table[name]): VOID for name in empty}
    rest = {c: n for c, n in values.counts.items() if c not in number}
    if rest:
        share = sum(rest.values()) / sum(values.counts.values())
        most = sorted(rest, key=lambda colour: -rest[colour])
        said = some((f"#{c:06x} (such as in {values.where[c]})" for c in most), 3)
        if share > SHARE and not classes:
            raise UserError(
                f"{100 * share:.1f} % of the pixels have {counted(len(rest), 'colour')} without a name: {said}. "
                f"{HOW}"
            )
        notes.append(
            f"{100 * share:.2f} % of the pixels have {counted(len(rest), 'colour')} without a name and count as "
            f"void: {said}."
        )
    return Classes(tuple(names), tuple(table[name] for name in names), number, None, True)


def _packed(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


# ---- the answer ----------------------------------------------------------------------------------
def _answer(tree: Tree, rows: Sequence[Seen], chosen: Classes, notes: list[str]) -> Found:
    by_picture = {row.pair.picture: row.pair.label_map for row in rows}
    parts = divide(tree, list(by_picture), "Segmentation", notes)
    sizes = picture_sizes(
        (row.picture.width for row in rows), (row.picture.height for row in rows), ()
    )
    same = all(value == number for value, number in chosen.number.items())
    plain = same and not chosen.rest and all(row.label_map.mode in ("L", "P") for row in rows)
    splits, files, annotations, listings = {}, {}, {}, {}
    for split, pictures in parts.items():
        own = [Pair(picture, by_picture[picture]) for picture in pictures]
        lie = _as_they_lie(tree, own) if plain else None
        if lie:
            splits[split] = Split(split, lie[0], lie[1], len(own), suffixes=lie[2])
            continue
        folder = common_folder(picture for picture, _ in own)
        names = [os.path.relpath(picture, folder or ".").replace(os.sep, "/") for picture, _ in own]
        ends = {os.path.splitext(name)[1] for name in names}
        end = ends.pop() if len(ends) == 1 else ""  # else a name holds its own ending
        stems = [name[: len(name) - len(end)] for name in names]
        for name, pair in zip(stems, own, strict=True):
            files[f"labels/{split}/{name}.png"] = _writer(tree, pair.label_map, chosen, plain)
        listing = "".join(f"{name}\n" for name in stems).encode()
        files[f"{split}.txt"] = lambda listing=listing: listing
        annotations[split], listings[split] = f"labels/{split}", f"{split}.txt"
        splits[split] = Split(split, tree.path(folder), None, len(own), suffixes=(end, ".png"))
    plan = Plan(files, annotations, listings) if files else None
    return Found(
        tree.root, "semantic", "label maps", chosen.names, chosen.palette,
        chosen.void if plain else VOID if VOID in chosen.number.values() or chosen.rest else None,
        splits, sizes, tuple(notes), plan is None, plan,
    )  # fmt: skip


def _as_they_lie(tree: Tree, pairs: Sequence[Pair]):
    """The folders of the pictures and of the label maps and what their names end in, where these alone
    say which files belong together; None where they do not."""
    pictures, maps = (common_folder(files) for files in zip(*pairs, strict=True))
    if pictures == maps:
        return None
    left = [os.path.relpath(p.picture, pictures or ".") for p in pairs]
    right = [os.path.relpath(p.label_map, maps or ".") for p in pairs]
    ends = _endings(left[0], right[0])
    if not all(
        a.endswith(ends[0])
        and b.endswith(ends[1])
        and a[: len(a) - len(ends[0])] == b[: len(b) - len(ends[1])]
        for a, b in zip(left, right, strict=True)
    ):
        return None
    prefix = f"{pictures}/" if pictures else ""
    inside = [p for p in tree.pictures if p.startswith(prefix) and p.endswith(ends[0])]
    if len(inside) != len(pairs):  # others lie there too, without a label map or of another split
        return None
    return tree.path(pictures), tree.path(maps), ends


def _endings(picture: str, label_map: str) -> tuple[str, str]:
    """What two names have not in common, from a mark on: (".jpg", "_mask.png")."""
    same = next(
        (k for k, (a, b) in enumerate(zip(picture, label_map, strict=False)) if a != b),
        len(picture),
    )
    same = min(same, picture.rfind("."), label_map.rfind("."))
    marks = "_-. "
    if not (picture[same : same + 1] in marks and label_map[same : same + 1] in marks):
        same = max(picture.rfind(mark, 0, same) for mark in marks)
    return picture[max(same, 0) :], label_map[max(same, 0) :]


def _writer(tree: Tree, file: str, chosen: Classes, plain: bool) -> Callable[[], bytes]:
    def write() -> bytes:
        path = tree.path(file)
        if plain and file.lower().endswith(".png"):
            return path.read_bytes()
        values = values_in(path)
        if values.ndim == 3 and not chosen.rest:
            values = values[..., 0]  # three equal numbers
        values = _one_number(values)
        known, where = np.unique(values, return_inverse=True)
        unknown = [value for value in known.tolist() if value not in chosen.number]
        if unknown and not chosen.rest:
            raise UserError(f"{path} holds the value {unknown[0]}, which is no class and not void")
        new = np.array([chosen.number.get(value, VOID) for value in known.tolist()], np.uint8)
        stream = io.BytesIO()
        image = Image.fromarray(new[where].reshape(values.shape))
        if chosen.palette:
            flat = [v for colour in chosen.palette for v in colour]
            image.putpalette(flat + [0] * (768 - len(flat)))
        image.save(stream, "PNG")
        return stream.getvalue()

    return write
