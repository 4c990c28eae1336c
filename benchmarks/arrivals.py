"""Counts the points that are in the files: what really arrived."""

from __future__ import annotations

import json
import mmap
import struct
from pathlib import Path

from benchmarks import loops

_LENGTH = struct.Struct("<Q")
_TITLE = loops.TAG.partition("/")[0]


def event_file_points(folder: Path) -> int:
    """Scalars in the TensorBoard event files below a folder."""
    return sum(_points_of_file(path) for path in folder.rglob("events.out.tfevents.*"))


def clearml_points(folder: Path) -> int:
    """Our points in the metrics files of the offline sessions below a folder.

    The SDK's own monitor reports the machine's load under other names.
    """
    count = 0
    for path in folder.rglob("metrics.jsonl"):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                count += sum(event["metric"] == _TITLE for event in json.loads(line))
    return count


def _points_of_file(path: Path) -> int:
    """Events with a summary in a file of TFRecords: length, its CRC, Event protobuf, CRC.

    TensorBoard's own loader takes 30 us an event. Everything here writes one value a summary.
    """
    with open(path, "rb") as file:
        if path.stat().st_size == 0:
            return 0
        count = 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            position, end = 0, len(data)
            while position + 12 <= end:
                (length,) = _LENGTH.unpack_from(data, position)
                start = position + 12
                position = start + length + 4
                if position <= end and _has_summary(data[start : start + min(length, 32)]):
                    count += 1
        return count


def _has_summary(event: bytes) -> bool:
    """Whether field 5 follows the wall time (field 1) and the step (field 2), as all write it."""
    position = 0
    if event[:1] == b"\x09":
        position += 9
    if event[position : position + 1] == b"\x10":
        position += 1
        while event[position] & 0x80:
            position += 1
        position += 1
    return event[position : position + 1] == b"\x2a"
