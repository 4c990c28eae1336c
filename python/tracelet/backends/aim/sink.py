"""Scalars to Aim: one call for the points of a step, as its users make it."""

from __future__ import annotations

from collections.abc import Sequence

from tracelet.backends.aim.order import Point, rows_of
from tracelet.backends.aim.run import REFUSED, AimRun
from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames
from tracelet.records import AWAITS_DEVICE, SCALAR

_COLUMNS = ("writer_id", "tag_id", "step", "wall_time", "value", "flags")


class AimSink:
    """One thread at a time. NaN and infinities are kept; a point that is given again replaces
    itself."""

    name = "aim"
    is_remote = True  # Aim's writes cost more than the ring's thread has time for
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR,)

    def __init__(self, run: AimRun, names: FlatNames) -> None:
        self._run = run
        self._names = names
        self._by_series: dict[tuple[int, int], str] = {}
        self._known: set[str] = set()

    def write(self, batch: Batch) -> Delivery:
        points: list[Point] = []
        unreadable = 0
        columns = [batch.records[name].tolist() for name in _COLUMNS]
        for writer_id, tag_id, step, wall_time_s, value, flags in zip(*columns):
            if flags & AWAITS_DEVICE:
                unreadable += 1
                continue
            name = self._by_series.get((writer_id, tag_id))
            if name is None:
                name = self._name(batch, writer_id, tag_id)
            points.append(Point(name, step, wall_time_s, value))
        refused: set[tuple[str, int]] = set()
        for row in rows_of(points, self._known):
            names = self._run.track(row.values, row.step, row.wall_time_s)
            refused.update((name, row.step) for name in names)
        self._known.update(point.name for point in points)
        count = sum((point.name, point.step) in refused for point in points) if refused else 0
        reasons = {UNREADABLE: unreadable, REFUSED: count}
        reasons = {reason: each for reason, each in reasons.items() if each}
        return Delivery(len(batch) - unreadable - count, 0, reasons)

    def _name(self, batch: Batch, writer_id: int, tag_id: int) -> str:
        name = self._names.name(batch.log_dir(writer_id), batch.tag(tag_id))
        self._by_series[writer_id, tag_id] = name
        return name

    def close(self, process_is_ending: bool) -> None:
        self._names.close()
