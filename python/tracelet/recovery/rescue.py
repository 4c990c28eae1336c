"""What a dead process left in its ring, moved to its journal, from which all the rest is sent."""

from __future__ import annotations

import logging
import os

import numpy as np

from tracelet import _core
from tracelet.errors import JournalError
from tracelet.journal.journal import Journal
from tracelet.records import AWAITS_DEVICE, RECORD_DTYPE, SCALAR
from tracelet.runs.stored_run import StoredRun

_log = logging.getLogger("tracelet")

_SLOTS_OFFSET_BYTES = 4096  # kRingFileHeaderBytes
_CHUNK_RECORDS = 65_536


def recover_journal(run: StoredRun) -> tuple[Journal, int]:
    """The journal of a dead process' run with all that was in its ring, and how many points of it
    had been claimed but not committed: their calls had not returned.

    May be interrupted and called again. The ring's file is removed when the journal has reached the
    disk, and the manifest says so. Raises JournalError for a ring that can't be read, OSError.
    """
    if not run.has_ring:
        return Journal.recover(run.path), 0
    try:
        ring = _core.Ring.open(run.ring_path)
    except RuntimeError as error:
        raise JournalError(f"{error}; remove it to go on without what it holds") from error
    journal = Journal.recover(run.path, ring)
    missing = _move(ring, run.ring_path, journal)
    # In this order: a loss of power between any two of them loses nothing.
    journal.sync()
    run.update(ring_is_drained=True, end=ring.head)
    os.unlink(run.ring_path)
    return journal, missing


def _move(ring: _core.Ring, ring_path: str, journal: Journal) -> int:
    slots = np.memmap(
        ring_path, RECORD_DTYPE, "r", offset=_SLOTS_OFFSET_BYTES, shape=(ring.capacity,)
    )
    payloads = _core.Payloads(ring)
    missing = 0
    position = ring.tail
    while position < ring.head:
        first = position % ring.capacity
        count = min(ring.head - position, ring.capacity - first, _CHUNK_RECORDS)
        records = np.array(slots[first : first + count])
        sequences = np.arange(position + 1, position + count + 1, dtype=np.uint64)
        # A slot's sequence is stored last: another one there is of an earlier lap.
        is_missing = records["sequence"] != sequences
        missing += int(is_missing.sum())
        # A scalar whose value a device was to tell has a ticket in its place, good in one process.
        is_lost = (records["kind"] == SCALAR) & (records["flags"] & AWAITS_DEVICE != 0)
        if lost := int((is_lost & ~is_missing).sum()):
            _log.warning("tracelet: %d scalars of a device died with their process", lost)
        absent = is_missing | is_lost
        if absent.any():
            records[absent] = np.zeros((), RECORD_DTYPE)  # of kind SKIPPED: no sink is given them
            records["sequence"] = sequences
        journal.append(records, payloads)
        position += count
    return missing
