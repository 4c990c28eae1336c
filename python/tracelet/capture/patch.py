"""Attributes of a class or module replaced while a run is active, and put back exactly."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

_log = logging.getLogger("tracelet")


class Patch:
    """Our attributes in the place of an owner's own: made, then undone once."""

    def __init__(self, owner: Any, ours: Mapping[str, Any]) -> None:
        self.owner = owner
        self._ours = dict(ours)
        self._originals = {name: vars(owner)[name] for name in ours}
        for name, attribute in ours.items():
            setattr(owner, name, attribute)

    def undo(self) -> None:
        """Puts the originals back, except where someone else has patched over ours."""
        for name, original in self._originals.items():
            if vars(self.owner).get(name) is self._ours[name]:
                setattr(self.owner, name, original)
            else:
                _log.warning(
                    "tracelet: %s.%s was replaced by another library and is left as it is",
                    self.owner.__name__,
                    name,
                )
        # Ours refer to the run, and the run to this patch.
        self._ours.clear()
        self._originals.clear()


def then(original: Callable[..., Any], afterwards: Callable[[], None]) -> Callable[..., Any]:
    """A method that calls `original`, then `afterwards`."""

    @functools.wraps(original)
    def method(self: Any) -> Any:
        result = original(self)
        afterwards()
        return result

    return method
