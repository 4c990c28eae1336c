"""Scalars to Aim: one call for the points of a step, as its users make it."""

from __future__ import annotations

from collections.abc import Sequence

from tracelet.backends.aim.order import Point, rows_of
from tracelet.backends.aim.run import REFUSED, AimRun
from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames, SeriesNames
from tracelet.records import AWAITS_DEVICE, SCALAR


class AimSink:
    """One thread at a time. NaN and infinities are kept; a point that is given again replaces
    itself."""

    name = "aim"
    is_remote = True  # Aim's writes cost more than the ring's thread has time for
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR,)

    def __init__(self, run: AimRun, names: FlatNames) -> None:
        self._run = run
        self._series = SeriesNames(names)
        self._known: set[str] = set()

    def write(self, batch: Batch) -> Delivery:
        records = batch.records[(batch.records["flags"] & AWAITS_DEVICE) == 0]
        unreadable = len(batch) - len(records)
        columns = [records[name].tolist() for name in ("step", "wall_time", "value")]
        points = [*map(Point, self._series.of(batch, records), *columns)]
        refused: set[tuple[str, int]] = set()
        for row in rows_of(points, self._known):
            names = self._run.track(row.values, row.step, row.wall_time_s)
            refused.update((name, row.step) for name in names)
        self._known.update(point.name for point in points)
        count = sum((point.name, point.step) in refused for point in points) if refused else 0
        reasons = {UNREADABLE: unreadable, REFUSED: count}
        reasons = {reason: each for reason, each in reasons.items() if each}
        return Delivery(len(batch) - unreadable - count, 0, reasons)

    def close(self, process_is_ending: bool) -> None:
        self._series.close()
