"""What a pickle may name and call, and what stands for it here: nothing is looked up, nothing made.

A name in CALLS is checked with its arguments and becomes plain data. A name that a harmless object
may have becomes an Unbuilt, and so does whatever it is called with. All others are refused.
"""

import builtins
import math
import re
from argparse import Namespace
from collections import OrderedDict
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

MOST_DIMENSIONS = 16
LONGEST_TEXT = 1000  # characters in an array of texts

HISTORY_BUFFER = "mmengine.logging.history_buffer.HistoryBuffer"


class RefusedError(Exception):
    """Why a file is refused; the message continues "<file>: "."""


class Name(str):
    """A global that a pickle names, e.g. "torch.FloatStorage"; nobody looks it up."""

    __slots__ = ()


# What MMDetection's DumpProposals writes of a picture; read as a dictionary of its fields.
INSTANCES = "mmengine.structures.instance_data.InstanceData"


class Call:
    """An object that a pickle wants made by calling a name that the caller allows; not made."""

    def __init__(self, name: Name, arguments: tuple):
        self.name, self.arguments, self.state = name, arguments, None


class Unbuilt:
    """An object of a file that is no plain data, e.g. of name "pathlib.PosixPath". It was not made.

    content: what a dictionary or list of a class of its own holds; None for all other objects.
    """

    def __init__(self, name: str):
        self.name = name
        self.content: dict | list | None = None

    def __repr__(self) -> str:
        return f"<{self.name}, not built>"

    def __setstate__(self, state) -> None:
        """Attributes are not taken from a file."""


class Storage(NamedTuple):
    """A tensor's elements: outside the pickle under a key, or its data where that was found inside."""

    key: str
    dtype: torch.dtype
    numel: int
    data: bytearray | None = None


class TensorOf(NamedTuple):
    """A tensor that fits into its storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> torch.Tensor:
        """Of a storage with data, whose memory it shares."""
        count = len(self.storage.data) // self.dtype.itemsize
        if count == 0:
            return torch.empty(self.size, dtype=self.dtype)
        values = torch.frombuffer(self.storage.data, dtype=self.dtype, count=count)
        return values.as_strided(self.size, self.stride, self.offset)


class ArrayType:
    """A numpy dtype of plain numbers."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class Array:
    """A numpy array: its bytes, type and shape."""

    data, kind, shape, order = b"", ArrayType(np.dtype("f4")), (0,), "C"

    def values(self) -> np.ndarray:
        values = np.frombuffer(self.data, self.kind.dtype).reshape(self.shape, order=self.order)
        return values.astype(self.kind.dtype.newbyteorder("="), order="C")


STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
        "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
        "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
        "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
    }.items()
}  # fmt: skip
STORAGES["torch.storage.UntypedStorage"] = torch.uint8
DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
TENSOR_TYPES = {  # without the quantized ones and those of a few bits, which few operators take
    name for name in DTYPES
    if re.fullmatch(r"torch\.(bool|u?int(8|16|32|64)|bfloat16|float(8_\w+|16|32|64)|complex(64|128))",
                    name)
}  # fmt: skip
ARRAY_TYPES = {f"{kind}{size}" for kind, sizes in
               {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}.items()
               for size in sizes}  # fmt: skip
VALUES = {"numpy.ndarray", "torch.Tensor", *STORAGES, *DTYPES}  # named as arguments, never called
KEY_TYPES = (str, bytes, int, float, bool, type(None))

# Where payloads find what they run. Nothing is looked up that is not in CALLS, whether its module
# stands here or not: the list tells a hostile file from one that holds a harmless object.
HOSTILE = {
    "_io", "_operator", "_pickle", "_posixsubprocess", "asyncio", "ctypes", "http", "importlib", "io",
    "marshal", "multiprocessing", "nt", "operator", "os", "pdb", "pickle", "pip", "posix", "pty",
    "runpy", "shutil", "socket", "subprocess", "sys", "tempfile", "timeit", "urllib", "webbrowser",
    "zipimport",
}  # fmt: skip
HARMLESS_BUILTINS = {
    "dict", "list", "tuple", "int", "float", "str", "bool", "object", "range", "slice", "Ellipsis",
    *(name for name, value in vars(builtins).items()
      if isinstance(value, type) and issubclass(value, BaseException)),
}  # fmt: skip
# What else of torch and numpy a pickle names makes tensors and arrays, and is in CALLS or refused.
HARMLESS_PARTS = ("torch.nn.modules.", "torch.nn.parallel.", "torch.optim.", "torch.amp.", "torch.cuda.amp.",
                  "torch.utils.data.", "torch.distributions.", "torch._C.Generator", "numpy.random.")  # fmt: skip


def is_harmless(module: str, attribute: str) -> bool:
    """Whether a name may be an object's beside the tensors, so that an Unbuilt can stand for it."""
    name = f"{module}.{attribute}"
    root = module.partition(".")[0]
    if root == "builtins":
        return attribute in HARMLESS_BUILTINS
    if root in ("torch", "numpy"):
        return name.startswith(HARMLESS_PARTS)
    return HOSTILE.isdisjoint((root, *attribute.split(".")[:-1]))


def _history_method(owner, name: str):
    """Stands for getattr, by which a pickled HistoryBuffer names its statistics methods.

    The method where the caller allows that class; else, and of any other class, the name.
    """
    if f"{owner.__module__}.{owner.__qualname__}" != HISTORY_BUFFER:
        return name
    if name.startswith("_"):
        raise UnpicklingError(f"GLOBAL getattr of {name!r} is not what MMEngine writes")
    return getattr(owner, name)


# Names of plain data that torch.load does not allow by itself, and what it shall take for them. The
# arguments that a pickle calls them with have passed the checks below.
PLAIN_DATA = {
    "argparse.Namespace": Namespace,  # `args` of official training checkpoints
    "builtins.bytes": bytes,
    "builtins.frozenset": frozenset,
    HISTORY_BUFFER: SimpleNamespace,  # the message hub of MMEngine's checkpoints
    "builtins.getattr": _history_method,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{
        f"{core}.multiarray.{function.__name__}": function
        for core in ("numpy.core", "numpy._core")  # numpy 1, numpy 2
        for function in (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0])
    },
    # No pickle has these names: torch.load asks for the class of what it gives a state.
    **{f"numpy.dtypes.{kind}": type(np.dtype(kind)) for kind in (*sorted(ARRAY_TYPES), "S", "U")},
}


# The checks of calls: (pickle, *arguments) -> what stands for the result.


def _ordered_dict(pickle, items=()):
    pickle.spend(len(items))
    pairs = list(items.items() if isinstance(items, dict) else items)
    if any(type(pair) not in (list, tuple) for pair in pairs):
        raise RefusedError("makes a dictionary of something else than pairs")
    checked_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


def _set(pickle, items=()):
    if type(items) is not list:
        raise TypeError("a set is made of a list")
    pickle.spend(len(items))
    return set(checked_keys(items))


def _complex(pickle, real, imaginary):
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("two numbers are expected")
    return complex(real, imaginary)


def _encode(pickle, text, encoding):
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise TypeError("a text and latin1 are expected")
    pickle.spend(len(text))
    return text.encode("latin-1")


def _bytes(pickle, *arguments):
    if arguments and (len(arguments) > 1 or not isinstance(arguments[0], bytes)):
        return _encode(pickle, *arguments)
    pickle.spend(sum(map(len, arguments)))
    return b"".join(arguments)


def _no_bytes(pickle):
    return b""


def _size(pickle, sizes):
    return whole_numbers(sizes)


def _device(pickle, kind, index=0):
    if type(kind) is not str or type(index) is not int:
        raise TypeError("a device's type and number are expected")
    return f"{kind}:{index}"


def _tensor(pickle, storage, offset, size, stride, requires_grad=False, hooks=None,
            metadata=None, *, dtype=None):  # fmt: skip
    size, stride, (offset,) = whole_numbers(size), whole_numbers(stride), whole_numbers((offset,))
    if type(storage) is not Storage or len(size) != len(stride):
        raise TypeError("no tensor has this form")
    if metadata:
        raise TypeError("a tensor that is conjugated or negated as a view")
    _check_hooks(pickle, requires_grad, hooks)
    dtype = dtype or storage.dtype
    numel = math.prod(size)
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if numel else 0
    needed = max(offset + last, numel)
    if needed * dtype.itemsize > storage.numel * storage.dtype.itemsize:
        raise RefusedError(
            f"claims a tensor of shape {size}, stride {stride} and offset {offset} in a storage of "
            f"{storage.numel:,} elements; it is damaged or hostile, or was saved from an expanded "
            "tensor (save its .contiguous())"
        )
    pickle.spend(numel * dtype.itemsize)
    return TensorOf(storage, dtype, offset, size, stride)


def _tensor_v3(pickle, storage, offset, size, stride, requires_grad, hooks, dtype,
               metadata=None):  # fmt: skip
    if type(dtype) is not Name or dtype not in TENSOR_TYPES:
        raise TypeError(f"a tensor of type {said(dtype)}")
    return _tensor(
        pickle, storage, offset, size, stride, requires_grad, hooks, metadata, dtype=DTYPES[dtype]
    )


def _marked_tensor(pickle, function, kind, arguments, state):
    """A tensor of FSDP's whole state dicts, on which it notes that it is a copy."""
    if type(function) is not Name or not re.fullmatch(
        r"torch\._utils\._rebuild_tensor_v[23]", function
    ):
        raise TypeError(f"a tensor made by {said(function)}")
    if type(kind) is not Name or kind != "torch.Tensor" or type(state) is not dict:
        raise TypeError(f"a tensor of type {said(kind)}")
    if list(state.items()) != [("_has_been_cloned", True)]:
        raise TypeError("a tensor with attributes")
    return pickle.call(function, arguments)


def _parameter(pickle, data, requires_grad, hooks):
    if type(data) is not TensorOf:
        raise TypeError("a tensor is expected")
    _check_hooks(pickle, requires_grad, hooks)
    return data


def _check_hooks(pickle, requires_grad, hooks) -> None:
    if type(requires_grad) is not bool or type(hooks) not in (OrderedDict, dict, type(None)):
        raise TypeError("a tensor with hooks")
    if hooks is not None:
        pickle.hooks.append(hooks)


def _array_type(pickle, code, align=False, copy=False):
    if align or not copy:  # BUILD would change the type that the whole process shares
        raise TypeError("a type of its own is expected")
    text = type(code) is str and re.fullmatch(r"[SU](\d{1,4})", code)
    if code not in ARRAY_TYPES and not (text and int(text[1]) <= LONGEST_TEXT):
        raise RefusedError(
            f"holds a numpy array or number of type {said(code)}, which is no number, and is refused"
        )
    return ArrayType(np.dtype(code))


def array_type_of_state(dtype: np.dtype, state) -> np.dtype:
    if type(state) is not tuple or len(state) != 8 or state[0] not in (3, 4):
        raise RefusedError("holds a numpy type with a state that is unknown, and is refused")
    if state[2:] != dtype.__reduce__()[2][2:] or state[1] not in ("<", ">", "|", "="):
        raise RefusedError("holds a numpy type that is no plain number, and is refused")
    return dtype.newbyteorder(state[1])


def _array(pickle, kind, shape, code):
    if kind != "numpy.ndarray" or shape != (0,) or code not in (b"b", "b"):
        raise TypeError("an empty array is expected")
    return Array()


def fill(pickle, array: Array, data, kind, shape, order) -> Array:
    """Give an array its content."""
    if isinstance(data, str):
        data = data.encode("latin-1")  # written by Python 2
    shape = whole_numbers(shape)
    if type(kind) is not ArrayType or not isinstance(data, (bytes, bytearray)):
        raise RefusedError("holds a numpy array of Python objects, and is refused")
    if order not in ("C", "F") or math.prod(shape) * kind.dtype.itemsize != len(data):
        raise RefusedError(f"holds a numpy array of shape {shape} with {len(data)} bytes")
    pickle.spend(len(data))
    array.data, array.kind, array.shape, array.order = data, kind, shape, order
    return array


def _array_of_buffer(pickle, data, kind, shape, order):
    return fill(pickle, Array(), data, kind, shape, order)


def _number(pickle, kind, data):
    array = fill(pickle, Array(), data, kind, (), "C")
    return np.frombuffer(array.data, kind.dtype)[0].item()


def _attribute(pickle, owner, name):
    if type(owner) is Unbuilt and type(name) is str:  # a member of an enumeration
        return name
    if owner != HISTORY_BUFFER or type(name) is not str or not re.fullmatch("[a-z][a-z_]*", name):
        raise RefusedError(f"looks up {said(name)} of {said(owner)}, which could run code")
    return name


def _storage_of_bytes(pickle, data):
    return pickle.follow_storage(data)


def _reconstructed(pickle, owner, base, state):
    """How protocols 0 and 1 make an object; state is what one holds that is a dictionary or list."""
    if type(owner) is not Unbuilt:
        return pickle.call(owner, ())
    made = Unbuilt(owner.name)
    made.content = state if type(state) in (dict, list) else None
    return made


def _plain_object(name: str):
    def check(pickle):
        return Call(Name(name), ())

    return check


CALLS = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _ordered_dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.complex": _complex,
    "builtins.bytes": _no_bytes,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encode,
    "torch.Size": _size,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _marked_tensor,
    "torch.storage._load_from_bytes": _storage_of_bytes,
    "numpy.dtype": _array_type,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _number,
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "copyreg._reconstructor": _reconstructed,
    "argparse.Namespace": _plain_object("argparse.Namespace"),
    HISTORY_BUFFER: _plain_object(HISTORY_BUFFER),
    "builtins.getattr": _attribute,
}


def same_in_all_numpys(name: str) -> str:
    return re.sub(r"^numpy\._core\.", "numpy.core.", name)


def checked_keys(keys: list) -> list:
    """Refuse keys whose hash is slow, or chosen by the file."""
    for key in keys:
        if type(key) is Unbuilt:
            continue
        if type(key) not in KEY_TYPES or (type(key) is int and abs(key) >= 2**64):
            raise RefusedError(
                f"has a dictionary or set with {said(key)} for a key, where a text or number is "
                "expected, and is refused"
            )
    return keys


def whole_numbers(values) -> tuple[int, ...]:
    """A tensor's size or stride."""
    if type(values) not in (tuple, list) or len(values) > MOST_DIMENSIONS:
        raise TypeError(f"up to {MOST_DIMENSIONS} whole numbers are expected")
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise TypeError("whole numbers from 0 on are expected")
    return tuple(values)


def shown(text: str, length: int = 80) -> str:
    """A text from a file as an error message shows it: short, and of printable characters."""
    return text[:length] if text[:length].isprintable() else ascii(text[:length])


def object_refused(name: str) -> str:
    return (
        f"holds a Python object ({shown(name)}) beside tensors, which could run code, and is "
        "refused; save only its state_dict"
    )


def said(value) -> str:
    """A value from a file as an error message shows it."""
    if type(value) is str:
        return repr(shown(value))
    if type(value) is Unbuilt:
        return shown(value.name)
    return shown(str(value)) if type(value) in (Name, float, bool) else f"a {type(value).__name__}"
