"""Records on disk that some sink has not acknowledged yet: append, read from a position, release.

Files `journal-FIRST.bin` in the run's folder, FIRST being the position of their first record. Each
begins with a header, then come blocks: a header with magic, record count, first position, the
CRC-32C of what follows and the size of the payloads; the records as they lay in the ring
(`RECORD_DTYPE`), but for `payload_offset`, which counts in the block's payloads; the payloads.
Written by the drainer alone; read by the shippers, which see a block once `append` has returned.
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
_BLOCK_HEADER = struct.Struct("<4sIQII")  # magic, records, first position, CRC-32C, payload bytes
_BLOCK_MAGIC = b"JBLK"
_BLOCK_RECORDS = 8192
_BLOCK_PAYLOAD_BYTES = 4 << 20
_SEGMENT_BYTES = 16 << 20

_Records = Any  # np.ndarray of RECORD_DTYPE


@dataclass(frozen=True)
class _Block:
    first: int
    count: int
    path: str
    offset_bytes: int  # of the block's header
    payload_bytes: int


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

    def append(self, records: _Records, payloads: Any = None) -> None:
        """Appends records, which follow one another without a gap, with their payloads.

        Records that the journal holds already are passed over: a call that failed may be repeated,
        with more records behind the same ones. Raises OSError when they can't be written; what was
        whole before then stays.
        """
        records = records[self._held_of(records) :]
        while len(records):
            block = records[:_BLOCK_RECORDS]
            gathered = _core.gather_block(block, payloads, _BLOCK_PAYLOAD_BYTES)
            if gathered is None:
                self._append_block(block, b"")
            else:
                block = np.frombuffer(gathered[0], dtype=RECORD_DTYPE)
                self._append_block(block, gathered[1])
            records = records[len(block) :]

    def _held_of(self, records: _Records) -> int:
        """How many of the records, from the first on, the journal holds."""
        end = self.end
        return max(0, end - (int(records["sequence"][0]) - 1)) if end and len(records) else 0

    def _append_block(self, records: _Records, payloads: bytes) -> None:
        first = int(records["sequence"][0]) - 1
        if self._fd is None or self._size_bytes >= _SEGMENT_BYTES:
            self._open_segment(first)
        assert self._fd is not None
        crc = _core.crc32c(payloads, _core.crc32c(records))
        header = _BLOCK_HEADER.pack(_BLOCK_MAGIC, len(records), first, crc, len(payloads))
        try:
            _write_all(self._fd, header)
            _write_all(self._fd, records.view(np.uint8))
            _write_all(self._fd, payloads)
        except OSError:
            os.ftruncate(self._fd, self._size_bytes)
            os.lseek(self._fd, self._size_bytes, os.SEEK_SET)
            raise
        block = _Block(first, len(records), self._path, self._size_bytes, len(payloads))
        self._size_bytes += len(header) + records.nbytes + len(payloads)
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

    def read(self, position: int, limit: int, limit_bytes: int) -> tuple[_Records, bytes]:
        """The records from `position` on, and their payloads; no records when there are no more.

        At most `limit`, and no further block once the payloads are `limit_bytes` or more: what is
        read from a position begins with the same bytes whenever it is read. Read-only. Raises
        JournalError for a damaged block, OSError.
        """
        parts: list[_Records] = []
        payloads: list[bytes] = []
        payload_bytes = 0
        while limit > 0 and payload_bytes < limit_bytes:
            block = self._block_at(position)
            if block is None:
                break
            records, its_payloads = _read_block(block)
            records = records[position - block.first :][:limit]
            if payload_bytes and its_payloads:
                records = records.copy()
                records["payload_offset"] += np.uint64(payload_bytes)
            parts.append(records)
            payloads.append(its_payloads)
            payload_bytes += len(its_payloads)
            position += len(records)
            limit -= len(records)
        records = np.concatenate(parts) if parts else np.empty(0, dtype=RECORD_DTYPE)
        records.flags.writeable = False
        return records, b"".join(payloads)

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


def _read_block(block: _Block) -> tuple[_Records, bytes]:
    records_end = _BLOCK_HEADER.size + block.count * RECORD_DTYPE.itemsize
    size_bytes = records_end + block.payload_bytes
    with open(block.path, "rb") as file:
        file.seek(block.offset_bytes)
        data = file.read(size_bytes)
    where = f"{block.path} at byte {block.offset_bytes}"
    if len(data) < size_bytes:
        raise JournalError(f"{where}: the block is cut off")
    magic, count, first, crc, payload_bytes = _BLOCK_HEADER.unpack_from(data)
    expected = (_BLOCK_MAGIC, block.count, block.first, block.payload_bytes)
    if (magic, count, first, payload_bytes) != expected:
        raise JournalError(f"{where}: the block's header is damaged")
    if _core.crc32c(memoryview(data)[_BLOCK_HEADER.size :]) != crc:
        raise JournalError(f"{where}: the records are damaged (checksum)")
    records = np.frombuffer(data, RECORD_DTYPE, block.count, _BLOCK_HEADER.size)
    return records, data[records_end:]


def _write_all(fd: int, data: Any) -> None:
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(fd, view) :]
