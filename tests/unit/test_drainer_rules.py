"""The drainer without its thread: the journal's limit, payloads in files, its shippers' threads."""

from __future__ import annotations

import os
import types

import numpy as np
import pytest
from tracelet import _core
from tracelet.backends.base import Delivery
from tracelet.options import Options
from tracelet.pipeline import drainer as module
from tracelet.pipeline.drainer import Drainer
from tracelet.pipeline.lane import Lane
from tracelet.pipeline.shipper import Shipper
from tracelet.records import HISTOGRAM, SCALAR


class Names:
    def text(self, id):
        return "a"


class Sink:
    takes_every_point = True

    def __init__(self, name="mine", is_remote=False, kinds=(SCALAR,)):
        self.name = name
        self.is_remote = is_remote
        self.record_kinds = kinds
        self.sizes = []
        self.is_away = False

    def write(self, batch):
        self.sizes.append(len(batch))
        if self.is_away:
            raise OSError("away")
        return Delivery(len(batch))


class Journal:
    """Has a size; `room` is what is free after each release."""

    def __init__(self):
        self.size_bytes = 0
        self.did = []
        self.after_release = None
        self.errors = []

    def append(self, records, payloads):
        self.did.append(("append", len(records)))
        if self.errors:
            raise self.errors.pop(0)

    def pass_over(self, first, end):
        self.did.append(("pass over", first, end))

    def make_room(self, position):
        self.did.append(("make room", position))
        if self.after_release is not None:
            self.size_bytes = self.after_release

    def drop_oldest_segment(self):
        self.did.append("drop oldest")
        self.size_bytes -= 100

    def release(self, position):
        self.did.append(("release", position))

    def sync(self):
        self.did.append("sync")


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(Shipper, "start", lambda self: None)
    pauses = []
    now_s = [100.0]

    def sleep(seconds):
        pauses.append(seconds)
        now_s[0] += seconds
        assert len(pauses) < 1_000

    monkeypatch.setattr(
        module, "time", types.SimpleNamespace(sleep=sleep, monotonic=lambda: now_s[0])
    )

    def make(*sinks, releasable=lambda: 0, complete=lambda ticket: None, **options):
        ring = _core.Ring.create(str(tmp_path / f"ring-{len(os.listdir(tmp_path))}"), 64, 0.0)
        lanes = [Lane(sink, Names(), {}) for sink in sinks or [Sink()]]
        settings = Options(backend=("mine",), **options)
        made = Drainer(ring, lanes, Journal(), settings, complete, releasable)
        made.pauses = pauses
        return made

    return make


def test_room_is_there_up_to_the_limit_and_not_a_byte_more(make):
    drainer = make(journal_limit_bytes=1_000)
    journal = drainer._journal
    journal.size_bytes = 900
    drainer._is_over_budget = True
    assert drainer._make_room(100)
    assert not drainer._is_over_budget
    assert journal.did == []
    journal.after_release = 899
    assert drainer._make_room(101)
    assert journal.did == [("make room", 0)]
    journal.size_bytes = journal.after_release = 900
    assert drainer._make_room(101) is False
    assert drainer._is_over_budget


def test_what_is_new_is_dropped_under_drop_new_and_what_is_old_under_drop_oldest(make, caplog):
    drainer = make(journal_limit_bytes=1_000, journal_overflow="drop_new")
    drainer._journal.size_bytes = 1_000
    assert not drainer._make_room(10)
    assert not drainer._make_room(10)
    assert "drop oldest" not in drainer._journal.did
    assert caplog.text.count("the journal has reached its limit of 1000 bytes") == 1
    assert drainer.pauses == []
    drainer = make(journal_limit_bytes=1_000, journal_overflow="drop_oldest")
    journal = drainer._journal
    journal.size_bytes = 1_000
    assert drainer._make_room(150)
    assert (journal.did.count("drop oldest"), journal.size_bytes) == (2, 800)
    journal.size_bytes = 1_000
    journal.did.clear()
    assert drainer._make_room(1_000)  # of more than the limit none would be left
    assert "drop oldest" not in journal.did


def test_block_waits_half_as_long_as_a_call_and_once_until_there_is_room_again(make):
    drainer = make(journal_limit_bytes=1_000, journal_overflow="block", full_ring_timeout_s=1.0)
    journal = drainer._journal
    journal.size_bytes = 1_000
    assert not drainer._make_room(10)
    assert sum(drainer.pauses) == pytest.approx(0.5)
    assert max(drainer.pauses) <= 0.1
    count = len(drainer.pauses)
    assert not drainer._make_room(10)
    assert len(drainer.pauses) == count
    journal.size_bytes = 0
    assert drainer._make_room(10)
    journal.size_bytes = 1_000
    releases = []

    def make_room(position):
        releases.append(position)
        if len(releases) == 4:
            journal.size_bytes = 990

    journal.make_room = make_room
    assert drainer._make_room(10)
    assert len(drainer.pauses) == count + 3
    assert not drainer._is_over_budget


def test_the_journal_is_made_smaller_up_to_what_the_slowest_lane_has(make):
    drainer = make(Sink("one"), Sink("two"), journal_sync_interval_s=0.0)
    for lane, end in zip(drainer._lanes, (7, 5)):
        lane.acknowledge(end)
    drainer._free_journal()
    assert drainer._journal.did == [("make room", 5), "sync"]
    drainer = make(Sink("one"), journal_sync_interval_s=1.0)
    drainer._free_journal()
    assert drainer._journal.did == [("make room", 0)]

    def fail(position):
        raise OSError("full")

    drainer._journal.make_room = fail
    drainer._free_journal_quietly()


def test_a_disk_that_is_full_is_waited_for_and_told_of_once(make, caplog):
    drainer = make(journal_limit_bytes=1 << 20)
    journal = drainer._journal
    journal.errors = [OSError("full"), OSError("full")]
    drainer._write_journal(np.zeros(3, module.RECORD_DTYPE))
    assert journal.did == [
        ("append", 3), ("make room", 0), ("append", 3), ("make room", 0), ("append", 3),
    ]  # fmt: skip
    assert drainer.pauses == [0.1, 0.1]
    assert caplog.text.count("the journal can't be written now: full") == 1
    assert drainer._journal_failed is False
    journal.errors = [OSError("full")]
    drainer._write_journal(np.zeros(3, module.RECORD_DTYPE))
    assert caplog.text.count("the journal can't be written now: full") == 2


def test_what_finds_no_room_is_passed_over_with_its_positions(make):
    drainer = make(journal_limit_bytes=100, journal_overflow="drop_new")
    drainer._write_journal(np.zeros(3, module.RECORD_DTYPE))
    assert drainer._journal.did == [("make room", 0), ("pass over", 0, 3)]


def test_files_of_payloads_go_when_every_sink_has_them_and_no_sooner(make, tmp_path):
    position = [0]
    drainer = make(releasable=lambda: position[0])
    for number in (3, 5, 9):
        path = tmp_path / str(number)
        path.touch()
        drainer._payload_files.append((number, str(path)))
    for position[0], left in ((2, ["3", "5", "9"]), (3, ["5", "9"]), (8, ["9"])):
        drainer._remove_payload_files()
        assert [name for name in ("3", "5", "9") if (tmp_path / name).exists()] == left
    os.unlink(tmp_path / "9")  # by somebody else
    position[0] = 9
    drainer._remove_payload_files()
    assert not drainer._payload_files


def test_what_is_dropped_is_told_once_for_each_reason_and_here_for_two(make, caplog):
    drainer = make()
    played = types.SimpleNamespace(
        dropped={"ring full": 0, "tag table full": 0, "other": 9}, path="here"
    )
    real, drainer._ring = drainer._ring, played
    drainer._warn_of_drops()
    assert caplog.text == ""
    played.dropped["ring full"] = 3
    drainer._warn_of_drops()
    drainer._warn_of_drops()
    assert caplog.text.count("points are being dropped (ring full), 3 so far") == 1
    played.dropped["tag table full"] = 1
    drainer._warn_of_drops()
    assert caplog.text.count("points are being dropped") == 2
    drainer._warn_of_skips()
    drainer._warn_of_skips()
    assert caplog.text.count("a process was killed inside a call that logs") == 1
    drainer._ring = real


def test_lanes_of_a_network_have_a_shipper_from_the_start_and_others_when_they_fail(make):
    far = Sink("far", is_remote=True)
    events = Sink("events", is_remote=True, kinds=(HISTOGRAM,))
    near = Sink("near")
    drainer = make(far, events, near)
    assert set(drainer.shippers) == {"far"}


def test_a_thread_that_can_not_be_started_is_tried_again_and_told_of_once(
    make, monkeypatch, caplog
):
    started = []

    def start(self):
        if len(started) < 2:
            started.append(None)
            raise RuntimeError("can't start new thread")
        started.append(self.name)

    monkeypatch.setattr(Shipper, "start", start)
    drainer = make(Sink("far", is_remote=True))
    assert drainer._without_thread == {"far"}
    drainer._start_threads()
    assert caplog.text.count("no thread for 'far' now") == 1
    drainer._start_threads()
    assert drainer._without_thread == set()
    assert started == [None, None, "tracelet-far"]
    started.clear()
    drainer._is_stopping = True
    caplog.clear()
    drainer._start_shipper(drainer._lanes[0])
    assert caplog.text == ""  # the process ends, and none is to be had
    assert drainer._without_thread == {"far"}


def test_a_ring_that_is_empty_and_closed_ends_the_thread(make):
    drainer = make()
    drainer.stop()
    assert drainer._is_stopping
    drainer._ring.close()
    tries = []
    drainer._lanes[0].deliver_rest = lambda: tries.append(1) or len(tries) == 3
    assert drainer.cpu_with_gil_ns == 0
    module.time.thread_time_ns = lambda: 10**12
    drainer.run()
    assert len(tries) == 3
    assert drainer.pauses == [0.1, 0.1]
    assert drainer.cpu_with_gil_ns > 0


def test_what_devices_compute_is_put_in_and_what_does_not_come_is_left(make, caplog, monkeypatch):
    answers = {1: 0.5, 2: None, 3: (b"12345", 2), 4: (b"123", 1), 5: 0.25}
    asked = []
    drainer = make(complete=lambda ticket: asked.append(ticket) or answers[ticket])
    did = []
    monkeypatch.setattr(module, "_core", types.SimpleNamespace(
        complete_scalar=lambda lease, sequence, value: did.append((sequence, value)),
        write_payload=lambda ring, offset, payload: did.append((offset, payload)),
    ))  # fmt: skip
    drainer._ring = types.SimpleNamespace(
        add_not_finite_values=lambda count: did.append(("not finite", count))
    )
    drainer._completed_position = 10
    drainer._complete_awaited(None, [(10, 5, 0, 8), (11, 1, 0, 8), (12, 2, 0, 8), (13, 3, 64, 4),
                                     (14, 4, 128, 3)])  # fmt: skip
    assert asked == [1, 2, 3, 4]  # that of a lease that is given once more is done
    assert did == [(11, 0.5), (128, b"123"), ("not finite", 1)]
    assert caplog.text.count("does not fit its place") == 1
