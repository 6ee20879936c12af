"""What MMEngine reads without a checkpoint's file or URL being named: configs in YAML, and other schemes.

Its YAML loader builds any Python object that a file names, which is a call of any function; Config.fromfile
and every `_base_` go through it. Its schemes beside files and http ("torchvision://", "s3://", ..) end in
torch.load, with which the maintained fork falls back to executing a file. Annotations in pickles are executed.
An inferencer of weights alone runs the text of the config that is stored beside them.
"""

import functools
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import yaml
from mmengine.fileio.handlers import PickleHandler, YamlHandler
from mmengine.infer import BaseInferencer
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


# Beside those that patches.SAFE_READING replaces.
OTHERS = [
    prefix for prefix in CheckpointLoader._schemes if prefix not in ("", "http://", "https://")
]
SAFE_FILES = Patches(
    [
        patched_attribute(YamlHandler, "load_from_fileobj", _plainly),
        patched_attribute(PickleHandler, "load_from_fileobj", _pickled_plainly),
        patched_attribute(BaseInferencer, "_init_model", _with_a_config),
    ]
)
OTHER_SCHEMES = Patches(map(_scheme, OTHERS))
