"""The bytes of a journal's files, and how they are read after a crash.

Little-endian. A segment, `journal-FIRST.bin`, is a file header and blocks:

  file header   8s magic  I format version  I record version  I record size  I CRC-32C of these
  block         4s magic  I records  Q first position  Q payload bytes
                I CRC-32C of records and payloads  I CRC-32C of this header
                the records as they lay in the ring (RECORD_DTYPE), but for payload_offset, which
                counts in the block's payloads; the payloads

Each block stands for itself: its header's checksum begins with the versions, so a block is found
and trusted also where the file header, or the block before it, is damaged. Order is by position,
whatever the files are called.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracelet import _core
from tracelet.errors import JournalError
from tracelet.records import RECORD_DTYPE

FORMAT_VERSION = 2
_FILE_HEADER = struct.Struct("<8sIIII")
_FILE_MAGIC = b"TRCLJRNL"
_BLOCK_HEADER = struct.Struct("<4sIQQII")
_BLOCK_MAGIC = b"JBLK"
_BLOCK_HEADER_CHECKED_BYTES = _BLOCK_HEADER.size - 4

_VERSIONS = struct.pack("<III", FORMAT_VERSION, _core.RECORD_VERSION, RECORD_DTYPE.itemsize)
_VERSIONS_CRC = _core.crc32c(_VERSIONS)

BLOCK_HEADER_BYTES = _BLOCK_HEADER.size

Records = Any  # np.ndarray of RECORD_DTYPE


@dataclass(frozen=True)
class Block:
    """Where a block lies."""

    first: int
    count: int
    path: str
    offset_bytes: int  # of the block's header
    payload_bytes: int

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def size_bytes(self) -> int:
        return _BLOCK_HEADER.size + self.count * RECORD_DTYPE.itemsize + self.payload_bytes


@dataclass(frozen=True)
class Damage:
    """Bytes of a journal's file that hold no block that can be trusted."""

    path: str
    offset_bytes: int
    size_bytes: int
    what: str
    is_torn_tail: bool = False
    """The last write of a process that was killed, or of a machine that lost its power."""

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset_bytes}: {self.what} ({self.size_bytes} bytes)"


def file_header() -> bytes:
    head = _FILE_MAGIC + _VERSIONS
    return head + struct.pack("<I", _core.crc32c(head))


def block_header(records: Records, payloads: bytes, first: int) -> bytes:
    crc = _core.crc32c(payloads, _core.crc32c(records))
    head = _BLOCK_HEADER.pack(_BLOCK_MAGIC, len(records), first, len(payloads), crc, 0)
    return head[:-4] + struct.pack("<I", _header_crc(head))


def _header_crc(header: Any) -> int:
    return _core.crc32c(memoryview(header)[:_BLOCK_HEADER_CHECKED_BYTES], _VERSIONS_CRC)


def read_blocks(
    path: str, offset_bytes: int, size_bytes: int, position: int
) -> Iterator[tuple[int, Records, bytes]]:
    """Of the blocks in these bytes of a file those that end behind `position`, in file order: the
    first position, the records (read-only) and the payloads of each.

    Raises JournalError naming file and byte when a block is not, or no longer, what it should be;
    OSError.
    """
    with open(path, "rb") as file:
        file.seek(offset_bytes)
        data = file.read(size_bytes)
    view = memoryview(data)
    start = 0
    while start < size_bytes:
        where = f"{path} at byte {offset_bytes + start}"
        content = start + _BLOCK_HEADER.size
        if len(data) < content:
            raise JournalError(f"{where}: the block is cut off")
        magic, count, first, payload_bytes, crc, header_crc = _BLOCK_HEADER.unpack_from(data, start)
        if magic != _BLOCK_MAGIC or header_crc != _header_crc(view[start:content]):
            raise JournalError(f"{where}: the block's header is damaged")
        payloads = content + count * RECORD_DTYPE.itemsize
        start = payloads + payload_bytes
        if first + count <= position:
            continue
        if len(data) < start:
            raise JournalError(f"{where}: the block is cut off")
        if _core.crc32c(view[content:start]) != crc:
            raise JournalError(f"{where}: the records are damaged (checksum)")
        yield first, np.frombuffer(data, RECORD_DTYPE, count, content), data[payloads:start]


def segment_paths(folder: str) -> list[str]:
    names = [name for name in os.listdir(folder) if name.startswith("journal-")]
    return [os.path.join(folder, name) for name in sorted(names) if name.endswith(".bin")]


def scan_segment(path: str) -> tuple[list[Block], list[Damage]]:
    """The blocks of a file that can be trusted, in file order, and what lies between them.

    Never raises for what is in the file; raises OSError when it can't be read.
    """
    blocks: list[Block] = []
    damages: list[Damage] = []
    with open(path, "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes == 0:
            return [], []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for found in _scan(data, path, size_bytes):
                (blocks if isinstance(found, Block) else damages).append(found)  # type: ignore[arg-type]
    return blocks, damages


def _scan(data: mmap.mmap, path: str, size_bytes: int) -> Iterator[Block | Damage]:
    problem = _file_header_problem(data[: _FILE_HEADER.size])
    if problem.startswith("written by"):
        yield Damage(path, 0, size_bytes, problem)
        return
    bad_from = 0 if problem else None
    position = 0 if problem else _FILE_HEADER.size
    while position < size_bytes:
        found = _block_at(data, path, position, size_bytes)
        if isinstance(found, Block):
            if bad_from is not None:
                yield Damage(path, bad_from, position - bad_from, problem)
                bad_from = None
            yield found
            position += found.size_bytes
            continue
        if bad_from is None:
            bad_from, problem = position, found
        # What a damaged header says of the block's size is not trusted.
        position = data.find(_BLOCK_MAGIC, position + 1)
        if position < 0:
            break
    if bad_from is not None:
        is_torn = problem.startswith("cut off")
        yield Damage(path, bad_from, size_bytes - bad_from, problem, is_torn)


def _file_header_problem(header: bytes) -> str:
    if len(header) < _FILE_HEADER.size:
        return "cut off in the file's header"
    (crc,) = struct.unpack_from("<I", header, _FILE_HEADER.size - 4)
    if crc != _core.crc32c(header[:-4]) or not header.startswith(_FILE_MAGIC):
        return "the file's header is damaged"
    _, format_version, record_version, *_ = _FILE_HEADER.unpack(header)
    if header[8:-4] != _VERSIONS:
        return f"written by another version (format {format_version}, records {record_version})"
    return ""


def _block_at(data: mmap.mmap, path: str, position: int, size_bytes: int) -> Block | str:
    """The block at a position, or what is wrong with it."""
    if position + _BLOCK_HEADER.size > size_bytes:
        return "cut off in a block's header"
    header = data[position : position + _BLOCK_HEADER.size]
    magic, count, first, payload_bytes, crc, header_crc = _BLOCK_HEADER.unpack(header)
    if magic != _BLOCK_MAGIC or header_crc != _header_crc(header):
        return "a block's header is damaged"
    block = Block(first, count, path, position, payload_bytes)
    if position + block.size_bytes > size_bytes:
        return "cut off in a block"
    view = memoryview(data)
    try:
        content = view[position + _BLOCK_HEADER.size : position + block.size_bytes]
        is_good = _core.crc32c(content) == crc
        content.release()
    finally:
        view.release()
    return block if is_good else "a block's checksum is wrong"
