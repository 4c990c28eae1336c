"""The seam for all that is not hot: where a FileWriter would give an event to its event file.

torch's (and tensorboardX') SummaryWriter builds a protobuf and calls its FileWriter, which sets
wall time and step and calls `event_writer.add_event(event)`. While a run is active, that
`event_writer` is a `CapturingEventWriter`: the event goes into the run's ring.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tracelet.capture.events import EventCapture
from tracelet.capture.patch import Patch, then
from tracelet.writer_key import writer_key

_capture: EventCapture | None = None  # of the active run; set by `set_event_capture`


def set_event_capture(capture: EventCapture | None) -> None:
    """Where events go from now on; None when no run is active."""
    global _capture
    _capture = capture


def push_event(writer: str, event: Any) -> bool:
    """Pushes an event that no FileWriter made; `writer` is a `writer_key`, or "" for none.

    False when no run is active.
    """
    capture = _capture
    return capture is not None and capture.push(writer, event)


class CapturingEventWriter:
    """Stands in a FileWriter for the EventFileWriter that it would have made, or that it has.

    Without a run it hands events on to that one, which is made when it is first needed: then there
    is no file that nobody writes to.
    """

    def __init__(
        self,
        make_writer: Callable[[], Any],
        log_dir: str,
        filename_suffix: str = "",
        writer: Any = None,
    ) -> None:
        self._make_writer = make_writer
        self._log_dir = log_dir
        self.key = writer_key(log_dir, filename_suffix)
        self._writer = writer
        self._lock = threading.Lock()

    def get_logdir(self) -> str:
        return self._log_dir

    def add_event(self, event: Any) -> None:
        """Pushes the event, which others then may not change. Raises TypeError for none."""
        if not hasattr(event, "SerializeToString") or not hasattr(event, "summary"):
            raise TypeError(f"Expected an event_pb2.Event proto,  but got {type(event)}")
        capture = _capture
        if capture is None or not capture.push(self.key, event):
            self._own_writer().add_event(event)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Closes its own file; events after it go on to the run's, as torch makes a new one."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def reopen(self) -> None:
        if self._writer is not None and hasattr(self._writer, "reopen"):
            self._writer.reopen()

    def _own_writer(self) -> Any:
        with self._lock:
            if self._writer is None:
                self._writer = self._make_writer()
            return self._writer


def key_of_file_writer(file_writer: Any) -> str | None:
    """The `writer_key` under which the events of a FileWriter go to the run; None: not known."""
    event_writer = getattr(file_writer, "event_writer", None)
    return event_writer.key if isinstance(event_writer, CapturingEventWriter) else None


def patch_file_writer(module: Any, flush_event_files: Callable[[], None]) -> list[Patch]:
    """Has the FileWriters of a module, torch's or tensorboardX', give their events to the run.

    `flush_event_files` waits until the run's event files hold what was logged.
    """
    cls, event_file_writer = module.FileWriter, module.EventFileWriter
    methods = {
        "add_event": _adopting(cls.add_event, event_file_writer),
        "flush": then(cls.flush, flush_event_files),
        "close": then(cls.close, flush_event_files),
    }
    return [Patch(cls, methods), Patch(module, {"EventFileWriter": _maker(event_file_writer)})]


def patch_file_writer_beside(module: Any) -> list[Patch]:
    """Has the FileWriters of a module write their own files, and the run get their events too."""
    return [Patch(module.FileWriter, {"add_event": _sharing(module.FileWriter.add_event)})]


_own_file_only = threading.local()  # `.depth`: calls within `for_own_file_only`


@contextlib.contextmanager
def for_own_file_only() -> Iterator[None]:
    """Events of this thread within the block are not for the run, which has them already."""
    _own_file_only.depth = getattr(_own_file_only, "depth", 0) + 1
    try:
        yield
    finally:
        _own_file_only.depth -= 1


def _maker(cls: Any) -> Callable[..., CapturingEventWriter]:
    """What stands for EventFileWriter in its module: the same call, but no file yet."""

    def make(logdir: str, *args: Any, **kwargs: Any) -> CapturingEventWriter:
        suffix = str(args[2] if len(args) > 2 else kwargs.get("filename_suffix", ""))
        if "://" not in logdir:
            os.makedirs(logdir, exist_ok=True)
            # What is wrong with the folder or the suffix is an error here, as it would be there.
            import tempfile

            with tempfile.NamedTemporaryFile(dir=logdir, suffix=suffix):
                pass
        return CapturingEventWriter(functools.partial(cls, logdir, *args, **kwargs), logdir, suffix)

    return make


def _adopting(original: Callable[..., None], cls: Any) -> Callable[..., None]:
    """FileWriter.add_event, also of a FileWriter that was made before the run."""

    @functools.wraps(original)
    def add_event(self: Any, event: Any, step: Any = None, walltime: Any = None) -> None:
        if isinstance(self.event_writer, cls):
            self.event_writer = _adopt(self.event_writer)
        original(self, event, step, walltime)

    return add_event


def _sharing(original: Callable[..., None]) -> Callable[..., None]:
    """FileWriter.add_event that gives the event to the run, and to its own file as ever."""

    @functools.wraps(original)
    def add_event(self: Any, event: Any, step: Any = None, walltime: Any = None) -> None:
        original(self, event, step, walltime)
        capture = _capture
        if capture is not None and not getattr(_own_file_only, "depth", 0):
            capture.push(writer_key(self.get_logdir()), event)

    return add_event


def _adopt(writer: Any) -> CapturingEventWriter:
    log_dir = writer.get_logdir()
    return CapturingEventWriter(lambda: writer, log_dir, _filename_suffix(writer), writer)


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
