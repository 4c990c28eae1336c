"""Batches to an offline session: lines of its metrics.jsonl, as the SDK itself writes them.

Each line is a JSON array of events, which `Task.import_offline_session` sends as one request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from tracelet import _core
from tracelet.backends.base import Batch, Delivery, RunInfo
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.clearml.reopen import METRICS, drop_unacknowledged_lines
from tracelet.backends.clearml.series import HistogramViews, SeriesEncoder, set_aside_reasons
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.records import HISTOGRAM, SCALAR

_log = logging.getLogger("tracelet")

# About 4,500 events. A line is one write and one request at import, where the server takes
# 15 MB at most; short lines stay in the processor's cache while they are made.
_LINE_BYTES = 1 << 20
_LINE_START = b'[{"type":"'  # the native encoder's lines; the SDK's have a blank behind a colon
_LEDGER = "clearml_session.bin"


def open_session_file(task: ClearMLTask) -> _core.AppendFile:
    """The session's metrics file, to which the SDK and either sink append whole lines."""
    folder = task.task.get_offline_mode_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return _core.AppendFile(str(folder / "metrics.jsonl"))


def _open_ledger(task: ClearMLTask, info: RunInfo) -> tuple[_core.FileLedger, int, int]:
    """The ledger of the session's metrics file, its place in it, and the last sequence that is in
    the file for certain; what lies behind it in lines of this sink is dropped."""
    path = str(task.task.get_offline_mode_folder() / METRICS)
    ledger_path = os.path.join(info.run_dir, _LEDGER)
    if info.reopen is None or not os.path.exists(ledger_path):
        ledger = _core.FileLedger.create(ledger_path)
        return ledger, ledger.add(0, path), 0
    ledger = _core.FileLedger.open(ledger_path)
    _, path, size_bytes, sequence, place = ledger.entries()[0]
    if os.path.exists(path):
        drop_unacknowledged_lines(path, size_bytes, _LINE_START)
    return ledger, place, sequence


class OfflineClearMLSink:
    """Appends the points to the session's metrics file. One thread at a time."""

    name = "clearml"
    is_remote = False
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM)

    def __init__(self, task: ClearMLTask, info: RunInfo, names: TaskNames) -> None:
        self._task = task
        self._ledger, self._place, self._held_sequence = _open_ledger(task, info)
        self._file = open_session_file(task)
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

    def _write_views(self) -> None:
        for key, event in self._views.take():
            try:
                self._file.append(b"[" + event + b"]\n")
            except OSError as error:
                self._views.put_back(key)
                _log.debug("tracelet: a view of histograms was not written: %s", error)

    def close(self, process_is_ending: bool) -> None:
        self._write_views()
