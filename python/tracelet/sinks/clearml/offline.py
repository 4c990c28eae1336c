"""Batches to an offline session: lines of its metrics.jsonl, as the SDK itself writes them.

Each line is a JSON array of events, which `Task.import_offline_session` sends as one request.
"""

from __future__ import annotations

from typing import Any

from tracelet import _core
from tracelet.sinks.base import Batch, Delivery
from tracelet.sinks.clearml.series import SeriesEncoder, set_aside_reasons
from tracelet.sinks.clearml.task import ClearMLTask

# About 4,500 events. A line is one write and one request at import, where the server takes
# 15 MB at most; short lines stay in the processor's cache while they are made.
_LINE_BYTES = 1 << 20


class OfflineClearMLSink:
    """Appends the points to the session's metrics file. One thread at a time."""

    name = "clearml"
    is_remote = False
    takes_every_point = False

    def __init__(self, task: ClearMLTask) -> None:
        self.task = task
        folder = task.task.get_offline_mode_folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _core.AppendFile(str(folder / "metrics.jsonl"))
        self._encoder = SeriesEncoder(task.id)
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
        self._encoder.native.append_array_lines(rest, _LINE_BYTES, self._file, counts)
        self._counts = _core.EncodeCounts()
        self._encoder.report_set_aside(batch)
        self.task.note_iteration(int(records["step"][-1]))
        return Delivery(counts.encoded, counts.not_finite, set_aside_reasons(counts))

    def close(self, process_is_ending: bool) -> None:
        self.task.close(process_is_ending)
