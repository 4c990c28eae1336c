"""`python -m tracelet.selftest`: whether what is installed here works. Needs numpy alone.

Looks at each part by other means than its own: event files are read by the few lines of protobuf
and CRC-32C below, histograms are compared with numpy's, JSON is read by Python's. Takes a second
or two, works in a temporary folder, sends nothing. Exit code 0 when all is well; else 1, with the
tracebacks.
"""

from __future__ import annotations

import json
import os
import platform
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tracelet
from tracelet import _core
from tracelet.errors import JournalError
from tracelet.journal.journal import Journal
from tracelet.records import RECORD_DTYPE

_THREADS = 4
_POINTS = 5_000  # of each thread
_RING_SLOTS = 1024  # fewer than points: the producers wait for room


def check_ring(folder: Path) -> None:
    """Four threads log into a ring that holds less than they do; each one's points are in order."""
    path = str(folder / "ring")
    ring = _core.Ring.create(path, _RING_SLOTS, 30.0)
    _core.set_active_run(ring)

    def produce(number: int) -> None:
        for step in range(_POINTS):
            _core.push_scalar(str(folder), f"tag {number}", step * 0.5, step, 1.0)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(_THREADS)]
    taken: list[Any] = []
    try:
        for thread in threads:
            thread.start()
        _take(ring, _THREADS * _POINTS, taken)
    finally:
        _core.set_active_run(None)
        for thread in threads:
            thread.join(30)
    records = np.concatenate(taken)
    _equal(records["sequence"], np.arange(1, _THREADS * _POINTS + 1))
    for number in range(_THREADS):
        mine = records[records["tag_id"] == ring.intern(f"tag {number}")]
        _equal(mine["step"], np.arange(_POINTS))
        _equal(mine["value"], np.arange(_POINTS) * 0.5)
    found = _core.Ring.open(path)  # as the reader of a dead process does
    assert (found.head, found.tail) == (ring.head, ring.tail)
    assert found.text(ring.intern("tag 0")) == "tag 0"


def _take(ring: _core.Ring, count: int, taken: list[Any]) -> None:
    deadline_s = time.monotonic() + 30
    while ring.tail < count:
        assert time.monotonic() < deadline_s, f"{ring.tail} of {count} points came out of the ring"
        lease: Any = ring.lease(_RING_SLOTS)
        if len(lease):
            taken.append(np.frombuffer(lease, dtype=RECORD_DTYPE).copy())
        else:
            ring.wait_for_records(0.01)
        lease.release()


def check_histogram(folder: Path) -> None:
    """Counts equal numpy's on the same edges, for each type and for strides."""
    values = np.random.default_rng(0).standard_normal((50, 400)) * 100
    for dtype in ("float32", "float64", "float16", "int32", "uint8", "bool"):
        typed = np.abs(values).astype(dtype) if dtype == "uint8" else values.astype(dtype)
        for view in (typed, typed[::2, 1::3], typed.T):
            for bins in ("tensorflow", 64):
                ours = tracelet.histogram(view, bins=bins)
                _equal(ours.counts, np.histogram(view.astype("float64"), ours.bin_edges)[0])
                assert ours.num == view.size
    with_nan = tracelet.histogram([1.0, float("nan"), float("inf"), 3.0])
    assert (with_nan.num, with_nan.nan_count, with_nan.inf_count) == (2, 1, 1)
    assert (with_nan.min, with_nan.max, with_nan.sum) == (1.0, 3.0, 4.0)


def check_encoders(folder: Path) -> None:
    """CRC-32C of a known text; points as ClearML's JSON, without what it can't hold."""
    assert _core.crc32c(b"123456789") == 0xE3069283
    records = _some_records(4)
    records["value"] = [0.1, float("nan"), -1e30, 5e-324]
    encoder = _core.JsonLinesEncoder(json.dumps("task"))
    for writer_id, tag_id, is_histogram in encoder.undefined_series(records):
        encoder.define(writer_id, tag_id, is_histogram, json.dumps("loss"), json.dumps('a "b"\n'))
    lines, counts = encoder.encode_lines(records, None, 1 << 20)
    events = [json.loads(line) for line in lines.splitlines()]
    assert (counts.consumed, counts.encoded, counts.not_finite) == (4, 3, 1)
    assert [event["value"] for event in events] == [0.1, -1e30, 5e-324]
    assert [event["iter"] for event in events] == [0, 2, 3]
    assert {(event["metric"], event["variant"]) for event in events} == {("loss", 'a "b"\n')}


def check_journal(folder: Path) -> None:
    """Records come back as they were; one changed byte is found."""
    journal = Journal(str(folder))
    records = _some_records(20_000)
    journal.append(records)
    found, _ = journal.read(5_000, 15_000, 1 << 30)
    assert found.tobytes() == records[5_000:20_000].tobytes()
    journal.close()
    (path,) = folder.glob("journal-*")
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    try:
        journal.read(19_000, 1_000, 1 << 30)
    except JournalError:
        return
    raise AssertionError("a damaged journal was read without an error")


def check_run(folder: Path) -> None:
    """A whole run: `log_metric`, the drainer, a sink behind the journal, an event file."""
    received: list[Any] = []

    class Sink:
        name = "selftest"
        is_remote = True
        takes_every_point = False
        record_kinds: Sequence[int] = (tracelet.SCALAR,)

        def write(self, batch: tracelet.Batch) -> tracelet.Delivery:
            received.append(batch.records.copy())
            return tracelet.Delivery(len(batch.records))

        def close(self, process_is_ending: bool) -> None:
            pass

    tracelet.register_sink("selftest", lambda info: Sink())
    config: tracelet.Config = {"log_dir": str(folder / "events"), "runs_dir": str(folder / "runs")}
    experiment = tracelet.start_logging("selftest", "selftest", ["selftest"], config)
    for step in range(_POINTS):
        experiment.log_metric("train/loss", step / 7, step)
    tracelet.stop_logging(30)
    _equal(np.concatenate(received)["value"], np.arange(_POINTS) / 7)
    stats = experiment.stats
    assert (stats.accepted, stats.pending, stats.dropped) == (_POINTS, 0, {}), stats
    (path,) = (folder / "events").glob("events.out.tfevents.*")
    scalars = [found for event in read_events(path) for found in scalars_of(event)]
    assert [(tag, step) for tag, step, _ in scalars] == [("train/loss", n) for n in range(_POINTS)]
    values = np.array([value for *_, value in scalars], dtype="float32")
    _equal(values, (np.arange(_POINTS) / 7).astype("float32"))


def _some_records(count: int) -> Any:
    records = np.zeros(count, dtype=RECORD_DTYPE)
    records["sequence"] = np.arange(1, count + 1)
    records["step"] = np.arange(count)
    records["value"] = np.arange(count) / 3
    records["wall_time"] = 1e9
    records["tag_id"] = records["kind"] = 1
    return records


def _equal(found: Any, expected: Any) -> None:
    assert np.array_equal(found, expected), f"{found!r} instead of {expected!r}"


# A reader of event files, by the definitions of the formats alone.


def read_events(path: Path) -> Iterator[bytes]:
    """The Event protobufs in a file of TFRecords, each check sum verified."""
    data = path.read_bytes()
    position = 0
    while position < len(data):
        size_bytes, size_crc = struct.unpack_from("<QI", data, position)
        event = data[position + 12 : position + 12 + size_bytes]
        (crc,) = struct.unpack_from("<I", data, position + 12 + size_bytes)
        assert size_crc == _masked_crc(data[position : position + 8]), "the size's check sum"
        assert crc == _masked_crc(event), "the event's check sum"
        yield event
        position += 16 + size_bytes


def scalars_of(event: bytes) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of an Event's scalars."""
    fields = list(_fields(event))
    step = next((value for number, value in fields if number == 2), 0)
    for summary in (value for number, value in fields if number == 5):
        for _, entry in _fields(summary):
            found = dict(_fields(entry))
            if 2 in found:
                yield found[1].decode(), step, struct.unpack("<f", found[2])[0]


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf's fields: an int, or the bytes of what is longer."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        if key & 7 == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            size, position = _varint(message, position)
        else:
            size = {1: 8, 5: 4}[key & 7]
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


_CHECKS: dict[str, Callable[[Path], None]] = {
    "ring": check_ring,
    "histogram": check_histogram,
    "encoders": check_encoders,
    "journal": check_journal,
    "run and event file": check_run,
}


def main() -> int:
    if not __debug__:
        print("the checks are assertions, which python -O leaves out: run it without -O")
        return 1
    print(
        f"tracelet {tracelet.__version__} in {Path(tracelet.__file__).parent}, Python "
        f"{platform.python_version()}, numpy {np.__version__}, {platform.platform()}, histograms "
        f"by {_core.kernel_names()[0]}"
    )
    failed = []
    for name, check in _CHECKS.items():
        start_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tracelet-selftest-") as folder:
            try:
                check(Path(folder))
            except Exception:
                failed.append(name)
                traceback.print_exc()
        print(f"{name}: {'FAILED' if name in failed else 'ok'}, {time.monotonic() - start_s:.2f} s")
    print(f"FAILED: {', '.join(failed)}" if failed else "all is well")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
