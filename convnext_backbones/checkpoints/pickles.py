"""What a pickle would build, found out without building it.

A pickle is a program: it may import anything and call it. Here one is followed opcode by opcode
(https://docs.python.org/3/library/pickletools.html), where nothing is imported and nothing called:
a global becomes its name, a call is checked and becomes plain data, and what is not in the tables
below is refused. Memory and time stay in proportion to the file.
"""

import _compat_pickle
import codecs
import math
import pickletools
import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterable, Set
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

MOST_OPCODES = 1_000_000  # convnext_tiny with the state of AdamW takes 29,000
DEEPEST = 100  # containers in containers
MOST_VALUES = 10_000_000  # met by a walk that enters a shared container each time anew
MOST_DIMENSIONS = 16
MOST_SHARING = 8  # tensors, texts and arguments together may be so many times the file

HISTORY_BUFFER = "mmengine.logging.history_buffer.HistoryBuffer"


class RefusedError(Exception):
    """Why a file is refused; the message continues "<file>: "."""


class Name(str):
    """A global that a pickle names, e.g. "torch.FloatStorage"; nobody looks it up."""

    __slots__ = ()


class Call:
    """An object that a pickle wants made by calling a name that the caller allows; not made."""

    def __init__(self, name: Name, arguments: tuple):
        self.name, self.arguments, self.state = name, arguments, None


class Storage(NamedTuple):
    """A tensor's elements, kept outside the pickle under a key."""

    key: str
    dtype: torch.dtype
    numel: int


class TensorOf(NamedTuple):
    """A tensor that fits into its storage."""

    storage: Storage


class ArrayType:
    """A numpy dtype of plain numbers."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class Array:
    """A numpy array: its bytes, type and shape."""

    data, kind, shape, order = b"", ArrayType(np.dtype("f4")), (0,), "C"

    def tensor(self) -> torch.Tensor:
        values = np.frombuffer(self.data, self.kind.dtype).reshape(self.shape, order=self.order)
        return torch.from_numpy(values.astype(self.kind.dtype.newbyteorder("="), order="C"))


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
VALUES = {"numpy.ndarray", *STORAGES, *DTYPES}  # named as arguments, never called
KEY_TYPES = (str, bytes, int, float, bool, type(None))


def _method_name(owner, name: str) -> str:
    """Stands for getattr, by which a pickled HistoryBuffer names its statistics methods."""
    return name


# Names of plain data that torch.load does not allow by itself, and what it shall take for them. The
# arguments that a pickle calls them with have passed the checks below.
PLAIN_DATA = {
    "argparse.Namespace": Namespace,  # `args` of official training checkpoints
    "builtins.bytes": bytes,
    "builtins.frozenset": frozenset,
    HISTORY_BUFFER: SimpleNamespace,  # the message hub of MMEngine's checkpoints
    "builtins.getattr": _method_name,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{
        f"{core}.multiarray.{function.__name__}": function
        for core in ("numpy.core", "numpy._core")  # numpy 1, numpy 2
        for function in (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0])
    },
    # No pickle has these names: torch.load asks for the class of what it gives a state.
    **{f"numpy.dtypes.{kind}": type(np.dtype(kind)) for kind in sorted(ARRAY_TYPES)},
}


def _reader(opcode):
    """What reads an opcode's argument: pickletools' own, but Python 2's bytes as latin-1."""
    if opcode.name == "STRING":
        return _quoted_bytes
    return opcode.arg.reader if opcode.arg else None


def _quoted_bytes(stream) -> str:
    line = stream.readline().strip()
    if len(line) < 2 or line[:1] not in b"'\"" or line[-1:] != line[:1]:
        raise ValueError("a text without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


OPCODES = {
    opcode.code.encode("latin-1"): (opcode.name, _reader(opcode)) for opcode in pickletools.opcodes
}
CONSTANTS = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list,
    "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set,
}  # fmt: skip


class Pickle:
    """Follows the pickles of one stream, one after the other.

    Args:
        stream: has read(n), which never gives more than is there, and readline().
        size: of the file, in bytes; bounds what the pickle may ask for.
        allowed: names that the caller allows beside the tables of this module.

    Attributes:
        storages: key to Storage, of all persistent ids met.
        protocols: that the pickles say they are written in.
    """

    def __init__(self, stream, size: int, allowed: Iterable[str] = ()):
        self.stream, self.size, self.allowed = stream, size, frozenset(allowed)
        self.budget = MOST_SHARING * size + 1024
        self.opcodes = 0
        self.storages: dict[str, Storage] = {}
        self.protocols: set[int] = set()

    def load(self):
        """The next pickle's value: plain data, and this module's classes for all else."""
        self.stack, self.marks, self.memo = [], [], {}
        self.metadata: list[dict] = []  # of OrderedDicts
        self.hooks: list[dict] = []  # of tensors
        value = self._follow()
        check_walk([value, self.metadata], DTYPES.keys() | self.allowed)
        if any(self.hooks):  # which may have been filled after the tensor's making
            raise RefusedError(
                "holds a tensor with hooks, and is refused; save only its state_dict"
            )
        del self.stack, self.marks, self.memo
        return value

    def _follow(self):
        read = self.stream.read
        while code := read(1):
            self.opcodes += 1
            if self.opcodes > MOST_OPCODES:
                raise RefusedError(f"holds a pickle of more than {MOST_OPCODES:,} steps, which no "
                              "checkpoint needs")  # fmt: skip
            if code not in OPCODES:
                raise RefusedError(
                    "is damaged or no checkpoint (it is neither a torch file nor safetensors nor a "
                    "pickle)"
                    if self.opcodes == 1
                    else f"is damaged (no pickle has an instruction {code!r})"
                )
            name, reader = OPCODES[code]
            argument = reader(self.stream) if reader else None
            stack = self.stack
            match name:
                case "BINPUT" | "LONG_BINPUT" | "PUT" | "MEMOIZE":
                    index = len(self.memo) if name == "MEMOIZE" else argument
                    if not 0 <= index <= self.size:
                        raise RefusedError(
                            f"is damaged (its pickle remembers value number {shown(str(index))})"
                        )
                    self.memo[index] = stack[-1]
                case "BINGET" | "LONG_BINGET" | "GET":
                    stack.append(self.memo[argument])
                case "MARK":
                    self.marks.append(stack)
                    self.stack = []
                case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_LIST" | "EMPTY_DICT" \
                    | "EMPTY_TUPLE" | "EMPTY_SET":  # fmt: skip
                    stack.append(CONSTANTS[name]())
                case "TUPLE":
                    self._push(tuple(self._marked()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(name[-1])
                    self._check_depth(count)
                    stack[-count:] = [tuple(stack[-count:])]
                case "GLOBAL" | "STACK_GLOBAL":
                    module, attribute = (
                        argument.split(" ", 1) if argument else (stack.pop(-2), stack.pop())
                    )
                    stack.append(self._name(module, attribute))
                case "REDUCE" | "NEWOBJ":
                    arguments = stack.pop()
                    stack.append(self._call(stack.pop(), arguments))
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "BUILD":
                    state = stack.pop()
                    self._build(stack[-1], state)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    self._set_items(stack[-1], [key, value])
                case "SETITEMS":
                    items = self._marked()
                    self._set_items(self.stack[-1], items)
                case "APPEND":
                    value = stack.pop()
                    self._extend(stack[-1], [value])
                case "APPENDS":
                    items = self._marked()
                    self._extend(self.stack[-1], items)
                case "PROTO":
                    self.protocols.add(argument)
                case "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "LIST":
                    self._push(self._marked())
                case "DICT":
                    items = self._marked()
                    self._push({})
                    self._set_items(self.stack[-1], items)
                case "ADDITEMS" | "FROZENSET":
                    items = _keys(self._marked())
                    if name == "FROZENSET":
                        self._push(frozenset(items))
                    elif type(self.stack[-1]) is not set:
                        raise RefusedError(
                            "is damaged (its pickle adds to something that is no set)"
                        )
                    else:
                        self.stack[-1].update(items)
                case "POP":
                    stack.pop() if stack else self._marked()
                case "POP_MARK":
                    self._marked()
                case "DUP":
                    stack.append(stack[-1])
                case "INST":
                    items = tuple(self._marked())
                    self._push(self._call(self._name(*argument.split(" ", 1)), items))
                case "OBJ":
                    function, *items = self._marked()
                    self._push(self._call(function, tuple(items)))
                case "NEWOBJ_EX":
                    options, arguments, function = stack.pop(), stack.pop(), stack.pop()
                    if options:
                        raise RefusedError(
                            f"calls {_said(function)} with options, which is refused"
                        )
                    stack.append(self._call(function, arguments))
                case "EXT1" | "EXT2" | "EXT4":
                    raise RefusedError(
                        f"names a Python object by its number {argument}, which could run code, and "
                        "is refused; save only its state_dict"
                    )
                case "PERSID" | "NEXT_BUFFER" | "READONLY_BUFFER":
                    raise RefusedError("refers to data outside the file; save it with torch.save")
                case _:  # numbers and texts
                    stack.append(argument)
        raise RefusedError("is cut short: its pickle has no end; fetch or copy it again")

    def _push(self, value) -> None:
        self.stack.append(value)

    def _marked(self) -> list:
        """Take the values since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _check_depth(self, count: int) -> None:
        if len(self.stack) < count:
            raise RefusedError("is damaged (its pickle takes more values than it has)")

    def spend(self, amount: int) -> None:
        """Bounds what many calls on one remembered argument can add up to."""
        self.budget -= amount
        if self.budget < 0:
            raise RefusedError(
                f"asks for more than {MOST_SHARING} times its own size in memory, and is refused"
            )

    def _name(self, module, attribute) -> Name:
        if type(module) is not str or type(attribute) is not str:
            raise RefusedError("is damaged (its pickle names something that is no text)")
        # Python 2's names, as torch.load translates them
        module, attribute = _compat_pickle.NAME_MAPPING.get(
            (module, attribute), (_compat_pickle.IMPORT_MAPPING.get(module, module), attribute)
        )
        name = Name(f"{module}.{attribute}")
        known = _same_in_all_numpys(name)
        if known in CALLS or name in self.allowed or known in VALUES:
            return name
        raise RefusedError(
            f"holds a Python object ({shown(name)}) beside tensors, which could run code, and is "
            "refused; save only its state_dict"
        )

    def _call(self, function, arguments):
        if type(function) is not Name or type(arguments) is not tuple:
            raise RefusedError(f"calls {_said(function)}, which could run code, and is refused")
        check = CALLS.get(_same_in_all_numpys(function))
        if function in VALUES or (check is None and function not in self.allowed):
            raise RefusedError(f"calls {function}, which is no function, and is refused")
        try:
            return check(self, *arguments) if check else self._allowed_call(function, arguments)
        except (TypeError, ValueError, LookupError) as error:
            raise RefusedError(
                f"calls {function} with arguments that no checkpoint has, and is refused ({error})"
            ) from error

    def _allowed_call(self, function: Name, arguments: tuple) -> Call:
        self.spend(sum(len(a) if hasattr(a, "__len__") else 1 for a in arguments))
        return Call(function, arguments)

    def _build(self, target, state) -> None:
        """The check of BUILD, by which an object gets its attributes."""
        if type(target) is OrderedDict:
            if type(state) is not dict or set(state) != {"_metadata"}:
                raise RefusedError("gives a dictionary attributes that no state_dict has")
            metadata = state["_metadata"]
            if not isinstance(metadata, dict):
                raise RefusedError("has a _metadata that is no dictionary")
            self.spend(len(metadata))
            self.metadata.append(metadata)
        elif type(target) is Call:
            if type(state) is dict and type(target.state) in (dict, type(None)):
                self.spend(len(state) + len(target.state or ()))
                state = {**(target.state or {}), **state}  # as it is now; it may change later
            elif target.name in PLAIN_DATA:
                raise RefusedError(f"gives {target.name} a state that it cannot have")
            target.state = state
        elif type(target) is ArrayType:
            target.dtype = _array_type_of_state(target.dtype, state)
        elif type(target) is Array:
            _, shape, kind, fortran, data = state
            self.fill(target, data, kind, shape, "F" if fortran else "C")
        else:
            raise RefusedError(f"gives attributes to {_said(target)}, which is refused")

    def fill(self, array: Array, data, kind, shape, order) -> Array:
        if isinstance(data, str):
            data = data.encode("latin-1")  # written by Python 2
        shape = _integers(shape)
        if type(kind) is not ArrayType or not isinstance(data, (bytes, bytearray)):
            raise RefusedError("holds a numpy array of Python objects, and is refused")
        if order not in ("C", "F") or math.prod(shape) * kind.dtype.itemsize != len(data):
            raise RefusedError(f"holds a numpy array of shape {shape} with {len(data)} bytes")
        self.spend(len(data))
        array.data, array.kind, array.shape, array.order = data, kind, shape, order
        return array

    def _storage(self, reference) -> Storage:
        """The check of a persistent id, ("storage", type, key, location, numel) and perhaps None."""
        if type(reference) is not tuple or len(reference) not in (5, 6):
            raise RefusedError("is damaged (a reference to tensor data has the wrong form)")
        word, kind, key, location, numel, *view = reference
        if word != "storage" or type(kind) is not Name or kind not in STORAGES or any(view):
            raise RefusedError("is damaged (a reference to tensor data has the wrong form)")
        if type(key) is not str or not key.isascii():
            raise RefusedError("is damaged (a reference to tensor data has the wrong form)")
        if type(location) is not str or type(numel) is not int:
            raise RefusedError("is damaged (a reference to tensor data has the wrong form)")
        storage = Storage(key, STORAGES[kind], numel)
        if not 0 <= numel * storage.dtype.itemsize <= self.size:
            raise RefusedError(
                f"claims a tensor storage of {numel:,} elements, more than the file's {self.size:,} "
                "bytes hold; it is damaged or hostile"
            )
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedError(
                f"is damaged (it gives tensor storage {shown(key)} two sizes or types)"
            )
        return storage

    def _set_items(self, target, items: list) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedError(f"is damaged (its pickle sets items of {_said(target)})")
        target.update(zip(_keys(items[::2]), items[1::2], strict=True))

    def _extend(self, target, items: list) -> None:
        if type(target) is not list:
            raise RefusedError(f"is damaged (its pickle appends to {_said(target)})")
        target.extend(items)


# The checks of calls: (pickle, *arguments) -> what stands for the result.


def _ordered_dict(pickle: Pickle, items=()):
    pickle.spend(len(items))
    pairs = list(items.items() if isinstance(items, dict) else items)
    if any(type(pair) not in (list, tuple) for pair in pairs):
        raise RefusedError("makes a dictionary of something else than pairs")
    _keys([key for key, _ in pairs])
    return OrderedDict(pairs)


def _set(pickle: Pickle, items=()):
    if type(items) is not list:
        raise TypeError("a set is made of a list")
    pickle.spend(len(items))
    return set(_keys(items))


def _complex(pickle: Pickle, real, imaginary):
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("two numbers are expected")
    return complex(real, imaginary)


def _encode(pickle: Pickle, text, encoding):
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise TypeError("a text and latin1 are expected")
    pickle.spend(len(text))
    return text.encode("latin-1")


def _bytes(pickle: Pickle, *arguments):
    if arguments and (len(arguments) > 1 or not isinstance(arguments[0], bytes)):
        return _encode(pickle, *arguments)
    pickle.spend(sum(map(len, arguments)))
    return b"".join(arguments)


def _no_bytes(pickle: Pickle):
    return b""


def _size(pickle: Pickle, sizes):
    return _integers(sizes)


def _device(pickle: Pickle, kind, index=0):
    if type(kind) is not str or type(index) is not int:
        raise TypeError("a device's type and number are expected")
    return f"{kind}:{index}"


def _tensor(pickle: Pickle, storage, offset, size, stride, requires_grad=False, hooks=None,
            metadata=None, *, dtype=None):  # fmt: skip
    size, stride, (offset,) = _integers(size), _integers(stride), _integers((offset,))
    if type(storage) is not Storage or len(size) != len(stride):
        raise TypeError("no tensor has this form")
    if metadata:
        raise TypeError("a tensor that is conjugated or negated as a view")
    _check_hooks(pickle, requires_grad, hooks)
    itemsize = (dtype or storage.dtype).itemsize
    numel = math.prod(size)
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if numel else 0
    needed = max(offset + last, numel)
    if needed * itemsize > storage.numel * storage.dtype.itemsize:
        raise RefusedError(
            f"claims a tensor of shape {size}, stride {stride} and offset {offset} in a storage of "
            f"{storage.numel:,} elements; it is damaged or hostile, or was saved from an expanded "
            "tensor (save its .contiguous())"
        )
    pickle.spend(numel * itemsize)
    return TensorOf(storage)


def _tensor_v3(pickle: Pickle, storage, offset, size, stride, requires_grad, hooks, dtype,
               metadata=None):  # fmt: skip
    if type(dtype) is not Name or dtype not in TENSOR_TYPES:
        raise TypeError(f"a tensor of type {_said(dtype)}")
    return _tensor(
        pickle, storage, offset, size, stride, requires_grad, hooks, metadata, dtype=DTYPES[dtype]
    )


def _parameter(pickle: Pickle, data, requires_grad, hooks):
    if type(data) is not TensorOf:
        raise TypeError("a tensor is expected")
    _check_hooks(pickle, requires_grad, hooks)
    return data


def _check_hooks(pickle: Pickle, requires_grad, hooks) -> None:
    if type(requires_grad) is not bool or type(hooks) not in (OrderedDict, dict, type(None)):
        raise TypeError("a tensor with hooks")
    if hooks is not None:
        pickle.hooks.append(hooks)


def _array_type(pickle: Pickle, code, align=False, copy=False):
    if align or not copy:  # BUILD would change the type that the whole process shares
        raise TypeError("a type of its own is expected")
    if code not in ARRAY_TYPES:
        raise RefusedError(
            f"holds a numpy array or number of type {_said(code)}, which is no number, and is refused"
        )
    return ArrayType(np.dtype(code))


def _array_type_of_state(dtype: np.dtype, state) -> np.dtype:
    if type(state) is not tuple or len(state) != 8 or state[0] not in (3, 4):
        raise RefusedError("holds a numpy type with a state that is unknown, and is refused")
    if state[2:] != (None, None, None, -1, -1, 0) or state[1] not in ("<", ">", "|", "="):
        raise RefusedError("holds a numpy type that is no plain number, and is refused")
    return dtype.newbyteorder(state[1])


def _array(pickle: Pickle, kind, shape, code):
    if kind != "numpy.ndarray" or shape != (0,) or code not in (b"b", "b"):
        raise TypeError("an empty array is expected")
    return Array()


def _array_of_buffer(pickle: Pickle, data, kind, shape, order):
    return pickle.fill(Array(), data, kind, shape, order)


def _number(pickle: Pickle, kind, data):
    array = pickle.fill(Array(), data, kind, (), "C")
    return np.frombuffer(array.data, kind.dtype)[0].item()


def _statistics_method(pickle: Pickle, owner, name):
    if owner != HISTORY_BUFFER or type(name) is not str or not re.fullmatch("[a-z][a-z_]*", name):
        raise RefusedError(f"looks up {_said(name)} of {_said(owner)}, which could run code")
    return name


def _plain_object(name: str):
    def check(pickle: Pickle):
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
    "numpy.dtype": _array_type,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _number,
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "argparse.Namespace": _plain_object("argparse.Namespace"),
    HISTORY_BUFFER: _plain_object(HISTORY_BUFFER),
    "builtins.getattr": _statistics_method,
}


def _same_in_all_numpys(name: str) -> str:
    return re.sub(r"^numpy\._core\.", "numpy.core.", name)


def _keys(keys: list) -> list:
    """Refuse keys whose hash is slow, or chosen by the file."""
    for key in keys:
        if type(key) not in KEY_TYPES or (type(key) is int and abs(key) >= 2**64):
            raise RefusedError(
                f"has a dictionary or set with {_said(key)} for a key, where a text or number is "
                "expected, and is refused"
            )
    return keys


def _integers(values) -> tuple[int, ...]:
    """A tensor's size or stride."""
    if type(values) not in (tuple, list) or len(values) > MOST_DIMENSIONS:
        raise TypeError(f"up to {MOST_DIMENSIONS} whole numbers are expected")
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise TypeError("whole numbers from 0 on are expected")
    return tuple(values)


def shown(text: str, length: int = 80) -> str:
    """A text from a file as an error message shows it: short, and of printable characters."""
    return text[:length] if text[:length].isprintable() else ascii(text[:length])


def _said(value) -> str:
    """A value from a file as an error message shows it."""
    if type(value) is str:
        return repr(shown(value))
    return shown(str(value)) if type(value) in (Name, float, bool) else f"a {type(value).__name__}"


def _below(value):
    """The values in a container, or None for anything else."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple)) and type(value) not in (Storage, TensorOf):
        return value
    return (*value.arguments, value.state) if type(value) is Call else None


def check_walk(root, names: Set[str]) -> None:
    """Refuse containers that hold themselves, nest too deep, or multiply by being shared.

    Of the names that a pickle may call, only `names` may be left as values of their own.
    """
    values = {}  # id of a container -> values in and below it; None while the walk is in it
    path = [(root, iter(_below(root)))]
    counts = [0]
    values[id(root)] = None
    while path:
        container, rest = path[-1]
        for value in rest:
            inside = _below(value)
            if inside is None:
                if type(value) is Storage or (type(value) is Name and value not in names):
                    raise RefusedError(f"holds {_said(value)} where data is expected")
                counts[-1] += 1
            elif id(value) not in values:
                if len(path) > DEEPEST:
                    raise RefusedError(f"nests containers more than {DEEPEST} deep, and is refused")
                values[id(value)] = None
                path.append((value, iter(inside)))
                counts.append(1)
                break
            elif values[id(value)] is None:
                raise RefusedError("holds a container that contains itself, and is refused")
            else:
                counts[-1] += values[id(value)]
        else:
            path.pop()
            values[id(container)] = count = counts.pop()
            if count > MOST_VALUES:
                raise RefusedError(f"unfolds to more than {MOST_VALUES:,} values, and is refused")
            if counts:
                counts[-1] += count
