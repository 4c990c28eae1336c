"""What a dead process left in its ring, moved to its journal, from which all the rest is sent.

Nothing of the ring is believed unchecked: see `_core.StoredRing`.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracelet import _core
from tracelet.errors import JournalError
from tracelet.journal.journal import Journal
from tracelet.journal.names import stored_names
from tracelet.records import RECORD_DTYPE, SKIPPED
from tracelet.runs.stored_run import StoredRun
from tracelet.writer_key import rank_of_key

_log = logging.getLogger("tracelet")

_CHUNK_RECORDS = 65_536
_CHUNK_PAYLOAD_BYTES = 4 << 20
_CUT_OFF, _DEVICE = "cut off", "device's value lost"
_OLDER = "what lies behind it may be older"
_DAMAGES, _DROPPED = "damages", "dropped"  # in the manifest


@dataclass(frozen=True)
class Recovered:
    """The journal of a dead process' run with all that was in its ring."""

    journal: Journal
    cut_off: int = 0
    """Points that had been claimed but not committed: their calls had not returned."""
    damages: list[str] = field(default_factory=list)
    """What of the ring could not be believed, now or when it was read another time."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Points that found no place while the run lived, by reason."""


def recover_journal(run: StoredRun) -> Recovered:
    """Moves what is in the ring to the journal.

    May be interrupted and called again. The ring's file is removed when the journal has reached the
    disk, and the manifest says so; a damaged one stays. Raises JournalError for a ring that can't
    be read, OSError.
    """
    damages = [str(damage) for damage in run.manifest.get(_DAMAGES, ())]
    if not run.has_ring:
        before = run.manifest.get(_DROPPED, {})
        dropped = {str(reason): int(count) for reason, count in dict(before).items()}
        return Recovered(Journal.recover(run.path), damages=damages, dropped=dropped)
    try:
        ring = _core.StoredRing.open(run.ring_path)
        names = stored_names(run.path)  # has checksums, so it comes first
        if run.is_of_another_boot:
            _add_certain(names, ring.names)
        else:
            names.add_missing(ring.names)
        journal = Journal.recover(run.path, names)
        odd = _move(ring, names, journal, run.is_of_another_boot)
    except RuntimeError as error:
        raise JournalError(f"{error}; remove it to go on without what it holds") from error
    # After a loss of power a slot that is not whole may be one that never reached the disk.
    cut_off = 0 if run.is_of_another_boot else odd.pop(_CUT_OFF, 0)
    if lost := odd.pop(_DEVICE, 0):
        _log.warning("tracelet: %d scalars of a device died with their process", lost)
    if older := odd.pop(_OLDER, 0):
        odd[f"{run.other_boot}, and {_OLDER}"] = older
    found = [f"{ring.path}: {count:,} points are lost: {why}" for why, count in odd.items()]
    found += [f"{ring.path}: {ring.problem}"] if ring.problem else []
    damages = list(dict.fromkeys([*damages, *found]))
    # In this order: a loss of power between any two of them loses nothing.
    journal.sync()
    # With the counters that go with the ring: a sync that fails now leaves them to the next one.
    dropped = {reason: count for reason, count in dict(ring.dropped).items() if count}
    noted = {name: value for name, value in ((_DAMAGES, damages), (_DROPPED, dropped)) if value}
    run.update(ring_is_drained=True, end=ring.head, **noted)
    if not found:
        os.unlink(run.ring_path)
    return Recovered(journal, cut_off, damages, dropped)


def _add_certain(names: _core.StoredNames, found: _core.StoredNames) -> None:
    """The names that a ring's file has for certain after a loss of power. Its pages reached the
    disk in any order, or not at all, and one that did not is zero: it makes empty names, or ends
    one in zeros, and all behind it have wrong numbers."""
    number = 1
    # One NUL is before the suffix of a writer's file, one before its rank, see writer_key.
    while (text := found.text(number)) and not text.endswith("\0"):
        if text.count("\0") > 1 and rank_of_key(text) is None:
            return
        names.add(number, text)
        number += 1


def _without_payloads(records: Any) -> tuple[Any, int]:
    """After a loss of power a slot is whole or of an earlier lap, which its sequence tells; but
    what it has in the arena may be of an earlier one. How many records have something there.

    The flags of what lies in their place have a bit for each kind (1 << kind) that may have been
    lost there: a sink that takes one of them lacks a point."""
    has_payload = (records["kind"] != SKIPPED) & (records["payload_size"] > 0)
    count = int(has_payload.sum())
    lost_kinds = 1 << records["kind"][has_payload]
    records = records.copy()
    # Of those without one, too: no payload is given along, and a place in it would be a damage.
    records["payload_offset"] = 0
    records["flags"][records["kind"] == SKIPPED] = 0  # such a slot may never have reached the disk
    records["kind"][has_payload] = SKIPPED
    records["payload_size"][has_payload] = 0
    records["flags"][has_payload] = lost_kinds
    return records, count


def _move(
    ring: _core.StoredRing, names: _core.StoredNames, journal: Journal, is_other_boot: bool
) -> Counter[str]:
    """Appends the ring's points; how many of them are none, by reason: in their place are records
    of kind SKIPPED, which no sink is given."""
    odd: Counter[str] = Counter()
    position = ring.tail
    while position < ring.head:
        data, payloads, counts = ring.read(position, _CHUNK_RECORDS, _CHUNK_PAYLOAD_BYTES, names)
        records = np.frombuffer(data, RECORD_DTYPE)
        if not len(records):
            raise JournalError(f"{ring.path}: no record is read at {position}")
        if is_other_boot:
            records, older = _without_payloads(records)
            odd.update({_OLDER: older} if older else {})
        journal.append(records, payloads)
        odd.update(counts)
        position += len(records)
    return odd
