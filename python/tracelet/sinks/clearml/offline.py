"""Batches to an offline session: lines of its metrics.jsonl, as the SDK itself writes them.

Each line is a JSON array of events, which `Task.import_offline_session` sends as one request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from tracelet import _core
from tracelet.records import HISTOGRAM, SCALAR
from tracelet.sinks.base import Batch, Delivery, RunInfo
from tracelet.sinks.clearml.names import TaskNames
from tracelet.sinks.clearml.series import HistogramViews, SeriesEncoder, set_aside_reasons
from tracelet.sinks.clearml.task import ClearMLTask

_log = logging.getLogger("tracelet")

# About 4,500 events. A line is one write and one request at import, where the server takes
# 15 MB at most; short lines stay in the processor's cache while they are made.
_LINE_BYTES = 1 << 20


def open_session_file(task: ClearMLTask) -> _core.AppendFile:
    """The session's metrics file, to which the SDK and either sink append whole lines."""
    folder = task.task.get_offline_mode_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return _core.AppendFile(str(folder / "metrics.jsonl"))


class OfflineClearMLSink:
    """Appends the points to the session's metrics file. One thread at a time."""

    name = "clearml"
    is_remote = False
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM)

    def __init__(self, task: ClearMLTask, info: RunInfo, names: TaskNames) -> None:
        self.task = task
        self._file = open_session_file(task)
        self._encoder = SeriesEncoder(task.id, names)
        self._views = HistogramViews(self._encoder, info.options.histogram_view_interval_s)
        # How far the batch at `_first_sequence` came when a write failed: none is written twice.
        self._first_sequence = 0
        self._counts = _core.EncodeCounts()

    def write(self, batch: Batch) -> Delivery:
        records = batch.records
        if int(records["sequence"][0]) != self._first_sequence or not self._counts.consumed:
            self._first_sequence = int(records["sequence"][0])
            self._counts = _core.EncodeCounts()
        counts = self._counts
        self._encoder.define_new_series(batch)
        rest: Any = batch.buffer if counts.consumed == 0 else records[counts.consumed :]
        self._encoder.native.append_array_lines(
            rest, batch.payloads, _LINE_BYTES, self._file, counts
        )
        self._counts = _core.EncodeCounts()
        self._encoder.report_set_aside(batch)
        self._views.observe(batch)
        if self._views.are_due:
            self._write_views()
        self.task.note_iteration(int(records["step"][-1]))
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
        self.task.close(process_is_ending)
