"""The strings behind the ids of a journal's records: tags and writer keys, in `names.bin`.

With them a journal is readable when the ring's file is gone, as after a loss of power. One
append-only file, for the journal's segments come and go:

  file header   8s magic  I format version  I CRC-32C of these
  block         4s magic  I first id  I strings  I bytes  I CRC-32C of them  I of this header
                each string: I length in bytes, UTF-8
"""

from __future__ import annotations

import os
import struct
from typing import Protocol

from tracelet import _core

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
    """Where the strings come from: a ring's tag table. Ids count from 1, without a gap."""

    def text(self, id: int) -> str: ...

    def text_count(self) -> int: ...


class NamesFile:
    """Appends to `names.bin` what it has not got yet. One thread, but `fileno` is for any."""

    def __init__(self, folder: str, held: int = 0) -> None:
        self._path = os.path.join(folder, NAMES)
        self._held = held
        self._fd: int | None = None
        self._size_bytes = 0

    def update(self, names: NameSource) -> None:
        """Writes the strings that are new. Raises OSError; what was whole before then stays."""
        count = names.text_count()
        if count <= self._held:
            return
        texts = [names.text(id).encode() for id in range(self._held + 1, count + 1)]
        content = b"".join(_LENGTH.pack(len(text)) + text for text in texts)
        head = _BLOCK_HEADER.pack(
            _BLOCK_MAGIC, self._held + 1, len(texts), len(content), _core.crc32c(content), 0
        )
        block = head[:-4] + _LENGTH.pack(_core.crc32c(head[:-4])) + content
        fd = self._open()
        try:
            write_all(fd, block)
        except OSError:
            os.ftruncate(fd, self._size_bytes)
            raise
        self._size_bytes += len(block)
        self._held = count

    def _open(self) -> int:
        if self._fd is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | O_BINARY
            fd = os.open(self._path, flags, 0o600)
            # What a process that died wrote half is cut off: whole blocks follow one another.
            size_bytes = _whole_bytes(fd)
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


def read_names(folder: str) -> list[str]:
    """The strings by id, from 1 on: the first one is of no id and empty.

    As far as the file can be trusted: ids follow one another, so nothing behind damage is used.
    """
    try:
        with open(os.path.join(folder, NAMES), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        data = b""
    return ["", *_parse(data)[0]]


def _whole_bytes(fd: int) -> int:
    with open(fd, "rb", closefd=False) as file:
        return _parse(file.read())[1]


def _parse(data: bytes) -> tuple[list[str], int]:
    """The strings, and how many bytes of the file are good."""
    if len(data) < _FILE_HEADER.size:
        return [], 0
    magic, version, crc = _FILE_HEADER.unpack_from(data)
    if (magic, version, crc) != (_FILE_MAGIC, _FORMAT_VERSION, _core.crc32c(data[:12])):
        return [], 0
    texts: list[str] = []
    position = _FILE_HEADER.size
    while position + _BLOCK_HEADER.size <= len(data):
        header = data[position : position + _BLOCK_HEADER.size]
        magic, first, count, size_bytes, crc, header_crc = _BLOCK_HEADER.unpack(header)
        start = position + _BLOCK_HEADER.size
        content = data[start : start + size_bytes]
        if (
            magic != _BLOCK_MAGIC
            or header_crc != _core.crc32c(header[:-4])
            or crc != _core.crc32c(content)
            or first != len(texts) + 1
            or len(content) != size_bytes
        ):
            break
        texts += _texts_of(content, count)
        position = start + size_bytes
    return texts, position


def _texts_of(content: bytes, count: int) -> list[str]:
    texts = []
    position = 0
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(content, position)
        position += _LENGTH.size
        texts.append(content[position : position + length].decode())
        position += length
    return texts


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
