"""The ledgers of files that grow, of a run that is gone on with."""

from __future__ import annotations

import contextlib
import os
import struct

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.runs.ownership import read_own

EVENT_FILES = "event_files.bin"
"""The ledger of a run's event files."""

_MARK = ".damaged"
_MOST_BYTES = 64 << 20
# As in file_ledger.cpp: a header, then entries, each with its writer, the bytes of its path, the
# checksum of these and the path; two states; the path, filled up to eight bytes.
_HEADER_BYTES, _STATES_BYTES = 24, 64
_ENTRY = struct.Struct("<IIII")


def noted_paths(path: str) -> list[str]:
    """The files that a ledger names, also that of a run which goes on: it is read, never mapped.

    Empty for one that is not there, or can't be read; what is damaged is left out.
    """
    try:
        data = read_own(path, _MOST_BYTES)
    except (OSError, TraceletError):
        return []
    found, place = [], _HEADER_BYTES
    while place + _ENTRY.size + _STATES_BYTES <= len(data):
        _, size, crc, _ = _ENTRY.unpack_from(data, place)
        start = place + _ENTRY.size + _STATES_BYTES
        name = data[start : start + size]
        is_whole = 0 < size == len(name)
        if is_whole and crc == _core.crc32c(name, _core.crc32c(data[place : place + 8])):
            found.append(os.fsdecode(name))
            place = start + (size + 7) // 8 * 8
        else:
            place += 8  # entries begin at multiples of it
    return list(dict.fromkeys(found))


def recover_ledger(path: str) -> tuple[_core.FileLedger, bool]:
    """The ledger, a new one where nothing of it can be read; and whether something in it is lost.

    That is so until `settle_ledger`, also for a later process: a new ledger looks whole. Raises
    OSError, RuntimeError for one of a later version.
    """
    ledger = _core.FileLedger.recover(path)
    if ledger.is_damaged:
        with open(path + _MARK, "ab"):  # what was unreadable is there already
            pass
    return ledger, os.path.exists(path + _MARK)


def settle_ledger(path: str) -> None:
    """The ledger is of what the files hold again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + _MARK)
