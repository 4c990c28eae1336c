"""Points to W&B: rows of its history, taken for delivered when they are in its file on disk."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Protocol

import numpy as np

from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames, SeriesNames
from tracelet.backends.parts_reader import PartsReader, UnreadableError
from tracelet.backends.wandb.log_file import RunLog
from tracelet.backends.wandb.media import Form, histogram_form, values_of
from tracelet.backends.wandb.rows import Plan, Plans, Point, Row, rows_of
from tracelet.records import AWAITS_DEVICE, EVENT, HISTOGRAM, SCALAR

_log = logging.getLogger("tracelet")

DISABLED = "wandb is disabled"


class Rows(Protocol):
    """Where rows go."""

    log: RunLog

    def log_row(
        self, number: int, step: int, wall_time_s: float, values: Mapping[str, Any]
    ) -> None:
        """Hands a row to W&B; it is on disk some time later."""


class WandbSink:
    """All kinds of records in one lane: rows have numbers that only grow. One thread at a time.

    NaN and infinities are kept.
    """

    name = "wandb"
    is_remote = True  # it waits for another process
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM, EVENT)

    def __init__(
        self,
        rows: Rows,
        plans: Plans,
        names: FlatNames,
        log_params: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._rows = rows
        self._plans = plans
        self._names = names
        self._series = SeriesNames(names)
        self._log_params = log_params
        self._events = PartsReader()
        self._handed = 0  # rows before this one were handed to W&B by this process

    def write(self, batch: Batch) -> Delivery:
        log, plans = self._rows.log, self._plans
        log.refresh()
        plans.settle(log.rows_end)
        points, reasons = self._points(batch, plans.done)
        left = [each for each in batch.records["sequence"].tolist() if each > plans.done]
        while left:
            first, end = left[0], len(left)
            plan = plans.of(first, left[-1])
            until = plan.last if plan else plans.next_first(first)
            if until is not None:
                end = sum(each <= until if plan else each < until for each in left)
            last = left[end - 1]
            found = [points[each] for each in left[:end] if each in points]
            if bad := self._send(found, first, last, plan):
                reasons[UNREADABLE] += bad
            left = left[end:]
        return Delivery(len(batch) - sum(reasons.values()), 0, dict(reasons))

    def _send(self, points: list[list[Point]], first: int, last: int, plan: Plan | None) -> int:
        """Returns how many values were none that W&B can show."""
        rows = rows_of([point for each in points for point in each])
        log = self._rows.log
        if plan is None or plan.rows != len(rows):  # the latter: what is there is not as it was
            number = max(self._plans.next_row(log.rows_end), self._handed)
            plan = Plan(first, last, number, len(rows))
            self._plans.add(plan)
        bad = 0
        for number, row in enumerate(rows, plan.row):
            if number >= max(self._handed, log.rows_end):
                bad += self._log_row(number, row)
                self._handed = number + 1
        end = plan.end
        if rows:
            log.wait_for(lambda: log.rows_end >= end, "rows")
        self._plans.settle(log.rows_end)
        return bad

    def _log_row(self, number: int, row: Row) -> int:
        """Returns how many of its values can't be made: what is in them does not change."""
        forms = {name: value for name, value in row.values.items() if isinstance(value, Form)}
        if not forms:
            self._rows.log_row(number, row.step, row.wall_time_s, row.values)
            return 0
        values, bad = dict(row.values), 0
        with tempfile.TemporaryDirectory() as folder:
            for name, form in forms.items():
                try:
                    values[name] = form.make(folder)
                except OSError:
                    raise
                except Exception as error:
                    _log.warning("tracelet: W&B can't show %.100r: %.300s", name, error)
                    del values[name]
                    bad += 1
            self._rows.log_row(number, row.step, row.wall_time_s, values)
        return bad

    def _points(self, batch: Batch, done: int) -> tuple[dict[int, list[Point]], Counter[str]]:
        """Of each record behind `done` its points; how many of the batch have none, and why."""
        records = batch.records[batch.records["sequence"] > done]
        is_scalar = records["kind"] == SCALAR
        scalars = records[is_scalar & ((records["flags"] & AWAITS_DEVICE) == 0)]
        columns = [scalars[name].tolist() for name in ("sequence", "step", "wall_time", "value")]
        names = self._series.of(batch, scalars)
        points = {
            sequence: [Point(name, step, time_s, value)]
            for name, sequence, step, time_s, value in zip(names, *columns)
        }
        reasons = Counter({UNREADABLE: int(np.count_nonzero(is_scalar)) - len(scalars)})
        for record in records[~is_scalar]:
            points[int(record["sequence"])], reason = self._of_payload(batch, record)
            reasons[reason] += 1
        del reasons[""]
        return points, +reasons

    def _of_payload(self, batch: Batch, record: Any) -> tuple[list[Point], str]:
        log_dir = batch.log_dir(record["writer_id"])
        step, time_s = int(record["step"]), float(record["wall_time"])
        if int(record["kind"]) == HISTOGRAM:
            try:
                histogram = batch.histogram(record)
            except ValueError:
                return [], UNREADABLE
            name = self._names.name(log_dir, batch.tag(record["tag_id"]))
            return [Point(name, step, time_s, histogram_form(histogram))], ""
        try:
            event = self._events.read(batch, record)
        except UnreadableError:
            return [], UNREADABLE
        found, params, reason = values_of(event)
        if params:
            self._log_params(params)
        return [
            Point(self._names.name(log_dir, tag), step, time_s, value) for tag, value in found
        ], reason

    def close(self, process_is_ending: bool) -> None:
        self._plans.close()
        self._names.close()


class DisabledSink:
    """Of WANDB_MODE=disabled: takes nothing, and says so in the run's stats."""

    name = "wandb"
    is_remote = False
    takes_every_point = True
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM, EVENT)

    def write(self, batch: Batch) -> Delivery:
        return Delivery(0, 0, {DISABLED: len(batch)})

    def close(self, process_is_ending: bool) -> None:
        pass
