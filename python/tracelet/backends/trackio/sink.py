"""Scalars to trackio: a row for the points of a step, as `trackio.log` with a dict makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.trackio.store import Row, Store
from tracelet.records import AWAITS_DEVICE, SCALAR

_PREFIX = "scalars-"
_COLUMNS = ("sequence", "writer_id", "tag_id", "step", "wall_time", "value", "flags")


class TrackioSink:
    """One thread at a time. NaN and infinities are kept.

    Rows are written in order, and a row's id is the sequence of its last point: what is there is
    found in the database, after a failure and in another process. Points that are given again
    need not come in the same batches.
    """

    name = "trackio"
    is_remote = True  # another process of the project may hold the database
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR,)

    def __init__(self, store: Store, names: FlatNames) -> None:
        self._store = store
        self._names = names
        self._by_series: dict[tuple[int, int], str] = {}
        self._done: int | None = None
        """The sequence of the last point that is there; None: to be asked for."""

    def write(self, batch: Batch) -> Delivery:
        if self._done is None:
            self._done = _sequence_of(self._store.last_id(_PREFIX))
        done, self._done = self._done, None
        rows, unreadable = self._rows(batch, done)
        self._store.log(rows)
        self._done = max(done, int(batch.records["sequence"][-1]))
        reasons = {UNREADABLE: unreadable} if unreadable else {}
        return Delivery(len(batch) - unreadable, 0, reasons)

    def _rows(self, batch: Batch, done: int) -> tuple[list[Row], int]:
        """Those of the points behind `done`, and how many of the batch have no value."""
        rows: list[Row] = []
        unreadable = 0
        values: dict[str, Any] = {}
        first_step, first_time_s, last = 0, 0.0, 0
        columns = [batch.records[name].tolist() for name in _COLUMNS]
        for sequence, writer_id, tag_id, step, wall_time_s, value, flags in zip(*columns):
            if flags & AWAITS_DEVICE:
                unreadable += 1
                continue
            if sequence <= done:
                continue
            name = self._by_series.get((writer_id, tag_id))
            if name is None:
                name = self._name(batch, writer_id, tag_id)
            if values and (step != first_step or name in values):
                rows.append(Row(f"{_PREFIX}{last}", first_step, first_time_s, values))
                values = {}
            if not values:
                first_step, first_time_s = step, wall_time_s
            values[name] = value
            last = sequence
        if values:
            rows.append(Row(f"{_PREFIX}{last}", first_step, first_time_s, values))
        return rows, unreadable

    def _name(self, batch: Batch, writer_id: int, tag_id: int) -> str:
        name = self._names.name(batch.log_dir(writer_id), batch.tag(tag_id))
        self._by_series[writer_id, tag_id] = name
        return name

    def close(self, process_is_ending: bool) -> None:
        self._names.close()


def _sequence_of(row_id: str | None) -> int:
    return 0 if row_id is None else int(row_id[len(_PREFIX) :])
