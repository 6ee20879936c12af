"""Reading checkpoints: every format, and nothing that a file wants to run or to cost."""

import argparse
import codecs
import contextlib
import copy
import copyreg
import datetime
import enum
import fractions
import functools
import gzip
import io
import json
import os
import pathlib
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import types
import uuid
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import (
    Built,
    Called,
    Named,
    Outside,
    Raw,
    opcodes,
    pickled,
    storage,
    tensor,
    torch_legacy,
    torch_zip,
)
from safetensors.torch import save, save_file

from convnext_backbones import ConvNeXtV2
from convnext_backbones.checkpoints import (
    CheckpointError,
    Unbuilt,
    read_checkpoint,
    reading,
    torch_files,
)
from convnext_backbones.checkpoints.pickle_names import CALLS, is_harmless
from convnext_backbones.checkpoints.pickles import Pickle

ROOT = Path(__file__).parents[2]
STATE = ConvNeXtV2({"depths": (1, 1), "dims": (4, 8)}).state_dict()


def equal(content: dict, state=STATE) -> bool:
    """Whether a file's content is the state, bit for bit and in its types."""
    same = [
        isinstance(content[n], torch.Tensor)
        and content[n].dtype == value.dtype
        and torch.equal(content[n], value)
        for n, value in state.items()
    ]
    return content.keys() == state.keys() and all(same)


def arrays(state=STATE) -> dict:
    return {name: value.numpy() for name, value in state.items()}


# The formats.


WRITERS = {
    "torch": lambda path: torch.save(STATE, path),
    "torch before 1.6": lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
    "pickle": lambda path: path.write_bytes(pickle.dumps(arrays())),
    "safetensors": lambda path: save_file(STATE, path),
}


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "ckpt", "pkl", "safetensors"])
@pytest.mark.parametrize("format", WRITERS)
def test_a_file_is_read_by_what_it_holds_not_by_its_name(tmp_path, format, suffix):
    path = tmp_path / f"weights.{suffix}"
    WRITERS[format](path)
    assert equal(read_checkpoint(path))


DATA = {
    "args": argparse.Namespace(model="convnext_tiny", drop_path=0.1, resume=None),
    "order": OrderedDict(a=1),
    "counter": Counter([1, 1]),
    "size": torch.Size([1, 2]),
    "dtype": torch.bfloat16,
    "device": torch.device("cuda", 1),
    "bytes": b"\x00\xff",
    "no bytes": b"",
    "set": {1, "a"},
    "frozen set": frozenset([2]),
    "complex": 1 + 2j,
    "numbers": [True, None, 2**80, -1, 1e-300, (1, [2])],
    "numpy": np.float64(1.5),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_a_training_checkpoint_keeps_its_data(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **DATA,
               "parameter": torch.nn.Parameter(torch.ones(2)), "half": torch.ones(2).half(),
               "shared": model[0].weight.data, "random": torch.get_rng_state()}  # fmt: skip
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / "a.pth")
    assert {name: read[name] for name in DATA} == DATA
    assert equal(read["model"], content["model"])
    assert read["model"]._metadata == content["model"]._metadata
    assert torch.equal(read["optimizer"]["state"][0]["exp_avg"],
                       content["optimizer"]["state"][0]["exp_avg"])  # fmt: skip
    assert read["shared"].data_ptr() == read["model"]["0.weight"].data_ptr()
    assert isinstance(read["parameter"], torch.nn.Parameter)
    assert read["half"].dtype == torch.float16


KINDS = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_of_arrays_becomes_tensors(tmp_path, protocol):
    values = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in KINDS}
    shared = np.ones(2)
    content = {"model": values, "transposed": values["f4"].T, "scalar": np.array(2.5),
               "empty": np.zeros((0, 3)), "big endian": np.arange(3, dtype=">f4"),
               "number": np.float32(1.5), "__author__": "Caffe2", "matching_heuristics": True,
               "list": [shared, shared], "order": OrderedDict(a=np.ones(1)), "bytes": b"\xff"}  # fmt: skip
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    read = read_checkpoint(path)
    assert read.keys() == content.keys()
    for kind, value in values.items():
        assert torch.equal(read["model"][kind], torch.from_numpy(value)), kind
    assert torch.equal(read["transposed"], torch.from_numpy(values["f4"]).T)
    assert torch.equal(read["big endian"], torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(read["scalar"], torch.tensor(2.5, dtype=torch.float64))
    assert read["empty"].shape == (0, 3)
    assert read["list"][0] is read["list"][1]
    rest = ("number", "__author__", "matching_heuristics", "bytes")
    assert {n: read[n] for n in rest} == {n: content[n] for n in rest}
    read["model"]["f4"].add_(1)  # its memory is its own


KINDS_OF_TENSORS = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
                    "float64", "complex64", "float8_e4m3fn", "uint16")  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_of_tensors_is_read(tmp_path, protocol):
    """As MaskFormer's converters write a state_dict for Detectron2."""
    values = {
        kind: torch.arange(6).reshape(2, 3).to(getattr(torch, kind)) for kind in KINDS_OF_TENSORS
    }
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"model": OrderedDict(STATE), "kinds": values, "__author__": "third_party",
               "matching_heuristics": True, "transposed": whole.T, "part": whole[1:, 2], "whole": whole,
               "parameter": torch.nn.Parameter(torch.ones(2)), "scalar": torch.tensor(2.5),
               "empty": torch.zeros(0, 3), "dtype": torch.bfloat16, "array": np.arange(3)}  # fmt: skip
    content["model"]._metadata = {"": {"version": 1}}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    read = read_checkpoint(path)
    assert read.keys() == content.keys()
    assert equal(read["model"])
    assert equal(read["kinds"], values)
    rest = ("transposed", "part", "whole", "parameter", "scalar", "empty")
    assert all(torch.equal(read[name], content[name]) for name in rest)
    assert read["dtype"] is torch.bfloat16
    assert torch.equal(read["array"], torch.arange(3))
    read["whole"].add_(1)  # its memory is its own


def test_a_plain_pickle_of_tensors_comes_to_the_device_that_is_asked_for(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(STATE))
    read = read_checkpoint(tmp_path / "a.pkl", map_location="meta")
    assert {value.device.type for value in read.values()} == {"meta"}


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"], ids=["numpy 1", "numpy 2"])
@pytest.mark.parametrize("text", ["binary", "quoted"], ids=["protocol 2", "protocol 0"])
def test_a_pickle_of_python_2_is_read(tmp_path, core, text):
    """As cPickle writes it: texts and array data are both str, and modules have their old names."""
    value = np.array([[1.5, -2.0], [3e38, 0.1]], "<f4")
    data = value.tobytes()
    written = Raw(b"S" + repr(data)[1:].encode() + b"\n") if text == "quoted" else data
    dtype = Built(Called(Named("numpy.dtype"), (b"f4", 0, 1)),
                  (3, b"<", None, None, None, -1, -1, 0))  # fmt: skip
    empty = Called(Named(f"{core}.multiarray._reconstruct"), (Named("numpy.ndarray"), (0,), b"b"))
    array = Built(empty, (1, value.shape, dtype, False, written))
    pairs = Called(Named("collections.OrderedDict"), ([[b"w", array]],))
    (tmp_path / "a.pkl").write_bytes(pickled({"blobs": pairs, "kind": Named("__builtin__.set")})
                                     .replace(b"c__builtin__\nset\n", opcodes(b"\xe4")))  # fmt: skip
    read = read_checkpoint(tmp_path / "a.pkl")
    assert equal(read["blobs"], {"w": torch.from_numpy(value)})
    assert read["kind"] == "\xe4"


def test_arrays_in_a_torch_file_become_tensors_unless_they_are_allowed(tmp_path):
    torch.save({"model": arrays(), "log": [np.arange(3)]}, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert equal(read["model"])
    assert torch.equal(read["log"][0], torch.arange(3))
    read = read_checkpoint(tmp_path / "a.pth", allowed=(np.ndarray,))
    assert isinstance(read["log"][0], np.ndarray)


def test_an_allowed_class_is_made_and_only_while_reading(tmp_path):
    torch.save({"model": STATE, "path": pathlib.PurePosixPath("a/b")}, tmp_path / "a.pth")
    before = set(torch.serialization.get_safe_globals())
    assert type(read_checkpoint(tmp_path / "a.pth")["path"]) is Unbuilt
    read = read_checkpoint(tmp_path / "a.pth", allowed=(pathlib.PurePosixPath,))
    assert read["path"] == pathlib.PurePosixPath("a/b")
    assert set(torch.serialization.get_safe_globals()) == before


EMPTY_ARRAY = Called(
    Named("numpy.core.multiarray._reconstruct"), (Named("numpy.ndarray"), (0,), "b")
)
PAIRS = opcodes([[i, 0] for i in range(1000)])


TEXTS = {"names": np.array([["cat", "d\xf6g"]]), "bytes": np.array([b"a", b"bcd"]), "transposed":
         np.array([["a", "bb"], ["c", "d"]]).T, "big endian": np.array(["cat"], ">U3"),
         "empty": np.array([], "U3"), "text": np.str_("cat")}  # fmt: skip


@pytest.mark.parametrize("protocol", [None, "before 1.6", *range(6)], ids=str)
def test_arrays_of_texts_beside_the_tensors_stay_arrays(tmp_path, protocol):
    path, content = tmp_path / "a.pth", {"model": STATE, **TEXTS, "dtype": np.dtype("f4")}
    if isinstance(protocol, int):
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=protocol is None)
    read = read_checkpoint(path)
    assert equal(read["model"])
    assert all(np.array_equal(read[name], value) for name, value in TEXTS.items())
    assert read["dtype"] == np.dtype("f4")


# Objects beside the tensors.


class Colour(enum.Enum):
    RED = 1


class Attributes(dict):
    __getattr__ = dict.get


class Sizes(list):
    pass


OBJECTS = {
    "path": pathlib.Path("runs") / "a",
    "paths": {pathlib.Path("a"), pathlib.Path("b")},
    "date": datetime.datetime(2026, 1, 2),
    "duration": datetime.timedelta(hours=1),
    "number": uuid.UUID(int=7),
    "colour": Colour.RED,
    "of colours": {Colour.RED: 1},
    "class": Colour,
    "builtin class": dict,
    "torch's class": torch.optim.AdamW,
    "loss": torch.nn.CrossEntropyLoss(weight=torch.ones(3)),
    "partial": functools.partial(torch.nn.LayerNorm, eps=1e-6),
    "random": np.random.RandomState(0),
    "fraction": fractions.Fraction(1, 3),
    "slice": slice(1, 2),
    "namespace of python": types.SimpleNamespace(a=1),
    "in a namespace": argparse.Namespace(path=pathlib.Path("a")),
    "exception": ValueError("a"),
    "scaler": torch.amp.GradScaler("cpu"),
    "data set": torch.utils.data.TensorDataset(torch.ones(2)),
    "schedule": torch.optim.lr_scheduler.StepLR(
        torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), 1
    ),
    "function": functools.reduce,
    "nested": [({"a": [pathlib.Path("a")]},)],
}
FILLED = {  # objects that are dictionaries and lists, whose content is data
    "attributes": (
        Attributes(a=1, b=[pathlib.Path("a")]),
        lambda v: v["a"] == 1 and is_unbuilt(v["b"][0]),
    ),
    "default": (defaultdict(list, {"a": [1]}), lambda v: v == {"a": [1]}),
    "queue": (deque([1, {"a": 2}], 9), lambda v: v == [1, {"a": 2}]),
    "list": (Sizes([1, 2]), lambda v: v == [1, 2]),
}


def is_unbuilt(value) -> bool:
    return type(value) is Unbuilt


SAVERS = {
    "torch": torch.save,
    "torch before 1.6": lambda c, path: torch.save(c, path, _use_new_zipfile_serialization=False),
    **{f"pickle {p}": lambda c, path, p=p: path.write_bytes(pickle.dumps(c, p)) for p in range(6)},
}


def holds_a_module(name, saver) -> bool:
    """Before 1.6, torch wrote the program of a module's class into the file."""
    return saver == "torch before 1.6" and name in ("loss", "partial", "module")


@pytest.mark.parametrize(
    ("name", "saver"),
    [(n, s) for n in OBJECTS | FILLED for s in SAVERS if not holds_a_module(n, s)],
)
def test_an_object_beside_the_tensors_is_not_built_and_the_tensors_are_read(
    tmp_path, name, saver, caplog
):
    """Hyperparameters, as a Lightning checkpoint has them."""
    value = OBJECTS[name] if name in OBJECTS else FILLED[name][0]
    path = tmp_path / "last.ckpt"
    SAVERS[saver](
        {"epoch": 3, "hyper_parameters": {"it": value, "lr": 0.1}, "state_dict": STATE}, path
    )
    with no_object_is_made():
        read = read_checkpoint(path)
    assert equal(read["state_dict"])
    assert (read["epoch"], read["hyper_parameters"]["lr"]) == (3, 0.1)
    found = read["hyper_parameters"]["it"]
    match name:
        case "paths":
            assert len(found) == 2
            assert all(map(is_unbuilt, found))
        case "of colours":
            assert is_unbuilt(*found)
        case "in a namespace":
            assert is_unbuilt(found.path)
        case "nested":
            assert is_unbuilt(found[0][0]["a"][0])
        case _ if name in FILLED:
            assert FILLED[name][1](found)
        case _:
            assert is_unbuilt(found)
            assert name != "path" or found.name == "pathlib.PosixPath"
    assert "which were not built" in caplog.text
    copy.deepcopy(read)


@contextlib.contextmanager
def no_object_is_made():
    """Whoever looks up a class of OBJECTS while this holds is seen."""
    for codec in ("latin-1", "raw_unicode_escape"):  # of pickled text; Python imports a codec once
        codecs.lookup(codec)
    looked_up = []

    def audit(event, arguments):
        if armed and event in ("pickle.find_class", "import", "exec", "compile"):
            looked_up.append((event, arguments))

    armed = True
    sys.addaudithook(audit)
    try:
        yield
    finally:
        armed = False
    assert not looked_up


def test_the_process_may_allow_a_class_and_it_is_not_built_still(tmp_path):
    """A class that some other library allows torch to call is not called for this reader."""
    torch.save({"model": STATE, "made": Made(str(tmp_path / "made"))}, tmp_path / "a.pth")
    (tmp_path / "made").rmdir()
    entries = [Made, (Made, "test_reading.Made")]
    for entry in entries:
        with torch.serialization.safe_globals([entry]):
            before = set(torch.serialization.get_safe_globals())
            assert is_unbuilt(read_checkpoint(tmp_path / "a.pth")["made"])
            assert set(torch.serialization.get_safe_globals()) == before
        assert not (tmp_path / "made").exists()


def test_torch_builds_nothing_by_itself_that_may_stand_beside_tensors():
    """torch.load takes its own names first."""
    own = torch._weights_only_unpickler._get_allowed_globals()
    assert not [n for n in own if n not in CALLS and is_harmless(*n.rsplit(".", 1))]


@pytest.mark.parametrize(
    "content",
    [
        Colour.RED,
        torch.nn.Linear(2, 2),
        Attributes(a=torch.ones(1)),
    ],
    ids=["object", "module", "dictionary of a class"],
)
@pytest.mark.parametrize("saver", SAVERS)
def test_an_object_for_the_whole_content_is_refused(tmp_path, content, saver):
    SAVERS[saver](content, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"holds a Python object \(.*could run code.*save only"
    ):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (Called(Named("torch._utils._rebuild_parameter"), (Named("my.Weight"), False, None)), "that no checkpoint has"),
        (Called(Named("torch._utils._rebuild_tensor_v2"), (Called(Named("my.Storage")), 0, (1,), (1,), False, {})),
         "that no checkpoint has"),
        (tensor(hooks=Called(Named("my.Hooks"))), "that no checkpoint has"),
        (Built(EMPTY_ARRAY, (1, (1,), Called(Named("my.Type")), False, "a")), "numpy array of Python objects"),
        (Raw(opcodes(Named("my.Both")) + b")\x81q\x05" + opcodes(1) + opcodes(2) + b"s" + opcodes(1) + b"a"),
         "fills my.Both both as a list and as a dictionary"),
        (Raw(opcodes(Named("my.Deep")) + b")\x81q\x05" + opcodes("a") + b"h\x05s"), "contains itself"),
        (Raw((opcodes(Named("my.Deep")) + b")\x81" + opcodes("a")) * 200 + b"N" + b"s" * 200), "more than 100 deep"),
        (Raw(opcodes((0,) * 1000) + b"q\x050" + (opcodes(Named("my.Class")) + b"h\x05R0") * 20_000 + b"N"),
         "asks for more than 8 times its own size"),
    ],
    ids=["parameter", "storage", "hooks", "array type", "list and dictionary", "in itself", "deep", "many arguments"],
)  # fmt: skip
@pytest.mark.parametrize("container", ["torch", "torch before 1.6", "pickle"])
def test_an_object_where_a_tensor_should_be_is_refused(tmp_path, value, cause, container):
    if container == "pickle":
        (tmp_path / "a.pth").write_bytes(pickled({"w": value}))
    else:
        {"torch": torch_zip, "torch before 1.6": torch_legacy}[container](
            tmp_path / "a.pth", pickled({"w": value}), {"0": bytes(4)}
        )
    with pytest.raises(CheckpointError, match=cause):
        read_checkpoint(tmp_path / "a.pth")


def test_names_that_the_process_allows_stay_allowed(tmp_path):
    torch.save({"args": argparse.Namespace(a=1)}, tmp_path / "a.pth")
    with torch.serialization.safe_globals([(argparse.Namespace, "argparse.Namespace")]):
        before = set(torch.serialization.get_safe_globals())
        assert read_checkpoint(tmp_path / "a.pth")["args"].a == 1
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("format", ["torch", "torch before 1.6", "pickle", "safetensors"])
def test_tensors_come_to_the_device_that_is_asked_for(tmp_path, format):
    path = tmp_path / "a.pth"
    WRITERS[format](path)
    read = read_checkpoint(path, map_location="meta")
    assert {value.device.type for value in read.values()} == {"meta"}


@pytest.mark.parametrize("format", ["torch", "torch before 1.6", "pickle", "safetensors"])
def test_tensors_stay_as_they_are_when_the_file_changes(tmp_path, format):
    path = tmp_path / "a.pth"
    WRITERS[format](path)
    read = read_checkpoint(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert equal(read)


def test_threads_may_read_at_the_same_time(tmp_path):
    """torch's list of allowed names belongs to the whole process."""
    torch.save({"path": pathlib.PurePosixPath("a")}, tmp_path / "a.pth")
    with ThreadPoolExecutor(4) as pool:
        reads = [
            pool.submit(read_checkpoint, tmp_path / "a.pth", allowed=(pathlib.PurePosixPath,))
            for _ in range(100)
        ]
    assert all(read.result()["path"] == pathlib.PurePosixPath("a") for read in reads)


# Hugging Face folders.


def folder_of_shards(folder, suffix="safetensors"):
    """Two shards with their index, as transformers writes them; returns the index's content."""
    folder.mkdir(exist_ok=True)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = sorted(STATE)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"{stem}-0000{number}-of-00002.{suffix}"
        content = {name: STATE[name] for name in part}
        (save_file if suffix == "safetensors" else torch.save)(content, folder / shard)
        places |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_put_together(tmp_path, suffix):
    folder_of_shards(tmp_path / "hub", suffix)
    assert equal(read_checkpoint(tmp_path / "hub"))


@pytest.mark.parametrize("name", [n for n in reading.FOLDER_FILES if not n.endswith(".json")])
def test_a_folder_with_one_file_is_read(tmp_path, name):
    (save_file if name.endswith("safetensors") else torch.save)(STATE, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert equal(read_checkpoint(tmp_path))


def test_safetensors_are_preferred(tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    save_file(STATE, tmp_path / "model.safetensors")
    assert equal(read_checkpoint(tmp_path))


def test_a_snapshot_of_the_hub_cache_is_read_through_its_links(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1f2e"
    folder_of_shards(blobs)
    snapshot.mkdir(parents=True)
    for number, blob in enumerate(list(blobs.iterdir())):
        hidden = blob.rename(blobs / f"{number:064x}")
        (snapshot / blob.name).symlink_to(f"../../blobs/{hidden.name}")
    assert equal(read_checkpoint(snapshot))


@pytest.mark.parametrize(
    "name", ["../other.bin", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0", 7, None]
)
def test_a_shard_elsewhere_is_refused(tmp_path, name):
    index = folder_of_shards(tmp_path / "hub")
    torch.save(STATE, tmp_path / "other.bin")
    index["weight_map"][next(iter(STATE))] = name
    (tmp_path / "hub" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json: names the file .*plain names"):
        read_checkpoint(tmp_path / "hub")


def spoil_index(folder, change) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


FIRST, SECOND = sorted(STATE)[:2]


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(),
         r"index\.json: names model-00002-of-00002\.safetensors, which is not in the folder"),
        (lambda f: spoil_index(f, lambda i: i["weight_map"].update(absent=i["weight_map"][FIRST])),
         r"00001-of-00002\.safetensors: lacks absent, which the index puts there"),
        (lambda f: spoil_index(f, lambda i: i["weight_map"].pop(FIRST)),
         rf"00001-of-00002\.safetensors: holds {FIRST}, which the index does not put there"),
        (lambda f: spoil_index(f, lambda i: i["weight_map"].update({FIRST: i["weight_map"][SECOND]})),
         rf"00001-of-00002\.safetensors: holds {FIRST}, which the index does not put there"),
        (lambda f: spoil_index(f, lambda i: i.pop("weight_map")), "has no weight_map"),
        (lambda f: spoil_index(f, lambda i: i.update(weight_map=[1])), "has no weight_map"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), r"index\.json: is no JSON"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[" * 10**5), "is no JSON"),
        (lambda f: (f / "model.safetensors.index.json").write_bytes(b"\xff"), "is no JSON"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "has no weight_map"),
        (lambda f: os.truncate(f / "model.safetensors.index.json", 2**27), "larger than 64 MiB"),
        (lambda f: (f / "model-00002-of-00002.safetensors").write_bytes(b"<html>"),
         r"00002-of-00002\.safetensors: is a web page"),
        (lambda f: shutil.rmtree(f) or f.mkdir(), "the folder holds none of .* it is empty"),
        (lambda f: [p.unlink() for p in f.glob("*.json")],
         r"give the file itself \(there are model-00001-of-00002\.safetensors"),
    ],
    ids=["missing shard", "missing key", "extra key", "key elsewhere", "no map", "list map",
         "no json", "deep json", "no text", "list", "large", "html shard", "empty", "no index"],
)  # fmt: skip
def test_a_broken_folder_is_named_with_its_cause(tmp_path, spoil, cause):
    folder = tmp_path / "hub"
    folder_of_shards(folder)
    spoil(folder)
    with pytest.raises(CheckpointError, match=cause):
        read_checkpoint(folder)


# Payloads. Each one makes a folder when it is unpickled, which pickle itself shows first.


class Reduced:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


class Made:
    def __new__(cls, target):
        os.mkdir(target)
        return super().__new__(cls)


class Restored:
    def __setstate__(self, target):
        os.mkdir(target)


EXTENSION = 0xEE
PAYLOADS = {
    **{f"protocol {p}": lambda t, p=p: pickle.dumps({"a": Reduced(t)}, p) for p in range(6)},
    "GLOBAL": lambda t: b"cposix\nmkdir\n(V%b\ntR." % t.encode(),
    "STACK_GLOBAL": lambda t: b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93(V%b\ntR." % t.encode(),
    "STACK_GLOBAL, dotted": lambda t: (
        b"\x80\x04\x8c\x07pathlib\x8c\x08os.mkdir\x93(V%b\ntR." % t.encode()
    ),
    "INST": lambda t: b"(V%b\niposix\nmkdir\n." % t.encode(),
    "OBJ": lambda t: b"(cposix\nmkdir\nV%b\no." % t.encode(),
    "NEWOBJ": lambda t: b"\x80\x02ctest_reading\nMade\n(V%b\nt\x81." % t.encode(),
    "NEWOBJ_EX": lambda t: b"\x80\x04ctest_reading\nMade\n(V%b\nt}\x92." % t.encode(),
    "BUILD": lambda t: b"\x80\x02ctest_reading\nRestored\n)\x81V%b\nb." % t.encode(),
    "EXT1": lambda t: b"\x80\x02\x82\xee(V%b\ntR." % t.encode(),
    "EXT2": lambda t: b"\x80\x02\x83\xee\x00(V%b\ntR." % t.encode(),
    "EXT4": lambda t: b"\x80\x02\x84\xee\x00\x00\x00(V%b\ntR." % t.encode(),
    "Python 2's name": lambda t: b"c__builtin__\neval\n(V__import__('os').mkdir('%b')\ntR." % t.encode(),
    "getattr": lambda t: (
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVmkdir\ntR(V%b\ntR." % t.encode()
    ),
    "getattr of an allowed class": lambda t: (
        # Namespace.__init__.__globals__["_os"].mkdir
        b"cbuiltins\ngetattr\n(cargparse\nNamespace\nV__init__\ntRq\x00"
        b"0cbuiltins\ngetattr\n(h\x00V__globals__\ntRq\x01"
        b"0cbuiltins\ngetattr\n(h\x01Vget\ntR(V_os\ntRq\x02"
        b"0cbuiltins\ngetattr\n(h\x02Vmkdir\ntR(V%b\ntR." % t.encode()
    ),
    "after the first value": lambda t: pickle.dumps({"a": [1, {"b": (2, Reduced(t))}]}, 2),
    "taken off the stack": lambda t: b"\x80\x02cposix\nmkdir\n(V%b\ntR0}." % t.encode(),
}  # fmt: skip


def in_legacy(path, position, data):
    """A file of torch before 1.6 with a payload in place of one of its pickles."""
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    stream = io.BytesIO(whole)
    ends = [0]
    for _ in range(5):
        Pickle(stream, len(whole)).load()
        ends.append(stream.tell())
    path.write_bytes(whole[: ends[position]] + data + whole[ends[position + 1] :])


def in_bin_of_a_folder(path, data):
    path.mkdir()
    torch_zip(path / "pytorch_model.bin", data)


CONTAINERS = {
    "torch": torch_zip,
    "torch before 1.6": torch_legacy,
    "its magic number": lambda path, data: in_legacy(path, 0, data),
    "its system": lambda path, data: in_legacy(path, 2, data),
    "its list of data": lambda path, data: in_legacy(path, 4, data),
    "pickle": lambda path, data: path.write_bytes(data),
    "hub folder": in_bin_of_a_folder,
}


@pytest.fixture(autouse=True, scope="module")
def extension():
    """A number that pickles may name os.makedirs by."""
    copyreg.add_extension("os", "makedirs", EXTENSION)
    yield
    copyreg.remove_extension("os", "makedirs", EXTENSION)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_one(tmp_path, payload):
    pickle.loads(PAYLOADS[payload](str(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_refused_and_does_not_run(tmp_path, payload, container):
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    CONTAINERS[container](path, PAYLOADS[payload](str(target)))
    for allowed in ((), (np.ndarray, (getattr, "builtins.getattr"))):
        with pytest.raises(CheckpointError, match=r"evil\.pth.*: .*could run code"):
            read_checkpoint(path, allowed=allowed)
    assert not target.exists()


def make_folder(target):
    os.mkdir(target)
    return target


# The same from a module that no list knows: taken for objects beside the tensors, and not made.
INSIDE = {
    "REDUCE": lambda t: b"ctest_reading\nmake_folder\n(V%b\ntR" % t.encode(),
    "REDUCE of a class": lambda t: b"ctest_reading\nMade\n(V%b\ntR" % t.encode(),
    "NEWOBJ": lambda t: b"ctest_reading\nMade\n(V%b\nt\x81" % t.encode(),
    "NEWOBJ_EX": lambda t: b"ctest_reading\nMade\n(V%b\nt}\x92" % t.encode(),
    "BUILD": lambda t: b"ctest_reading\nRestored\n)\x81V%b\nb" % t.encode(),
    "INST": lambda t: b"(V%b\nitest_reading\nmake_folder\n" % t.encode(),
    "OBJ": lambda t: b"(ctest_reading\nmake_folder\nV%b\no" % t.encode(),
    "partial": lambda t: b"cfunctools\npartial\n(ctest_reading\nmake_folder\nV%b\ntR)R" % t.encode(),
}  # fmt: skip


@pytest.mark.parametrize("payload", INSIDE)
def test_an_object_of_any_module_does_not_run(tmp_path, payload):
    target = tmp_path / "executed"
    value = {"w": tensor(), "hyper_parameters": {"it": Raw(INSIDE[payload](str(target)))}}
    pickle.loads(pickled(value["hyper_parameters"]))  # it is one
    assert target.exists()
    target.rmdir()
    writers = {"torch": torch_zip, "before 1.6": torch_legacy,
               "pickle": lambda path, data, _: path.write_bytes(data)}  # fmt: skip
    for name, write in writers.items():
        content = value if name != "pickle" else {"hyper_parameters": value["hyper_parameters"]}
        for allowed in ((), (np.ndarray, (getattr, "builtins.getattr"))):
            write(tmp_path / "a.pth", pickled(content), FLOATS)
            with contextlib.suppress(CheckpointError):  # torch's reader knows few instructions
                read = read_checkpoint(tmp_path / "a.pth", allowed=allowed)
                assert is_unbuilt(read["hyper_parameters"]["it"])
            assert not target.exists()


@pytest.mark.parametrize("payload", ["protocol 2", "GLOBAL", "NEWOBJ", "BUILD", "Python 2's name"])
def test_torchs_own_lock_holds_too(tmp_path, payload, monkeypatch):
    """torch.load by itself, past the inspection, where the environment asks it not to check."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    target = tmp_path / "executed"
    torch_zip(tmp_path / "evil.pth", PAYLOADS[payload](str(target)))
    passed = Pickle(io.BytesIO(pickled({})), 100)
    passed.load()
    with pytest.raises(pickle.UnpicklingError):
        torch_files._torch_load(tmp_path / "evil.pth", passed, (), "cpu")
    assert not target.exists()


def test_the_message_names_the_object_and_what_to_do(tmp_path):
    torch.save({"model": STATE, "extra": Reduced("a")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "evil.pth")
    assert str(error.value) == (
        f"{tmp_path}/evil.pth: holds a Python object (posix.mkdir) beside tensors, which could run "
        "code, and is refused; save only its state_dict"
    )


@pytest.mark.parametrize("payload", ["protocol 2", "getattr", "NEWOBJ", "BUILD"])
def test_resuming_with_mmengine_does_not_run_a_payload(tmp_path, payload):
    checkpoints = pytest.importorskip("convnext_backbones.adapters.openmmlab.checkpoints")
    from mmengine.runner import CheckpointLoader

    from convnext_backbones.adapters.openmmlab.patches import SAFE_READING

    SAFE_READING.apply()
    target, path = tmp_path / "executed", tmp_path / "iter_4.pth"
    torch_zip(path, PAYLOADS[payload](str(target)))
    for read in (checkpoints.read_training_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(CheckpointError, match=r"iter_4\.pth: .*could run code"):
            read(str(path))
    assert not target.exists()


def test_a_log_of_mmengine_is_data_without_mmengine_and_itself_with_it(tmp_path):
    """The history buffers of a training checkpoint hold arrays and name their own methods."""
    checkpoints = pytest.importorskip("convnext_backbones.adapters.openmmlab.checkpoints")
    from mmengine.logging import HistoryBuffer

    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save({"state_dict": STATE, "log": {"loss": buffer}}, tmp_path / "iter_4.pth")
    read = read_checkpoint(tmp_path / "iter_4.pth")
    assert equal(read["state_dict"])
    assert not isinstance(read["log"]["loss"], HistoryBuffer)
    read = checkpoints.read_training_checkpoint(tmp_path / "iter_4.pth")
    assert read["log"]["loss"].statistics("mean") == 1.5


# Files that are refused. All are read by one process, with a clock and a look at its memory; see
# `verdicts` below.

FLOATS = {"0": bytes(4)}
NUMPY_TYPE = Called(Named("numpy.dtype"), ("f4", False, True))
TYPE_STATE = (3, "<", None, None, None, -1, -1, 0)
HISTORY = Named("mmengine.logging.history_buffer.HistoryBuffer")
NAMESPACE = Called(Named("argparse.Namespace"), (), b"\x81")
ENCODE = opcodes(Named("_codecs.encode"))
SHARED_TUPLE = b")" + b"q\x00h\x00\x86" * 60  # ((), ()), then that twice, and so on


def called(name, *arguments) -> dict:
    return {"w": Called(Named(name), arguments)}


def marked(kind, *, function="torch._utils._rebuild_tensor_v2", state=None) -> dict:
    """A tensor as FSDP's state dicts have them."""
    arguments = (storage(), 0, (1,), (1,), False, Called(Named("collections.OrderedDict")))
    state = {"_has_been_cloned": True} if state is None else state
    rebuilt = "torch._tensor._rebuild_from_type_v2"
    return called(rebuilt, Named(function), Named(kind), arguments, state)


# name -> (value or its opcodes, what the message says)
PICKLES = {
    "a storage of 2**40 elements": ({"w": tensor(storage(numel=2**40), size=(2**40,))},
                                    "claims a tensor storage of 1,099,511,627,776 elements"),
    "a storage of less than nothing": ({"w": tensor(storage(numel=-1))}, "claims a tensor storage"),
    "a storage of 10**5000 elements": ({"w": Outside(("storage", Named("torch.FloatStorage"), "0",
                                        "cpu", Raw(b"\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000)))},
                                       "damaged"),
    "a storage with two sizes": ({"v": tensor(storage(numel=1)), "w": tensor(storage(numel=2))},
                                 "two sizes"),
    "a storage with two types": ({"v": tensor(), "w": tensor(storage("torch.IntStorage"))},
                                 "two sizes or types"),
    "a storage that is none": ({"w": tensor(7)}, "arguments that no checkpoint has"),
    "a storage of a module": ({"w": Outside(("module", Named("torch.FloatStorage"), "a", "b", 1))},
                              "wrong form"),
    "a storage under a foreign name": ({"w": tensor(storage(key="\xe9"))}, "wrong form"),
    "a reference that is none": ({"w": Outside("0")}, "wrong form"),
    "a tensor larger than its storage": ({"w": tensor(size=(2,))}, "claims a tensor of shape"),
    "a tensor expanded by stride 0": ({"w": tensor(size=(10**12,), stride=(0,))},
                                      r"claims a tensor .* \.contiguous\(\)"),
    "a tensor past its storage": ({"w": tensor(offset=1)}, "claims a tensor"),
    "a tensor before its storage": ({"w": tensor(offset=-1)}, "arguments that no checkpoint has"),
    "no tensor past its storage": ({"w": tensor(offset=2**40, size=(0,))}, "claims a tensor"),
    "a tensor with a negative stride": ({"w": tensor(stride=(-1,))}, "arguments that no checkpoint"),
    "a tensor with a long stride": ({"w": tensor(size=(2,), stride=(2**62,))}, "claims a tensor"),
    "a tensor of 2**126 elements": ({"w": tensor(size=(2**63 - 1,) * 2, stride=(0, 0))}, "claims"),
    "a tensor of 17 dimensions": ({"w": tensor(size=(1,) * 17, stride=(1,) * 17)}, "arguments that"),
    "a tensor of unequal dimensions": ({"w": tensor(size=(1, 1))}, "arguments that no checkpoint"),
    "a tensor of half an element": ({"w": tensor(size=(0.5,))}, "arguments that no checkpoint has"),
    "a quantized tensor": ({"w": Called(Named("torch._utils._rebuild_tensor_v3"), (
        storage(), 0, (1,), (1,), False, {}, Named("torch.qint8")))}, r"a tensor of type torch\.qint8"),
    "a tensor with hooks": ({"w": tensor(hooks={"a": 1})}, "holds a tensor with hooks"),
    "a tensor with a list for hooks": ({"w": tensor(hooks=[1])}, "arguments that no checkpoint has"),
    "a tensor with hooks that come later": ({"w": tensor(hooks=Raw(b"}q\x00")), "x": Raw(
        b"h\x00" + opcodes(1) + opcodes(2) + b"s")}, "holds a tensor with hooks"),
    "a tensor with a type for metadata": ({"w": Called(Named("torch._utils._rebuild_tensor_v2"), (
        storage(), 0, (1,), (1,), False, None, None, Named("torch.int8")))}, "arguments that no"),
    "a parameter that is none": (called("torch._utils._rebuild_parameter", 1, True, {}), "arguments"),
    "a tensor made by its size": (called("torch.FloatTensor", 2**40), r"\(torch\.FloatTensor\)"),
    "a storage made by its size": (called("torch.FloatStorage", 2**40), "which is no function"),
    "a tensor without data": (called("torch._utils._rebuild_meta_tensor_no_storage",
                                     Named("torch.float32"), (1,), (1,), False), "could run code"),
    "a marked tensor that is none": (marked("torch.Tensor", function="torch.Size"), "arguments that no"),
    "a marked tensor of another type": (marked("torch.float32"), r"a tensor of type torch\.float32"),
    "a marked tensor of a type that is looked up": (marked("os.Tensor"), "could run code"),
    "a tensor with attributes": (marked("torch.Tensor", state={"data": 1}), "a tensor with attributes"),
    "a tensor with more attributes": (
        marked("torch.Tensor", state={"_has_been_cloned": True, "grad": 1}), "a tensor with attributes"),
    "a tensor with slots": (marked("torch.Tensor", state=({}, {"data": 1})), "arguments that no"),
    "a tensor that is the type": ({"w": Named("torch.Tensor")}, "torch.Tensor"),
    "a tensor with a state": ({"w": Built(tensor(), {"data": 1})}, "gives attributes to"),
    "a type that is called": (called("torch.float32"), "which is no function"),
    "bytes by their number": (called("builtins.bytes", 2**40), "arguments that no checkpoint has"),
    "a bytearray by its number": (called("builtins.bytearray", 2**40), "arguments that no"),
    "bytes in another code": (called("_codecs.encode", "a", "rot13"), "arguments that no checkpoint"),
    "a text encoded 20,000 times": (
        Raw(b"(" + opcodes("x" * 10**6) + b"q\x00" + (ENCODE + b"h\x00" + opcodes("latin1")
            + b"\x86R0") * 20_000 + b"1}"), "asks for more than 8 times its own size"),
    "a dictionary of something else": (called("collections.OrderedDict", ["ab"]), "than pairs"),
    "a dictionary of a number": (called("collections.OrderedDict", 7), "arguments that no"),
    "a dictionary without its items": ({"w": Built(Called(Named("collections.OrderedDict")),
                                       {"items": 1})}, "attributes that no state_dict has"),
    "a dictionary with other metadata": ({"w": Built(Called(Named("collections.OrderedDict")),
                                         {"_metadata": 1})}, "_metadata that is no dictionary"),
    "an array by its size": (called("numpy.core.multiarray._reconstruct", Named("numpy.ndarray"),
                                    (2**40,), "b"), "arguments that no checkpoint has"),
    "an array that is called": (called("numpy.ndarray", (2**40,)), "which is no function"),
    "an array made as an object": ({"w": Called(Named("numpy.ndarray"), ((2**40,),), b"\x81")},
                                   "which is no function"),
    "an array larger than its data": ({"w": Built(EMPTY_ARRAY, (1, (2**40,), NUMPY_TYPE, False, "a"))},
                                      "holds a numpy array of shape"),
    "an array of objects": ({"w": Built(EMPTY_ARRAY, (1, (1,), NUMPY_TYPE, False, [1]))},
                            "numpy array of Python objects"),
    "an array type of objects": (called("numpy.dtype", "O8", False, True), "type 'O8', which is no"),
    "an array of texts of 4 GB": (called("numpy.dtype", "U999999999", False, True), "which is no number"),
    "an array of long texts": (called("numpy.dtype", "S9999", False, True), "which is no number"),
    "an array type of 10**12 bytes": (called("numpy.dtype", "V1000000000000", False, True),
                                      "which is no number"),
    "the process's own array type": (
        {"w": Built(Called(Named("numpy.dtype"), ("f4", False, False)), (3, ">", *TYPE_STATE[2:]))},
        "arguments that no checkpoint has"),
    "an array type with fields": ({"w": Built(NUMPY_TYPE, (3, "<", None, ("a",), {"a": 1}, 4, 1, 0))},
                                  "numpy type that is no plain number"),
    "an array type of another size": ({"w": Built(NUMPY_TYPE, (*TYPE_STATE[:5], 2**40, -1, 0))},
                                      "numpy type that is no plain number"),
    "a number without its bytes": (called("numpy.core.multiarray.scalar", NUMPY_TYPE, "a"),
                                   "holds a numpy array of shape"),
    "a namespace with arguments": (called("argparse.Namespace", 1), "arguments that no checkpoint"),
    "a namespace with another state": ({"w": Built(NAMESPACE, [1])}, "a state that it cannot have"),
    "a namespace whose function is taken back": ({"w": Raw(opcodes(NAMESPACE) + b"}q\x00" + opcodes("a")
        + opcodes(Named("_codecs.encode")) + b"sb"), "x": Raw(b"h\x00" + opcodes("a") + b"Ns")},
        "holds _codecs.encode where data is expected"),
    "a method of another class": (called("builtins.getattr", Named("argparse.Namespace"), "a"),
                                  "looks up 'a' of argparse.Namespace"),
    "a hidden method": (called("builtins.getattr", HISTORY, "__class__"), "looks up '__class__'"),
    "a method of a method": (called("builtins.getattr", Called(Named("builtins.getattr"),
                             (HISTORY, "mean")), "__globals__"), "looks up '__globals__' of 'mean'"),
    "a method that is called": ({"w": Called(Called(Named("builtins.getattr"), (HISTORY, "mean")),
                                            (1,))}, "calls 'mean', which could run code"),
    "a function for a value": ({"w": Named("_codecs.encode")}, "holds _codecs.encode where data is"),
    "data without a tensor": ({"w": storage()}, "holds a Storage where data is expected"),
    "a call of a number": ({"w": Called(7, ())}, "calls a int, which could run code"),
    "a call without arguments": ({"w": Called(Named("torch.Size"), 7)}, "could run code"),
    "a name that is a number": (Raw(b"}(" + opcodes("w") + b"K\x01K\x02\x93u"), "no text"),
    "a name with a page of text": (Raw(opcodes("os") + opcodes("\x1b[2J\n" * 10**5) + b"\x93"),
                                   r"\('os\.\\x1b\[2J\\n"),
    "a tuple for a key": ({"w": Raw(b"}K\x01K\x02\x86K\x03s")}, "a tuple for a key"),
    "a tuple of 2**60 for a key": (Raw(b"}" + SHARED_TUPLE + b"K\x03s"), "a tuple for a key"),
    "a tuple of 2**60 in a set": (called("builtins.set", [Raw(SHARED_TUPLE)]), "a tuple for a key"),
    "a tuple of 2**60 in a frozen set": (Raw(b"}" + opcodes("w") + b"(" + SHARED_TUPLE + b"\x91s"),
                                         "a tuple for a key"),
    "a tuple of 2**60 in pairs": (called("collections.OrderedDict", [[Raw(SHARED_TUPLE), 1]]),
                                  "a tuple for a key"),
    "numbers of one hash": ({(2**61 - 1) * i: 0 for i in range(1, 20_000)}, "a int for a key"),
    "a list for a key": ({"w": Raw(b"}]K\x03s")}, "a list for a key"),
    "a dictionary in itself": (Raw(b"}q\x00" + opcodes("a") + b"h\x00s"), "contains itself"),
    "a list in itself": ({"w": Raw(b"]q\x00h\x00a")}, "contains itself"),
    "a tuple in a list in itself": ({"w": Raw(b"]q\x00h\x00\x85a")}, "contains itself"),
    "a namespace in itself": (Raw(b"}" + opcodes("w") + opcodes(NAMESPACE) + b"q\x00}" + opcodes("a")
                              + b"h\x00sbs"), "contains itself"),
    "metadata in itself": ({"w": Built(Called(Named("collections.OrderedDict")), {"_metadata": Raw(
                           b"}q\x00" + opcodes("a") + b"h\x00s")})}, "contains itself"),
    "a list of 10**30 values": ({"w": Raw(b"]q\x000" + (b"](" + b"h\x00" * 10 + b"eq\x000") * 30
                                + b"h\x00")}, "unfolds to more than 10,000,000 values"),
    "a list 100,000 deep": ({"w": Raw(b"]" * 10**5 + b"a" * (10**5 - 1))}, "more than 100 deep"),
    "a tuple 100,000 deep": ({"w": Raw(b")" + b"\x85" * 10**5)}, "more than 100 deep"),
    "a value remembered at 2**31": (Raw(b"}r\xff\xff\xff\x7f"), "remembers value number 2147483647"),
    "a value remembered at 10**4000": (Raw(b"}p1" + b"0" * 4000 + b"\n"), "remembers value number 1"),
    "a text of 4 GiB": (Raw(b"}X\xff\xff\xff\xff"), "damaged"),
    "bytes of 2**62": (Raw(b"}\x8e" + struct.pack("<Q", 2**62) + b"a"), "damaged"),
    "bytes of 2**64": (Raw(b"}\x8e" + b"\xff" * 8), "damaged"),
    "a number of 2 GiB": (Raw(b"}\x8b\xff\xff\xff\x7f"), "damaged"),
    "a number of 10**6 digits": (Raw(b"}L" + b"9" * 10**6 + b"L\n"), "damaged"),
    "a line without end": (Raw(b"}V" + b"a" * 10**6), "damaged"),
    "an empty stack": (Raw(b"}0R"), "damaged"),
    "a tuple of nothing": (Raw(b"}0\x87"), "takes more values than it has"),
    "a mark too few": (Raw(b"}u"), "damaged"),
    "a value never remembered": (Raw(b"}h\x07"), "damaged"),
    "items for a number": (Raw(b"K\x01(" + opcodes("a") + opcodes("b") + b"u"), "sets items of a int"),
    "half an item": (Raw(b"}(" + opcodes("a") + b"u"), "damaged"),
    "an end of a dictionary": (Raw(b"}" + opcodes("a") + b"a"), "appends to a OrderedDict|appends to a dict"),
    "an unknown step": (Raw(b"}\xfe"), r"no pickle has an instruction b'\\xfe'"),
    "a reference by text": (Raw(b"P0\n"), "refers to data outside the file"),
    "a buffer elsewhere": (Raw(b"\x97"), "refers to data outside the file"),
    "a list": ([1, 2], "holds a list, not a dictionary|does not fit"),
    "a number": (7, "holds a int, not a dictionary|does not fit"),
}  # fmt: skip

# More that is written once, since it takes its time.
LARGE_PICKLES = {
    "1,500,000 steps": (Raw(b"}" + b"N0" * 750_000), "more than 1,000,000 steps"),
    "a dictionary copied 10,000 times": (
        Raw(b"(" + PAIRS + b"q\x00" + (opcodes(Named("collections.OrderedDict")) + b"h\x00\x85R")
            * 10_000 + b"1}"), "asks for more than 8 times its own size"),
    "500,000 sets": (Raw(b"\x8f" * 500_000), "holds a set, not a dictionary"),
    "500,000 lists in a tuple": (Raw(b"(" + b"]" * 500_000 + b"t"), "holds a tuple"),
    "10,000 views of one storage": ({"w": [tensor(storage(numel=10**6), size=(10**6,))] * 10_000,
                                     "pad": "a" * 4 * 10**6}, "asks for more than 8 times"),
}  # fmt: skip


def zip_of(path, *records, mode=zipfile.ZIP_STORED, comment=b""):
    with zipfile.ZipFile(path, "w", mode) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two records of one name
        for name, content in records:
            archive.writestr(name, content)
        archive.comment = comment


def overlapping_zip(path):
    """Many records that are one: the directory names the same place again and again."""
    zip_of(path, ("a/data.pkl", pickled({})), *((f"a/data/{i}", bytes(10**6)) for i in range(2)))
    data = bytearray(path.read_bytes())
    first = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 1)
    second = data.find(b"PK\x01\x02", first + 1)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)


def script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


def edited(path, position, data):
    """A torch file with some bytes replaced."""
    torch.save(STATE, path)
    content = bytearray(path.read_bytes())
    content[position : position + len(data) or None] = data
    path.write_bytes(content)


def tensors_header(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def cut(write, share):
    def writer(path):
        write(path)
        os.truncate(path, int(share * path.stat().st_size))

    return writer


def sparse(path, size, start=b""):
    path.write_bytes(start)
    os.truncate(path, size)


FILES = {
    "empty": (lambda p: p.touch(), "the file is empty"),
    "zeros": (lambda p: p.write_bytes(bytes(100)), "damaged"),
    "html": (lambda p: p.write_bytes(b"\n <!DOCTYPE html><html>404</html>"), "is a web page"),
    "xml": (lambda p: p.write_bytes(b"<?xml version='1.0'?><Error/>"), "is a web page"),
    "json": (lambda p: p.write_bytes(b'{"error": "Repository not found"}'), "is JSON text"),
    "words": (lambda p: p.write_bytes(b"Entry not found"), "is neither a torch file nor"),
    "git-LFS pointer": (lambda p: p.write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        "is a git-LFS pointer, not the file itself; run `git lfs pull`"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(pickled({}))), "is a gzip archive; unpack it"),
    "tar": (lambda p: tarfile.open(p, "w").close() or tar_of(p), "is a tar archive; unpack it"),
    "numpy": (lambda p: np.save(p.open("wb"), np.ones(3)), "is a single numpy array"),
    "npz": (lambda p: np.savez(p.open("wb"), a=np.ones(3)), r"torch\.save did not write \(it holds"),
    "zip": (lambda p: zip_of(p, ("a/readme.txt", b"a" * 99), mode=zipfile.ZIP_DEFLATED),
            r"torch\.save did not write \(a/readme\.txt is compressed"),
    "zip of nothing": (lambda p: zip_of(p), r"torch\.save did not write \(it holds nothing\)"),
    "zip bomb": (lambda p: zip_of(p, ("a/data.pkl", bytes(10**8)), mode=zipfile.ZIP_DEFLATED),
                 "is compressed in it"),
    "zip with overlapping records": (overlapping_zip, "overlaps another"),
    "zip with two records of a name": (lambda p: zip_of(
        p, ("a/data.pkl", pickled({})), ("a/data.pkl", pickled([]))), "two records have the same name"),
    "zip with a record in capitals": (lambda p: zip_of(
        p, ("a/data.pkl", pickled({})), ("a/DATA.pkl", pickled([]))), "two records have the same name"),
    "zip with a record elsewhere": (lambda p: zip_of(
        p, ("a/version", b"3"), ("data.pkl", pickled({}))), r"it holds version, \.\./data\.pkl"),
    "zip with a comment": (lambda p: zip_of(p, ("a/data.pkl", pickled({})), comment=b"a"), "after its end"),
    "zip with bytes after it": (lambda p: WRITERS["torch"](p) or p.write_bytes(p.read_bytes() + b"a"),
                                "after its end"),
    "zip within a file": (lambda p: WRITERS["torch"](p) or p.write_bytes(
        b"PK\x03\x04" + p.read_bytes()), "directory is not where it says"),
    "zip of 10**6 records": (lambda p: edited(p, -12, struct.pack("<H", 65535)) or edited(
        p, -98 + 24, struct.pack("<2Q", 10**6, 10**6)), "has 1,000,000 records, and 21,000"),
    "torchscript": (script, "is a TorchScript archive"),
    "protocol 4": (lambda p: torch.save(STATE, p, pickle_protocol=4),
                   "written with pickle protocol 4, and torch's safe reader takes 2"),
    "two protocols": (lambda p: torch_zip(p, b"\x80\x02}\x80\x03."), "written with pickle protocol 3"),
    "data too short": (lambda p: torch_zip(p, pickled(
        {"w": tensor(storage(numel=1000), size=(1000,)), "pad": "a" * 8000}), FLOATS),
        "tensor data 0 needs 4,000 bytes and has 4"),
    "data missing": (lambda p: torch_zip(p, pickled({"w": tensor()})), "tensor data 0 needs .* missing"),
    "data before 1.6 too short": (lambda p: torch_legacy(p, pickled(
        {"w": tensor(storage(numel=9), size=(9,))}), FLOATS), r"\(tensor data 0 is not there\)"),
    "data before 1.6 missing": (lambda p: torch_legacy(p, pickled({"w": tensor()})),
                                "list of tensor data does not fit"),
    "list before 1.6 of tuples": (lambda p: in_legacy(p, 4, pickled([(1,)])),
                                  "list of tensor data does not fit"),
    "33 GiB": (lambda p: sparse(p, 33 * 2**30), "has 33 GiB, and the largest checkpoint read is 32 GiB"),
    "5 GiB pickle": (lambda p: sparse(p, 5 * 2**30, pickled({})), "is a pickle of more than 4 GiB"),
    "header of 2**63.safetensors": (lambda p: p.write_bytes(tensors_header({}, length=2**63)),
                                    "claims a header of 9,223,372,036,854,775,808 bytes, and 16,777,216"),
    "header past the end.safetensors": (lambda p: p.write_bytes(tensors_header({}, length=99)),
                                        "invalid header length"),
    "header of 99 MB": (lambda p: p.write_bytes(tensors_header(b'{"a":[' + b"[]," * 33_000_000)),
                        "claims a header of 99,000,006 bytes"),
    "header of 15 MB": (lambda p: p.write_bytes(tensors_header(b'{"a":[' + b"[]," * 5_000_000)),
                        "invalid JSON in header"),
    "overlapping tensors": (lambda p: p.write_bytes(tensors_header(
        {"a": entry(), "b": entry()}, bytes(4))), "invalid offset for tensor `[ab]`"),
    "gap between tensors": (lambda p: p.write_bytes(tensors_header(
        {"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12))), "invalid offset for tensor `b`"),
    "tensor from end to start": (lambda p: p.write_bytes(tensors_header(
        {"a": entry(offsets=(4, 0))}, bytes(4))), "invalid offset for tensor `a`"),
    "tensor of an unknown type": (lambda p: p.write_bytes(tensors_header(
        {"a": entry("F31")}, bytes(4))), "unknown variant `F31`"),
    "tensor larger than its bytes": (lambda p: p.write_bytes(tensors_header(
        {"a": entry(shape=(2,))}, bytes(4))), "invalid shape"),
    "tensor of 2**126 elements": (lambda p: p.write_bytes(tensors_header(
        {"a": entry(shape=(2**63,) * 2)}, bytes(4))), "overflow"),
    "bytes after the tensors": (lambda p: p.write_bytes(save(STATE) + b"a"), "not fully covered"),
    "header that is no JSON": (lambda p: p.write_bytes(tensors_header(b"{]")), "invalid JSON in header"),
    "a tensor": (lambda p: torch.save(torch.ones(3), p), "holds a Tensor, not a dictionary"),
    **{f"{format}, {share:.0%} of it": (cut(write, share), "damaged|cut short")
       for format, write in WRITERS.items() for share in (0.001, 0.2, 0.7, 0.999)},
}  # fmt: skip


def tar_of(path):
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "weights.py")


for name, (value, cause) in (PICKLES | LARGE_PICKLES).items():
    content = pickled(value)
    FILES[f"{name} / zip"] = lambda p, c=content: torch_zip(p, c, FLOATS), cause
    if name in PICKLES:
        FILES[f"{name} / before 1.6"] = lambda p, c=content: torch_legacy(p, c, FLOATS), cause
        FILES[f"{name} / pickle"] = lambda p, c=content: p.write_bytes(c), cause


READER = """
import json, resource, sys, time
import numpy as np
from convnext_backbones.checkpoints import CheckpointError, read_checkpoint

def status(line):  # of this process, in bytes
    text = open("/proc/self/status").read()
    return 1024 * int(text.split(f"{line}:")[1].split()[0])

warm, *paths = sys.stdin.read().splitlines()
read_checkpoint(warm)
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + 8 * 2**30,) * 2)
for path in paths:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak VmHWM starts anew
    before, start = status("VmRSS"), time.process_time()
    try:
        read_checkpoint(path, allowed=(np.ndarray, (getattr, "builtins.getattr")))
        message = "no error"
    except CheckpointError as error:
        message = str(error)
    except BaseException as error:
        message = f"no CheckpointError but {error!r}"
    seconds, taken = time.process_time() - start, status("VmHWM") - before
    print(json.dumps((message, seconds, taken)), flush=True)
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What a process of its own says to each of FILES: message, seconds, and bytes taken."""
    folder = tmp_path_factory.mktemp("files")
    WRITERS["torch"](folder / "good.pth")
    paths = [
        folder / "good.pth",
        *(folder / f"{i}{Path(name).suffix}" for i, name in enumerate(FILES)),
    ]
    for path, (write, _) in zip(paths[1:], FILES.values(), strict=True):
        write(path)
    said = subprocess.run([sys.executable, "-c", READER], input="\n".join(map(str, paths)), text=True,
                          capture_output=True, cwd=ROOT, timeout=300)  # fmt: skip
    lines = said.stdout.splitlines()
    assert len(lines) == len(FILES), f"{list(FILES)[len(lines)]}: {said.stderr[-2000:]}"
    return {name: (path, *json.loads(line))
            for name, path, line in zip(FILES, paths[1:], lines, strict=True)}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_checkpoint_is_named_with_its_cause(verdicts, name):
    path, message, seconds, taken = verdicts[name]
    assert re.match(rf"{path}: .*({FILES[name][1]})", message), message
    assert len(message) < 600
    assert "\n" not in message
    assert seconds < 10
    assert taken < 300 * 2**20 + 8 * 512 * path.stat().st_blocks


def test_the_process_keeps_its_array_types(tmp_path):
    """A numpy type that is unpickled without a copy of its own would change for everyone."""
    path = tmp_path / "a.pth"
    FILES["the process's own array type / zip"][0](path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert np.dtype("f4").byteorder == "="


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    (tmp_path / "a.pth").chmod(0)
    with pytest.raises(CheckpointError, match=r"a\.pth: cannot be read \(Permission denied\)"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_file_that_the_system_does_not_open_is_named(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"a\.pth: cannot be read \(Too many open files\)"
        ):
            read_checkpoint(tmp_path / "a.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("place", ["fifo", "device", "fifo in a folder"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, place):
    path = Path("/dev/zero") if place == "device" else tmp_path / "model.safetensors"
    if place != "device":
        os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is neither a file nor a folder"):
        read_checkpoint(tmp_path if place == "fifo in a folder" else path)


def test_a_missing_file_is_named():
    with pytest.raises(CheckpointError, match=r"none\.pth: there is no such file"):
        read_checkpoint("none.pth")
