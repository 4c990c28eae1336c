"""Reads back what a run left: event files by TensorBoard's own reader, offline sessions."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

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
        for event in events(path):
            for value in event.summary.value:
                points[value.tag].append((event.step, value.simple_value, event.wall_time))
    return dict(points)


def session_events(folder: Any) -> list[dict[str, Any]]:
    """All events of an offline session's metrics file, in order."""
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return [event for line in file for event in json.loads(line)]


def session_scalars(folder: Any) -> dict[tuple[str, str], list[tuple[int, float, int]]]:
    """(metric, variant) to (step, value, timestamp in ms), in file order."""
    points = defaultdict(list)
    for event in session_events(folder):
        if event["type"] == "training_stats_scalar" and not event["metric"].startswith(":monitor"):
            points[event["metric"], event["variant"]].append(
                (event["iter"], event["value"], event["timestamp"])
            )
    return dict(points)
