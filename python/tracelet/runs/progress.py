"""How far each sink of a run has come, in a file that outlives the process.

Sink number n has the 64 bytes at byte 64 (n + 1): two states, each a position, a generation and a
checksum. The older one is written over, so that at whatever instruction the process dies, and
whichever of the file's pages reached the disk, one of them is whole; of those that are whole the
newest counts. Mapped into memory and written by the thread that delivers to that sink, read by
others once the process is dead. What is in the mapping is the kernel's: it survives the process
without a sync. After a loss of power an older position may be there, but none that is older than
what was deleted of the journal (`disk_sync`); its records are given again.

A slot both of whose states are damaged has no position: what reads it must not take it for the end.
Which number a sink has is in the manifest. A file of version 1, a bare word a sink, is read and
made one of this version.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.runs.whole_file import write_whole

PROGRESS = "progress.bin"
_HEADER = struct.Struct("<8sIII")  # magic, version, slots, CRC-32C of these
_MAGIC = b"TRCLPROG"
_VERSION = 2
_SLOT_BYTES = 64  # a cache line each: the slots have different writers
_STATE = struct.Struct("<QQII")  # position, generation, number of the sink, CRC-32C of these
_STATE_BYTES = 32
_WORD = struct.Struct("<Q")
_MOST_SINKS = 4096


class Progress:
    """The positions by sink number. Each is for one thread to write, for any to read."""

    def __init__(self, memory: mmap.mmap, count: int) -> None:
        self._memory = memory
        self.count = count
        self._newest = [_newest(memory, number) for number in range(count)]

    @classmethod
    def create(cls, folder: str, positions: Sequence[int]) -> Progress:
        """Makes the file with all its space: no mapping must meet a full disk. Raises OSError."""
        head = _HEADER.pack(_MAGIC, _VERSION, len(positions), 0)[:-4]
        data = (head + struct.pack("<I", _core.crc32c(head))).ljust(_SLOT_BYTES, b"\0")
        for number, position in enumerate(positions):
            data += _state(position, 1, number).ljust(_SLOT_BYTES, b"\0")
        write_whole(os.path.join(folder, PROGRESS), data)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str) -> Progress:
        """Raises TraceletError for a file that is none of ours, or damaged; OSError."""
        path = os.path.join(folder, PROGRESS)
        with open(path, "r+b") as file:
            head = file.read(_HEADER.size)
            size_bytes = os.fstat(file.fileno()).st_size
            magic, version, count, crc = _HEADER.unpack(head.ljust(_HEADER.size, b"\0"))
            if magic == _MAGIC and version == 1:
                return cls.create(folder, _positions_1(path))
            is_whole = magic == _MAGIC and crc == _core.crc32c(head[:-4]) and count <= _MOST_SINKS
            if is_whole and version > _VERSION:
                raise TraceletError(
                    f"{path} was written by a newer version of tracelet (format {version}, this "
                    f"one reads {_VERSION}): update tracelet to read it"
                )
            if not is_whole or size_bytes < _SLOT_BYTES * (count + 1):
                raise TraceletError(f"{path} can't be read: it is damaged")
            return cls(mmap.mmap(file.fileno(), _SLOT_BYTES * (count + 1)), count)

    def __getitem__(self, number: int) -> int:
        """Raises TraceletError when it is damaged."""
        found = _newest(self._memory, number)
        if found is None:
            raise TraceletError(f"{PROGRESS}: how far sink {number} has come is damaged")
        return found[0]

    def __setitem__(self, number: int, position: int) -> None:
        last = self._newest[number]
        generation = last[1] + 1 if last else 1
        # By turns: the newest one stays as it is until this one is whole.
        which = 1 - last[2] if last else 0
        start = _SLOT_BYTES * (number + 1) + which * _STATE_BYTES
        self._memory[start : start + _STATE.size] = _state(position, generation, number)
        self._newest[number] = (position, generation, which)

    def sync(self) -> None:
        """Has the positions of before this call reach the disk. Raises OSError."""
        self._memory.flush()

    def close(self) -> None:
        self._memory.close()


def _state(position: int, generation: int, number: int) -> bytes:
    data = _STATE.pack(position, generation, number, 0)[:-4]
    return data + struct.pack("<I", _core.crc32c(data))


def _newest(memory: mmap.mmap, number: int) -> tuple[int, int, int] | None:
    """Position, generation and place of the state that counts; None when none is whole."""
    found: tuple[int, int, int] | None = None
    for which in (0, 1):
        start = _SLOT_BYTES * (number + 1) + which * _STATE_BYTES
        data = memory[start : start + _STATE.size]
        position, generation, its_number, crc = _STATE.unpack(data)
        is_whole = generation and its_number == number and crc == _core.crc32c(data[:-4])
        if is_whole and (found is None or generation > found[1]):
            found = (position, generation, which)
    return found


def _positions_1(path: str) -> list[int]:
    """Of a file of version 1: the first word of each 64 bytes behind its header."""
    with open(path, "rb") as file:
        data = file.read(_SLOT_BYTES * (_MOST_SINKS + 1))
    (count,) = struct.unpack_from("<I", data, 12)
    if len(data) < _SLOT_BYTES * (count + 1):
        raise TraceletError(f"{path} can't be read: it is damaged")
    return [_WORD.unpack_from(data, _SLOT_BYTES * (n + 1))[0] for n in range(count)]
