"""Mutated files of every format: each is read or refused, and nothing runs, hangs or crashes.

    python tests/checkpoints/test_fuzz_checkpoints.py 0 100000      # mutations 0 to 99,999, in one process
    pytest -m slow tests/checkpoints/test_fuzz_checkpoints.py       # 40,000 of them, 2,000 to a process

A mutation is known by its number alone; `mutated(number)` makes it again.
"""

import codecs
import copy
import faulthandler
import io
import json
import pickle
import pickletools
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # of what tests share, when run as a script
from hostile import torch_zip
from safetensors.torch import save

from convnext_backbones import ConvNeXtV2
from convnext_backbones.checkpoints import CheckpointError, Unbuilt, read_checkpoint

SECONDS = 5  # of computing for one file
BYTES = 200 * 2**20  # that all files of a process together may add to its memory
NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
           2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
NAMES = (
    "posix system", "builtins eval", "builtins getattr", "builtins bytearray", "builtins set",
    "collections OrderedDict", "collections Counter", "argparse Namespace", "_codecs encode",
    "torch Size", "torch FloatStorage", "torch ByteStorage", "torch float64", "torch qint8", "torch int4",
    "torch Tensor",
    "torch.nn.parameter Parameter", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter",
    "torch.storage UntypedStorage", "torch.storage _load_from_bytes", "numpy dtype", "numpy ndarray",
    "numpy._core.multiarray _reconstruct", "numpy.core.multiarray scalar",
    "numpy._core.numeric _frombuffer", "pathlib PosixPath", "copyreg _reconstructor", "mmengine.logging.history_buffer HistoryBuffer",
)  # fmt: skip
TEXTS = (
    "",
    "0",
    "a",
    "cpu",
    "cuda:0",
    "latin1",
    "storage",
    "f4",
    "O8",
    "<",
    "_metadata",
    "__class__",
)


# The files that are mutated: name -> content, or for a folder its files.


def originals() -> dict[str, bytes | dict[str, bytes]]:
    torch.manual_seed(0)
    state = ConvNeXtV2({"depths": (1, 1), "dims": (2, 4)}).state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    names = sorted(state)
    shards = {f"model-{i}.safetensors": {n: state[n] for n in names[i::2]} for i in range(2)}
    places = {name: shard for shard, part in shards.items() for name in part}
    training = {"model": state, "epoch": 3, "args": Namespace(model="atto", lr=1e-3, size=(1, 2)),
                "log": np.arange(3.0), "best": np.float64(0.5), "order": OrderedDict(a=[1, {2}]),
                "half": torch.ones(3).half(), "parameter": torch.nn.Parameter(torch.ones(2)),
                "bytes": b"\xff"}  # fmt: skip
    float8 = {"float8": torch.ones(4).to(torch.float8_e4m3fn)}
    objects = {"hyper_parameters": {"path": PurePosixPath("a/b"), "sizes": defaultdict(list, {"a": [1]}),
                                    "queue": deque([1], 3), "id": UUID(int=7)}}  # fmt: skip

    def torch_file(content, zipped=True) -> bytes:
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        return file.getvalue()

    return {
        "torch": torch_file(state),
        "torch, training": torch_file(training | float8),
        "torch, objects": torch_file({"model": state, **objects}),
        "torch before 1.6": torch_file(training, zipped=False),
        "safetensors": save(state),
        **{
            f"pickle {protocol}": pickle.dumps({"model": arrays, "__author__": "a"}, protocol)
            for protocol in (0, 2, 4, 5)
        },
        **{
            f"pickle {protocol} of tensors": pickle.dumps({"model": state, **objects}, protocol)
            for protocol in (1, 2, 5)
        },
        "folder": {
            "model.safetensors.index.json": json.dumps({"weight_map": places}).encode(),
            **{shard: save(part) for shard, part in shards.items()},
        },
    }


# The mutations: (random, bytes, another file's bytes) -> bytes.


def flipped(rng, data, other):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def cut(rng, data, other):
    return data[: rng.randrange(len(data))]


def inserted(rng, data, other):
    place = rng.randrange(len(data))
    return data[:place] + rng.randbytes(rng.choice((1, 2, 8, 100))) + data[place:]


def removed(rng, data, other):
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.choice((1, 2, 8, 100)) :]


def spliced(rng, data, other):
    start, place = rng.randrange(len(other)), rng.randrange(len(data))
    piece = other[start : start + rng.choice((4, 30, 300, 3000))]
    return data[:place] + piece + data[place + rng.choice((0, len(piece))) :]


def with_a_number(rng, data, other):
    """As if a length or offset were another."""
    place, code = rng.randrange(len(data)), rng.choice("BHIQ")
    number = rng.choice(NUMBERS) & (2 ** (8 * struct.calcsize(code)) - 1)
    number = struct.pack(rng.choice("<>") + code, number)
    return data[:place] + number + data[place + len(number) :]


def with_another_zip_header(rng, data, other):
    """A field of a local header, a directory entry or one of the ends of the directory."""
    signatures = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")
    places = [i for i in range(len(data)) if data[i : i + 4] in signatures]
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.choice(places) + rng.randrange(4, 50)
        code = rng.choice("BHIQ")
        if place + struct.calcsize(code) <= len(data):
            new = rng.choice((*NUMBERS, rng.randrange(len(data)), rng.randrange(100)))
            struct.pack_into(f"<{code}", data, place, new & (2 ** (8 * struct.calcsize(code)) - 1))
    return data


def with_another_header(rng, data, other):
    """A safetensors file whose header is JSON still, and says something else."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for _ in range(rng.choice((1, 2, 4))):
        name = rng.choice(list(header))
        match rng.randrange(6):
            case 0:
                del header[name]
            case 1:
                header[rng.choice(list(header))] = copy.deepcopy(header[name])
            case 2:
                header[name] = rng.choice((None, 1, "a", [], {}, {"dtype": "F32"}))
            case _ if isinstance(header.get(name), dict):
                field = rng.choice(("dtype", "shape", "data_offsets"))
                header[name][field] = rng.choice((
                    "F64", "U8", "BOOL", "BF16", "F4", -1, None, [], [rng.choice(NUMBERS)],
                    [0, rng.choice(NUMBERS)], [rng.choice(NUMBERS)] * 2, [1] * 100, 1e300,
                ))  # fmt: skip
        if not header:
            break
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def with_another_index(rng, files):
    """A folder whose index is JSON still, and says something else."""
    index = json.loads(files["model.safetensors.index.json"])
    places = index["weight_map"]
    name = rng.choice(list(places))
    match rng.randrange(4):
        case 0:
            del places[name]
        case 1:
            places[rng.choice(("", "a", name + "."))] = places[name]
        case 2:
            places[name] = rng.choice(
                ("../a", "/dev/zero", "", ".", 1, None, [], "model.safetensors.index.json", *places)
            )
        case 3:
            index["weight_map"] = rng.choice(([], {}, None, places[name], {"a": {}}))
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}


def opcodes_of(data: bytes) -> list[bytes]:
    """The instructions of a pickle, to its end."""
    starts = [position for _, _, position in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], starts[-1] + 1], strict=True)]


def another_opcode(rng) -> bytes:
    number = rng.choice(NUMBERS)
    match rng.randrange(8):
        case 0:
            return b"c" + rng.choice(NAMES).replace(" ", "\n").encode() + b"\n"
        case 1:
            text = rng.choice(TEXTS).encode()
            return b"X" + struct.pack("<I", len(text)) + text
        case 2:
            return b"J" + struct.pack("<I", number & 0xFFFFFFFF)
        case 3:
            return b"\x8a\x09" + number.to_bytes(9, "little")
        case 4:
            return rng.choice((b"h", b"q")) + bytes([rng.randrange(256)])
        case 5:
            return rng.choice((b"j", b"r")) + struct.pack(
                "<I", rng.choice((number, 5)) & 0xFFFFFFFF
            )
        case 6:  # those without an argument
            return rng.choice([op.code for op in pickletools.opcodes if not op.arg]).encode(
                "latin-1"
            )
        case _:
            return rng.choice((b"R", b"b", b"\x81", b"Q", b"a", b"e", b"s", b"u", b"t", b"(", b")", b"}",
                               b"]", b"\x85", b"\x86", b"\x87", b"0", b"2", b"1", b"l", b"d"))  # fmt: skip


def with_other_opcodes(rng, data: bytes) -> bytes:
    """A pickle in which instructions are exchanged, doubled, left out or added."""
    steps = opcodes_of(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place, other = rng.randrange(len(steps)), rng.randrange(len(steps))
        match rng.randrange(7):
            case 0:
                del steps[place]
            case 1:
                steps.insert(place, steps[other])
            case 2:
                steps[place], steps[other] = steps[other], steps[place]
            case 3:
                steps.insert(place, another_opcode(rng))
            case 4:
                steps[place:place] = steps[other : other + rng.randrange(30)]
            case 5:  # one of a kind for another of its kind
                alike = [step for step in steps if step[:1] == steps[place][:1]]
                steps[place] = rng.choice(alike)
            case _:
                steps[place] = another_opcode(rng)
        steps = steps or [b"."]
    return b"".join(steps)


def with_other_pickle(rng, data: bytes) -> bytes:
    """A torch file or pickle with other opcodes, and all else in order."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
        tensors = {n.removeprefix("data/"): d for n, d in records.items() if n.startswith("data/")}
        if rng.random() < 0.1:
            name = rng.choice(list(tensors))
            tensors[name] = rng.randbytes(rng.choice((0, 1, 4, 1000)))
        file = io.BytesIO()
        torch_zip(file, with_other_opcodes(rng, records["data.pkl"]), tensors)
        return file.getvalue()
    pickles = [b"".join(opcodes_of(data))]
    if len(pickles[0]) < 20:  # torch's magic number
        for _ in range(4):
            pickles.append(b"".join(opcodes_of(data[sum(map(len, pickles)) :])))
    rest = data[sum(map(len, pickles)) :]
    place = rng.choice((3, 3, 3, 3, 4, 2)) if len(pickles) > 1 else 0
    pickles[place] = with_other_opcodes(rng, pickles[place])
    return b"".join(pickles) + rest


ORIGINALS = originals()
ANYWHERE = (flipped, cut, inserted, removed, spliced, with_a_number)


def mutated(number: int) -> tuple[str, bytes | dict[str, bytes]]:
    """What mutation `number` is, in words, and the file's content, or a folder's files."""
    rng = random.Random(number)
    name = rng.choice(list(ORIGINALS))
    content = ORIGINALS[name]
    other = rng.choice([o for o in ORIGINALS.values() if isinstance(o, bytes)])
    if name == "folder":
        if rng.random() < 0.4:
            return "folder, with_another_index", with_another_index(rng, content)
        part = rng.choice(list(content))
        change = rng.choice(ANYWHERE)
        files = {**content, part: bytes(change(rng, content[part], other))}
        return f"folder, {part}, {change.__name__}", files
    if rng.random() < 0.4:
        change = rng.choice(ANYWHERE)
    elif name == "safetensors":
        change = with_another_header
    elif name.startswith("torch") and "1.6" not in name and rng.random() < 0.3:
        change = with_another_zip_header
    else:
        return f"{name}, with_other_pickle", with_other_pickle(rng, content)
    return f"{name}, {change.__name__}", bytes(change(rng, content, other))


# Running them. A process of its own says what it does before it does it, so that its end is no
# riddle, and calls out whatever Python would audit as an execution.

EXECUTIONS = ("exec", "compile", "import", "marshal.", "pickle.", "os.", "subprocess.", "socket.",
              "shutil.", "ctypes.")  # fmt: skip


def check(content, depth: int = 0) -> None:
    """Whoever walks through the content meets tensors that can be copied, containers and data."""
    if isinstance(content, torch.Tensor):
        content.clone()
    elif isinstance(content, dict):
        for key, value in content.items():
            assert type(key) in (str, bytes, int, float, bool, type(None), Unbuilt), key
            check(value, depth + 1)
    elif isinstance(content, (list, tuple, set, frozenset)):
        for value in content:
            check(value, depth + 1)
    elif isinstance(content, (Namespace, SimpleNamespace)):
        check(vars(content), depth + 1)
    else:
        data = (str, bytes, bytearray, int, float, complex, type(None), np.generic, np.ndarray,
                Unbuilt)  # fmt: skip
        assert isinstance(content, (*data, torch.dtype, torch.device, np.dtype)), repr(content)
    assert depth < 200


def written(folder: Path, content: bytes | dict[str, bytes]) -> Path:
    """The file or folder with this content, in place of the one before."""
    path = folder / "weights.bin"
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    if isinstance(content, dict):
        path.mkdir()
        for name, data in content.items():
            (path / name).write_bytes(data)
    else:
        path.write_bytes(content)
    return path


def run(first: int, count: int) -> None:
    """Read mutations first .. first + count; print one JSON line before each, and one at the end."""
    folder, read, before, armed = Path(tempfile.mkdtemp()), 0, 0, False

    def tell(**line):
        print(json.dumps(line), flush=True)

    def audit(event, arguments):
        writes = event == "open" and not set(str(arguments[1] or "r")) <= set("rb")
        executes = event.startswith(EXECUTIONS) and event not in ("os.listdir", "os.scandir")
        if armed and (executes or writes):
            tell(number=number, problem=f"{event} {str(arguments)[:200]}")

    def out_of_time(*_):
        raise TimeoutError

    for codec in ("cp437", "latin-1", "ascii", "utf-8", "raw-unicode-escape"):
        codecs.lookup(codec)  # else these modules are imported when the first file needs them
    signal.signal(signal.SIGPROF, out_of_time)
    sys.addaudithook(audit)
    for number in range(first, first + count):
        what, content = mutated(number)
        tell(number=number, what=what)
        path = written(folder, content)
        if number == first + 20:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        faulthandler.dump_traceback_later(60, exit=True)  # where it waits, or Python has no say
        armed = True
        try:
            allowed = (np.ndarray, (getattr, "builtins.getattr")) if number % 3 == 0 else ()
            content = read_checkpoint(path, allowed=allowed)
            check(content)
            read += 1
        except CheckpointError as error:
            if isinstance(error.__cause__, (TimeoutError, MemoryError)):
                tell(number=number, problem=repr(error.__cause__))
            if not str(error).startswith(f"{path}") or "\n" in str(error):
                tell(number=number, problem=f"says {error}")
        except BaseException as error:
            tell(number=number, problem=repr(error)[:1000])
        armed = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    shutil.rmtree(folder)
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    tell(read=read, refused=count - read, bytes=taken)


def results(first: int, count: int) -> tuple[dict, list]:
    """Of a process that reads so many mutations: its last line, and its problems."""
    process = subprocess.run(
        [sys.executable, __file__, str(first), str(count)], capture_output=True, text=True,
        timeout=60 + count,
    )  # fmt: skip
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    problems = [line for line in lines if "problem" in line]
    if process.returncode:
        problems.append({**lines[-1], "exit": process.returncode, "said": process.stderr[-2000:]})
    return lines[-1], problems


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_file_without_a_mutation_is_read(tmp_path, name):
    content = read_checkpoint(written(tmp_path, ORIGINALS[name]))
    check(content)
    assert "stages.1.0.dwconv.weight" in content.get("model", content)


def test_a_mutated_file_is_read_or_refused():
    end, problems = results(0, 600)
    assert not problems
    assert end["read"] > 50
    assert end["refused"] > 300
    assert end["bytes"] < BYTES


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 41000, 2000))
def test_many_mutated_files_are_read_or_refused(first):
    end, problems = results(first, 2000)
    assert not problems
    assert end["bytes"] < BYTES


if __name__ == "__main__":
    started = time.monotonic()
    run(int(sys.argv[1]), int(sys.argv[2]))
    print(f"{time.monotonic() - started:.0f} seconds", file=sys.stderr)
