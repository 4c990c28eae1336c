"""The order in which a batch's points cost Aim least. Pure functions.

For each point Aim writes its value, step, epoch and time, and besides the series' last value and
step when the step is a new highest one, and its least and greatest value when that is new: up to
eight writes, half of Aim's CPU. What is in the end there does not depend on the order, but for the
first value, which is that of the first call. So a new series' first point goes first, then the one
of the highest step, then the least and the greatest: of all others Aim writes but the four.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Point(NamedTuple):
    name: str
    step: int
    wall_time_s: float
    value: float


class Row(NamedTuple):
    """Points of one step: one call."""

    step: int
    wall_time_s: float
    """Of the first of them."""
    values: Mapping[str, float]


def rows_of(points: Iterable[Point], known: set[str]) -> list[Row]:
    """`known`: the series that have points already. Of two points of one name and step the later
    one counts, as it does in Aim."""
    series: dict[str, dict[int, Point]] = {}
    for point in points:
        series.setdefault(point.name, {})[point.step] = point
    # A new series' first points, those of the highest steps, least and greatest values, all others.
    stages: list[dict[int, dict[str, Point]]] = [{} for _ in range(5)]
    for name, by_step in series.items():
        first = None if name in known else next(iter(by_step))
        for stage, step in enumerate((first, max(by_step), *_extremes(by_step))):
            if step is not None and step in by_step:
                stages[stage].setdefault(step, {})[name] = by_step.pop(step)
        for step, point in by_step.items():
            stages[-1].setdefault(step, {})[name] = point
    return [_row(step, row) for stage in stages for step, row in stage.items()]


def _extremes(by_step: Mapping[int, Point]) -> tuple[int, int]:
    """The steps of the least and the greatest value; NaN is neither."""
    found = [point for point in by_step.values() if point.value == point.value]
    if not found:
        step = next(iter(by_step))
        return step, step
    least = min(found, key=lambda point: point.value)
    return least.step, max(found, key=lambda point: point.value).step


def _row(step: int, row: Mapping[str, Point]) -> Row:
    values = {name: point.value for name, point in row.items()}
    return Row(step, next(iter(row.values())).wall_time_s, values)
