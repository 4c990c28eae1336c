"""What `tracelet sync` believes of a run that went to MLflow, and what its lane tries again."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from tracelet.backends.base import Batch
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.mlflow.media import REFUSED, MLflowMediaSink
from tracelet.backends.mlflow.names import clean_name
from tracelet.backends.mlflow.store import RefusedError, check_trusted
from tracelet.errors import BackendError, SinkUnavailableError
from tracelet.records import EVENT, RECORD_DTYPE


def database(path, run_id="r1"):
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE runs (run_uuid TEXT)")
        made.execute("INSERT INTO runs VALUES (?)", (run_id,))
    made.close()
    return f"sqlite:///{path}"


def test_a_run_s_file_alone_does_not_say_where_its_points_are_sent(tmp_path):
    """The manifest's word was enough to send points to any server, or to have any file used as a
    database, and files of any folder overwritten as its artifacts."""
    own = database(tmp_path / "mlflow.db")
    check_trusted(own, "http://127.0.0.1:5000", "r1")
    check_trusted("http://127.0.0.1:5000/", "http://127.0.0.1:5000", "r1")
    (tmp_path / "link.db").symlink_to(tmp_path / "mlflow.db")
    (tmp_path / "thesis.txt").write_text("years of work")
    for uri in (
        "http://attacker.example:80",
        "http://user:password@127.0.0.1:5000",
        "file:///tmp/x",
        "postgresql://127.0.0.1/mlflow",
        f"sqlite:///{tmp_path}/thesis.txt",
        f"sqlite:///{tmp_path}/gone.db",
        f"sqlite:///{tmp_path}/link.db",
        database(tmp_path / "other.db", "another run"),
        "sqlite://",
    ):
        with pytest.raises(BackendError, match="MLFLOW_TRACKING_URI=") as raised:
            check_trusted(uri, "http://127.0.0.1:5000", "r1")
        assert "password" not in str(raised.value)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not Path(tmp_path / "gone.db").exists()


class Names:
    def text(self, id):
        return "a/tag" if id else ""


class Store:
    def __init__(self):
        self.failures = []

    def log_metrics(self, run_id, metrics):
        if self.failures:
            raise self.failures.pop()


@pytest.fixture
def media(tmp_path):
    store = Store()
    names = FlatNames(KeptLines(str(tmp_path), "names.jsonl"), clean_name)
    return store, MLflowMediaSink(store, "r1", "day-time-1", names, lambda data, path: None, dict)


def event_batch(payload):
    records = np.zeros(1, RECORD_DTYPE)
    records["kind"], records["tag_id"], records["sequence"] = EVENT, 1, 1
    records["wall_time"], records["payload_size"] = time.time(), len(payload)
    records.flags.writeable = False
    return Batch(memoryview(records).cast("B"), Names(), payload)


def test_a_server_that_is_away_is_no_verdict_on_an_event_and_a_refusal_is_one(media):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    store, sink = media
    values = [Summary.Value(tag=tag, simple_value=0.5) for tag in ("a", "b")]  # two: no plain one
    payload = Event(summary=Summary(value=values)).SerializeToString()
    store.failures = [SinkUnavailableError("away")]
    with pytest.raises(SinkUnavailableError):
        sink.write(event_batch(payload))
    assert sink.write(event_batch(payload)).delivered == 1
    store.failures = [RefusedError("no")]
    assert sink.write(event_batch(payload)).set_aside == {REFUSED: 1}
