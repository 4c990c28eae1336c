"""What the process prints: kept in a file of the run's folder, line by line, while it is shown.

By the `write` of the two streams' own objects, so that who holds one of them (a handler of
`logging`) is heard, too, and nobody finds another object in the place of `sys.stdout`. What comes
past them, from native code or child processes, is not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable

from tracelet.runs.private_file import private

_log = logging.getLogger("tracelet")

MOST_BYTES = 64 << 20
_LONGEST_LINE = 64 << 10
_TRIMMED_ABOVE = 4 << 10
_MOST_WAITING = 64
_MOST_WAITING_SIZE = 4 << 20
_ENTRY_SIZE = 64  # what a text costs beside its characters
_END_TIMEOUT_S = 1.0


class ConsoleFile:
    """The file, and the lines on their way to it. Any thread; nobody waits for another.

    `feed` leaves its text in a queue; whoever has the lock takes all out of it. So a signal's
    handler that prints, or a warning of this very module, comes back here and does no harm.
    """

    def __init__(self, path: str, most_bytes: int = MOST_BYTES) -> None:
        """Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._fd: int | None = private(path, flags)
        self._path = path
        self._left_bytes = most_bytes
        self._most_bytes = most_bytes
        self._queue: deque[tuple[str, str]] = deque()
        # What the queue holds, and what it did not take. Any thread adds to them without a lock, so
        # they may be a little too low; an empty queue sets the first right.
        self._waiting_size = 0
        self._dropped_chars = 0
        self._lock = threading.Lock()  # of all that follows, and of the file; never waited for
        self._pending: dict[str, str] = {}  # by stream: the line that has no end yet

    def feed(self, stream: str, text: str) -> None:
        """Keeps what was printed. What can't be written is told once, by `logging`; what a disk
        that hangs holds up is bounded, and a line tells of the rest."""
        is_full = bool(self._queue) and self._waiting_size > _MOST_WAITING_SIZE
        if is_full:
            self._dropped_chars += len(text)
        else:
            self._waiting_size += len(text) + _ENTRY_SIZE
            self._queue.append((stream, text))
        # A `print` writes each of its arguments by itself: no line is whole before the last.
        if "\n" not in text and not is_full and len(self._queue) < _MOST_WAITING:
            return
        # Whoever came while this one held the lock, and left, is looked for again.
        while self._queue and self._lock.acquire(blocking=False):
            try:
                self._take_all()
            finally:
                self._lock.release()

    def end(self) -> None:
        """Writes what has no end of its line yet, and closes the file; what comes then is not
        kept."""
        if not self._lock.acquire(timeout=_END_TIMEOUT_S):
            return  # a thread is held up by the disk
        try:
            self._take_all()
            for stream, text in list(self._pending.items()):
                if shown := _shown(text):
                    self._write(shown + "\n")
                self._pending.pop(stream)
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)
        finally:
            self._lock.release()

    def _take_all(self) -> None:
        while self._queue:
            stream, text = self._queue.popleft()
            self._take(stream, text)
            self._waiting_size -= len(text) + _ENTRY_SIZE
        self._waiting_size = 0
        if dropped := self._dropped_chars:
            self._dropped_chars -= dropped
            self._write(f"(tracelet: {dropped} characters are not kept: the disk was too slow)\n")

    def _take(self, stream: str, text: str) -> None:
        *lines, rest = (self._pending.pop(stream, "") + text).split("\n")
        if len(rest) > _TRIMMED_ABOVE and "\r" in rest:  # a progress bar, which goes on and on
            rest = _shown(rest) + ("\r" if rest.endswith("\r") else "")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], ""
        if rest:
            self._pending[stream] = rest
        if lines:
            self._write("".join(_shown(line) + "\n" for line in lines))

    def _write(self, text: str) -> None:
        if self._fd is None:
            return
        data = text.encode("utf-8", "backslashreplace")
        try:
            if len(data) > self._left_bytes:
                self._close(f"it has reached {self._most_bytes >> 20} MiB", is_noted=True)
                return
            self._left_bytes -= len(data)
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._close(str(error))

    def _close(self, why: str, is_noted: bool = False) -> None:
        fd, self._fd = self._fd, None
        with contextlib.suppress(OSError):
            if is_noted and fd is not None:
                os.write(fd, f"(tracelet: what follows is not kept: {why})\n".encode())
            if fd is not None:
                os.close(fd)
        # Goes through the streams, as likely as not, and so into the queue, and is left out.
        _log.warning("tracelet: what is printed from now on is not kept in %s: %s", self._path, why)


def _shown(line: str) -> str:
    """What a terminal shows of a line in the end: a carriage return begins it anew."""
    if "\r" not in line:
        return line
    return next((part for part in reversed(line.split("\r")) if part), "")


class _Write:
    """In the place of a stream's `write`, from `begin` to `undo`."""

    def __init__(self, stream: Any, name: str, keep: Callable[[str, str], None]) -> None:
        """Raises AttributeError or TypeError for a stream that it can't take the place in."""
        self._had_own = "write" in vars(stream)
        self._before: Any = stream.write
        self._name = name
        self._keep: Callable[[str, str], None] | None = keep
        self._stream = stream
        self._pid = os.getpid()

    def begin(self) -> None:
        """Raises the same."""
        self._stream.write = self
        if vars(self._stream).get("write") is not self:
            # It passes on what is set on it: there it could not be taken away again, and each run
            # would put one more over it.
            self._keep = None
            self._stream.write = self._before
            raise AttributeError("what is set on it goes to another object")

    def __call__(self, text: str) -> Any:
        result = self._before(text)  # first: its errors are the caller's
        keep = self._keep
        if keep is not None:
            # Whatever it is, no `print` is to fail for it. Not by contextlib: it takes longer.
            try:
                if isinstance(text, str) and os.getpid() == self._pid:
                    keep(self._name, text)
            except Exception:
                pass
        return result

    def undo(self) -> None:
        """The stream is as it was; where somebody has put another `write` over this one, this one
        stays and passes on. Once more does no harm, nor does it before `begin`."""
        self._keep = None
        if vars(self._stream).get("write") is not self:
            return
        before = self._before
        while isinstance(before, _Write) and before._keep is None:
            before, self._had_own = before._before, before._had_own
        if self._had_own:
            self._stream.write = before
        else:
            del self._stream.write


class Console:
    """From `begin` to `end`: what is printed to `sys.stdout` and `sys.stderr` is in the file."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self.file = ConsoleFile(path)
        self._writes: list[_Write] = []

    def begin(self) -> None:
        """What `end` undoes also when this was interrupted: Ctrl-C may come at any line. So each is
        in the list before it takes the place of anything."""
        streams: Sequence[tuple[str, Any]] = (("stdout", sys.stdout), ("stderr", sys.stderr))
        for n, (name, stream) in enumerate(streams):
            if stream is None or any(stream is each for _, each in streams[:n]):
                continue
            try:
                self._writes.append(_Write(stream, name, self.file.feed))
                self._writes[-1].begin()
            except (AttributeError, TypeError) as error:
                _log.warning("tracelet: what is printed to %s is not kept: %s", name, error)

    def end(self) -> None:
        """Gives the streams back. Once more does no harm."""
        for each in self._writes:
            each.undo()
        self._writes.clear()
        self.file.end()
