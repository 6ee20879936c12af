"""Something of a framework replaced for this process, with a way back.

A patch is a value in a place of a framework: an attribute of a class, an entry of a table. `apply` puts
ours there, `undo` puts the very object back that was there. Applied twice, it is applied once. As a
context manager it is applied inside and undone at the end.
"""

import logging
from collections.abc import Callable
from typing import Any

LOGGER = logging.getLogger("convnext_backbones")

NOTHING = object()  # in a place that holds nothing of its own


class Patch:
    """A replacement of what lies in one place.

    Args:
        what: the place, as sentences name it.
        get: what lies there now, or NOTHING.
        put: puts a value there; NOTHING takes away what is there.
        make: the replacement, made of the value that it replaces.
    """

    def __init__(
        self,
        what: str,
        get: Callable[[], Any],
        put: Callable[[Any], None],
        make: Callable[[Any], Any],
    ):
        self.what = what
        self._get, self._put, self._make = get, put, make
        self._plain = self._ours = NOTHING

    @property
    def applied(self) -> bool:
        """Whether ours is in its place, or below what somebody put over it since."""
        return self._ours is not NOTHING

    def apply(self) -> None:
        """Put ours there, unless it is there already, or below what somebody put over it."""
        now = self._get()
        if self.applied and now is not self._plain:  # else somebody took ours away
            return
        self._plain, self._ours = now, self._make(now)
        self._put(self._ours)

    def undo(self) -> bool:
        """Put back what was there; False, with a warning, where somebody has put theirs over ours."""
        if not self.applied:
            return True
        now = self._get()
        if now is self._ours:
            self._put(self._plain)
        elif now is not self._plain:
            LOGGER.warning(
                "%s was replaced by somebody else after this package had replaced it, and stays as it "
                "is; undo the later replacement first",
                self.what,
            )
            return False
        self._plain = self._ours = NOTHING
        return True

    def __enter__(self) -> "Patch":
        self.apply()
        return self

    def __exit__(self, *error) -> None:
        self.undo()


class Patches(tuple):
    """Several patches as one."""

    def apply(self) -> None:
        for patch in self:
            patch.apply()

    def undo(self) -> bool:
        """Put back what was there; False where one patch could not."""
        return all([patch.undo() for patch in self])

    def __enter__(self) -> "Patches":
        self.apply()
        return self

    def __exit__(self, *error) -> None:
        self.undo()


def patched_attribute(owner: type, name: str, make: Callable[[Any], Any]) -> Patch:
    """The patch of a class's attribute.

    What a class inherits is no attribute of its own, and is inherited again after undo. `make` gets
    the attribute as the class finds it, a static method as its function, and gives the same kind back.
    """

    def get():
        return vars(owner).get(name, NOTHING)

    def put(value) -> None:
        if value is NOTHING:
            delattr(owner, name)
        else:
            setattr(owner, name, value)

    def replacement(plain):
        made = make(getattr(owner, name))
        return staticmethod(made) if isinstance(plain, staticmethod) else made

    return Patch(f"{owner.__module__}.{owner.__qualname__}.{name}", get, put, replacement)
