"""The strings behind the ids of a journal's records: tags and writer keys, in `names.bin`.

With them a journal is readable when the ring's file is gone, as after a loss of power. One
append-only file, for the journal's segments come and go:

  file header   8s magic  I format version  I CRC-32C of these
  block         4s magic  I first id  I strings  I bytes  I CRC-32C of them  I of this header
                each string: I length in bytes, UTF-8
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import Protocol

from tracelet import _core
from tracelet.errors import JournalError

# Without it Windows writes the byte 10 as 13 10.
O_BINARY: int = getattr(os, "O_BINARY", 0)
NAMES = "names.bin"
_FORMAT_VERSION = 1
_FILE_HEADER = struct.Struct("<8sII")
_FILE_MAGIC = b"TRCLNAME"
_BLOCK_HEADER = struct.Struct("<4sIIIII")
_BLOCK_MAGIC = b"NBLK"
_LENGTH = struct.Struct("<I")


class NameSource(Protocol):
    """Where the strings come from: a ring's tag table. Ids count from 1."""

    def text(self, id: int) -> str: ...

    def text_count(self) -> int: ...


class NamesFile:
    """Appends to `names.bin` what it has not got yet. One thread, but `fileno` is for any."""

    def __init__(self, folder: str, held: _core.StoredNames | None = None) -> None:
        """`held` is what the file has, where another process made it."""
        self._path = os.path.join(folder, NAMES)
        self._held = held.text_count() if held else 0
        # Ids whose strings were damaged, to be written anew.
        self._lost = [id for id in range(1, self._held + 1) if held and not held.knows(id)]
        self._fd: int | None = None
        self._size_bytes = 0

    def update(self, names: NameSource) -> None:
        """Writes the strings that are new. Raises OSError; what was whole before then stays."""
        lost = [id for id in self._lost if _knows(names, id)]
        for id in lost:
            self._append(id, [names.text(id)])
            self._lost.remove(id)
        count = names.text_count()
        if count <= self._held:
            return
        first = self._held + 1
        while first <= count:
            end = first
            while end <= count and _knows(names, end):
                end += 1
            if end > first:
                self._append(first, [names.text(id) for id in range(first, end)])
            else:
                self._lost.append(end)
                end += 1
            self._held = end - 1
            first = end

    def _append(self, first: int, names: list[str]) -> None:
        texts = [name.encode() for name in names]
        content = b"".join(_LENGTH.pack(len(text)) + text for text in texts)
        head = _BLOCK_HEADER.pack(
            _BLOCK_MAGIC, first, len(texts), len(content), _core.crc32c(content), 0
        )
        block = head[:-4] + _LENGTH.pack(_core.crc32c(head[:-4])) + content
        fd = self._open()
        try:
            write_all(fd, block)
        except OSError:
            # Where even that fails a torn block stays, behind which a reader finds the next one.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._size_bytes)
            raise
        self._size_bytes += len(block)

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | O_BINARY
            fd = os.open(self._path, flags, 0o600)
            # What a process that died wrote half is cut off. Whole blocks behind damage stay.
            size_bytes = _core.StoredNames.read(self._path).whole_bytes
            os.ftruncate(fd, size_bytes)
            if size_bytes == 0:
                head = _FILE_MAGIC + struct.pack("<I", _FORMAT_VERSION)
                write_all(fd, head + struct.pack("<I", _core.crc32c(head)))
                size_bytes = _FILE_HEADER.size
            self._fd, self._size_bytes = fd, size_bytes
        return self._fd

    @property
    def fileno(self) -> int | None:
        return self._fd

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _knows(names: NameSource, id: int) -> bool:
    return names.knows(id) if isinstance(names, _core.StoredNames) else True


def stored_names(folder: str) -> _core.StoredNames:
    """The strings that a dead process' journal has, as far as they can be trusted.

    Raises OSError; JournalError for a file of a newer version.
    """
    try:
        return _core.StoredNames.read(os.path.join(folder, NAMES))
    except RuntimeError as error:
        raise JournalError(f"{error}") from error


def read_names(folder: str) -> list[str]:
    """The strings by id, from 1 on: the first one is of no id and empty.

    One that is lost has a name of its own in its place: whoever numbers them anew, in order, must
    not take two of them for one, or all behind them would be shifted into wrong series.
    """
    names = stored_names(folder)
    ids = range(1, names.text_count() + 1)
    return ["", *(names.text(id) if names.knows(id) else f"(name {id} lost)" for id in ids)]


def write_all(fd: int, *pieces: object) -> None:
    """Writes all of it, in one system call where the system takes it in one. Raises OSError."""
    views = [memoryview(piece).cast("B") for piece in pieces]  # type: ignore[arg-type]
    written = os.writev(fd, views) if hasattr(os, "writev") else 0
    for view in views:
        if written >= len(view):
            written -= len(view)
            continue
        view = view[written:]
        written = 0
        while len(view):
            view = view[os.write(fd, view) :]
