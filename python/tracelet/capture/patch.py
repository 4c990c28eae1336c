"""Attributes of a class or module replaced while a run is active, and put back exactly."""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Mapping
from typing import Any

_log = logging.getLogger("tracelet")

_ABSENT = object()


class Patch:
    """Our attributes in the place of an owner's own: made, then undone once.

    Others may have wrapped what stood there before, and may wrap ours. Theirs stays when ours goes,
    and what of ours is below it then passes on to what it had replaced, for good: a later run has
    its own.
    """

    def __init__(
        self, owner: Any, ours: Mapping[str, Any], added: Mapping[str, Any] | None = None
    ) -> None:
        """`added`: what the owner itself has not. Raises KeyError where it lacks one of `ours`."""
        self.owner = owner
        self._originals = {name: vars(owner)[name] for name in ours}
        self._originals.update((name, vars(owner).get(name, _ABSENT)) for name in added or ())
        self._ends: list[Callable[[], None]] = []
        self._ours: dict[str, Any] = {}
        for name, attribute in {**ours, **(added or {})}.items():
            self._ours[name] = self._until_undone(attribute, self._originals[name])
            setattr(owner, name, self._ours[name])

    def undo(self) -> None:
        """Puts the originals back, except where someone else has patched over ours."""
        for name, original in self._originals.items():
            if vars(self.owner).get(name) is not self._ours[name]:
                _log.warning(
                    "tracelet: %s.%s was replaced by another library and is left as it is",
                    self.owner.__name__,
                    name,
                )
            elif original is _ABSENT:
                delattr(self.owner, name)
            else:
                setattr(self.owner, name, original)
        for end in self._ends:
            end()
        # Ours refer to the run, and the run to this patch.
        self._ends.clear()
        self._ours.clear()
        self._originals.clear()

    def _until_undone(self, ours: Any, original: Any) -> Any:
        """`ours`, which after `undo` is as `original` to whoever has kept it. A native method needs
        none of it: it asks whether there is a run."""
        if type(ours) is not types.FunctionType or original is _ABSENT:
            return ours
        current: list[Callable[..., Any]] = [ours]

        @functools.wraps(ours)
        def method(*args: Any, **kwargs: Any) -> Any:
            return current[0](*args, **kwargs)

        def end() -> None:
            current[0] = bound_by(original)

        self._ends.append(end)
        return method


def bound_by(attribute: Any) -> Callable[..., Any]:
    """A function of `self` and the arguments that calls a class' attribute as Python does: what is
    no descriptor (a functools.partial, a Mock) does not get `self`."""
    if type(attribute) is types.FunctionType:
        return attribute
    is_bound = hasattr(type(attribute), "__get__")

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = attribute.__get__(self, type(self)) if is_bound else attribute
        return bound(*args, **kwargs)

    call.__wrapped__ = attribute  # type: ignore[attr-defined]  # see origin.py
    return call


def then(original: Callable[..., Any], afterwards: Callable[[], None]) -> Callable[..., Any]:
    """A method that calls `original`, then `afterwards`."""

    @functools.wraps(original)
    def method(self: Any) -> Any:
        result = original(self)
        afterwards()
        return result

    return method
