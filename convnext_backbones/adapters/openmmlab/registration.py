"""Names in MMEngine's registries, of which somebody else may have taken one before."""

import logging

from mmengine.registry import Registry

LOGGER = logging.getLogger("convnext_backbones")


def register(registry: Registry, cls: type) -> None:
    """Register a class by its name, unless somebody else's has it; that one stays, and a warning says
    by which name ours is reached."""
    taken = registry.module_dict.get(cls.__name__)
    if taken is None or _path(taken) == _path(cls):  # ours again, after a reload
        registry.register_module(module=cls, force=True)
    else:
        LOGGER.warning(
            "%s in MMEngine's registry %r is %s, registered before, and stays so. %s",
            cls.__name__, registry.name, _path(taken),
            f'Write type="convnext_backbones.{cls.__name__}" for this package\'s'
            if registry.name == "model" else f"This package's is {_path(cls)}: give the class itself",
        )  # fmt: skip


def _path(cls) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
