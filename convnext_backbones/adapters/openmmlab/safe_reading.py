"""What MMEngine reads without a checkpoint's file or URL being named: configs in YAML, and other schemes.

Its YAML loader builds any Python object that a file names, which is a call of any function; Config.fromfile
and every `_base_` go through it. Its schemes beside files and http ("torchvision://", "s3://", ..) end in
torch.load, with which the maintained fork falls back to executing a file. Annotations in pickles are executed.
An inferencer of weights alone runs the text of the config that is stored beside them. And the registries take
`type: os.system` of a YAML or JSON file for a class to build: they find whatever Python can import.
"""

import functools
import operator
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio import get_local_path
from mmengine.fileio.handlers import PickleHandler, YamlHandler
from mmengine.infer import BaseInferencer
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader

from ...checkpoints import read_pickled
from ...errors import UserError
from ...runs.patching import Patch, Patches, patched_attribute
from .checkpoints import read_training_checkpoint


class PlainLoader(yaml.SafeLoader):
    """YAML's own types, and the tuples and numbers that MMEngine writes with Python's tags."""


_PLAIN = {
    "tuple": lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
    "list": lambda loader, node: loader.construct_sequence(node, deep=True),
    "dict": lambda loader, node: loader.construct_mapping(node, deep=True),
    "str": yaml.SafeLoader.construct_yaml_str,
    "int": yaml.SafeLoader.construct_yaml_int,
    "float": yaml.SafeLoader.construct_yaml_float,
    "bool": yaml.SafeLoader.construct_yaml_bool,
    "none": yaml.SafeLoader.construct_yaml_null,
}
for _tag, _construct in _PLAIN.items():
    PlainLoader.add_constructor(f"tag:yaml.org,2002:python/{_tag}", _construct)


def _plainly(plain):
    @functools.wraps(plain)
    def load_from_fileobj(self, file, **kwargs):
        try:
            return yaml.load(file, Loader=PlainLoader)
        except yaml.constructor.ConstructorError as error:
            raise UserError(
                f"the YAML names Python objects ({error.problem}), which could run code, and is refused; "
                "write plain values, or a .py config"
            ) from error

    return load_from_fileobj


# Scopes of registries, before whose names stands "scope."; with another word Python imports what it names.
_SCOPES = {"mmengine", "mmcv", "convnext_backbones", *MODULE2PACKAGE}
_REGISTERED = re.compile(rf"((?:{'|'.join(sorted(_SCOPES))})\.)?\w+")
_OF_CV2 = re.compile(r"cv2\.\w+")  # MMDetection's camera motion evaluates it


def _naming_registered(plain):
    """Config._file2dict, which refuses what a file that is no Python lets the registries call."""

    @functools.wraps(plain)
    def file2dict(filename, *args, **kwargs):
        content, *rest = plain(filename, *args, **kwargs)
        if Path(filename).suffix != ".py":
            for key, name in _called_names(content):
                if not (_OF_CV2 if key == "warp_mode" else _REGISTERED).fullmatch(name):
                    raise UserError(
                        f"config {filename} has {key}: {name}, which names a Python object that could run "
                        "code, and is refused; name a registered class, or write a .py config"
                    )
        return content, *rest

    return file2dict


def _called_names(node) -> Iterator[tuple[str, str]]:
    """The keys, and their names, by which a config says what is called."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, str) and re.fullmatch("(.*_)?type|constructor|warp_mode", str(key)):
            yield str(key), value
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict | list | tuple):
            yield from _called_names(value)


def _pickled_plainly(plain):
    @functools.wraps(plain)
    def load_from_fileobj(self, file, **kwargs):
        return read_pickled(file.read(), getattr(file, "name", "a pickled file of the data"))

    return load_from_fileobj


def _with_a_config(plain):
    @functools.wraps(plain)
    def _init_model(self, cfg, weights, device="cpu"):
        if not cfg:
            raise UserError(
                f"the config stored in {weights} is Python, which would be run, and is not; give the inferencer "
                "the config file too: model='config.py', weights=.."
            )
        return plain(self, cfg, weights, device)

    return _init_model


def _without_executing(plain: Callable) -> Callable:
    """A reader of CheckpointLoader whose torch.load is this package's."""

    @functools.wraps(plain)
    def load(*args, **kwargs) -> Any:
        before = torch.load
        torch.load = _load
        try:
            return plain(*args, **kwargs)
        finally:
            torch.load = before

    return load


def _load(file, map_location=None, **_) -> dict:
    """torch.load of a path or of an open file."""
    if isinstance(file, (str, os.PathLike)):
        return read_training_checkpoint(os.fspath(file), map_location=map_location)
    with tempfile.NamedTemporaryFile(suffix=".pth") as copy:
        copy.write(file.read())
        copy.flush()
        return read_training_checkpoint(copy.name, map_location=map_location)


def _scheme(prefix: str) -> Patch:
    return Patch(
        f"MMEngine's reader of {prefix}",
        get=lambda: CheckpointLoader._schemes[prefix],
        put=lambda reader: CheckpointLoader.register_scheme(prefix, reader, force=True),
        make=_without_executing,
    )


# ---- in MMDetection and MMSegmentation, which may come later -------------------------------------
class _OnceImported(Patch):
    """The patch of what a module has, applied when that is there."""

    def __init__(self, module: str, owner: str, name: str, make: Callable[[Any], Any]):
        self.module, self.name = module, name
        self._owner = operator.attrgetter(owner) if owner else lambda there: there
        super().__init__(
            ".".join(filter(None, (module, owner, name))),
            get=lambda: getattr(self._owner(sys.modules[module]), name),
            put=lambda value: setattr(self._owner(sys.modules[module]), name, value),
            make=make,
        )

    def apply(self) -> None:
        try:
            self._get()
        except (KeyError, AttributeError):  # not imported, or being imported
            return
        super().apply()


def _relations(plain):
    """OpenImagesChallengeDataset._get_relation_matrix without objects."""

    @functools.wraps(plain)
    def _get_relation_matrix(self, hierarchy_file: str) -> np.ndarray:
        try:
            with get_local_path(hierarchy_file, backend_args=self.backend_args) as file:
                relations = np.load(file, allow_pickle=False)
            return np.asarray(relations, dtype=float)[1:, 1:]
        except (ValueError, TypeError, IndexError) as error:
            raise UserError(
                f"{hierarchy_file}: is no table of numbers as numpy.save writes it ({error}); objects could "
                "run code, and are refused"
            ) from error

    return _get_relation_matrix


def _pickle_of_data(plain):
    return SimpleNamespace(
        loads=lambda content: read_pickled(content, "a pickled file of the data")
    )


LATER = Patches(
    [
        _OnceImported(
            "mmdet.datasets.openimages",
            "OpenImagesChallengeDataset",
            "_get_relation_matrix",
            _relations,
        ),
        _OnceImported("mmseg.utils.io", "", "pickle", _pickle_of_data),
    ]
)


def _then_later(plain):
    """Registry.get, which has imported what it found."""

    @functools.wraps(plain)
    def get(self, key: str):
        found = plain(self, key)
        LATER.apply()
        return found

    return get


# Beside those that patches.SAFE_READING replaces.
OTHERS = [
    prefix for prefix in CheckpointLoader._schemes if prefix not in ("", "http://", "https://")
]
SAFE_FILES = Patches(
    [
        patched_attribute(YamlHandler, "load_from_fileobj", _plainly),
        patched_attribute(PickleHandler, "load_from_fileobj", _pickled_plainly),
        patched_attribute(BaseInferencer, "_init_model", _with_a_config),
        patched_attribute(Config, "_file2dict", _naming_registered),
        patched_attribute(Registry, "get", _then_later),
        *LATER,
    ]
)
OTHER_SCHEMES = Patches(map(_scheme, OTHERS))
