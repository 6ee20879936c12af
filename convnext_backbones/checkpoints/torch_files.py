"""torch's files and plain pickles to tensors, in two locks.

pickles.py follows the pickle in a file and checks every name, call and size in it; only then
torch.load reads the file, with weights_only. Plain pickles are never unpickled: what was found by
following them is put together here.
"""

import io
import logging
import mmap
import struct
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from .file_kinds import MOST_NAMES
from .pickle_names import (
    DTYPES,
    INSTANCES,
    KEY_TYPES,
    PLAIN_DATA,
    Array,
    ArrayType,
    Call,
    Name,
    RefusedError,
    TensorOf,
    Unbuilt,
    object_refused,
    shown,
)
from .pickles import TORCH_LEGACY, Pickle, PickledData

LARGEST_PICKLE = 4 * 2**30  # bytes of a plain pickle; V2-H has 2.6 * 2**30
MOST_RECORDS = MOST_NAMES + 1000  # in a zip archive: a tensor each, and a few
TEXTS = "SU"  # numpy's kinds of arrays that are no tensors

LOGGER = logging.getLogger("convnext_backbones")
_LOCK = threading.Lock()  # torch's list of allowed names belongs to the whole process


def read_torch_zip(path: Path, size: int, allowed: tuple, map_location):
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
    pickle.load(content=True)
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


def read_pickles(path: Path, size: int, allowed: tuple, map_location):
    """A file of torch before 1.6, which is a row of pickles and then the tensors; or one pickle."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), min(size, LARGEST_PICKLE), access=mmap.ACCESS_READ) as stream,
    ):
        pickle = Pickle(stream, size, _names(allowed))
        content = pickle.load(content=True)
        if content == TORCH_LEGACY:
            for part in ("version", "system", "content"):
                pickle.load(content=part == "content")
            pickle.legacy_storages(file)
        elif size > LARGEST_PICKLE:
            raise RefusedError(f"is a pickle of more than {LARGEST_PICKLE / 2**30:.0f} GiB")
        else:
            device = device_of(map_location)
            _tell_of_unbuilt(path, pickle)
            return _converted(content, lambda value: _of_plain_pickle(value, device))
    return _torch_load(path, pickle, allowed, map_location)


def pickled_data(content: bytes):
    """What the pickle of a data set holds; numpy's arrays stay arrays."""
    value = PickledData(io.BytesIO(content), len(content)).load()
    return _converted(value, lambda value: _of_plain_pickle(value, "cpu", arrays=True))


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
    if pickle.holds_files:
        raise RefusedError(object_refused("torch.storage._load_from_bytes"))
    _tell_of_unbuilt(path, pickle)
    names = {**PLAIN_DATA, **_stand_ins(pickle), **_names(allowed)}
    ours = [(value, name) for name, value in names.items()]
    with _LOCK:
        before = torch.serialization.get_safe_globals()
        others = [entry for entry in before if _name_of(entry) not in names]
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*others, *ours])
        try:
            content = torch.load(path, map_location=map_location, weights_only=True)
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
    arrays = np.ndarray in allowed
    return _converted(content, lambda value: _of_torch_file(value, arrays))


def _name_of(entry) -> str:
    """The name of an entry in torch's list of allowed names."""
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


def _stand_ins(pickle: Pickle) -> dict[str, type]:
    """For torch.load, what to make instead of the objects that are not built."""
    stand_ins = {name: _stand_in(name, kind) for name, kind in pickle.unbuilt.items()}
    stand_ins |= {written: stand_ins[name] for written, name in pickle.spellings.items()}
    # No pickle has this name: torch.load asks for the class of what it gives a state.
    return {**stand_ins, "an object that is not built": Unbuilt} if stand_ins else {}


def _stand_in(name: str, kind: type | None) -> type:
    """A class whose call gives an Unbuilt, or what the object holds that is a dictionary or list."""

    class StandIn:
        unbuilt = name

        def __new__(cls, *arguments):
            if kind is None:
                return Unbuilt(name)
            return OrderedDict() if kind is dict else []

    return StandIn


def _tell_of_unbuilt(path: Path, pickle: Pickle) -> None:
    if pickle.unbuilt:
        # the classes that an object's own pickle names beside it last: dict, list
        names = sorted(map(shown, pickle.unbuilt), key=lambda name: name.startswith("builtins."))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        LOGGER.warning(
            "%s: holds Python objects (%s%s), which were not built; a checkpoints.Unbuilt stands for "
            "each",
            path, ", ".join(names[:3]), more,
        )  # fmt: skip


def _of_torch_file(value, arrays: bool):
    """What a leaf that torch.load made becomes; `arrays`: whether numpy's are kept."""
    if isinstance(value, type) and hasattr(value, "unbuilt"):
        return Unbuilt(value.unbuilt)
    if isinstance(value, (set, frozenset)):
        return type(value)(_of_torch_file(item, arrays) for item in value)
    if isinstance(value, np.ndarray) and not arrays and value.dtype.kind not in TEXTS:
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    return value


def _of_plain_pickle(value, device, arrays: bool = False):
    """What a leaf of a followed pickle stands for; `arrays`: whether numpy's are kept."""
    if type(value) is Array:
        array = value.values()
        kept = arrays or array.dtype.kind in TEXTS
        return array if kept else torch.from_numpy(array).to(device)
    if type(value) is ArrayType:
        return value.dtype
    if type(value) is TensorOf and value.storage.data is not None:
        return value.tensor().to(device)
    if type(value) is Name and value in DTYPES:
        return DTYPES[value]
    if type(value) is Call and value.name in PLAIN_DATA:
        data = PLAIN_DATA[value.name]()
        vars(data).update(_converted(value.state or {}, lambda v: _of_plain_pickle(v, device)))
        return data
    if type(value) is Call and value.name == INSTANCES and isinstance(value.state, dict):
        fields = {name: v for name, v in value.state.items() if not str(name).startswith("_")}
        return _converted(fields, lambda v: _of_plain_pickle(v, device, arrays))
    if type(value) in (*KEY_TYPES, bytearray, complex, set, frozenset, Unbuilt):
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
        for key, item in list(value.items()):
            plain = leaf(key)
            if plain is not key:
                del value[key]
            value[plain] = _converted(item, leaf, known)
    elif type(value) is list:
        known[id(value)] = value, value
        value[:] = [_converted(item, leaf, known) for item in value]
    elif type(value) is tuple:
        result = tuple(_converted(item, leaf, known) for item in value)
    elif type(value) is Unbuilt and value.content is not None:
        result = _converted(value.content, leaf, known)
    else:
        result = leaf(value)
    known[id(value)] = value, result
    return result


def device_of(map_location):
    """Where tensors go that no torch file says a place for."""
    return map_location if isinstance(map_location, (str, torch.device)) else "cpu"
