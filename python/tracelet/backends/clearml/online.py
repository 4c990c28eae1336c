"""Batches to a ClearML server: events.add_batch requests through a session of the SDK.

The server takes or refuses a batch as a whole, and refuses it for one bad line (what the real one
answers is in docs/clearml-findings.md). What it would refuse is set aside by the encoder where that
can be known; for the rest a refused batch is sent in halves until the culprit is alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tracelet.backends.base import Batch, Delivery, RunInfo
from tracelet.backends.clearml.add_batch import REFUSED, TOO_LARGE, AddBatch, RefusedError
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.clearml.probe import REFUSALS_BEFORE_SETTING_ASIDE, Probe
from tracelet.backends.clearml.series import HistogramViews, SeriesEncoder, set_aside_reasons
from tracelet.backends.clearml.set_aside import SetAsideFile
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.errors import SinkUnavailableError
from tracelet.records import HISTOGRAM, SCALAR

_log = logging.getLogger("tracelet")

_Records = Any  # np.ndarray of RECORD_DTYPE; its type parameters differ between numpy versions

# A sick server refuses too, with the same words. So a batch is taken apart only when it was refused
# this often in a row, and a point set aside only when it was refused alone while the server took,
# each time right after it, what it had taken before (Probe).
_REFUSALS_BEFORE_SPLITTING = 2
# Before anything was taken there is nothing to compare with: so many are passed over for now.
_MOST_PASSED_OVER = 32


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
    passed_over: list[int] = field(default_factory=list)  # records to be asked for once more
    refused_alone: int = 0  # how often the record at hand was, by a server that takes others
    set_aside: list[tuple[Any, RefusedError]] = field(default_factory=list)

    def add_counts(self, counts: Any) -> None:
        self.not_finite += counts.not_finite
        self.reasons.update(set_aside_reasons(counts))


class OnlineClearMLSink:
    """Sends the points through the SDK's session. One thread at a time."""

    name = "clearml"
    is_remote = True
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM)

    def __init__(self, task: ClearMLTask, info: RunInfo, names: TaskNames) -> None:
        self._task = task
        self._encoder = SeriesEncoder(task.id, names)
        self._views = HistogramViews.of_run(self._encoder, info)
        self._batch_bytes = info.options.batch_max_bytes
        self._set_aside = SetAsideFile(info.run_dir, self.name)
        self._post = AddBatch()
        self._probe = Probe(self._post)
        self._progress = _Progress()

    def write(self, batch: Batch) -> Delivery:
        records = batch.records
        if int(records["sequence"][0]) != self._progress.first_sequence:
            self._progress = _Progress(int(records["sequence"][0]))
        progress = self._progress
        self._encoder.define_new_series(batch)
        self._probe.begin_attempt()
        while progress.done < len(records):
            self._send_part(records, batch.payloads)
        while progress.passed_over:
            index = progress.passed_over[0]
            if self._settle(records[index : index + 1], batch.payloads):
                del progress.passed_over[0]
        for record, refusal in progress.set_aside:
            self._set_aside.keep(batch, record, refusal)
        self._encoder.report_set_aside(batch)
        self._views.observe(batch)
        if self._views.are_due:
            self._send_views()
        self._task.note_iteration(int(records["step"].max()))
        self._progress = _Progress()
        return Delivery(progress.delivered, progress.not_finite, dict(progress.reasons))

    def _send_part(self, records: _Records, payloads: Any) -> None:
        """Sends as many of those that are left as one request takes, or learns why it can't."""
        progress = self._progress
        part = records[progress.done :][: progress.part_limit]
        if len(part) == 1 and self._probe.has_something:
            progress.done += self._settle(part, payloads)
            return
        body, counts = self._encoder.native.encode_lines(part, payloads, self._batch_bytes)
        try:
            self._give(body, counts)
        except RefusedError as refusal:
            self._learn_from(refusal, counts.consumed)
            return
        progress.done += counts.consumed

    def _give(self, body: bytes, counts: Any) -> None:
        progress = self._progress
        if counts.encoded:
            taken = self._post(body)
            progress.delivered += taken
            progress.reasons.update({REFUSED: counts.encoded - taken})
            last_line = body[body.rfind(b"\n") + 1 :]
            self._probe.remember(len(last_line), last_line)
        progress.add_counts(counts)
        progress.refusals = progress.refused_alone = 0
        progress.part_limit *= 2

    def _learn_from(self, refusal: RefusedError, count: int) -> None:
        """What a part of `count` records was answered decides how large the next one is."""
        progress = self._progress
        progress.refusals += 1
        if count > 1:
            if refusal.status != TOO_LARGE and progress.refusals < _REFUSALS_BEFORE_SPLITTING:
                raise SinkUnavailableError(f"ClearML refused a batch: {refusal}") from refusal
            progress.part_limit = count // 2
        elif self._probe.has_something:
            progress.part_limit = 1  # it was the only one that fitted: the next time it is judged
        else:
            progress.passed_over.append(progress.done)
            progress.done += 1
            if len(progress.passed_over) >= _MOST_PASSED_OVER:
                self._give_up(refusal)

    def _settle(self, record: _Records, payloads: Any) -> bool:
        """Sends one record alone; whether it is taken, or set aside."""
        progress = self._progress
        body, counts = self._encoder.native.encode_lines(record, payloads, self._batch_bytes)
        try:
            self._give(body, counts)
        except RefusedError as refusal:
            if not self._probe.passes():
                self._give_up(refusal)
            progress.refused_alone += 1
            if progress.refused_alone < REFUSALS_BEFORE_SETTING_ASIDE:
                return False
            progress.refused_alone = 0
            progress.set_aside.append((record[0].copy(), refusal))
            progress.reasons.update({REFUSED: 1})
        return True

    def _give_up(self, refusal: RefusedError) -> NoReturn:
        """Until later: that speaks against the server, not against the points."""
        if not self._probe.has_something:
            self._progress = _Progress()
        raise SinkUnavailableError(f"ClearML refuses every point: {refusal}") from refusal

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
