"""What a run that goes on has logged since the last look, without touching anything of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tracelet import _core
from tracelet.records import RECORD_DTYPE, SCALAR

_MOST_RECORDS = 65_536  # of one look


class Point(NamedTuple):
    """One scalar."""

    wall_time_s: float
    step: int
    tag: str
    value: float


class Follower(Protocol):
    """One way to follow a run."""

    def new_points(self) -> list[Point]:
        """Those that were not given before, in the order of their time."""


class EventFileFollower:
    """By event files that grow: every point of them."""

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}
        self._files: Sequence[str] = ()

    @property
    def has_files(self) -> bool:
        return bool(self._positions)

    def see(self, files: Sequence[str]) -> None:
        """Follows these as well, from their beginning."""
        self._files = list(dict.fromkeys([*self._files, *files]))

    def new_points(self) -> list[Point]:
        there = [path for path in self._files if os.path.isfile(path)]
        found = [point for path in there for point in self._new_of(path)]
        return sorted(found, key=_order)

    def _new_of(self, path: str) -> Iterator[Point]:
        reader = _core.EventReader()
        before = self._positions.get(path, 0)
        try:
            self._positions[path] = reader.read_file(os.fsencode(path), before)
        except OSError:
            return
        for place, (name, count, *_) in enumerate(reader.tags()):
            if count:
                tag = name.decode("utf-8", "replace")
                columns = (each.tolist() for each in reader.scalars(place))
                for step, wall_time_s, value in zip(*columns):
                    yield Point(wall_time_s, step, tag, value)


def _order(point: Point) -> float:
    """What is no number has no place among numbers, and would leave them unsorted."""
    return -math.inf if math.isnan(point.wall_time_s) else point.wall_time_s


class RingFollower:
    """By the ring of a run without event files, which holds its last points, also those that its
    backends have taken. A run that logs faster than this looks has some that are not seen."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._position = 0

    def new_points(self) -> list[Point]:
        try:
            ring = _core.StoredRing.open(self._path)
            records, self._position = scalars_of_ring(ring, self._path, self._position)
        except (OSError, RuntimeError):
            return []  # it has ended
        names = ring.names
        return [
            Point(
                float(each["wall_time"]), int(each["step"]), names.text(int(each["tag_id"])),
                float(each["value"]),
            )
            for each in records
        ]  # fmt: skip


def scalars_of_ring(ring: _core.StoredRing, path: str, start: int) -> tuple[np.ndarray, int]:
    """The scalars from `start` on that the ring at `path` still has, as RECORD_DTYPE, and where the
    next look begins. Its process may be logging into it. Raises OSError, RuntimeError."""
    position = start = max(start, ring.head - ring.capacity, ring.head - _MOST_RECORDS)
    pieces = []
    while piece := ring.scalars_again(position, _MOST_RECORDS):
        pieces.append(piece)
        position += len(piece) // RECORD_DTYPE.itemsize
    # A slot that was claimed anew while it was read may be half of a later point's.
    sound_from = _core.StoredRing.open(path).head - ring.capacity
    records = np.frombuffer(b"".join(pieces), RECORD_DTYPE)
    is_sound = records["sequence"].astype(np.int64) > sound_from
    return records[(records["kind"] == SCALAR) & is_sound], position
