"""How far a process has come, and how fast: from its ring, also when it is dead, without touching
anything of it; where the ring is gone, from its event files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracelet import _core
from tracelet.monitor import SYSTEM_PREFIX
from tracelet.reading.following import scalars_of_ring
from tracelet.reading.logs import read_files
from tracelet.writer_key import rank_of_key

_MOST_RECORDS = 16_384  # the last ones of a ring


@dataclass(frozen=True)
class Pulse:
    """The last points of one run. What is not known is None.

    What the machine did (`system/...`) is no progress: it is among the values, and tells of step,
    age and speed only where there is nothing else.
    """

    last_step: int | None = None
    """Of the point that was logged last: by its place in the ring, in event files by wall time."""
    last_point_s: float | None = None
    """Its wall time, in seconds since 1970."""
    interval_s: float | None = None
    """Between two points of its series, on average."""
    steps_per_s: float | None = None
    values: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """The last step and value of each tag."""


def pulse_of_ring(path: str) -> Pulse:
    """Raises OSError or RuntimeError where there is no ring that can be read."""
    ring = _core.StoredRing.open(path)
    records, _ = scalars_of_ring(ring, path, max(0, ring.head - _MOST_RECORDS))
    return _pulse_of_records(records, ring.names)


def pulses_of_ranks(path: str) -> dict[int | None, Pulse]:
    """The same by the rank that logged: None for the one whose writers have no mark."""
    ring = _core.StoredRing.open(path)
    records, _ = scalars_of_ring(ring, path, max(0, ring.head - _MOST_RECORDS))
    names, writers = ring.names, records["writer_id"]
    of_writer = {each: rank_of_key(names.text(each)) for each in np.unique(writers).tolist()}
    found = {}
    for rank in dict.fromkeys(of_writer.values()):
        its = [writer for writer, of in of_writer.items() if of == rank]
        found[rank] = _pulse_of_records(records[np.isin(writers, its)], names)
    return found


def _pulse_of_records(records: np.ndarray, names: _core.StoredNames) -> Pulse:
    series, places = {}, {}
    for tag_id in np.unique(records["tag_id"]):
        at = np.flatnonzero(records["tag_id"] == tag_id)
        each, tag = records[at], names.text(int(tag_id))
        series[tag] = (each["step"], each["wall_time"], each["value"])
        places[tag] = float(at[-1])
    return _pulse(series, places)


def pulse_of_files(paths: Sequence[str]) -> Pulse:
    """Of event files; those that are not there are left out."""
    series = {}
    for logs in read_files("", lambda: list(paths), are_absolute=True).runs.values():
        for tag in logs.tags["scalars"]:
            each = logs.scalars(tag)
            series[tag] = (each.steps, each.wall_times, each.values)
    return _pulse(series)


def _pulse(
    series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    places: Mapping[str, float] | None = None,
) -> Pulse:
    """From steps, wall times and values by tag, each in the order logged; and the place of each
    one's last point among all, where that is known: wall times may be the user's own."""
    known = {}
    for tag, columns in series.items():
        is_known = np.isfinite(columns[1])
        if is_known.any():
            known[tag] = [column[is_known] for column in columns]
    if not known:
        return Pulse()
    # Of several that were logged last at once, the one with most points tells the speed best.
    progress = [tag for tag in known if not tag.startswith(SYSTEM_PREFIX)] or list(known)
    ends = places or {tag: float(known[tag][1][-1]) for tag in progress}
    steps, times, _ = known[max(progress, key=lambda tag: (ends[tag], len(known[tag][1])))]
    took_s, number = float(times[-1] - times[0]), len(times)
    return Pulse(
        int(steps[-1]),
        float(times[-1]),
        took_s / (number - 1) if number > 1 and took_s > 0 else None,
        float(int(steps[-1]) - int(steps[0])) / took_s if number > 1 and took_s > 0 else None,
        {tag: (int(each[0][-1]), float(each[2][-1])) for tag, each in known.items()},
    )
