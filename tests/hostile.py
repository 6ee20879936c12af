"""Pickles written opcode by opcode, and files around them, that no library would write.

`pickled(value)` writes protocol 2 with the opcodes of torch.save: texts, numbers, containers, and
the classes below for names and calls.
"""

import struct
import zipfile
from typing import Any, NamedTuple

TORCH_MAGIC = 0x1950A86A20F9469CFC6C


class Raw(NamedTuple):
    """Opcodes as they are."""

    opcodes: bytes


class Named(NamedTuple):
    """A global, "module.name"."""

    name: str


class Called(NamedTuple):
    """The call of a global with a tuple of arguments, by REDUCE or by NEWOBJ."""

    function: Any
    arguments: tuple = ()
    opcode: bytes = b"R"


class Built(NamedTuple):
    """An object with a state, by BUILD."""

    value: Any
    state: Any


class Outside(NamedTuple):
    """A persistent id, by which torch refers to tensor data."""

    reference: Any


def opcodes(value) -> bytes:
    """The opcodes that push a value."""
    match value:
        case Raw():
            return value.opcodes
        case Named():
            module, _, name = value.name.rpartition(".")
            return f"c{module}\n{name}\n".encode()
        case Called():
            return opcodes(value.function) + opcodes(value.arguments) + value.opcode
        case Built():
            return opcodes(value.value) + opcodes(value.state) + b"b"
        case Outside():
            return opcodes(value.reference) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case bytes():  # as Python 2's str
            return b"T" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            items = (opcodes(k) + opcodes(v) for k, v in value.items())
            return b"}(" + b"".join(items) + b"u"
    raise TypeError(f"cannot write {value!r}")


def pickled(value) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


def storage(kind="torch.FloatStorage", key="0", numel=1) -> Outside:
    return Outside(("storage", Named(kind), key, "cpu", numel))


def tensor(data=None, offset=0, size=(1,), stride=(1,), hooks=None) -> Called:
    hooks = Called(Named("collections.OrderedDict")) if hooks is None else hooks
    data = storage() if data is None else data
    arguments = (data, offset, size, stride, False, hooks)
    return Called(Named("torch._utils._rebuild_tensor_v2"), arguments)


def torch_zip(path, pickle: bytes, data: dict[str, bytes] | None = None, compression=0) -> None:
    """A file like torch.save's: data.pkl, and what storages have under their keys."""
    records = {"data.pkl": pickle, "version": b"3\n", "byteorder": b"little"}
    records |= {f"data/{key}": content for key, content in (data or {}).items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)


def torch_legacy(path, pickle: bytes, data: dict[str, bytes] | None = None, itemsize=4) -> None:
    """A file like torch.save's before 1.6: pickles in a row, and then the tensors' data."""
    data = data or {}
    head = [pickled(TORCH_MAGIC), pickled(1001), pickled({"little_endian": True})]
    tail = b"".join(struct.pack("<q", len(d) // itemsize) + d for d in data.values())
    path.write_bytes(b"".join(head) + pickle + pickled(list(data)) + tail)
