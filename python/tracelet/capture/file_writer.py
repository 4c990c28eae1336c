"""The seam for all that is not hot: where a FileWriter gives an event to its event file.

torch's (and tensorboardX') SummaryWriter builds a protobuf and calls its FileWriter, which sets
wall time and step and calls `event_writer.add_event(event)`. While a run is active, that
`event_writer` gives the event to the run's ring (`event_writer.py`).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tracelet.capture.event_writer import (
    adopt,
    folder_of_new_writer,
    for_its_events,
    has_run,
    key_of,
    package_class_of,
    push_event,
    pushed_count,
    without_a_file,
)
from tracelet.capture.origin import is_its_own
from tracelet.capture.patch import Patch, bound_by, then
from tracelet.capture.ways import telling_of_new_ways
from tracelet.writer_key import own_writer_key

_METHODS = ("__init__", "add_event", "flush", "close")
_TO_ADD_EVENT = ("add_summary", "add_graph", "add_onnx_graph")


def key_of_file_writer(file_writer: Any) -> str | None:
    """The `writer_key` under which the events of a FileWriter go to the run; None: not known."""
    return key_of(getattr(file_writer, "event_writer", None))


def patch_file_writer(module: Any, flush_event_files: Callable[[], None]) -> list[Patch]:
    """Has the FileWriters of a module, torch's or tensorboardX', give their events to the run.

    `flush_event_files` waits until the run's event files hold what was logged.
    """
    cls = package_class_of(module.FileWriter)
    package_class = package_class_of(module.EventFileWriter)
    to_add_event = [name for name in _TO_ADD_EVENT if name in vars(cls)]  # as the package has them
    theirs = {name: bound_by(vars(cls)[name]) for name in (*_METHODS, *to_add_event)}
    methods = {
        **{name: _adopting_first(theirs[name], package_class) for name in to_add_event},
        "__init__": for_its_events(theirs["__init__"]),
        "add_event": _adopting(theirs["add_event"], package_class),
        "flush": then(theirs["flush"], flush_event_files),
        "close": then(theirs["close"], flush_event_files),
    }
    patches = [Patch(cls, methods, added={"__setattr__": telling_of_new_ways(cls)})]
    # One that somebody has wrapped makes its file as ever: we can't get beneath it.
    if is_its_own(package_class, "__init__"):
        init = without_a_file(package_class, vars(package_class)["__init__"])
        patches.append(Patch(package_class, {"__init__": init}))
    return patches


def in_the_runs_folder(original: Callable[..., None], *names: str) -> Callable[..., None]:
    """A SummaryWriter's __init__: without a folder, whose argument is the first one and has one of
    these names, and without a comment, which names the run, it takes that of the run's handle."""

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        is_without = not any([*args[:2], *(kwargs.get(name) for name in (*names, "comment"))])
        folder = folder_of_new_writer() if is_without else None
        if folder is not None:
            kwargs = {**kwargs, names[0]: folder}
            if args:
                args = (kwargs.pop(names[0]), *args[1:])
        original(self, *args, **kwargs)

    return init


def patch_file_writer_beside(module: Any) -> list[Patch]:
    """Has the FileWriters of a module write their own files, and the run get their events too."""
    cls = package_class_of(module.FileWriter)
    return [Patch(cls, {"add_event": _sharing(bound_by(vars(cls)["add_event"]))})]


_own_file_only = threading.local()  # `.depth`: calls within `for_own_file_only`


@contextlib.contextmanager
def for_own_file_only() -> Iterator[None]:
    """Events of this thread within the block are not for the run, which has them already."""
    _own_file_only.depth = getattr(_own_file_only, "depth", 0) + 1
    try:
        yield
    finally:
        _own_file_only.depth -= 1


def _adopting(original: Callable[..., None], package_class: type) -> Callable[..., None]:
    """FileWriter.add_event, also of a FileWriter that was made before the run."""
    share = _sharing(original)

    @functools.wraps(original)
    def add_event(self: Any, event: Any, step: Any = None, walltime: Any = None) -> None:
        if not has_run():
            original(self, event, step, walltime)
        elif isinstance(self.event_writer, package_class):
            adopt(self.event_writer, package_class)
            original(self, event, step, walltime)
        else:  # somebody's own: it gets what it would get, and the run too
            share(self, event, step, walltime)

    return add_event


def _adopting_first(original: Callable[..., Any], package_class: type) -> Callable[..., Any]:
    """A method of a FileWriter that calls its `add_event`, which somebody may have replaced on the
    object before the run: then ours is not called."""

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if has_run():
            adopt(getattr(self, "event_writer", None), package_class)
        return original(self, *args, **kwargs)

    return method


def _sharing(original: Callable[..., None]) -> Callable[..., None]:
    """FileWriter.add_event that gives the event to the run, and to its own file as ever."""

    @functools.wraps(original)
    def add_event(self: Any, event: Any, step: Any = None, walltime: Any = None) -> None:
        before = pushed_count()
        original(self, event, step, walltime)
        if pushed_count() > before:
            return  # what the writer has in the place of its own hands on to one of ours
        if not getattr(_own_file_only, "depth", 0):
            push_event(own_writer_key(self.get_logdir()), event)

    return add_event
