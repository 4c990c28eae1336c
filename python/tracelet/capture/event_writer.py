"""The writer of an event file, torch's or tensorboardX', in a run: its events go to the run.

It stays an instance of its class, and the class stays what its module has: others make subclasses
of it (wandb does, for `sync_tensorboard`), before a run or in it, and ask isinstance. Theirs run as
ever; `_Captured` comes behind them in the method resolution order, before the package's own class.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracelet import _core
from tracelet.backends.tensorboard.paths import append_to, new_event_file
from tracelet.capture.events import EventCapture
from tracelet.capture.origin import is_its_own, package_of
from tracelet.writer_key import own_writer_key, split_writer_key

_log = logging.getLogger("tracelet")

_capture: EventCapture | None = None  # of the active run; set by `set_event_capture`
_files_are_theirs = False  # likewise: the run leaves the event files to the writers
_pushed = threading.local()  # `.count`
_making = threading.RLock()  # of the writers' own files, after a run
_adopting = threading.RLock()  # of the classes of writers, and of `_classes`


def set_event_capture(capture: EventCapture | None, files_are_theirs: bool = False) -> None:
    """Where events go from now on; None when no run is active. With `files_are_theirs` the writers
    write to their own files besides."""
    global _capture, _files_are_theirs
    _capture, _files_are_theirs = capture, files_are_theirs


def has_run() -> bool:
    """Whether a run is active that events go to."""
    return _capture is not None


def note_earlier_writer(key: str) -> None:
    """A writer from before the run, or one that was told of already, logs to it."""
    capture = _capture
    if capture is not None and capture.handle is not None:
        capture.handle.note_writer(key, is_earlier=True)


def folder_of_new_writer() -> str | None:
    """What a SummaryWriter without a log folder takes; None for what its package makes of it."""
    capture = _capture
    return None if capture is None or capture.handle is None else capture.handle.of_new_writer()


def push_event(writer: str, event: Any) -> bool:
    """Pushes an event; `writer` is a `writer_key`, or "" for none. False when no run is active."""
    capture = _capture
    is_pushed = capture is not None and capture.push(writer, event)
    _pushed.count = pushed_count() + is_pushed
    return is_pushed


def pushed_count() -> int:
    """How many events this thread has pushed."""
    return getattr(_pushed, "count", 0)


def _after_fork_in_child() -> None:
    global _making, _adopting
    _making = threading.RLock()
    _adopting = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@dataclass
class _State:
    """What a captured writer knows besides what its package knows of it."""

    package_class: type
    key: str  # a writer_key
    make: Callable[[], None] | None  # makes its own file and thread; None when they are there
    again: Callable[[], None] | None = None  # the same, when it is used once more after its close
    diversion: _Diversion | None = None
    maker: int | None = None  # the thread that makes its own file at the moment

    @property
    def is_maker(self) -> bool:
        """Whether this thread makes its own file at the moment."""
        return self.maker is not None and self.maker == threading.get_ident()


class _Diversion:
    """In the place of what a package's event writer hands its events on to, when others have put a
    method in the place of the package's `add_event`: theirs are called, and the event goes to the
    run at the end of the way, not at its beginning."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        own = vars(writer)
        # tensorboard's, and tensorboardX', which looks first at whether it is closed.
        ours: dict[str, Any] = {"_async_writer": self}
        if package_of(writer._tracelet.package_class) == "tensorboardX":
            ours = {"_event_queue": self, "_closed": False}
        self._place = next(iter(ours))
        self._instead_of = {name: own[name] for name in ours if name in own}
        self._added = [name for name in ours if name not in own]
        own.update(ours)

    def write(self, content: bytes) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._give(Event.FromString(content), "write", content)

    def put(self, event: Any) -> None:
        self._give(event, "put", event)

    def _give(self, event: Any, method: str, content: Any) -> None:
        if not push_event(self._writer._tracelet.key, event):
            self._writer._to_its_own()
            getattr(getattr(self._writer, self._place), method)(content)

    def undo(self) -> None:
        vars(self._writer).update(self._instead_of)
        for name in self._added:
            vars(self._writer).pop(name, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._instead_of[self._place], name)


class _Captured:
    """Stands between a writer's package and what others have made of its class.

    Without a run it hands events on to the package's, whose file is made when it is first needed:
    then there is no file that nobody writes to.
    """

    _tracelet: _State

    def add_event(self, event: Any) -> None:
        """Pushes the event, which others then may not change. Raises TypeError for none."""
        if not hasattr(event, "SerializeToString") or not hasattr(event, "summary"):
            raise TypeError(f"Expected an event_pb2.Event proto,  but got {type(event)}")
        # With files of theirs, whoever called this one gives the event to the run. The event that a
        # file begins with is added while that is made, after a run; the next run may be active by
        # then, and is no place for it.
        if _files_are_theirs or self._tracelet.is_maker:
            self._to_its_own()
            super().add_event(event)  # type: ignore[misc]
        elif _capture is not None and not is_its_own(self._tracelet.package_class, "add_event"):
            self._divert()
            super().add_event(event)  # type: ignore[misc]
        elif not push_event(self._tracelet.key, event):
            if not self._is_its_own_now():
                _append_at_exit(self._tracelet.key, event)
                return
            super().add_event(event)  # type: ignore[misc]

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "add_event":
            _core.forget_writers()  # its scalars go by what has just been put there

    def flush(self) -> Any:
        state = self._tracelet
        return super().flush() if state.make is None or state.is_maker else None  # type: ignore[misc]

    def close(self) -> None:
        """Closes its own file; events after it go on to the run's, as torch makes a new one."""
        state = self._tracelet
        with _making:
            self._end_diversion()
        if state.make is None:
            super().close()  # type: ignore[misc]
            state.make = state.again

    def reopen(self) -> None:
        if self._tracelet.make is None:
            super().reopen()  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("cannot pickle an event writer: it has a file and a thread")

    def _divert(self) -> None:
        with _making:
            if self._tracelet.diversion is None:
                self._tracelet.diversion = _Diversion(self)

    def _end_diversion(self) -> None:
        diversion, self._tracelet.diversion = self._tracelet.diversion, None
        if diversion is not None:
            diversion.undo()

    def _is_its_own_now(self) -> bool:
        """Without a run; False where its own file can't be made, with a thread, any more."""
        state = self._tracelet
        if state.make is not None and (sys.is_finalizing() or state.key in _files_at_exit):
            return False
        try:
            self._to_its_own()
        except RuntimeError:  # no thread: from Python 3.12 on in hooks of atexit, too
            return False
        return True

    def _to_its_own(self) -> None:
        """Without a run: what it is given next goes to its own file, which is made if need be."""
        state = self._tracelet
        if state.make is None and state.diversion is None:
            return
        with _making:
            if state.maker is not None:  # the event that the file begins with
                return
            self._end_diversion()
            if state.make is None:
                return
            state.maker = threading.get_ident()
            try:
                state.make()
                state.make = None  # now: before, another thread's flush has nothing to flush
            finally:
                state.maker = None


_files_at_exit: dict[str, str] = {}  # by writer_key


def _append_at_exit(key: str, event: Any) -> None:
    """An event while the interpreter ends (of a `__del__`, of a hook), when no thread starts any
    more and the package's writer, made then, would wait for its own: written here and now."""
    try:
        if key not in _files_at_exit:
            os.makedirs(split_writer_key(key)[0], exist_ok=True)
            _files_at_exit[key] = new_event_file(key, time.time())
        append_to(_files_at_exit[key], _core.framed_event(event.SerializeToString()))
    except (OSError, ImportError) as error:
        _log.warning(
            "tracelet: an event that was logged as the process ended is in no event file: %s", error
        )


_classes: dict[tuple[type, type], type] = {}


def _capturing(cls: type, package_class: type) -> type:
    """`cls`, which is `package_class` or derived from it, with `_Captured` right before that."""
    with _adopting:  # one class for all of its writers
        if (cls, package_class) not in _classes:
            if cls is package_class:
                bases: tuple[type, ...] = (_Captured, cls)
            else:
                bases = (cls, _capturing(package_class, package_class))
            names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
            _classes[cls, package_class] = type(cls.__name__, bases, names)
        return _classes[cls, package_class]


def key_of(writer: Any) -> str | None:
    """The `writer_key` under which an event writer's events go to the run; None: not known."""
    return writer._tracelet.key if isinstance(writer, _Captured) else None


def package_class_of(cls: Any) -> Any:
    """The package's own class of writers, below what others have derived from it."""
    if not isinstance(cls, type):
        raise AttributeError(f"a writer's class is no class but {cls!r:.100}")
    return next(each for each in reversed(cls.__mro__) if "add_event" in vars(each))


_within = threading.local()  # `.depth`: FileWriters that are being made


def for_its_events(original: Callable[..., None]) -> Callable[..., None]:
    """A FileWriter's __init__: the event writer that it makes is one of the run's."""

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        _within.depth = getattr(_within, "depth", 0) + 1
        try:
            original(self, *args, **kwargs)
        finally:
            _within.depth -= 1

    return init


def without_a_file(package_class: type, original: Callable[..., None]) -> Callable[..., None]:
    """The __init__ of an event writer that makes neither file nor thread, in a FileWriter's."""

    @functools.wraps(original)
    def init(self: Any, logdir: str, *args: Any, **kwargs: Any) -> None:
        capture = _capture
        if capture is None or not getattr(_within, "depth", 0):
            original(self, logdir, *args, **kwargs)
            return
        suffix = str(args[2] if len(args) > 2 else kwargs.get("filename_suffix", ""))
        # What is wrong with the folder or the suffix is an error here, as it would be there.
        path = capture.make_event_file(logdir, suffix)
        if capture.handle is not None:
            capture.handle.note_writer(own_writer_key(logdir, suffix))
        make = functools.partial(original, self, logdir, *args, **kwargs)
        self._logdir = logdir
        self._file_name = path
        self._tracelet = _State(package_class, own_writer_key(logdir, suffix), make, make)
        self.__class__ = _capturing(type(self), package_class)

    return init


def adopt(writer: Any, package_class: Any) -> None:
    """Has a writer from before the run give its events to it; its file is its own again later.

    Of two threads that log their first event to it at once, one adopts it: what the other looked
    at, its class above all, would be that of a writer that is adopted by now.
    """
    if isinstance(writer, package_class) and not isinstance(writer, _Captured):
        with _adopting:
            if not isinstance(writer, _Captured):
                key = own_writer_key(writer.get_logdir(), _filename_suffix(writer))
                writer._tracelet = _State(package_class, key, None)
                writer.__class__ = _capturing(type(writer), package_class)
                note_earlier_writer(key)
    if isinstance(writer, _Captured) and "add_event" in vars(writer):
        writer._divert()  # what somebody has put there may call the package's own, not ours


def _filename_suffix(writer: Any) -> str:
    """The suffix of the file's name, behind the time, the host and what the package adds."""
    path = getattr(writer, "_file_name", None)
    if path is None:
        path = getattr(getattr(writer, "_ev_writer", None), "_file_name", "")  # tensorboardX'
    import socket

    host = re.escape(socket.gethostname())
    found = re.search(
        rf"\.tfevents\.\d{{10}}\.{host}(\.\d+\.\d+)?(.*)$", os.path.basename(str(path))
    )
    return found.group(2) if found else ""
