"""What event files hold as the records of a run, in the order of their time: for `import`."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.records import EVENT, HISTOGRAM, PAYLOAD_IN_FILE, RECORD_DTYPE, SCALAR

_CHUNK_RECORDS = 65_536
_CHUNK_PAYLOAD_BYTES = 4 << 20
_LARGEST_PAYLOAD_BYTES = 1 << 20
"""A larger one goes by a file of its own, as in a run that lives."""
_METADATA = 9  # the field of Summary.Value

Chunk = tuple[Any, bytes]


@dataclass(frozen=True)
class _Series:
    """One tag's points of one kind."""

    tag: str
    kind: int
    steps: Any
    wall_times: Any
    values: Any
    """Of scalars: an array. Else a function: place in the series to payload."""


class PointStream:
    """All points of some event files, read as those of one run. One thread."""

    def __init__(self, paths: Sequence[str]) -> None:
        reader = _core.EventReader()
        for path in paths:
            reader.read_file(os.fsencode(path), 0)
        self._series = list(_series_of(reader))
        self.count = sum(len(each.steps) for each in self._series)
        self.damaged = int(reader.damaged_records)
        self.graphs = int(reader.graphs)
        """Events without a tag (graphs, profiles): no points."""

    def chunks(
        self, writer_id: int, intern: Callable[[str], int], keep: Callable[[int, bytes], bytes]
    ) -> Iterator[Chunk]:
        """Records, which follow one another from position 0 on, with their payloads. `keep` writes
        a large payload to a file, by the record's position, and returns its path."""
        if not self.count:
            return
        steps = np.concatenate([each.steps for each in self._series])
        wall_times = np.concatenate([_known(each.wall_times) for each in self._series])
        places = np.concatenate([np.arange(len(each.steps)) for each in self._series])
        series = np.repeat(np.arange(len(self._series)), [len(s.steps) for s in self._series])
        values = np.concatenate(
            [s.values if s.kind == SCALAR else np.zeros(len(s.steps)) for s in self._series]
        )
        kinds = np.array([each.kind for each in self._series], np.uint16)
        tag_ids = np.array([intern(each.tag) for each in self._series], np.uint32)
        # By time, but each series in the order logged, also where a clock went back: then its later
        # points count as of the time it had reached.
        keys = np.concatenate(
            [np.maximum.accumulate(_known(each.wall_times)) for each in self._series]
        )
        order = np.argsort(keys, kind="stable")
        start = 0
        while start < self.count:
            chosen = order[start : start + _CHUNK_RECORDS]
            records = np.zeros(len(chosen), RECORD_DTYPE)
            records["sequence"] = np.arange(start + 1, start + 1 + len(chosen))
            records["step"] = steps[chosen]
            records["wall_time"] = wall_times[chosen]
            records["value"] = values[chosen]
            records["kind"] = kinds[series[chosen]]
            records["tag_id"] = tag_ids[series[chosen]]
            records["writer_id"] = writer_id
            payloads: list[bytes] = []
            size_bytes = 0
            for n in np.flatnonzero(records["kind"] != SCALAR).tolist():
                at = int(chosen[n])
                payload = self._series[int(series[at])].values(int(places[at]))
                if len(payload) > _LARGEST_PAYLOAD_BYTES and records["kind"][n] == EVENT:
                    payload = keep(start + n, payload)
                    records["flags"][n] = PAYLOAD_IN_FILE
                records["payload_offset"][n], records["payload_size"][n] = size_bytes, len(payload)
                payloads.append(payload)
                size_bytes += len(payload)
                if size_bytes >= _CHUNK_PAYLOAD_BYTES:
                    records = records[: n + 1]
                    break
            yield records, b"".join(payloads)
            start += len(records)


def _series_of(reader: _core.EventReader) -> Iterator[_Series]:
    for place, (name, scalars, histograms, texts, others) in enumerate(reader.tags()):
        tag = name.decode("utf-8", "replace")
        if scalars:
            steps, wall_times, values = reader.scalars(place)
            yield _Series(tag, SCALAR, steps, wall_times, values)
        if histograms:
            steps, wall_times, rows = reader.histograms(place)
            yield _Series(tag, HISTOGRAM, steps, wall_times, _histograms(rows))
        plugin = reader.plugin(place)
        for is_there, found in ((texts, reader.text_places), (others, reader.others)):
            if is_there:
                steps, wall_times, places = found(place)
                yield _Series(
                    tag, EVENT, steps, wall_times, _events(steps, wall_times, places, plugin)
                )


def _known(wall_times: Any) -> Any:
    return np.where(np.isfinite(wall_times), wall_times, 0.0)


def _histograms(rows: Sequence[Any]) -> Callable[[int], bytes]:
    def payload(index: int) -> bytes:
        low, high, num, total, squares, limits, counts = rows[index]
        if math.isnan(total) and len(limits):
            # TensorFlow 2's files have no sums: as if each value lay in the middle of its bucket.
            middles = (np.concatenate([[low], limits[:-1]]) + limits) / 2
            total, squares = float(middles @ counts), float(middles**2 @ counts)
        return _core.histogram_payload(
            low, high, num, total, squares, limits.tolist(), counts.tolist()
        )

    return payload


def _events(steps: Any, wall_times: Any, places: Any, plugin: bytes) -> Callable[[int], bytes]:
    def payload(index: int) -> bytes:
        path, offset, size_bytes = places[index]
        with open(os.fsdecode(path), "rb") as file:
            file.seek(offset)
            value = file.read(size_bytes)
        if len(value) != size_bytes:
            raise TraceletError(f"{os.fsdecode(path)} was cut off while it was read")
        # TensorFlow names the plugin at the first event of a tag alone.
        if plugin and not _has_field(value, _METADATA):
            value += _message(_METADATA, _message(1, _message(1, plugin)))
        head = struct.pack("<Bd", 0x09, wall_times[index]) + b"\x10" + _varint(int(steps[index]))
        return head + _message(5, _message(1, value))

    return payload


def _message(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _has_field(message: bytes, number: int) -> bool:
    """Whether a protobuf, which the core has found to be whole, has a field."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        if key >> 3 == number:
            return True
        if key & 7 == 2:
            size, at = _read_varint(message, at)
            at += size
        elif key & 7 == 0:
            _, at = _read_varint(message, at)
        else:
            at += 8 if key & 7 == 1 else 4
    return False


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            break
        shift += 7
    return value, at
