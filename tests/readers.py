"""Reads back what a run left: event files by TensorBoard's own reader, offline sessions."""

from __future__ import annotations

import contextlib
import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracelet import _core

Points = dict[str, list[tuple[int, float, float]]]  # tag to (step, value, wall time), in file order


def event_files(folder: Any) -> list[Path]:
    return sorted(Path(folder).glob("*tfevents*.tracelet*"))


def events(path: Path) -> list[Any]:
    """All events of one file, as protobufs, by TensorBoard's own loader."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    return list(LegacyEventFileLoader(str(path)).Load())


def event_file_scalars(folder: Any) -> Points:
    points: Points = defaultdict(list)
    for path in event_files(folder):
        for event in _events_of_any_size(path):
            for value in event.summary.value:
                points[value.tag].append((event.step, value.simple_value, event.wall_time))
    return dict(points)


def _events_of_any_size(path: Path) -> list[Any]:
    """Large files by the quick reader, which says the same of a whole file."""
    if path.stat().st_size > 1 << 20:
        with contextlib.suppress(
            struct.error, AssertionError
        ):  # torn: up to there by TensorBoard's
            return list(quick_events(path))
    return events(path)


def session_events(folder: Any) -> list[dict[str, Any]]:
    """All events of an offline session's metrics file, in order."""
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    events = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                events += json.loads(line)
            except ValueError:  # a process died in the middle of it; the SDK's import passes it too
                # Or the machine lost its power, and what the file grew by was not written.
                assert line.startswith("[") or not line.strip("\0\n "), line
    return events


def session_scalars(folder: Any) -> dict[tuple[str, str], list[tuple[int, float, int]]]:
    """(metric, variant) to (step, value, timestamp in ms), in file order."""
    points = defaultdict(list)
    for event in session_events(folder):
        if event["type"] == "training_stats_scalar" and not event["metric"].startswith(":monitor"):
            points[event["metric"], event["variant"]].append(
                (event["iter"], event["value"], event["timestamp"])
            )
    return dict(points)


def quick_events(path: Path) -> Iterator[Any]:
    """As `events`, without TensorBoard's check sums in Python, which take 2 ms a histogram."""
    from tensorboard.compat.proto.event_pb2 import Event

    data = Path(path).read_bytes()
    position = 0
    while position < len(data):
        size_bytes, size_crc = struct.unpack_from("<QI", data, position)
        body = data[position + 12 : position + 12 + size_bytes]
        (body_crc,) = struct.unpack_from("<I", data, position + 12 + size_bytes)
        assert size_crc == _masked_crc(data[position : position + 8])
        assert body_crc == _masked_crc(body)
        yield Event.FromString(body)
        position += size_bytes + 16


def _masked_crc(data: bytes) -> int:
    crc = _core.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def histograms(folder: Any) -> dict[str, list[tuple[int, Any]]]:
    """tag to (step, HistogramProto), in file order."""
    found = defaultdict(list)
    for path in event_files(folder):
        for event in quick_events(path):
            for value in event.summary.value:
                if value.HasField("histo"):
                    found[value.tag].append((event.step, value.histo))
    return dict(found)


def session_plots(folder: Any) -> list[dict[str, Any]]:
    """The plot events of an offline session, in order."""
    return [event for event in session_events(folder) if event["type"] == "plot"]


def steps_in(folder: Path) -> list[int]:
    """The steps of all event files of a folder, in order."""
    return sorted(
        event.step
        for path in event_files(folder)
        for event in quick_events(path)
        for _ in event.summary.value
    )
