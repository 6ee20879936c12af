"""From a source to a dictionary of tensors; nothing in a file is executed.

What a file is shows in its content, not in its name. torch's files pass two locks: pickles.py
follows their pickle and checks every name, call and size in it, and torch.load reads them with
weights_only. Plain pickles pass the first and are never unpickled; safetensors files hold no code.
"""

import contextlib
import io
import json
import mmap
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import CheckpointError
from .pickles import KEY_TYPES, PLAIN_DATA, Array, Call, Pickle, RefusedError, shown
from .sources import locate

__all__ = ["CheckpointError", "read_checkpoint"]

LARGEST_FILE = 32 * 2**30  # bytes; ConvNeXt V2-H with its optimizer's state has 11 * 2**30
LARGEST_PICKLE = 4 * 2**30  # bytes of a plain pickle; V2-H has 2.6 * 2**30
LARGEST_HEADER = 16 * 2**20  # bytes of safetensors' JSON, a dozen times which its reader takes
LARGEST_INDEX = 64 * 2**20  # bytes of the JSON beside shards
MOST_RECORDS = 100_000  # in a zip archive
TORCH_LEGACY = 0x1950A86A20F9469CFC6C  # the first value in a file of torch before 1.6

# What a Hugging Face folder keeps its weights in, the preferred first.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)

# How other files begin, and what to do with them.
OTHER_FILES = (
    (b"<", "is a web page, not a checkpoint; the download link led to a page"),
    (b"{", "is JSON text, such as a server's message, not a checkpoint; fetch it again"),
    (
        b"version https://git-lfs.github.com/spec/",
        "is a git-LFS pointer, not the file itself; run `git lfs pull` in its repository, or "
        "download the file from its page",
    ),
    (b"\x1f\x8b", "is a gzip archive; unpack it and give the checkpoint in it"),
    (b"bzh", "is a bzip2 archive; unpack it and give the checkpoint in it"),
    (b"\xfd7zxz", "is an xz archive; unpack it and give the checkpoint in it"),
    (b"\x28\xb5\x2f\xfd", "is a zstd archive; unpack it and give the checkpoint in it"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it and give the checkpoint in it"),
    (b"\x93numpy", "is a single numpy array, not a dictionary of tensors"),
    (b"\x89hdf", "is an HDF5 file (Keras); convert it with the library that wrote it"),
)

_LOCK = threading.Lock()  # torch's list of allowed names belongs to the whole process


def read_checkpoint(source: str | Path, *, allowed: tuple = (), map_location="cpu") -> dict:
    """The content of a checkpoint: dictionaries and lists with tensors and plain data in them.

    Args:
        source: a file (torch's .pth / .pt / .bin, zip or from before 1.6; .safetensors; a plain
            pickle of numpy arrays), a Hugging Face folder, a URL, or a name of the catalogue.
        allowed: classes, or (callable, "module.name") pairs, that a torch file may name beside
            tensors, plain containers, numbers of numpy and argparse.Namespace: they are called with
            what the file holds. Numpy arrays come out as tensors unless np.ndarray is among them.
        map_location: as in torch.load.

    Raises:
        CheckpointError: it is missing, damaged, too large, no checkpoint, or wants to run code; the
            message names the file and the cause.
    """
    return _read_path(Path(locate(source).path), allowed, map_location)


def _read_path(path: Path, allowed: tuple, map_location) -> dict:
    with _naming(path):
        if path.is_dir():
            return _read_folder(path, allowed, map_location)
        if not path.is_file():
            raise RefusedError("is neither a file nor a folder")
        content = _content(path, allowed, map_location)
        if not isinstance(content, dict):
            raise RefusedError(f"holds a {type(content).__name__}, not a dictionary")
        return content


@contextlib.contextmanager
def _naming(path: Path):
    """Turn whatever a file makes its readers raise into a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # torch's advice to load without weights_only comes before its reason
        reason = str(error).rpartition("WeightsUnpickler error: ")[2]
        first = shown((reason.splitlines() or ["no message"])[0], 200)
        raise CheckpointError(
            f"{path}: is damaged or no checkpoint ({type(error).__name__}: {first})"
        ) from error


def _content(path: Path, allowed: tuple, map_location):
    size = path.stat().st_size
    if size == 0:
        raise RefusedError("the file is empty; fetch or copy it again")
    if size > LARGEST_FILE:
        raise RefusedError(
            f"has {size / 2**30:.0f} GiB, and the largest checkpoint read is "
            f"{LARGEST_FILE / 2**30:.0f} GiB"
        )
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _read_torch_zip(path, size, allowed, map_location)
    if start[5:9] == b"\0\0\0{":
        return _read_safetensors(path, map_location)
    text = start.lstrip().lower()
    for beginning, cause in OTHER_FILES:
        if text.startswith(beginning):
            raise RefusedError(cause)
    if start[257:262] == b"ustar":
        raise RefusedError("is a tar archive; unpack it and give the checkpoint in it")
    if path.suffix == ".safetensors" and start[:1] != b"\x80":
        return _read_safetensors(path, map_location)
    return _read_pickles(path, size, allowed, map_location)


# Hugging Face folders


def _read_folder(folder: Path, allowed: tuple, map_location) -> dict:
    for name in FOLDER_FILES:
        if (folder / name).exists():
            break
    else:
        there = sorted(p.name for p in folder.iterdir() if p.is_file())[:5]
        raise RefusedError(
            f"the folder holds none of {', '.join(FOLDER_FILES)}; "
            + (f"give the file itself (there are {', '.join(there)})" if there else "it is empty")
        )
    if not name.endswith(".index.json"):
        return _read_path(folder / name, allowed, map_location)
    with _naming(folder / name):
        places = _weight_map(folder / name)
        for shard in sorted(set(places.values())):
            if not (folder / shard).is_file():
                raise RefusedError(f"names {shard}, which is not in the folder; fetch it")
    state = {}
    for shard in sorted(set(places.values())):
        content = _read_path(folder / shard, allowed, map_location)
        with _naming(folder / shard):
            expected = {key for key, place in places.items() if place == shard}
            _refuse_keys("lacks", expected - set(content), "which the index puts there")
            _refuse_keys("holds", set(content) - expected, "which the index does not put there")
        state |= content
    return state


def _refuse_keys(verb: str, keys: set, problem: str) -> None:
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise RefusedError(
            f"{verb} {', '.join(map(shown, sorted(map(str, keys))[:3]))}{more}, {problem}"
        )


def _weight_map(index: Path) -> dict[str, str]:
    """An index file's table, parameter name -> file name in the same folder."""
    if index.stat().st_size > LARGEST_INDEX:
        raise RefusedError(f"is larger than {LARGEST_INDEX / 2**20:.0f} MiB, which no index is")
    try:
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"is no JSON ({error}); fetch it again") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise RefusedError("has no weight_map, so it is no index of shards")
    for name in places.values():
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise RefusedError(
                f"names the file {shown(str(name))!r}; only plain names of files in the same folder "
                "are read"
            )
    return places


# safetensors


def _read_safetensors(path: Path, map_location) -> dict:
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > LARGEST_HEADER:
        raise RefusedError(
            f"is damaged: it claims a header of {header:,} bytes, and {LARGEST_HEADER:,} is the most"
        )
    try:
        mapped = load_file(path)  # into memory, which a change of the file would change too
        return {name: value.to(_device(map_location), copy=True) for name, value in mapped.items()}
    except SafetensorError as error:
        cause = shown(str(error).removeprefix("Error while deserializing header: "), 200)
        raise RefusedError(
            f"is a damaged or truncated safetensors file ({cause}); fetch or copy it again"
        ) from error


def _device(map_location):
    """Where tensors go that no torch file says a place for."""
    return map_location if isinstance(map_location, (str, torch.device)) else "cpu"


# torch files and pickles


def _read_torch_zip(path: Path, size: int, allowed: tuple, map_location):
    records = _records(path, size)
    if "data.pkl" not in records:
        inside = shown(", ".join(records)) or "nothing"
        raise RefusedError(
            f"is a zip archive that torch.save did not write (it holds {inside}); unpack it and give "
            "the checkpoint in it"
        )
    offset, length = records["data.pkl"]
    with path.open("rb") as file:
        file.seek(offset)
        pickle = Pickle(io.BytesIO(file.read(length)), size, _names(allowed))
    pickle.load()
    for storage in pickle.storages.values():
        _, length = records.get(f"data/{storage.key}", (0, None))
        needed = storage.numel * storage.dtype.itemsize
        if length != needed:
            raise RefusedError(
                f"is damaged: tensor data {shown(storage.key)} needs {needed:,} bytes and "
                + ("is missing" if length is None else f"has {length:,}")
            )
    return _torch_load(path, pickle, allowed, map_location)


def _records(path: Path, size: int) -> dict[str, tuple[int, int]]:
    """A zip archive's records without their common folder: name -> (offset, length) in the file.

    Stricter than torch's reader and zipfile, so that the two cannot differ in what they see: the
    directory ends the file, and records are stored as they are, do not overlap, and have one name
    each.
    """
    with path.open("rb") as file:
        count = _check_directory(file, size)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        if any("/code/" in entry.filename for entry in entries):
            raise RefusedError(
                "is a TorchScript archive, which holds a program; load it with torch.jit.load where "
                "you trust it, and save its state_dict"
            )
        records, ends = {}, 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            name = entry.orig_filename
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise RefusedError(
                    f"is a zip archive that torch.save did not write ({shown(name)} is compressed in "
                    "it); unpack it and give the checkpoint in it"
                )
            file.seek(entry.header_offset)
            header = file.read(30)
            if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
                raise RefusedError(
                    f"is damaged (record {shown(name)} is not where its directory says)"
                )
            name_length, extra_length = struct.unpack("<2H", header[26:])
            start = entry.header_offset + 30 + name_length + extra_length
            if entry.header_offset < ends or start + entry.file_size > size:
                raise RefusedError(f"is damaged or hostile (record {shown(name)} overlaps another)")
            ends = start + entry.file_size
            records[name] = start, entry.file_size
    if len(entries) != count or len({name.lower() for name in records}) != count:
        raise RefusedError("is damaged or hostile (two records have the same name)")
    folder = entries[0].orig_filename.partition("/")[0] + "/" if entries else "/"
    return {
        name.removeprefix(folder) if name.startswith(folder) else f"../{name}": place
        for name, place in records.items()
    }


def _check_directory(file, size: int) -> int:
    """The number of records; refuses a zip archive whose directory is too long or not at its end."""
    tail = 22 + 20 + 56  # end of directory, and of a 64-bit directory its locator and end
    file.seek(max(0, size - tail))
    end = file.read().rjust(tail, b"\0")
    signature, *_, count, length, offset, comment = struct.unpack("<4s4H2LH", end[-22:])
    if signature != b"PK\x05\x06" or comment:
        raise RefusedError(
            "is damaged: it is cut short, or has bytes after its end; fetch it again"
        )
    place = size - 22
    if end[56:60] == b"PK\x06\x07":
        signature, *_, count, length, offset = struct.unpack("<4sQ2H2L4Q", end[:56])
        place -= 20 + 56
        if signature != b"PK\x06\x06" or struct.unpack("<Q", end[64:72])[0] != place:
            raise RefusedError("is damaged (its zip directory is not where it says)")
    if offset + length != place:
        raise RefusedError("is damaged (its zip directory is not where it says)")
    if count > MOST_RECORDS or length > 1000 * MOST_RECORDS:
        raise RefusedError(f"has {count:,} records, and {MOST_RECORDS:,} are read at most")
    return count


def _read_pickles(path: Path, size: int, allowed: tuple, map_location):
    """A file of torch before 1.6, which is a row of pickles and then the tensors; or one pickle."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), min(size, LARGEST_PICKLE), access=mmap.ACCESS_READ) as stream,
    ):
        pickle = Pickle(stream, size, _names(allowed))
        content = pickle.load()
        if content == TORCH_LEGACY:
            for _ in ("version", "system", "content"):
                pickle.load()
            _check_legacy_storages(file, stream.tell, pickle, size)
        elif size > LARGEST_PICKLE:
            raise RefusedError(f"is a pickle of more than {LARGEST_PICKLE / 2**30:.0f} GiB")
        else:
            device = _device(map_location)
            return _converted(content, lambda value: _of_plain_pickle(value, device))
    return _torch_load(path, pickle, allowed, map_location)


def _check_legacy_storages(file, tell, pickle: Pickle, size: int) -> None:
    keys = pickle.load()
    if (
        type(keys) is not list
        or {type(key) for key in keys} - {str}
        or (sorted(keys) != sorted(pickle.storages))
    ):
        raise RefusedError("is damaged (its list of tensor data does not fit its tensors)")
    place = tell()
    for key in keys:
        storage = pickle.storages[key]
        file.seek(place)
        if file.read(8) != struct.pack("<q", storage.numel):
            raise RefusedError(f"is damaged or cut short (tensor data {shown(key)} is not there)")
        place += 8 + storage.numel * storage.dtype.itemsize
    if place > size:
        raise RefusedError(
            f"is cut short: it has {size:,} of {place:,} bytes; fetch or copy it again"
        )


def _names(allowed: tuple) -> dict[str, object]:
    """`allowed` as name -> what torch.load shall take for it."""
    pairs = [
        a if isinstance(a, tuple) else (a, f"{a.__module__}.{a.__qualname__}") for a in allowed
    ]
    return {name: value for value, name in pairs}


def _torch_load(path: Path, pickle: Pickle, allowed: tuple, map_location):
    if pickle.protocols != {2}:
        other = max(pickle.protocols - {2}, default=0)
        raise RefusedError(
            f"was written with pickle protocol {other}, and torch's safe reader takes 2; save "
            "it again with torch.save and no pickle_protocol"
        )
    names = PLAIN_DATA | _names(allowed)
    with _LOCK:
        before = torch.serialization.get_safe_globals()
        ours = [pair for pair in ((value, name) for name, value in names.items())
                if pair not in before]  # fmt: skip
        with torch.serialization.safe_globals(ours):
            content = torch.load(path, map_location=map_location, weights_only=True)
    return content if np.ndarray in allowed else _converted(content, _array_to_tensor)


def _array_to_tensor(value):
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    return value


def _of_plain_pickle(value, device):
    """What a leaf of a followed pickle stands for."""
    if isinstance(value, Array):
        return value.tensor().to(device)
    if type(value) is Call and value.name in PLAIN_DATA:
        data = PLAIN_DATA[value.name]()
        vars(data).update(_converted(value.state or {}, lambda v: _of_plain_pickle(v, device)))
        return data
    if type(value) in (*KEY_TYPES, bytearray, complex, set, frozenset):
        return value
    raise RefusedError(
        f"holds a {type(value).__name__} in a plain pickle, which only torch.save can write; save it "
        "with torch.save"
    )


def _converted(value, leaf, known: dict | None = None):
    """The same with leaf(value) for what is in its containers; dictionaries and lists in place."""
    known = {} if known is None else known  # id -> the value, kept so that its id is not reused,
    if id(value) in known:  # and what became of it
        return known[id(value)][1]
    result = value
    if isinstance(value, dict):
        known[id(value)] = value, value
        for key in value:
            value[key] = _converted(value[key], leaf, known)
    elif type(value) is list:
        known[id(value)] = value, value
        value[:] = [_converted(item, leaf, known) for item in value]
    elif type(value) is tuple:
        result = tuple(_converted(item, leaf, known) for item in value)
    else:
        result = leaf(value)
    known[id(value)] = value, result
    return result
