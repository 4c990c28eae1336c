"""Batches to an offline session: lines of its metrics.jsonl, as the SDK itself writes them.

Each line is a JSON array of events, which `Task.import_offline_session` sends as one request.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracelet import _core
from tracelet.backends.base import Batch, Delivery, RunInfo
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.clearml.reopen import event_key, events_behind
from tracelet.backends.clearml.series import HistogramViews, SeriesEncoder, set_aside_reasons
from tracelet.backends.clearml.session import METRICS
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.records import HISTOGRAM, SCALAR

_log = logging.getLogger("tracelet")

# About 4,500 events. A line is one write and one request at import, where the server takes
# 15 MB at most; short lines stay in the processor's cache while they are made.
_LINE_BYTES = 1 << 20
_LINE_EVENTS = 4096
_NO_LIMIT_BYTES = 1 << 40
_LINE_START = b'[{"type":"'  # the native encoder's lines; the SDK's have a blank behind a colon
_LEDGER = "clearml_session.bin"


def open_session_file(task: ClearMLTask) -> _core.AppendFile:
    """The session's metrics file, to which the SDK and either sink append whole lines."""
    folder = task.task.get_offline_mode_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return _core.AppendFile(str(folder / METRICS))


@dataclass(frozen=True)
class _Held:
    """What the session's metrics file has for certain: all up to `sequence`, which ended at
    `size_bytes`. What a dead process wrote behind it is looked for, and never cut off: several
    processes append to the file (ranks, subprocesses), living ones among them."""

    ledger: _core.FileLedger
    place: int
    size_bytes: int = 0
    sequence: int = 0
    is_reopened: bool = False


def _open_ledger(task: ClearMLTask, info: RunInfo) -> _Held:
    path = str(task.task.get_offline_mode_folder() / METRICS)
    ledger_path = os.path.join(info.run_dir, _LEDGER)
    if info.reopen is None or not os.path.exists(ledger_path):
        ledger = _core.FileLedger.create(ledger_path)
        return _Held(ledger, ledger.add(0, path))
    ledger = _core.FileLedger.open(ledger_path)
    _, _, size_bytes, sequence, place = ledger.entries()[0]
    if size_bytes == _core.UNKNOWN_SIZE:
        size_bytes = 0  # the note is damaged: all that is there is looked at
    return _Held(ledger, place, size_bytes, sequence, is_reopened=True)


class OfflineClearMLSink:
    """Appends the points to the session's metrics file. One thread at a time."""

    name = "clearml"
    is_remote = False
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM)

    def __init__(self, task: ClearMLTask, info: RunInfo, names: TaskNames) -> None:
        self._task = task
        held = _open_ledger(task, info)
        self._ledger, self._place, self._held_sequence = held.ledger, held.place, held.sequence
        self._file = open_session_file(task)
        self._unsure_from_bytes = held.size_bytes if held.is_reopened else None
        self._encoder = SeriesEncoder(task.id, names)
        self._views = HistogramViews.of_run(self._encoder, info)
        # How far the batch at `_first_sequence` came when a write failed: none is written twice.
        self._first_sequence = 0
        self._counts = _core.EncodeCounts()

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
        if self._unsure_from_bytes is not None:
            counts = self._append_missing(rest, batch.payloads, self._unsure_from_bytes)
        else:
            self._encoder.native.append_array_lines(
                rest, batch.payloads, _LINE_BYTES, self._file, counts
            )
        # What is written behind this and not acknowledged is dropped when the run is reopened.
        last_sequence = int(records["sequence"][-1])
        self._ledger.acknowledge(self._place, os.stat(self._file.path).st_size, last_sequence)
        self._counts = _core.EncodeCounts()
        self._encoder.report_set_aside(batch)
        self._views.observe(batch)
        if self._views.are_due:
            self._write_views()
        self._task.note_iteration(int(records["step"][-1]))
        return Delivery(counts.encoded, counts.not_finite, set_aside_reasons(counts))

    def _append_missing(self, records: Any, payloads: Any, from_bytes: int) -> Any:
        """Appends what the dead process had not: it may have died between a line and its note in
        the ledger, in one write, so a batch of which nothing is there is followed by none."""
        body, counts = self._encoder.native.encode_lines(records, payloads, _NO_LIMIT_BYTES)
        lines = body.split(b"\n") if body else []
        keys = [event_key(json.loads(line)) for line in lines]
        there = events_behind(self._file.path, from_bytes, _LINE_START, set(keys))
        missing = [line for line, key in zip(lines, keys) if key not in there]
        for start in range(0, len(missing), _LINE_EVENTS):
            self._file.append(b"[" + b",".join(missing[start : start + _LINE_EVENTS]) + b"]\n")
        if not there:
            self._unsure_from_bytes = None
        return counts

    def _write_views(self) -> None:
        for key, event in self._views.take():
            try:
                self._file.append(b"[" + event + b"]\n")
            except OSError as error:
                self._views.put_back(key)
                _log.debug("tracelet: a view of histograms was not written: %s", error)

    def close(self, process_is_ending: bool) -> None:
        self._write_views()
