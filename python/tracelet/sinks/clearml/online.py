"""Batches to a ClearML server: events.add_batch requests through a session of the SDK.

The server takes or refuses a batch as a whole, and refuses it for one bad line (what the real one
answers is in docs/architecture.md). What it would refuse is set aside by the encoder where that can
be known; for the rest a refused batch is sent in halves until the culprit is alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tracelet.errors import SinkUnavailableError
from tracelet.records import HISTOGRAM, SCALAR
from tracelet.sinks.base import Batch, Delivery, RunInfo
from tracelet.sinks.clearml.add_batch import REFUSED, TOO_LARGE, AddBatch, RefusedError
from tracelet.sinks.clearml.names import TaskNames
from tracelet.sinks.clearml.reopen import reopen_state
from tracelet.sinks.clearml.series import HistogramViews, SeriesEncoder, set_aside_reasons
from tracelet.sinks.clearml.set_aside import SetAsideFile
from tracelet.sinks.clearml.task import ClearMLTask

_log = logging.getLogger("tracelet")

_Records = Any  # np.ndarray of RECORD_DTYPE; its type parameters differ between numpy versions

# A sick server refuses too, so a batch is taken apart only when it was refused this often in a row,
# and a point set aside only when it was refused this often alone while other points of its batch
# were taken.
_REFUSALS_BEFORE_SPLITTING = 2
_REFUSALS_BEFORE_SETTING_ASIDE = 5


@dataclass
class _Progress:
    """How far the batch that begins at `first_sequence` has come; kept while it is given again."""

    first_sequence: int = -1
    done: int = 0  # its records before this one need not be sent again
    part_limit: int = 1 << 62  # records a request may hold: halved on refusal, doubled on success
    refusals: int = 0  # since the last success
    delivered: int = 0
    not_finite: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    suspects: list[tuple[Any, RefusedError]] = field(default_factory=list)  # refused alone

    def add_counts(self, counts: Any) -> None:
        self.done += counts.consumed
        self.not_finite += counts.not_finite
        self.reasons.update(set_aside_reasons(counts))


class OnlineClearMLSink:
    """Sends the points through the SDK's session. One thread at a time."""

    name = "clearml"
    is_remote = True
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM)

    def __init__(self, task: ClearMLTask, info: RunInfo, names: TaskNames) -> None:
        self.task = task
        self.reopen_state = info.reopen or reopen_state(task)
        self._encoder = SeriesEncoder(task.id, names)
        self._views = HistogramViews.of_run(self._encoder, info)
        self._batch_bytes = info.options.batch_max_bytes
        self._set_aside = SetAsideFile(info.run_dir, self.name)
        self._post = AddBatch()
        self._progress = _Progress()

    def write(self, batch: Batch) -> Delivery:
        records = batch.records
        if int(records["sequence"][0]) != self._progress.first_sequence:
            self._progress = _Progress(int(records["sequence"][0]))
        progress = self._progress
        self._encoder.define_new_series(batch)
        while progress.done < len(records):
            self._send_part(records[progress.done :][: progress.part_limit], batch.payloads)
        self._judge_suspects(batch)
        self._encoder.report_set_aside(batch)
        self._views.observe(batch)
        if self._views.are_due:
            self._send_views()
        self.task.note_iteration(int(records["step"].max()))
        self._progress = _Progress()
        return Delivery(progress.delivered, progress.not_finite, dict(progress.reasons))

    def _send_part(self, records: _Records, payloads: Any) -> None:
        """Sends as many of the records as one request takes, or learns why it can't."""
        progress = self._progress
        body, counts = self._encoder.native.encode_lines(records, payloads, self._batch_bytes)
        if counts.encoded:
            try:
                taken = self._post(body)
            except RefusedError as refusal:
                self._learn_from(refusal, records[: counts.consumed])
                return
            progress.delivered += taken
            progress.reasons.update({REFUSED: counts.encoded - taken})
        progress.add_counts(counts)
        progress.refusals = 0
        progress.part_limit *= 2

    def _learn_from(self, refusal: RefusedError, records: _Records) -> None:
        progress = self._progress
        progress.refusals += 1
        if len(records) > 1:
            if refusal.status != TOO_LARGE and progress.refusals < _REFUSALS_BEFORE_SPLITTING:
                raise SinkUnavailableError(f"ClearML refused a batch: {refusal}") from refusal
            progress.part_limit = len(records) // 2
        elif progress.refusals >= _REFUSALS_BEFORE_SETTING_ASIDE:
            progress.suspects.append((records[0].copy(), refusal))
            progress.done += 1
            progress.refusals = 0

    def _judge_suspects(self, batch: Batch) -> None:
        suspects = self._progress.suspects
        if suspects and not self._progress.delivered:
            # Nothing at all was taken: that speaks against the server, not against the points.
            refusal = suspects[-1][1]
            self._progress = _Progress()
            raise SinkUnavailableError(f"ClearML refuses every point: {refusal}") from refusal
        for record, error in suspects:
            self._set_aside.keep(batch, record, error)
        self._progress.reasons.update({REFUSED: len(suspects)})

    def _send_views(self) -> bool:
        """Sends the views that changed. False when one could not be: it is sent the next time."""
        is_sent = True
        for key, event in self._views.take():
            try:
                self._post(event)
            except (RefusedError, SinkUnavailableError) as error:
                self._views.put_back(key)
                _log.debug("tracelet: a view of histograms was not sent: %s", error)
                is_sent = False
        return is_sent

    def close(self, process_is_ending: bool) -> None:
        if not self._send_views():
            _log.warning(
                "tracelet: the last views of histograms over time could not be sent to ClearML; "
                "the histograms themselves were"
            )
        self.task.close(process_is_ending)
