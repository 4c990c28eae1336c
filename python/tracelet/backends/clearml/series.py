"""The native encoder with the names of the series it meets, common to offline and online."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from tracelet import _core
from tracelet.backends.base import UNREADABLE, Batch, RunInfo
from tracelet.backends.clearml.kept_views import KeptViews
from tracelet.backends.clearml.names import TaskNames

_log = logging.getLogger("tracelet")

_OVER_TIME = " over time"


class SeriesEncoder:
    """Encodes batches of one task. One thread at a time."""

    def __init__(self, task_id: str, names: TaskNames | None = None) -> None:
        self.native = _core.JsonLinesEncoder(json.dumps(task_id))
        self._names = names or TaskNames()
        self._task_id = task_id

    def define_new_series(self, batch: Batch) -> None:
        for writer_id, tag_id, is_histogram in self.native.undefined_series(batch.buffer):
            log_dir, tag = batch.log_dir(writer_id), batch.tag(tag_id)
            if is_histogram:
                metric, variant = self._names.plots.histogram_name(log_dir, tag)
            else:
                metric, variant = self._names.scalars.name(log_dir, tag)
            self.native.define(
                writer_id, tag_id, is_histogram, json.dumps(metric), json.dumps(variant)
            )

    def plot_over_time(self, log_dir: str, tag: str, figure: str) -> bytes:
        """The event of a series' histograms over time: one plot, written over each time."""
        metric, variant = self._names.plots.histogram_name(log_dir, tag, _OVER_TIME)
        event = {
            "type": "plot",
            "task": self._task_id,
            "iter": 0,
            "metric": metric,
            "variant": variant,
            "plot_str": figure,
            "timestamp": int(time.time() * 1000),
        }
        return json.dumps(event).encode()

    def report_set_aside(self, batch: Batch) -> None:
        """One console line for the first point of each series that ClearML can't hold."""
        for _, tag_id, step, value, is_not_finite in self.native.take_notices():
            reason = "it is not finite" if is_not_finite else "it is beyond float32"
            _log.warning(
                "tracelet: %.200s is %r at step %d and not sent to ClearML: %s. The event file has "
                "it. Others of this series are counted in stats, without a message.",
                batch.tag(tag_id), value, step, reason,
            )  # fmt: skip


class HistogramViews:
    """The histograms of each series over time, as events that are due now and then.

    One thread at a time. What a view shows is bounded however long the run is. It is kept in the
    run's folder whenever views are sent: `tracelet sync` goes on with it. What was delivered
    between that and a death is in no view; the histograms themselves are there.
    """

    @classmethod
    def of_run(cls, encoder: SeriesEncoder, info: RunInfo) -> HistogramViews:
        """Of a run that kept none, or whose file is damaged, sync sends none: they would show its
        last histograms alone, and be written over the fuller ones of the process that died."""
        views = cls(encoder, info.options.histogram_view_interval_s)
        views._file = KeptViews(info.run_dir)
        if info.reopen is None:
            views._keep()
        else:
            views._is_shown = views._restore()
        return views

    def __init__(self, encoder: SeriesEncoder, interval_s: float) -> None:
        self._encoder = encoder
        self._interval_s = interval_s
        self._is_shown = True
        self._file: KeptViews | None = None
        self._timelines = _core.HistogramTimelines()
        self._names: dict[tuple[int, int], tuple[str, str]] = {}
        self._next_s = time.monotonic() + interval_s

    def _keep(self) -> None:
        if self._file is not None:
            self._file.write(self._names, self._timelines.state())

    def _restore(self) -> bool:
        assert self._file is not None
        kept = self._file.read()
        if kept is None or not self._timelines.restore(kept[1]):
            return False
        self._names = kept[0]
        if self._names.keys() != set(self._timelines.keys()):
            return False
        for key in self._names:
            self._timelines.put_back(*key)  # it may not have been sent
        return True

    def observe(self, batch: Batch) -> None:
        """Takes in the histograms of a batch, which may be given again."""
        if not self._is_shown:
            return
        for writer_id, tag_id in self._timelines.observe(batch.buffer, batch.payloads):
            self._names[writer_id, tag_id] = (batch.log_dir(writer_id), batch.tag(tag_id))

    @property
    def are_due(self) -> bool:
        return time.monotonic() >= self._next_s

    def take(self) -> list[tuple[tuple[int, int], bytes]]:
        """(key, event) of each view that has changed since it was taken."""
        self._next_s = time.monotonic() + self._interval_s
        changed = self._timelines.take_changed() if self._is_shown else []
        if changed:
            self._keep()
        return [
            (
                (writer_id, tag_id),
                self._encoder.plot_over_time(*self._names[writer_id, tag_id], figure),
            )
            for writer_id, tag_id, figure in changed
        ]

    def put_back(self, key: tuple[int, int]) -> None:
        """Has a view taken again: it could not be sent."""
        self._timelines.put_back(*key)


def set_aside_reasons(counts: Any) -> dict[str, int]:
    reasons = {"beyond float32": counts.beyond_float32, UNREADABLE: counts.unreadable}
    return {reason: count for reason, count in reasons.items() if count}
