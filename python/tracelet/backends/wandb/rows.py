"""Rows of W&B: runs of consecutive points of one step, cut where it changes or a tag repeats.

A row's number must be the same whenever its points are given: what W&B has already is known by it.
A batch ends anywhere, and a row with it; so what a batch is, and the number of its first row, is
written down before any row of it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tracelet.backends.kept import KeptLines
from tracelet.errors import SinkUnavailableError


class Point(NamedTuple):
    name: str
    step: int
    wall_time_s: float
    value: Any
    """A number, or a `media.Form` that makes W&B's own type of it."""


@dataclass
class Row:
    step: int
    wall_time_s: float
    values: dict[str, Any] = field(default_factory=dict)


def rows_of(points: Sequence[Point]) -> list[Row]:
    rows: list[Row] = []
    for point in points:
        if not rows or point.step != rows[-1].step or point.name in rows[-1].values:
            rows.append(Row(point.step, point.wall_time_s))
        rows[-1].values[point.name] = point.value
    return rows


class Plan(NamedTuple):
    """A batch whose rows were, or are being, sent."""

    first: int
    """Sequence of its first record."""
    last: int
    row: int
    """Number of its first row."""
    rows: int

    @property
    def end(self) -> int:
        return self.row + self.rows


class Plans:
    """The batches of a run. One thread at a time."""

    def __init__(self, lines: KeptLines, first_row: int) -> None:
        self._lines = lines
        self._first_row = first_row
        self._open = [Plan(*line) for line in lines.read() if _is_plan(line)]
        self.done = 0
        """All records up to this sequence are with W&B."""
        self._last_done: Plan | None = None

    def next_row(self, rows_end: int) -> int:
        return max([self._first_row, rows_end, *(plan.end for plan in self._open[-1:])])

    def settle(self, rows_end: int) -> None:
        """Lets go of the batches whose rows are all there."""
        while self._open and self._open[0].end <= rows_end:
            self._last_done = self._open.pop(0)
            self.done = max(self.done, self._last_done.last)

    def of(self, first: int, last: int) -> Plan | None:
        """The batch that begins there, as far as it is written down."""
        return next(
            (plan for plan in self._open if plan.first == first and plan.last <= last), None
        )

    def next_first(self, after: int) -> int | None:
        """Where the next one that is written down begins."""
        return min((plan.first for plan in self._open if plan.first > after), default=None)

    def add(self, plan: Plan) -> None:
        """Raises SinkUnavailableError when it can't be written down: nothing is sent then."""
        if self._lines.is_large:
            known = [self._last_done, *self._open]
            self._lines.replace([tuple(each) for each in known if each is not None])
        if not self._lines.append(*plan):
            raise SinkUnavailableError("the run's folder can't be written")
        self._open = [each for each in self._open if each.last < plan.first]
        self._open.append(plan)

    def close(self) -> None:
        self._lines.close()


def _is_plan(line: Any) -> bool:
    return isinstance(line, list) and len(line) == 4 and all(type(each) is int for each in line)
