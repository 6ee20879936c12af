"""What Detectron2 executes as it reads: .pkl and .pth files, proposals, and YAML configs that name Python objects.

Each is read here by this package's reader of checkpoints, whatever the model, and by YAML's safe loader; a
LazyConfig in YAML may name for _target_ what a model, its data and its training are made of, and no more.
The configs that Detectron2 itself installs are code of the machine, and some compute their anchors: they
are read as they were.
"""

import functools
import os
import pydoc
from types import SimpleNamespace

import detectron2
import yaml
from detectron2.checkpoint import detection_checkpoint
from detectron2.config import CfgNode, LazyConfig
from detectron2.data import build
from fvcore.common.checkpoint import Checkpointer

from ...checkpoints import read_checkpoint, read_pickled
from ...errors import UserError
from ...runs.fine_tuning import some
from ...runs.patching import NOTHING, Patch, Patches, patched_attribute

USERS_FILES = "convnext_backbones_user_"  # begins the names of modules that import=FILE.py makes


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
    names = content if isinstance(content, dict) else ()
    has = [any(name in names for name in either) for either in PROPOSALS]
    if not all(has):
        what = f"a {type(content).__name__}" + (
            f" of {some(sorted(map(str, names)), 4)}" if names else ""
        )
        raise UserError(
            f"{file.name}: holds {what}, and proposals are a dictionary of ids, boxes and objectness_logits"
        )
    return content


PROPOSALS = (
    ("ids", "indexes"),
    ("boxes",),
    ("objectness_logits", "scores"),
)  # now and in old files


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
                    check_targets(yaml.load(file, Loader=PartsLoader), filename)
                except yaml.constructor.ConstructorError as error:
                    raise _refused(filename, error) from error
        return plain(filename, keys)

    return load


# Where that lies of which a LazyConfig in YAML may be made, as a run saves it.
PARTS = (
    "detectron2.data.", "detectron2.evaluation.", "detectron2.layers.", "detectron2.modeling.",
    "detectron2.projects.", "detectron2.solver.", "detectron2.structures.",
    "fvcore.common.param_scheduler.", "torch.nn.", "torch.optim.",
    *(f"convnext_backbones.adapters.detectron2.{part}." for part in ("backbone", "data", "optimizer")),
    USERS_FILES,
)  # fmt: skip


class PartsLoader(yaml.SafeLoader):
    """YAML's own types, and the names of PARTS, which a saved config has for functions among its values."""


def _named_part(loader: PartsLoader, name: str, node: yaml.Node):
    if not _is_part(name):
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"could not determine a constructor for the tag {node.tag!r}",
            node.start_mark,
        )
    return pydoc.locate(name)


PartsLoader.add_multi_constructor("tag:yaml.org,2002:python/name:", _named_part)


def check_targets(content, file: str | os.PathLike) -> None:
    """UserError where a LazyConfig in YAML would call what is none of PARTS, such as os.system."""
    if isinstance(content, dict):
        target = content.get("_target_")
        if target is not None and not _is_part(target):
            raise UserError(
                f"config {file} has _target_: {target}, which could run code, and is refused; use the .py "
                "config that it came from, or give import=FILE.py of your own parts"
            )
    for value in content.values() if isinstance(content, dict) else content or ():
        if isinstance(value, dict | list):
            check_targets(value, file)


def _is_part(target) -> bool:
    """By where that is defined which the name leads to: detectron2.data.build.pickle.loads is no part."""
    packages = {part.partition(".")[0] for part in PARTS}
    package = target.partition(".")[0] if isinstance(target, str) else ""
    if package not in packages and not package.startswith(USERS_FILES):  # is not even imported
        return False
    try:
        defined_in = getattr(pydoc.locate(target), "__module__", None)
    except pydoc.ErrorDuringImport:
        return False
    return f"{defined_in}.".startswith(PARTS)


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
