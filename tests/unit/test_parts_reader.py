"""Events of a batch, to each backend: what may pass is tried again, what is gone is counted."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tensorboard")

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tracelet.backends import parts
from tracelet.backends.aim.media import AimMediaSink
from tracelet.backends.base import UNREADABLE, Batch, RunInfo
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.mlflow.media import MLflowMediaSink
from tracelet.backends.parts_reader import PartsReader, UnreadableError
from tracelet.backends.trackio.media import TrackioMediaSink
from tracelet.backends.wandb.rows import Plans
from tracelet.backends.wandb.sink import WandbSink
from tracelet.options import Options
from tracelet.records import EVENT, PAYLOAD_IN_FILE, RECORD_DTYPE

VALUES = {"a": 0.5, "b": 1.5}
PAYLOAD = Event(
    summary=Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in VALUES.items()])
).SerializeToString()


class Names:
    def text(self, id):
        return "tag" if id else ""


def batch_of(*payloads, flags=0, first=1):
    records = np.zeros(len(payloads), RECORD_DTYPE)
    records["kind"], records["tag_id"], records["flags"] = EVENT, 1, flags
    records["sequence"] = np.arange(first, first + len(payloads))
    records["wall_time"] = 1.5
    sizes = [len(payload) for payload in payloads]
    records["payload_size"] = sizes
    records["payload_offset"] = np.cumsum([0, *sizes])[:-1]
    records.flags.writeable = False
    return Batch(records, Names(), b"".join(payloads))


@contextlib.contextmanager
def without_a_free_descriptor():
    """Whatever opens a file meanwhile gets EMFILE."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def aim(names, folder, arrived):
    def track(values, step, wall_time_s):
        arrived.update(values)
        return []

    return AimMediaSink(SimpleNamespace(track=track), names, dict)


def trackio(names, folder, arrived):
    def log(rows):
        for row in rows:
            arrived.update(row.values)

    return TrackioMediaSink(SimpleNamespace(log=log), names, dict)


def mlflow(names, folder, arrived):
    def log_metrics(run_id, metrics):
        arrived.update({each["key"]: each["value"] for each in json.loads(b"[" + metrics + b"]")})

    store = SimpleNamespace(log_metrics=log_metrics)
    return MLflowMediaSink(store, "r1", "day-time-1", names, lambda data, path: None, dict)


def wandb(names, folder, arrived):
    log = SimpleNamespace(rows_end=0, refresh=lambda: None, wait_for=lambda is_there, what: None)

    def log_row(number, step, wall_time_s, values):
        arrived.update(values)
        log.rows_end = number + 1

    rows = SimpleNamespace(log=log, log_row=log_row)
    return WandbSink(rows, Plans(KeptLines(folder, "rows"), 0), names, dict)


def clearml(names, folder, arrived):
    pytest.importorskip("clearml")
    from tracelet.backends.clearml.media import ClearMLMediaSink
    from tracelet.backends.clearml.names import TaskNames

    task = SimpleNamespace(
        id="t1", is_offline=False, task=SimpleNamespace(cache_dir=folder), note_iteration=int
    )
    sink = ClearMLMediaSink(task, RunInfo(Options(), "a-run", folder), TaskNames())

    def post(lines):
        found = [json.loads(line) for line in lines]
        arrived.update({each["metric"]: each["value"] for each in found})

    sink._post = post
    return sink


@pytest.fixture(params=[aim, trackio, mlflow, wandb, clearml], ids=lambda made: made.__name__)
def made(request, tmp_path):
    arrived = {}
    names = FlatNames(KeptLines(str(tmp_path), "names.jsonl"), str)
    sink = request.param(names, str(tmp_path), arrived)
    yield sink, arrived
    sink.close(False)


def test_too_many_open_files_cost_no_event_and_one_that_is_gone_is_counted(made, tmp_path):
    """Aim, trackio and W&B counted the former as unreadable, too: the point was lost there."""
    sink, arrived = made
    path = tmp_path / "event"
    path.write_bytes(PAYLOAD)
    batch = batch_of(os.fsencode(path), flags=PAYLOAD_IN_FILE)
    parts.parts_of(PAYLOAD)  # what it imports is imported
    with without_a_free_descriptor(), pytest.raises(OSError, match="Too many open"):
        sink.write(batch)
    delivery = sink.write(batch)
    assert (delivery.delivered, dict(delivery.set_aside), arrived) == (1, {}, VALUES)
    path.unlink()
    delivery = sink.write(batch_of(os.fsencode(path), flags=PAYLOAD_IN_FILE, first=2))
    assert (delivery.delivered, dict(delivery.set_aside)) == (0, {UNREADABLE: 1})


def read_all(reader, batch):
    """How many of a batch are unreadable, as a sink's `write` counts them, or what it raises."""
    unreadable = 0
    for record in batch.records:
        try:
            reader.read(batch, record)
        except UnreadableError:
            unreadable += 1
    return unreadable


@pytest.mark.parametrize("error", [OSError(errno.EIO, "a bad disk"), MemoryError()])
def test_events_that_fail_each_time_are_given_up_and_hold_back_none(error, monkeypatch):
    def fail(self, record):
        raise error

    reader, batch = PartsReader(), batch_of(PAYLOAD, PAYLOAD)
    with monkeypatch.context() as context:
        context.setattr(Batch, "event", fail)
        for _ in range(8):
            with pytest.raises(type(error)):
                read_all(reader, batch)
        assert read_all(reader, batch) == 2  # none begins the other's count anew
    assert read_all(reader, batch_of(PAYLOAD, first=3)) == 0


@pytest.mark.parametrize("name", ["a folder", "gone/event", "x" * 300, "a\0b"])
def test_a_name_under_which_there_is_no_file_is_no_trouble_that_passes(name, tmp_path):
    (tmp_path / "a folder").mkdir()
    batch = batch_of(os.fsencode(tmp_path / name), flags=PAYLOAD_IN_FILE)
    assert read_all(PartsReader(), batch) == 1
