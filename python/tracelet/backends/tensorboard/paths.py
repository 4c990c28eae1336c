"""Which event file is a writer's: made in the call that makes the writer, or by the sink."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import threading
import time

from tracelet import _core
from tracelet.fork import renew_at_fork
from tracelet.writer_key import split_writer_key, writer_key

_file_numbers = itertools.count()

_MOST_TAKEN_NAMES = 1000
_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)

LASTING = {
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP,
    errno.EACCES, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""Errors at opening a file that say something of its folder or its name."""


def event_file_name(wall_time_s: float) -> str:
    """A new file's name, as TensorBoard's EventFileWriter forms it, with a last part of our own.

    TensorBoard follows the last file of a folder, by name, and reads the others once. So this name
    sorts behind that of the file that torch's own writer made in the same folder and second, whose
    last part is a number; and behind those that were made before it in that second.
    """
    number = next(_file_numbers)
    pid = os.getpid()
    return f"events.out.tfevents.{int(wall_time_s):010d}.{_host()}.{pid}.tracelet{number:06d}"


@functools.lru_cache(maxsize=1)  # known while the interpreter ends, when nothing can be imported
def _host() -> str:
    import socket  # 4 ms of those that importing tracelet may take

    return socket.gethostname()


def check_folder(log_dir: str, suffix: str) -> str:
    """Makes a log folder; "" for the file that there is not. Raises OSError for what would be wrong
    with it, or with the suffix, when a file is made there."""
    if "://" not in log_dir:
        os.makedirs(log_dir, exist_ok=True)
        import tempfile

        with tempfile.NamedTemporaryFile(dir=log_dir, suffix=suffix):
            pass
    return ""


def new_event_file(key: str, now_s: float) -> str:
    """Makes the file of a writer, by its `writer_key`; its folder is there. Raises OSError.

    Containers that share a log folder may have one host name and pid: a file whose name is taken is
    another process'.
    """
    for _ in range(_MOST_TAKEN_NAMES):
        path = _path(key, now_s)
        try:
            fd = os.open(path, _APPEND | os.O_EXCL | os.O_CREAT, 0o666)
        except FileExistsError:
            continue  # any other error says nothing of whose file it is: it is left alone
        try:
            _write_all(fd, _core.version_event(now_s))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        return path
    raise FileExistsError(errno.EEXIST, "all names of a new event file are taken", path)


def append_to(path: str, data: bytes) -> None:
    """Without `open`, which is gone while the interpreter ends. Raises OSError."""
    _write_all(os.open(path, _APPEND), data)


def _write_all(fd: int, data: bytes) -> None:
    """And closes it."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _path(key: str, now_s: float) -> str:
    folder, suffix = split_writer_key(key)
    return os.path.join(folder, event_file_name(now_s) + suffix)


class EventFilePaths:
    """The files of a run's writers, by `writer_key`. Thread-safe."""

    def __init__(self) -> None:
        self._owner_pid = os.getpid()
        # Held for a look-up alone: a file system may hang, and the sink is not to wait for it.
        self.renew_in_child()
        renew_at_fork(self)
        self._paths: dict[str, str] = {}
        self.generation = 0
        """How often they were renewed: a file from before is closed."""

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()

    def renew(self) -> None:
        """From now on all writers get new files."""
        with self._lock:
            self._paths.clear()
            self.generation += 1

    def make(self, log_dir: str, suffix: str) -> str:
        """Makes the file of a writer that has none, or whose file was deleted; returns its path.

        Raises OSError for a folder or a suffix that can't be. In a forked child, whose parent has
        the files, it checks the folder alone.
        """
        if "://" in log_dir or os.getpid() != self._owner_pid:
            return check_folder(log_dir, suffix)
        key = writer_key(log_dir, suffix)
        before = self._paths.get(key)
        if before is not None and os.path.exists(before):
            return before
        now_s = time.time()
        path = ""
        try:
            os.makedirs(log_dir, exist_ok=True)
            path = new_event_file(key, now_s)
        except OSError as error:
            if error.errno in LASTING:
                raise
            return ""  # a full disk: the sink makes it once there is room
        with self._lock:
            if self._paths.get(key) == before:
                self._paths[key] = path
        if self._paths[key] != path:  # another thread's, or the sink's, was there first
            with contextlib.suppress(OSError):
                os.unlink(path)
        return self._paths[key]

    def next(self, key: str, gone: str | None, now_s: float) -> str:
        """The file of a writer for the sink, which makes it if need be; `gone` is one no more."""
        new = None
        if self._paths.get(key) in (None, gone):
            new = _path(key, now_s)
            while os.path.lexists(new):  # another process' file, see `new_event_file`
                new = _path(key, now_s)
        with self._lock:
            if new is not None and self._paths.get(key) in (None, gone):
                self._paths[key] = new
            return self._paths[key]
