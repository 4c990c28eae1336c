"""A SummaryWriter's way from its methods to its event file, and whether others stand on it.

torch's methods hand an event from the writer to its FileWriter and on to that one's event writer.
The native methods leave that out. Where somebody has put a method or an object of his own there,
that writer's calls take the long way, which reaches the run as well: nobody's wrapper is passed by,
whether it was there before the run or came later.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tracelet import _core
from tracelet.capture.event_writer import package_class_of
from tracelet.capture.origin import is_only_of, package_of

# The methods and the objects by which a call finds its way.
_METHODS = frozenset(("_get_file_writer", "add_event", "add_summary"))
_OBJECTS = frozenset(("file_writer", "event_writer"))

_watched: dict[tuple[type, ...], type] = {}


def has_others_on_its_way(writer: Any, cls: type) -> bool:
    """Whether somebody else's code is called when a writer, an instance of `cls`, which is torch's
    SummaryWriter, logs by torch's methods."""
    module = sys.modules[cls.__module__]
    packages = (package_of(cls), package_of(package_class_of(module.EventFileWriter)))
    if not is_only_of((package_of(cls),), writer, "_get_file_writer"):
        return True
    file_writer = getattr(writer, "file_writer", None)
    if file_writer is None:  # closed: the next call makes one
        if not isinstance(module.FileWriter, type):
            return True
        file_writer = object.__new__(module.FileWriter)
    if not all(is_only_of(packages, file_writer, name) for name in ("add_event", "add_summary")):
        return True
    event_writer = getattr(file_writer, "event_writer", None)
    return event_writer is not None and not is_only_of(packages, event_writer, "add_event")


def watch(classes: tuple[type, ...]) -> None:
    """Has every SummaryWriter looked at anew when something is set in one of these classes."""
    if classes not in _watched:
        try:
            _watched[classes] = type("Watched", classes, {"__module__": __name__})
        except TypeError:  # metaclasses of somebody's own
            return
    _core.watch_class(_watched[classes])


def telling_of_new_ways(
    cls: type, is_known: Callable[[Any], bool] = lambda _: True
) -> Callable[[Any, str, Any], None]:
    """A `__setattr__` for a class on the way: what it does, and a look anew at the writers. Not
    while an object is being made, or when it is none that `is_known`."""
    set_attribute: Any = cls.__setattr__

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807
        is_new_way = name in _METHODS or (name in _OBJECTS and name in vars(self))
        set_attribute(self, name, value)
        if is_new_way and is_known(self):
            _core.forget_writers()

    return __setattr__
