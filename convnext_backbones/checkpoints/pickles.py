"""What a pickle would build, found out without building it.

A pickle is a program: it may import anything and call it. Here one is followed opcode by opcode
(https://docs.python.org/3/library/pickletools.html), where nothing is imported and nothing called:
a global becomes its name, a call is checked and becomes plain data, and what is not in the tables of
pickle_names.py is refused. Memory and time stay in proportion to the file.
"""

import _compat_pickle
import codecs
import io
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Iterable, Set

from .file_kinds import MOST_NAMES
from .pickle_names import (
    CALLS,
    DTYPES,
    INSTANCES,
    PLAIN_DATA,
    STORAGES,
    VALUES,
    Array,
    ArrayType,
    Call,
    Name,
    RefusedError,
    Storage,
    TensorOf,
    Unbuilt,
    array_type_of_state,
    checked_keys,
    fill,
    is_harmless,
    object_refused,
    said,
    same_in_all_numpys,
    shown,
)

MOST_OPCODES = 1_000_000  # convnext_tiny with the state of AdamW takes 29,000
DEEPEST = 100  # containers in containers
MOST_VALUES = 10_000_000  # met by a walk that enters a shared container each time anew
MOST_SHARING = 8  # tensors, texts and arguments together may be so many times the file
TORCH_LEGACY = 0x1950A86A20F9469CFC6C  # the first value in a file of torch before 1.6


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
        unbuilt: name to the kind of its Unbuilt's content, dict, list or None for neither.
        spellings: name as it is written to name, of those.
        holds_files: whether a storage was found inside, as pickle.dump writes them.
    """

    most_opcodes, most_names, most_values = MOST_OPCODES, MOST_NAMES, MOST_VALUES

    def __init__(self, stream, size: int, allowed: Iterable[str] = ()):
        self.stream, self.size, self.allowed = stream, size, frozenset(allowed)
        self.budget = MOST_SHARING * size + 1024
        self.opcodes = 0
        self.storages: dict[str, Storage] = {}
        self.protocols: set[int] = set()
        self.unbuilt: dict[str, type | None] = {}
        self.spellings: dict[str, str] = {}
        self.holds_files = self.is_inside = False

    def load(self, *, content: bool = False):
        """The next pickle's value: plain data, and the classes of pickle_names.py for all else.

        Only in a file's content may objects stand beside the data, which become Unbuilts.
        """
        self.content = content
        self.metadata: list[dict] = []  # of OrderedDicts, and of dictionaries of other classes
        self.hooks: list[dict] = []  # of tensors
        value = self._follow()
        if type(value) is Unbuilt:
            raise RefusedError(object_refused(value.name))
        check_walk([value, self.metadata], DTYPES.keys() | self.allowed, self.most_values)
        if any(self.hooks):  # which may have been filled after the tensor's making
            raise RefusedError(
                "holds a tensor with hooks, and is refused; save only its state_dict"
            )
        del self.stack, self.marks, self.memo
        return value

    def follow_storage(self, data) -> Storage:
        """The storage in a torch file of before 1.6 that pickle.dump writes into a pickle."""
        if not isinstance(data, bytes):
            raise TypeError("a torch file is expected")
        if self.is_inside:
            raise RefusedError("holds a torch file in a torch file in a pickle, and is refused")
        self.spend(len(data))
        self.holds_files = True
        inner = Pickle(io.BytesIO(data), len(data))
        inner.opcodes, inner.is_inside = self.opcodes, True
        inner.most_opcodes = self.most_opcodes
        storage, place = inner._lone_storage()
        self.opcodes = inner.opcodes
        end = place + storage.numel * storage.dtype.itemsize
        return storage._replace(data=bytearray(data[place:end]))

    def _lone_storage(self) -> tuple[Storage, int]:
        """Of a torch file of before 1.6 that holds a storage and nothing else: it, and its place."""
        if self.load() != TORCH_LEGACY:
            raise RefusedError("holds tensor data that torch did not write")
        for _ in ("version", "system"):
            self.load()
        storage = self._follow()
        if type(storage) is not Storage:
            raise RefusedError(f"holds {said(storage)} where tensor data is expected")
        places = self.legacy_storages(self.stream)
        return storage, places[storage.key]

    def legacy_storages(self, file) -> dict[str, int]:
        """The end of a file of torch before 1.6, a list of keys and the storages' data: key to place.

        file: as the stream, which may be its first part only.
        """
        keys = self.load()
        if (
            type(keys) is not list
            or {type(key) for key in keys} - {str}
            or (sorted(keys) != sorted(self.storages))
        ):
            raise RefusedError("is damaged (its list of tensor data does not fit its tensors)")
        places, place = {}, self.stream.tell()
        for key in keys:
            storage = self.storages[key]
            file.seek(place)
            if file.read(8) != struct.pack("<q", storage.numel):
                raise RefusedError(
                    f"is damaged or cut short (tensor data {shown(key)} is not there)"
                )
            places[key] = place + 8
            place += 8 + storage.numel * storage.dtype.itemsize
        if place > self.size:
            raise RefusedError(
                f"is cut short: it has {self.size:,} of {place:,} bytes; fetch or copy it again"
            )
        return places

    def _follow(self):
        self.stack, self.marks, self.memo = [], [], {}
        read = self.stream.read
        while code := read(1):
            self.opcodes += 1
            if self.opcodes > self.most_opcodes:
                raise RefusedError(f"holds a pickle of more than {self.most_opcodes:,} steps, which no "
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
                    stack.append(self.call(stack.pop(), arguments))
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
                    items = checked_keys(self._marked())
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
                    self._push(self.call(self._name(*argument.split(" ", 1)), items))
                case "OBJ":
                    function, *items = self._marked()
                    self._push(self.call(function, tuple(items)))
                case "NEWOBJ_EX":
                    options, arguments, function = stack.pop(), stack.pop(), stack.pop()
                    if options and type(function) is not Unbuilt:
                        raise RefusedError(f"calls {said(function)} with options, which is refused")
                    stack.append(self.call(function, arguments))
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

    def _name(self, module, attribute) -> Name | Unbuilt:
        if type(module) is not str or type(attribute) is not str:
            raise RefusedError("is damaged (its pickle names something that is no text)")
        written = f"{module}.{attribute}"
        # Python 2's names, most of which torch.load translates
        module, attribute = _compat_pickle.NAME_MAPPING.get(
            (module, attribute), (_compat_pickle.IMPORT_MAPPING.get(module, module), attribute)
        )
        name = Name(f"{module}.{attribute}")
        known = same_in_all_numpys(name)
        if known in CALLS or name in self.allowed or known in VALUES:
            return name
        if not self.content or not is_harmless(module, attribute):
            raise RefusedError(object_refused(name))
        self.unbuilt.setdefault(str(name), None)
        self.spellings[written] = str(name)
        return Unbuilt(str(name))

    def call(self, function, arguments):
        """What stands for the result, where the call is one that data takes."""
        if type(function) is Unbuilt and type(arguments) is tuple:
            self.spend(len(arguments))
            return Unbuilt(function.name)
        if type(function) is not Name or type(arguments) is not tuple:
            raise RefusedError(f"calls {said(function)}, which could run code, and is refused")
        check = CALLS.get(same_in_all_numpys(function))
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
        elif type(target) is Unbuilt:
            if type(target.content) is dict and type(state) is dict:
                self.spend(len(state))
                self.metadata.append(state)
            elif target.content is not None:
                raise RefusedError(f"gives attributes to {said(target)}, which is refused")
        elif type(target) is ArrayType:
            target.dtype = array_type_of_state(target.dtype, state)
        elif type(target) is Array:
            _, shape, kind, fortran, data = state
            fill(self, target, data, kind, shape, "F" if fortran else "C")
        else:
            raise RefusedError(f"gives attributes to {said(target)}, which is refused")

    def _storage(self, reference) -> Storage:
        """The check of a persistent id, ("storage", type, key, location, numel) and perhaps None."""
        if type(reference) is tuple and len(reference) == 4 and reference[0] == "module":
            raise RefusedError(object_refused(said(reference[1])))
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
        if type(target) is Unbuilt:
            target = self._content(target, dict)
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedError(f"is damaged (its pickle sets items of {said(target)})")
        target.update(zip(checked_keys(items[::2]), items[1::2], strict=True))
        if len(target) > self.most_names:
            raise RefusedError(
                f"holds a dictionary of more than {self.most_names:,} names, which no checkpoint has"
            )

    def _extend(self, target, items: list) -> None:
        if type(target) is Unbuilt:
            target = self._content(target, list)
        if type(target) is not list:
            raise RefusedError(f"is damaged (its pickle appends to {said(target)})")
        target.extend(items)

    def _content(self, target: Unbuilt, kind: type) -> dict | list:
        """What an object holds that is filled as a dictionary or list is; one name has one kind."""
        if self.unbuilt.get(target.name) not in (None, kind):
            raise RefusedError(f"fills {said(target)} both as a list and as a dictionary")
        self.unbuilt[target.name] = kind
        if target.content is None:
            target.content = kind()
        return target.content


class PickledData(Pickle):
    """The pickle of a data set, which has as many names and steps as its file is long."""

    def __init__(self, stream, size: int):
        super().__init__(stream, size, allowed={INSTANCES})
        self.most_opcodes = self.most_names = size
        self.most_values = MOST_SHARING * size


def _below(value):
    """The values in a container, or None for anything else."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple)) and type(value) not in (Storage, TensorOf):
        return value
    if type(value) is Unbuilt:
        return () if value.content is None else _below(value.content)
    return (*value.arguments, value.state) if type(value) is Call else None


def check_walk(root, names: Set[str], most: int) -> None:
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
                    raise RefusedError(f"holds {said(value)} where data is expected")
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
            if count > most:
                raise RefusedError(f"unfolds to more than {most:,} values, and is refused")
            if counts:
                counts[-1] += count
