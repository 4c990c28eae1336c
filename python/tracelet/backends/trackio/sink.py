"""Scalars to trackio: a row for the points of a step, as `trackio.log` with a dict makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.flat_names import FlatNames, SeriesNames
from tracelet.backends.trackio.store import Row, Store
from tracelet.records import AWAITS_DEVICE, SCALAR

_PREFIX = "scalars-"


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
        self._series = SeriesNames(names)
        self._done: int | None = None
        """The sequence of the last point that is there; None: to be asked for."""

    def write(self, batch: Batch) -> Delivery:
        if self._done is None:
            self._done = _sequence_of(self._store.last_id(_PREFIX))
        done, self._done = self._done, None
        rows, unreadable = self._rows(batch, done)
        are_finite = bool(np.isfinite(batch.records["value"]).all())
        self._store.log(rows, are_finite_numbers=are_finite)
        self._done = max(done, int(batch.records["sequence"][-1]))
        reasons = {UNREADABLE: unreadable} if unreadable else {}
        return Delivery(len(batch) - unreadable, 0, reasons)

    def _rows(self, batch: Batch, done: int) -> tuple[list[Row], int]:
        """Those of the points behind `done`, and how many of the batch have no value."""
        records = batch.records
        has_value = (records["flags"] & AWAITS_DEVICE) == 0
        unreadable = len(records) - int(np.count_nonzero(has_value))
        records = records[has_value & (records["sequence"] > done)]
        rows: list[Row] = []
        names = self._series.of(batch, records)
        columns = ("sequence", "step", "wall_time", "value")
        sequences, steps, times_s, values = (records[name].tolist() for name in columns)
        for start, end in _ranges(records["step"], names):
            row = dict(zip(names[start:end], values[start:end]))
            rows.append(Row(f"{_PREFIX}{sequences[end - 1]}", steps[start], times_s[start], row))
        return rows, unreadable

    def close(self, process_is_ending: bool) -> None:
        self._series.close()


def _ranges(steps: np.ndarray[Any, Any], names: list[str]) -> Iterator[tuple[int, int]]:
    """Of each row its points: of one step, each name once."""
    if not names:
        return
    ends = (np.flatnonzero(steps[1:] != steps[:-1]) + 1).tolist()
    for start, end in zip([0, *ends], [*ends, len(names)]):
        seen: set[str] = set()
        if len(set(names[start:end])) < end - start:
            for index in range(start, end):
                if names[index] in seen:
                    yield start, index
                    start, seen = index, set()
                seen.add(names[index])
        yield start, end


def _sequence_of(row_id: str | None) -> int:
    return 0 if row_id is None else int(row_id[len(_PREFIX) :])
