"""Records on disk that some sink has not acknowledged yet: append, read from a position, release.

Files `journal-FIRST.bin` in the run's folder, FIRST being the position of their first record. Each
begins with a header, then come blocks: a header with magic, record count, first position and the
CRC-32C of the records, and the records as they lay in the ring (`RECORD_DTYPE`). Written by the
drainer alone; read by the shippers, which see a block once `append` has returned.
"""

from __future__ import annotations

import bisect
import os
import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracelet import _core
from tracelet.errors import JournalError
from tracelet.records import RECORD_DTYPE

_FILE_HEADER = struct.Struct("<8sII")  # magic, record version, record size in bytes
_FILE_MAGIC = b"TRCLJRNL"
_BLOCK_HEADER = struct.Struct("<4sIQII")  # magic, records, first position, CRC-32C, zero
_BLOCK_MAGIC = b"JBLK"
_BLOCK_RECORDS = 8192
_SEGMENT_BYTES = 16 << 20

_Records = Any  # np.ndarray of RECORD_DTYPE


@dataclass(frozen=True)
class _Block:
    first: int
    count: int
    path: str
    offset_bytes: int  # of the block's header


class Journal:
    """A run's journal. `append` is for one thread; `read` and `release` for any."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._blocks: list[_Block] = []  # guarded by the lock; by position
        self._fd: int | None = None
        self._path = ""
        self._size_bytes = 0

    @property
    def end(self) -> int:
        """The position after the last record, 0 for an empty journal."""
        with self._lock:
            return self._blocks[-1].first + self._blocks[-1].count if self._blocks else 0

    def append(self, records: _Records) -> None:
        """Appends records, which follow one another without a gap.

        Records that the journal holds already are passed over: a call that failed may be repeated,
        with more records behind the same ones. Raises OSError when they can't be written; what was
        whole before then stays.
        """
        records = records[self._held_of(records) :]
        for start in range(0, len(records), _BLOCK_RECORDS):
            self._append_block(records[start : start + _BLOCK_RECORDS])

    def _held_of(self, records: _Records) -> int:
        """How many of the records, from the first on, the journal holds."""
        end = self.end
        return max(0, end - (int(records["sequence"][0]) - 1)) if end and len(records) else 0

    def _append_block(self, records: _Records) -> None:
        first = int(records["sequence"][0]) - 1
        if self._fd is None or self._size_bytes >= _SEGMENT_BYTES:
            self._open_segment(first)
        assert self._fd is not None
        header = _BLOCK_HEADER.pack(_BLOCK_MAGIC, len(records), first, _core.crc32c(records), 0)
        try:
            _write_all(self._fd, header)
            _write_all(self._fd, records.view(np.uint8))
        except OSError:
            os.ftruncate(self._fd, self._size_bytes)
            os.lseek(self._fd, self._size_bytes, os.SEEK_SET)
            raise
        block = _Block(first, len(records), self._path, self._size_bytes)
        self._size_bytes += len(header) + records.nbytes
        with self._lock:
            self._blocks.append(block)

    def _open_segment(self, first: int) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        path = os.path.join(self._folder, f"journal-{first:020d}.bin")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._path = path
        header = _FILE_HEADER.pack(_FILE_MAGIC, _core.RECORD_VERSION, RECORD_DTYPE.itemsize)
        _write_all(self._fd, header)
        self._size_bytes = len(header)

    def read(self, position: int, limit: int) -> _Records:
        """The records from `position` on, at most `limit`, read-only; none when there are no more.

        Raises JournalError for a damaged block, OSError.
        """
        parts: list[_Records] = []
        while limit > 0:
            block = self._block_at(position)
            if block is None:
                break
            records = _read_block(block)[position - block.first :][:limit]
            parts.append(records)
            position += len(records)
            limit -= len(records)
        records = np.concatenate(parts) if parts else np.empty(0, dtype=RECORD_DTYPE)
        records.flags.writeable = False
        return records

    def _block_at(self, position: int) -> _Block | None:
        with self._lock:
            index = bisect.bisect_right(_Firsts(self._blocks), position) - 1
            if index < 0:
                return None
            block = self._blocks[index]
        return block if position < block.first + block.count else None

    def release(self, position: int) -> None:
        """Forgets the records before `position`, and deletes files that hold no others."""
        with self._lock:
            if not self._blocks or self._blocks[0].first + self._blocks[0].count > position:
                return  # nothing to forget; there may be very many blocks
            kept = [block for block in self._blocks if block.first + block.count > position]
            paths = {block.path for block in self._blocks} - {block.path for block in kept}
            self._blocks = kept
        for path in paths - {self._path}:
            os.unlink(path)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class _Firsts:
    """The blocks' first positions as a sequence, for bisect (its `key` is new in Python 3.10)."""

    def __init__(self, blocks: list[_Block]) -> None:
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> int:
        return self._blocks[index].first


def _read_block(block: _Block) -> _Records:
    size_bytes = _BLOCK_HEADER.size + block.count * RECORD_DTYPE.itemsize
    with open(block.path, "rb") as file:
        file.seek(block.offset_bytes)
        data = file.read(size_bytes)
    where = f"{block.path} at byte {block.offset_bytes}"
    if len(data) < size_bytes:
        raise JournalError(f"{where}: the block is cut off")
    magic, count, first, crc, _ = _BLOCK_HEADER.unpack_from(data)
    if (magic, count, first) != (_BLOCK_MAGIC, block.count, block.first):
        raise JournalError(f"{where}: the block's header is damaged")
    records = np.frombuffer(data, dtype=RECORD_DTYPE, offset=_BLOCK_HEADER.size)
    if _core.crc32c(records) != crc:
        raise JournalError(f"{where}: the records are damaged (checksum)")
    return records


def _write_all(fd: int, data: Any) -> None:
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(fd, view) :]
