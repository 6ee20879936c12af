"""What Detectron2 executes as it reads: .pkl and .pth files, proposals, and YAML configs that name Python objects.

Each is read here by this package's reader of checkpoints, whatever the model, and by YAML's safe loader.
The configs that Detectron2 itself installs are code of the machine, and some compute their anchors: they
are read as they were.
"""

import functools
import os
from types import SimpleNamespace

import detectron2
import yaml
from detectron2.checkpoint import detection_checkpoint
from detectron2.config import CfgNode, LazyConfig
from detectron2.data import build
from fvcore.common.checkpoint import Checkpointer

from ...checkpoints import read_checkpoint, read_pickled
from ...errors import UserError
from ...runs.patching import NOTHING, Patch, Patches, patched_attribute


def _reads(module, name: str, load) -> Patch:
    """The patch of a module that Detectron2 reads files with."""
    reader = SimpleNamespace(load=load)
    return Patch(
        f"{module.__name__}.{name}",
        get=lambda: vars(module)[name],
        put=lambda value: setattr(module, name, value),
        make=lambda plain: reader,
    )


def _checkpoint_of(file, **_) -> dict:
    return read_checkpoint(getattr(file, "name", file))


def _proposals_of(file, **_) -> dict:
    content = read_pickled(file.read(), file.name)
    if not isinstance(content, dict):
        raise UserError(
            f"{file.name}: holds a {type(content).__name__}, and proposals are a dictionary of ids, boxes and "
            "objectness_logits"
        )
    return content


def _load_file(plain):
    @functools.wraps(plain)
    def load_file(self, file: str) -> dict:
        return read_checkpoint(file)

    return load_file


def _is_detectron2s_own(file: str) -> bool:
    folder = os.path.dirname(os.path.abspath(detectron2.__file__))
    return os.path.abspath(file).startswith(folder + os.sep)


def _refused(file: str, error: yaml.constructor.ConstructorError) -> UserError:
    return UserError(
        f"config {file} names Python objects ({error.problem}), which could run code, and is refused; write "
        "plain values, or a .py config"
    )


def _with_base(plain):
    """CfgNode.load_yaml_with_base, which calls itself for each _BASE_."""

    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict:
        own = "://" not in filename and _is_detectron2s_own(filename)
        try:
            return plain.__func__(cls, filename, allow_unsafe=own)
        except yaml.constructor.ConstructorError as error:
            raise _refused(filename, error) from error

    return classmethod(load_yaml_with_base)


def _loading_safely(plain):
    @functools.wraps(plain)
    def load(filename: str, keys=None):
        if filename.endswith((".yaml", ".yml")):
            with CfgNode._open_cfg(filename) as file:
                try:
                    yaml.safe_load(file)
                except yaml.constructor.ConstructorError as error:
                    raise _refused(filename, error) from error
        return plain(filename, keys)

    return load


SAFE_FILES = Patches(
    [
        patched_attribute(Checkpointer, "_load_file", _load_file),
        _reads(detection_checkpoint, "pickle", _checkpoint_of),
        _reads(detection_checkpoint, "torch", _checkpoint_of),
        _reads(build, "pickle", _proposals_of),
    ]
)
SAFE_CONFIGS = Patches(
    [
        Patch(
            "detectron2.config.CfgNode.load_yaml_with_base",
            get=lambda: vars(CfgNode).get("load_yaml_with_base", NOTHING),
            put=lambda value: (
                delattr(CfgNode, "load_yaml_with_base")
                if value is NOTHING
                else setattr(CfgNode, "load_yaml_with_base", value)
            ),
            make=lambda plain: _with_base(CfgNode.load_yaml_with_base),
        ),
        patched_attribute(LazyConfig, "load", _loading_safely),
    ]
)
