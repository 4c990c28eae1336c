"""Batches to an offline session: lines of its metrics.jsonl, as the SDK itself writes them.

Each line is a JSON array of events, which `Task.import_offline_session` sends as one request.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracelet import _core
from tracelet.backends.base import Batch, Delivery, FileSink, RunInfo
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.clearml.reopen import all_events_behind, event_key, events_behind
from tracelet.backends.clearml.series import HistogramViews, SeriesEncoder, set_aside_reasons
from tracelet.backends.clearml.session import METRICS, TASK
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.records import HISTOGRAM, RECORD_DTYPE, SCALAR
from tracelet.runs.ledgers import recover_ledger, settle_ledger
from tracelet.runs.whole_file import sync_file, sync_names

_log = logging.getLogger("tracelet")

# About 4,500 events. A line is one write and one request at import, where the server takes
# 15 MB at most; short lines stay in the processor's cache while they are made.
_LINE_BYTES = 1 << 20
_LINE_EVENTS = 4096
_NO_LIMIT_BYTES = 1 << 40
_LINE_START = b'[{"type":"'  # the native encoder's lines; the SDK's have a blank behind a colon
_LEDGER = "clearml_session.bin"
_SYNCED = "clearml_session_synced.bin"
_MOST_COUNT = (1 << 32) - 1


def session_file_of(task: ClearMLTask) -> str:
    """The session's metrics file, to which the SDK and either sink append whole lines."""
    return str(task.task.get_offline_mode_folder() / METRICS)


def open_session_file(task: ClearMLTask) -> _core.AppendFile:
    path = session_file_of(task)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return _core.AppendFile(path)


@dataclass(frozen=True)
class _Noted:
    """What a ledger says of the session's metrics file: it has all records up to `sequence`, in all
    `count` points, and had `size_bytes` then."""

    place: int
    size_bytes: int = 0
    sequence: int = 0
    count: int = 0
    is_certain: bool = True


def _noted(ledger: _core.FileLedger, path: str) -> _Noted:
    """Its entry, which is made where there is none."""
    rows = ledger.entries()
    if not rows:
        return _Noted(ledger.add(0, path), is_certain=False)
    _, _, size_bytes, sequence, count, is_certain, place = rows[0]
    if size_bytes == _core.UNKNOWN_SIZE:
        return _Noted(place, is_certain=False)
    return _Noted(place, size_bytes, sequence, count, is_certain and not ledger.is_damaged)


@dataclass
class _Account:
    """What the sink has written, and what was there: for `lost`."""

    count: int = 0
    """Points that the sink has written, in this process and before."""
    until: int = 0
    """The last record that was acknowledged by a process that died."""
    had: int = 0
    """Points that its ledger told of, when the file is not as it said."""
    there: int = 0
    """Points that were in the file then, of any process of the session."""
    restored: int = 0
    """Of records up to `until`: written anew."""


class OfflineClearMLSink(FileSink):
    """Appends the points to the session's metrics file. One thread at a time.

    What a dead process wrote is looked for, and never cut off: several processes append to the file
    (ranks, subprocesses), living ones among them. Behind what is acknowledged, where the
    ledger is right; in all of it, where it is damaged, the file is shorter, or
    after a loss of power.
    """

    name = "clearml"
    is_remote = False
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM)

    def __init__(self, task: ClearMLTask, info: RunInfo, names: TaskNames) -> None:
        self._task = task
        path = session_file_of(task)
        self._unsure_from_bytes: int | None = None
        self._there: Counter[int] | None = None
        """Where the ledger is not believed: all events of the file."""
        self._account = _Account()
        self._held_sequence = 0
        self._open_ledgers(info, path)
        self._file = open_session_file(task)
        # Of a dead process' file it is not known what has reached the disk.
        self._synced_state = self._acknowledged if info.reopen is None else None
        self._is_name_synced = False
        self._encoder = SeriesEncoder(task.id, names)
        self._views = HistogramViews.of_run(self._encoder, info)
        # How far the batch at `_first_sequence` came when a write failed: none is written twice.
        self._first_sequence = 0
        self._counts = _core.EncodeCounts()

    def _open_ledgers(self, info: RunInfo, path: str) -> None:
        ledger_path, synced_path = (os.path.join(info.run_dir, name) for name in (_LEDGER, _SYNCED))
        if info.reopen is None:
            self._ledger = _core.FileLedger.create(ledger_path)
            self._place = self._ledger.add(0, path)
            self._synced = _core.FileLedger.create(synced_path)
            self._synced_place = self._synced.add(0, path)
            self._acknowledged = (0, 0, 0)
            return
        self._ledger_path = ledger_path
        self._ledger, is_damaged = recover_ledger(ledger_path)
        self._synced = _core.FileLedger.recover(synced_path)
        noted, synced = _noted(self._ledger, path), _noted(self._synced, path)
        self._place, self._synced_place = noted.place, synced.place
        size_now = os.stat(path).st_size if os.path.exists(path) else 0
        self.is_certain = (
            not (info.is_other_boot or is_damaged)
            and noted.is_certain
            and size_now >= noted.size_bytes
        )
        self._acknowledged = (noted.size_bytes, noted.sequence, noted.count)
        if self.is_certain:
            self._held_sequence = noted.sequence
            self._unsure_from_bytes = noted.size_bytes
            self._account.count = noted.count
            return
        sure = synced if info.is_other_boot else noted
        if size_now < sure.size_bytes:
            sure = _Noted(noted.place)
        self._held_sequence = sure.sequence
        self._there = all_events_behind(path, sure.size_bytes, _LINE_START)
        there = sure.count + sum(self._there.values())
        until, had = max(noted.sequence, synced.sequence), max(noted.count, synced.count)
        self._account = _Account(min(had, there), until, had, there)
        if size_now < noted.size_bytes:
            why = f"it has {size_now:,} bytes, {noted.size_bytes:,} were noted"
        else:
            why = "the machine was started anew" if info.is_other_boot else "the note is damaged"
        _log.warning(
            "tracelet: how far %s is acknowledged is not known (%s): all that is here is compared "
            "with what it has.", path, why,
        )  # fmt: skip

    def write(self, batch: Batch) -> Delivery:
        records = batch.records
        if int(records["sequence"][-1]) <= self._held_sequence:
            return Delivery(len(records))
        if int(records["sequence"][0]) != self._first_sequence or not self._counts.consumed:
            self._first_sequence = int(records["sequence"][0])
            self._counts = _core.EncodeCounts()
        counts = self._counts
        if int(records["sequence"][0]) <= self._held_sequence:
            records = records[records["sequence"] > self._held_sequence]
        self._encoder.define_new_series(batch)
        is_whole = counts.consumed == 0 and len(records) == len(batch)
        rest: Any = batch.buffer if is_whole else records[counts.consumed :]
        if self._there is not None or self._unsure_from_bytes is not None:
            counts = self._append_missing(rest, batch.payloads)
        else:
            self._encoder.native.append_array_lines(
                rest, batch.payloads, _LINE_BYTES, self._file, counts
            )
        # What is written behind this and not acknowledged is dropped when the run is reopened.
        last_sequence = int(records["sequence"][-1])
        if self._there is None:
            self._account.count += counts.encoded
        size_bytes = os.stat(self._file.path).st_size
        self._acknowledged = (size_bytes, last_sequence, min(self._account.count, _MOST_COUNT))
        if self._there is None:  # else not before all is there, see `settle`
            self._ledger.acknowledge(self._place, *self._acknowledged)
        self._counts = _core.EncodeCounts()
        self._encoder.report_set_aside(batch)
        self._views.observe(batch)
        if self._views.are_due:
            self._write_views()
        self._task.note_iteration(int(records["step"][-1]))
        return Delivery(counts.encoded, counts.not_finite, set_aside_reasons(counts))

    def _append_missing(self, records: Any, payloads: Any) -> Any:
        """Appends what the dead process had not: it may have died between a line and its note in
        the ledger, in one write, so a batch of which nothing is there is followed by none."""
        body, counts = self._encoder.native.encode_lines(records, payloads, _NO_LIMIT_BYTES)
        lines = body.split(b"\n") if body else []
        keys = [event_key(json.loads(line)) for line in lines]
        if self._there is not None:
            self._append_new(lines, keys, self._count_acknowledged(records, payloads), self._there)
            return counts
        assert self._unsure_from_bytes is not None
        path, start = self._file.path, self._unsure_from_bytes
        there = events_behind(path, start, _LINE_START, set(keys))
        missing = [line for line, key in zip(lines, keys) if key not in there]
        for start in range(0, len(missing), _LINE_EVENTS):
            self._file.append(b"[" + b",".join(missing[start : start + _LINE_EVENTS]) + b"]\n")
        if keys and not there:  # of one without a line, not finite all of it, nothing can be there
            self._unsure_from_bytes = None
        return counts

    def _count_acknowledged(self, records: Any, payloads: Any) -> int:
        """How many of the records' events are of such as a dead process' ledger told of."""
        rows = np.frombuffer(records, RECORD_DTYPE)
        before = rows[rows["sequence"] <= self._account.until]
        if not len(before):
            return 0
        return int(self._encoder.native.encode_lines(before, payloads, _NO_LIMIT_BYTES)[1].encoded)

    def _append_new(
        self, lines: list[bytes], keys: list[str], acknowledged: int, there: Counter[int]
    ) -> None:
        """Appends those that are not in the file; of the first `acknowledged` it counts them."""
        new = [n for n, key in enumerate(keys) if not there[hash(key)]]
        for start in range(0, len(new), _LINE_EVENTS):
            part = new[start : start + _LINE_EVENTS]
            self._file.append(b"[" + b",".join(lines[n] for n in part) + b"]\n")
            there.update(hash(keys[n]) for n in part)  # given again after a failure they are there
            self._account.count += len(part)
            self._account.restored += sum(n < acknowledged for n in part)

    def sync(self) -> None:
        state = self._acknowledged
        if state == self._synced_state:
            return
        sync_file(self._file.path)  # what the SDK and the media's sink appended, too
        if not self._is_name_synced:
            sync_file(os.path.join(os.path.dirname(self._file.path), TASK))
            sync_names(self._file.path)
            self._is_name_synced = True
        if self._there is None:
            self._synced.acknowledge(self._synced_place, *state)
            self._synced.sync()
        self._synced_state = state

    def lost(self) -> Mapping[str, int]:
        if self._there is None:
            return {}
        account = self._account
        count = account.had - account.there - account.restored
        path = self._file.path
        return {f"{path} has lost a part of what it had": count} if count > 0 else {}

    def settle(self) -> None:
        if self._there is None:
            return
        self._ledger.acknowledge(self._place, *self._acknowledged)
        self._synced.acknowledge(self._synced_place, *self._acknowledged)
        settle_ledger(self._ledger_path)
        self._there, self.is_certain = None, True

    def _write_views(self) -> None:
        for key, event in self._views.take():
            try:
                self._file.append(b"[" + event + b"]\n")
            except OSError as error:
                self._views.put_back(key)
                _log.debug("tracelet: a view of histograms was not written: %s", error)

    def close(self, process_is_ending: bool) -> None:
        self._write_views()
