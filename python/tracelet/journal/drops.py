"""Which records a living run gave up on purpose (option `journal_overflow`), in `dropped.bin`.

They were counted and told then. Without these notes whoever reads the dead run's journal would take
the gaps that they leave for damage. A note that is damaged, or could not be written, is none: the
gap is taken for damage then, and the run is kept.

Little-endian, 32 bytes for each range of positions, within one sector of a disk:

  Q first  Q end  I CRC-32C of these  12 bytes of zeros

The last one is written over while its range grows, as it does while a backend stays away.
"""

from __future__ import annotations

import contextlib
import os
import struct

from tracelet import _core
from tracelet.runs.ownership import open_own, read_own

DROPPED = "dropped.bin"
_NOTE = struct.Struct("<QQI12x")
_CHECKED_BYTES = 16
_MOST_BYTES = 16 << 20
_O_BINARY: int = getattr(os, "O_BINARY", 0)


class DropNotes:
    """Written by the thread that drops."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, DROPPED)
        self._fd: int | None = None
        self._count = 0
        self._first = self._end = 0  # of the last one

    def note(self, first: int, end: int) -> None:
        """To be called before the records go: killed in between, they are there and are sent.
        Raises OSError."""
        if end <= first:
            return
        if self._fd is None:
            self._fd = open_own(self._path, os.O_RDWR | os.O_CREAT | _O_BINARY)
            self._count = os.fstat(self._fd).st_size // _NOTE.size
        continues = self._first < self._end == first
        first = self._first if continues else first
        number = self._count - 1 if continues else self._count
        data = _NOTE.pack(first, end, 0)[:_CHECKED_BYTES]
        os.lseek(self._fd, number * _NOTE.size, os.SEEK_SET)
        written = os.write(self._fd, _NOTE.pack(first, end, _core.crc32c(data)))
        if written != _NOTE.size:
            raise OSError(f"{self._path}: {written} of {_NOTE.size} bytes could be written")
        self._count, self._first, self._end = number + 1, first, end

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Drops:
    """The positions that a run gave up."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self._ranges = sorted(ranges)

    @classmethod
    def read(cls, folder: str) -> Drops:
        """As far as they can be trusted; none of a missing file. Raises NotOwnError, OSError."""
        data = b""
        with contextlib.suppress(FileNotFoundError):
            data = read_own(os.path.join(folder, DROPPED), _MOST_BYTES)
        ranges = []
        for start in range(0, len(data) - _NOTE.size + 1, _NOTE.size):
            first, end, crc = _NOTE.unpack_from(data, start)
            if crc == _core.crc32c(data[start : start + _CHECKED_BYTES]):
                ranges.append((first, end))
        return cls(ranges)

    def count_between(self, first: int, end: int) -> int:
        """How many of the positions from `first` to before `end` were given up."""
        count = 0
        for start, stop in self._ranges:
            start, stop = max(start, first), min(stop, end)
            if stop > start:
                count += stop - start
                first = stop  # those of two ranges count once
        return count
