"""Batches to ClearML, to a server that is played and to a session: what is sent, and set aside."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("clearml")

from tracelet.backends.base import Batch, RunInfo
from tracelet.backends.clearml import offline, online
from tracelet.backends.clearml.add_batch import REFUSED, TOO_LARGE, RefusedError
from tracelet.backends.clearml.kept_views import KeptViews
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.clearml.offline import OfflineClearMLSink
from tracelet.backends.clearml.online import OnlineClearMLSink
from tracelet.backends.clearml.probe import REFUSALS_BEFORE_SETTING_ASIDE, Probe
from tracelet.backends.clearml.set_aside import SetAsideFile
from tracelet.errors import SinkUnavailableError
from tracelet.options import Options
from tracelet.records import EVENT, RECORD_DTYPE, SCALAR


class Names:
    """1 is the writer's key, 2 the tag."""

    def text(self, id):
        return {0: "", 1: "/logs\0", 2: "loss", 3: "acc"}[id]


def batch_of(values, first=1, tag=2):
    records = np.zeros(len(values), RECORD_DTYPE)
    records["kind"], records["writer_id"], records["tag_id"] = SCALAR, 1, tag
    records["sequence"] = np.arange(first, first + len(values))
    records["step"] = np.arange(first, first + len(values)) * 10
    records["wall_time"] = 1.7e9
    records["value"] = values
    records.flags.writeable = False
    return Batch(records, Names(), b"")


class Task:
    id = "t" * 32

    def __init__(self, folder=None):
        self.iterations = []
        self.folder = folder

    @property
    def task(self):
        return SimpleNamespace(get_offline_mode_folder=lambda: Path(self.folder))

    def note_iteration(self, step):
        self.iterations.append(step)


def info_of(folder, reopen=None, is_other_boot=False, **options):
    folder.mkdir(exist_ok=True)
    made = Options(**{"backend": ("clearml",), **options})
    return RunInfo(made, "a-run", str(folder), reopen, is_other_boot)


class Server:
    """Takes what is sent; `refuses(values)` gives the answer instead."""

    def __init__(self):
        self.sent = []
        self.taken = []
        self.refuses = lambda values: None
        self.lacks = 0

    def __call__(self, body):
        values = [json.loads(line)["value"] for line in body.split(b"\n")]
        self.sent.append(values)
        if (error := self.refuses(values)) is not None:
            raise error
        self.taken += values
        return len(values) - self.lacks


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def sink(tmp_path, server):
    made = OnlineClearMLSink(Task(), info_of(tmp_path / "run"), TaskNames())
    made._post = server
    made._probe = Probe(server)
    return made


def write_until_taken(sink, batch):
    for _ in range(9):
        with contextlib.suppress(SinkUnavailableError):
            return sink.write(batch)
    raise AssertionError


def refusing(*bad):
    return lambda values: RefusedError(400, "bad") if set(bad) & set(values) else None


def test_a_batch_is_one_request_and_its_last_step_is_the_tasks_iteration(sink, server):
    delivery = sink.write(batch_of([1.0, 2.0, 3.0]))
    assert server.sent == [[1.0, 2.0, 3.0]]
    assert (delivery.delivered, delivery.not_finite, delivery.total) == (3, 0, 3)
    assert sink._task.iterations == [30]
    sink.write(batch_of([4.0], 4))
    assert sink._task.iterations == [30, 40]


def test_what_a_server_has_not_all_of_is_counted_and_what_it_can_not_hold_as_well(sink, server):
    server.lacks = 1
    delivery = sink.write(batch_of([1.0, np.nan, 1e300]))
    assert (delivery.delivered, delivery.not_finite) == (0, 1)
    assert delivery.set_aside == {REFUSED: 1, "beyond float32": 1}
    assert delivery.total == 3


def test_a_refused_batch_is_given_again_and_then_in_halves_until_the_culprit_is_alone(
    sink, server, tmp_path
):
    server.refuses = refusing(5.0)
    values = [float(n) for n in range(8)]
    batch = batch_of(values)
    with pytest.raises(SinkUnavailableError, match="ClearML refused a batch: 400: bad"):
        sink.write(batch)
    assert server.sent == [values]  # a sick server refuses, too
    delivery = write_until_taken(sink, batch)
    assert (delivery.delivered, delivery.set_aside) == (7, {REFUSED: 1})
    alone = [sent for sent in server.sent if sent == [5.0]]
    assert len(alone) >= REFUSALS_BEFORE_SETTING_ASIDE
    assert sorted(set(server.taken)) == [v for v in values if v != 5.0]
    (line,) = (tmp_path / "run" / "set_aside-clearml.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "tag": "loss", "log_dir": "/logs", "step": 60, "value": 5.0, "wall_time": 1.7e9,
        "answer": "400: bad",
    }  # fmt: skip
    assert sink._progress.done == 0  # the next batch begins anew
    server.sent.clear()
    sink.write(batch_of([8.0, 9.0], 9))
    assert server.sent == [[8.0, 9.0]]


def test_one_that_is_too_large_is_halved_at_once(sink, server):
    server.refuses = lambda values: RefusedError(TOO_LARGE, "large") if len(values) > 2 else None
    delivery = sink.write(batch_of([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert delivery.delivered == 5
    assert [len(sent) for sent in server.sent][:2] == [5, 2]
    assert server.taken == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_parts_grow_again_after_a_success(sink, server):
    is_first = []

    def once(values):
        if len(values) > 4 and not is_first:
            is_first.append(1)
            return RefusedError(TOO_LARGE, "large")
        return None

    server.refuses = once
    sink.write(batch_of([float(n) for n in range(16)]))
    assert [len(sent) for sent in server.sent] == [16, 8, 8]


def test_a_server_that_refuses_all_is_away_and_nothing_is_set_aside(sink, server, tmp_path):
    server.refuses = lambda values: RefusedError(500, "sick")
    batch = batch_of([1.0])
    for _ in range(3):
        with pytest.raises(SinkUnavailableError):
            sink.write(batch_of([float(n) for n in range(40)]))
    assert not (tmp_path / "run" / "set_aside-clearml.jsonl").exists()
    server.refuses = lambda values: None
    assert sink.write(batch).delivered == 1
    assert sink.write(batch_of([2.0, 3.0], 2)).delivered == 2
    server.refuses = lambda values: RefusedError(500, "sick")
    with pytest.raises(SinkUnavailableError, match="refuses every point"):
        sink.write(batch_of([4.0], 4))
    server.refuses = lambda values: None
    assert sink.write(batch_of([4.0], 4)).delivered == 1


def test_what_came_before_the_first_success_is_asked_for_once_more(sink, server, tmp_path):
    server.refuses = refusing(1.0)
    batch = batch_of([1.0, 2.0])
    with pytest.raises(SinkUnavailableError):
        sink.write(batch)
    delivery = sink.write(batch)
    assert (delivery.delivered, delivery.set_aside) == (1, {REFUSED: 1})
    assert server.taken[0] == 2.0
    assert len([sent for sent in server.sent if sent == [1.0]]) > REFUSALS_BEFORE_SETTING_ASIDE


def test_each_one_that_was_passed_over_is_asked_for_alone(sink, server):
    server.refuses = refusing(1.0, 2.0)
    batch = batch_of([1.0, 2.0, 3.0])
    delivery = write_until_taken(sink, batch)
    assert (delivery.delivered, delivery.set_aside) == (1, {REFUSED: 2})
    alone = [sent for sent in server.sent if len(sent) == 1]
    for value in (1.0, 2.0):
        assert len([sent for sent in alone if sent == [value]]) >= REFUSALS_BEFORE_SETTING_ASIDE


def test_a_batch_that_is_cut_off_goes_on_where_it_was(sink, server):
    values = [float(n) for n in range(8)]
    sink._progress.part_limit = 1

    def away(values):
        return SinkUnavailableError("away") if 3.0 in values and len(server.taken) == 3 else None

    server.refuses = away
    sink._progress = online._Progress(1, part_limit=1)
    sink._batch_bytes = 1  # a line each
    with pytest.raises(SinkUnavailableError, match="away"):
        sink.write(batch_of(values))
    server.refuses = lambda values: None
    delivery = sink.write(batch_of(values))
    assert delivery.delivered == 8
    assert server.taken == values  # none of them twice
    # Another batch begins anew.
    sink._progress = online._Progress(1, done=5, delivered=5)
    assert sink.write(batch_of([1.0], 50)).delivered == 1


def test_a_refused_event_has_no_value_and_the_first_of_a_file_is_told(tmp_path, caplog):
    batch = batch_of([1.0, 2.0])
    records = batch.records.copy()
    records["kind"][1] = EVENT
    file = SetAsideFile(str(tmp_path), "sink")
    with caplog.at_level(logging.WARNING):
        for record in records:
            file.keep(batch, record, ValueError("x" * 2_000))
    lines = [json.loads(each) for each in (tmp_path / "set_aside-sink.jsonl").open()]
    assert [line.get("value") for line in lines] == [1.0, None]
    assert len(lines[0]["answer"]) == 1000
    assert caplog.text.count("ClearML refused the point loss at step 10") == 1
    assert len(caplog.records) == 1
    assert (tmp_path / "set_aside-sink.jsonl").stat().st_mode & 0o777 == 0o600


def test_kept_views_are_read_as_they_were_written_and_damage_is_none(tmp_path):
    views = KeptViews(str(tmp_path))
    assert views.read() is None
    names = {(1, 2): ("/logs", "a"), (3, 4): ("", "b\n")}
    views.write(names, b"state\nof two lines")
    assert views.read() == (names, b"state\nof two lines")
    path = tmp_path / "clearml_views.bin"
    assert path.stat().st_mode & 0o777 == 0o600
    data = path.read_bytes()
    for at in range(len(data)):
        if at == 8:
            continue
        flipped = bytearray(data)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        assert views.read() is None
    (tmp_path / "clearml_views.bin.new").mkdir()
    views.write({}, b"")  # costs no point
    assert os.path.isdir(tmp_path / "clearml_views.bin.new")


# ---- Offline: the session's file.


@pytest.fixture
def session(tmp_path):
    (tmp_path / "session").mkdir()
    return Task(str(tmp_path / "session"))


def open_sink(session, tmp_path, **options):
    return OfflineClearMLSink(session, info_of(tmp_path / "run", **options), TaskNames())


def events_in(session):
    lines = Path(session.folder, offline.METRICS).read_text().splitlines()
    return [[event["value"] for event in json.loads(line)] for line in lines]


def test_a_batch_is_a_line_and_one_that_is_given_again_to_the_same_process_is_another(
    session, tmp_path
):
    sink = open_sink(session, tmp_path)
    delivery = sink.write(batch_of([1.0, np.nan, 1e300, 2.0]))
    assert (delivery.delivered, delivery.not_finite) == (2, 1)
    assert delivery.set_aside == {"beyond float32": 1}
    assert sink.write(batch_of([3.0], 5)).delivered == 1
    assert events_in(session) == [[1.0, 2.0], [3.0]]
    assert session.iterations == [40, 50]
    assert sink.lost() == {}
    sink.close(False)


def test_lines_have_no_more_events_than_a_request_takes(session, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "_LINE_BYTES", 300)
    sink = open_sink(session, tmp_path)
    sink.write(batch_of([float(n) for n in range(10)]))
    lines = events_in(session)
    assert len(lines) > 1
    assert list(itertools.chain(*lines)) == [float(n) for n in range(10)]


def test_another_process_gives_no_point_twice_and_takes_up_what_is_behind_the_note(
    session, tmp_path
):
    first = open_sink(session, tmp_path)
    first.write(batch_of([1.0, 2.0]))
    metrics = Path(session.folder, offline.METRICS)
    noted = metrics.read_bytes()
    first.write(batch_of([3.0, 4.0], 3))
    del first
    # It had noted the first batch, and died in the middle of the second one.
    metrics.write_bytes(noted + metrics.read_bytes()[len(noted) :])
    sink = open_sink(session, tmp_path, reopen={})
    assert sink.is_certain
    assert sink.write(batch_of([1.0, 2.0])).delivered == 2
    assert sink.write(batch_of([3.0, 4.0], 3)).delivered == 2
    assert sink.write(batch_of([4.0, 5.0], 4)).delivered == 1
    assert sink.write(batch_of([6.0], 6)).delivered == 1
    assert events_in(session) == [[1.0, 2.0], [3.0, 4.0], [5.0], [6.0]]
    assert sink.lost() == {}


def test_what_was_written_and_not_noted_is_not_written_again(session, tmp_path):
    first = open_sink(session, tmp_path)
    first.write(batch_of([1.0, 2.0]))
    real = first._ledger

    class NoNote:
        def acknowledge(self, *_): ...

    first._ledger = NoNote()
    first.write(batch_of([3.0, 4.0], 3))
    del real, first
    sink = open_sink(session, tmp_path, reopen={})
    assert sink.write(batch_of([3.0, 4.0], 3)).delivered == 2
    assert sink.write(batch_of([5.0], 5)).delivered == 1
    assert events_in(session) == [[1.0, 2.0], [3.0, 4.0], [5.0]]


@pytest.mark.parametrize("why", ["damaged", "shorter", "another boot"])
def test_where_the_note_is_not_believed_all_is_compared_and_what_lacks_is_written(
    session, tmp_path, why, caplog
):
    first = open_sink(session, tmp_path)
    first.write(batch_of([1.0, 2.0]))
    first.write(batch_of([3.0, 4.0], 3))
    first.close(False)
    del first
    metrics = Path(session.folder, offline.METRICS)
    ledger = tmp_path / "run" / offline._LEDGER
    if why == "damaged":
        ledger.write_bytes(bytes(len(ledger.read_bytes())))
    elif why == "shorter":
        metrics.write_bytes(metrics.read_bytes().splitlines(keepends=True)[0])
    sink = open_sink(session, tmp_path, reopen={}, is_other_boot=why == "another boot")
    assert not sink.is_certain
    assert "is acknowledged is not known" in caplog.text
    sink.write(batch_of([1.0, 2.0]))
    sink.write(batch_of([3.0, 4.0], 3))
    sink.write(batch_of([3.0, 4.0], 3))
    assert sink.write(batch_of([5.0], 5)).delivered == 1
    assert sorted(list(itertools.chain(*events_in(session)))) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert sink.lost() == {}
    sink.sync()
    sink.settle()
    assert sink.is_certain
    again = open_sink(session, tmp_path, reopen={})
    assert again.is_certain
    assert again._held_sequence == 5


def test_what_is_gone_from_a_session_and_not_here_is_lost_and_told(session, tmp_path):
    first = open_sink(session, tmp_path)
    first.write(batch_of([1.0, 2.0]))
    first.write(batch_of([3.0, 4.0], 3))
    del first
    metrics = Path(session.folder, offline.METRICS)
    metrics.write_bytes(b"")
    sink = open_sink(session, tmp_path, reopen={})
    sink.write(batch_of([3.0, 4.0], 3))  # the others are in no journal any more
    assert sink.lost() == {f"{metrics} has lost a part of what it had": 2}
    sink.write(batch_of([2.0], 2))
    assert sink.lost() == {f"{metrics} has lost a part of what it had": 1}
    sink.write(batch_of([1.0]))
    assert sink.lost() == {}
    assert sink.sync() is None


def test_the_session_reaches_the_disk_before_the_note_of_it(session, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(offline, "sync_file", lambda path: synced.append(os.path.basename(path)))
    monkeypatch.setattr(offline, "sync_names", lambda path: synced.append("names"))
    sink = open_sink(session, tmp_path)
    sink.sync()
    assert synced == []  # there is nothing
    sink.write(batch_of([1.0]))
    sink.sync()
    assert synced == [offline.METRICS, offline.TASK, "names"]
    assert sink._synced.entries()[0][2:5] == sink._acknowledged
    sink.sync()
    assert len(synced) == 3
    sink.write(batch_of([2.0], 2))
    sink.sync()
    assert synced[3:] == [offline.METRICS]


def test_a_write_that_fails_in_the_middle_is_gone_on_with_behind_what_it_wrote(
    session, tmp_path, monkeypatch
):
    monkeypatch.setattr(offline, "_LINE_BYTES", 300)
    sink = open_sink(session, tmp_path)
    values = [float(n) for n in range(10)]
    real = sink._encoder

    class Fails:
        """As a disk that is full after the first line."""

        def define_new_series(self, batch):
            real.define_new_series(batch)

        def __getattr__(self, name):
            return getattr(real, name)

        @property
        def native(self):
            return self

        def append_array_lines(self, records, payloads, line_bytes, file, counts):
            real.native.append_array_lines(records[:3], payloads, line_bytes, file, counts)
            raise OSError(28, "full")

    monkeypatch.setattr(sink, "_encoder", Fails())
    batch = batch_of(values)
    with pytest.raises((OSError, TypeError)):
        sink.write(Batch(batch.records, Names(), b""))
    monkeypatch.setattr(sink, "_encoder", real)
    assert sink.write(batch).delivered == 10
    assert list(itertools.chain(*events_in(session))) == values
