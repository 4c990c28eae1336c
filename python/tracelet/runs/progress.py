"""How far each sink of a run has come, in a file that outlives the process.

The acknowledged position of sink number n is the 64-bit word at byte 64 (n + 1), mapped into memory
and written by plain stores: by the thread that delivers to that sink, and read by others once the
process is dead. An aligned store of a word is whole at any instant, so there is nothing to repair,
and what is in the mapping is the kernel's: it survives the process without a sync. After a loss of
power an older position may be there; its records are given again then.

Which number a sink has is in the manifest.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence

from tracelet.errors import TraceletError

PROGRESS = "progress.bin"
_HEADER = struct.Struct("<8sII")  # magic, version, slots
_MAGIC = b"TRCLPROG"
_VERSION = 1
_SLOT_BYTES = 64  # a cache line each: the words have different writers
_WORDS = _SLOT_BYTES // 8


class Progress:
    """The positions by sink number. Each is for one thread to write, for any to read."""

    def __init__(self, memory: mmap.mmap, count: int) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("Q")
        self.count = count

    @classmethod
    def create(cls, folder: str, positions: Sequence[int]) -> Progress:
        """Makes the file with all its space: no mapping must meet a full disk. Raises OSError."""
        slots = b"".join(struct.pack("<Q", p).ljust(_SLOT_BYTES, b"\0") for p in positions)
        data = _HEADER.pack(_MAGIC, _VERSION, len(positions)).ljust(_SLOT_BYTES, b"\0") + slots
        path = os.path.join(folder, PROGRESS)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str) -> Progress:
        """Raises TraceletError for a file that is none of ours, OSError."""
        path = os.path.join(folder, PROGRESS)
        with open(path, "r+b") as file:
            head = file.read(_HEADER.size)
            size_bytes = os.fstat(file.fileno()).st_size
            magic, version, count = _HEADER.unpack(head.ljust(_HEADER.size, b"\0"))
            if (magic, version) != (_MAGIC, _VERSION) or size_bytes < _SLOT_BYTES * (count + 1):
                raise TraceletError(f"{path} can't be read: damaged, or of another version")
            return cls(mmap.mmap(file.fileno(), size_bytes), count)

    def __getitem__(self, number: int) -> int:
        return self._words[(number + 1) * _WORDS]

    def __setitem__(self, number: int, position: int) -> None:
        self._words[(number + 1) * _WORDS] = position

    def close(self) -> None:
        self._words.release()
        self._memory.close()
