"""When a lane is shipped, how much of it, how long a failure is waited out: without a thread."""

from __future__ import annotations

import types

import numpy as np
import pytest
from tracelet.backends.base import Delivery
from tracelet.errors import JournalError
from tracelet.options import Options
from tracelet.pipeline import shipper as module
from tracelet.pipeline.lane import Lane
from tracelet.pipeline.shipper import (
    JOURNAL_DAMAGED,
    JOURNAL_FULL,
    JOURNAL_REMOVED,
    Shipper,
)
from tracelet.records import RECORD_DTYPE, SCALAR


class Names:
    def text(self, id):
        return "a"


class Sink:
    name = "mine"
    is_remote = True
    takes_every_point = True
    record_kinds = (SCALAR,)

    def __init__(self):
        self.values = []
        self.error = None

    def write(self, batch):
        if self.error:
            raise self.error
        self.values += batch.records["value"].tolist()
        return Delivery(len(batch))


class Journal:
    """Holds positions from `first` to `end`."""

    def __init__(self, first=0, end=0):
        self.first, self.end = first, end
        self.error = None
        self.did = []

    def read(self, position, limit, limit_bytes):
        self.did.append(("read", position, limit))
        if self.error:
            raise self.error
        if not self.first <= position < self.end:
            return np.empty(0, RECORD_DTYPE), b""
        records = np.zeros(min(limit, self.end - position), RECORD_DTYPE)
        records["kind"] = SCALAR
        records["sequence"] = np.arange(position + 1, position + 1 + len(records))
        records["value"] = np.arange(position, position + len(records))
        return records, b""

    def next_position(self, position):
        return max(position, self.first) if position < self.end else None

    def drop_block_at(self, position):
        self.did.append(("drop block", position))
        self.first = position + 5

    def drop_file_at(self, position):
        self.did.append(("drop file", position))
        self.first = position + 7


class Clock:
    """In the place of `time`, and of the condition: a wait takes as long as it says."""

    def __init__(self):
        self.now_s = 1_000.0
        self.waits = []
        self.at_wait = lambda number: None

    def monotonic(self):
        return self.now_s

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def notify(self):
        pass

    def wait(self, timeout_s=None):
        self.waits.append(timeout_s)
        assert len(self.waits) < 100
        self.now_s += timeout_s or 0.0
        self.at_wait(len(self.waits))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_random", types.SimpleNamespace(uniform=lambda low, high: high))
    return clock


@pytest.fixture
def made(clock):
    options = Options(backend=("mine",), batch_max_points=10, batch_max_age_s=4.0)
    journal, sink = Journal(), Sink()
    shipper = Shipper(Lane(sink, Names(), {}), journal, options)
    shipper._changed = clock
    return shipper, journal, sink


def test_a_batch_is_shipped_when_it_is_full_or_old_or_wanted(made, clock):
    shipper, journal, _ = made
    journal.end = 10
    assert shipper._wait_for_batch() == 10
    journal.end = 25
    assert shipper._wait_for_batch() == 10
    assert clock.waits == []
    journal.end = 9
    assert shipper._wait_for_batch() == 9
    assert clock.waits == pytest.approx([4.0])  # since it was first seen
    shipper.hurry(1)
    shipper.hurry(0)  # an earlier wish takes none back
    assert shipper._wait_for_batch() == 9
    shipper._lane.acknowledge(1)
    clock.waits.clear()
    assert shipper._wait_for_batch() == 8
    assert clock.waits == pytest.approx([4.0])


def test_age_counts_from_the_first_look_also_when_more_comes(made, clock):
    shipper, journal, _ = made
    journal.end = 1

    def more(number):
        if number == 1:
            clock.now_s -= 3.0  # woken after a second
            journal.end = 3

    clock.at_wait = more
    assert shipper._wait_for_batch() == 3
    assert clock.waits == pytest.approx([4.0, 3.0])


def test_nothing_is_waited_for_without_an_end_until_something_comes_or_all_is_shipped(made, clock):
    shipper, journal, _ = made

    def come(number):
        if number == 2:
            journal.end = 12

    clock.at_wait = come
    assert shipper._wait_for_batch() == 10
    assert clock.waits == [None, None]
    shipper._lane.acknowledge(12)
    shipper.stop()
    assert shipper._wait_for_batch() == 0
    shipper._lane.acknowledge(11)
    assert shipper._wait_for_batch() == 1  # at once
    assert clock.waits == [None, None]


def test_a_batch_that_failed_is_shipped_with_no_fewer_records(made, clock):
    shipper, journal, _ = made
    journal.end = 20
    shipper._lane.redeliver_at_least = 15
    assert shipper._wait_for_batch() == 15
    journal.end = 14

    def come(number):
        journal.end = 15

    clock.at_wait = come
    assert shipper._wait_for_batch() == 15
    assert clock.waits == [None]


def test_what_is_read_is_given_to_the_sink_from_its_position_on(made):
    shipper, journal, sink = made
    journal.end = 8
    assert shipper._ship(5)
    assert shipper._ship(5)
    assert sink.values == list(range(8))
    assert journal.did == [("read", 0, 5), ("read", 5, 5)]
    sink.error = OSError("away")
    journal.end = 9
    assert not shipper._ship(5)
    assert shipper._lane.position == 8


def test_what_the_journal_has_lost_is_skipped_under_its_reason(made, caplog):
    shipper, journal, sink = made
    lane = shipper._lane
    journal.first, journal.end = 3, 100
    assert shipper._ship(5)  # dropped as the journal was full
    assert (lane.position, lane.set_aside) == (3, {JOURNAL_FULL: 3})
    journal.error = JournalError("damaged")
    assert shipper._ship(5)
    assert journal.did[-1] == ("drop block", 3)
    assert (lane.position, lane.set_aside[JOURNAL_DAMAGED]) == (8, 5)
    assert caplog.text.count("a block of the journal is lost: damaged") == 1
    journal.error = FileNotFoundError("gone")
    assert shipper._ship(5)
    assert journal.did[-1] == ("drop file", 8)
    assert (lane.position, lane.set_aside[JOURNAL_REMOVED]) == (15, 7)
    assert caplog.text.count("a file of the journal was removed") == 1
    journal.first = 20  # dropped by the drainer while it was read: no word, its own reason
    assert shipper._ship(5)
    assert (lane.position, lane.set_aside[JOURNAL_FULL]) == (20, 8)
    assert caplog.text.count("a file of the journal was removed") == 1
    journal.error = OSError("no descriptor")
    assert not shipper._ship(5)
    assert caplog.text.count("the journal can't be read: no descriptor") == 1
    journal.first = 30
    assert shipper._ship(5)
    assert (lane.position, lane.set_aside[JOURNAL_FULL]) == (30, 18)
    journal.first = journal.end = 40  # nothing is left
    assert shipper._ship(5)
    assert lane.position == 40
    assert sink.values == []


def test_pauses_grow_up_to_a_limit_and_less_at_the_end(made, clock):
    shipper, _, _ = made
    for _ in range(10):
        shipper._back_off()
    assert clock.waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])
    shipper._failures = 1_000
    clock.waits.clear()
    shipper._back_off()
    assert clock.waits == pytest.approx([30.0])
    shipper._is_stopping = True
    shipper._back_off()
    assert clock.waits[-1] == 1.0
    assert shipper._failures == 30


def test_what_a_server_asks_for_is_waited_for_and_no_week(made, clock):
    shipper, _, _ = made
    lane = shipper._lane
    lane.is_failing = True
    for asked_s, waited_s in ((10.0, 11.0), (86_400.0, 330.0), (0.0, 0.8)):
        error = OSError("away")
        error.retry_after_s = asked_s
        lane.last_failure = error
        clock.waits.clear()
        shipper._back_off()
        assert clock.waits == [pytest.approx(waited_s)]
    lane.is_failing = False  # the journal's own trouble
    error.retry_after_s = 50.0
    clock.waits.clear()
    shipper._back_off()
    assert clock.waits == pytest.approx([1.6])


def test_a_stop_cuts_a_pause_short_unless_the_server_asked_for_it(made, clock):
    shipper, _, _ = made
    shipper._failures = 8

    def stop(number):
        shipper._is_stopping = True
        clock.now_s -= 20.0

    clock.at_wait = stop
    shipper._back_off()
    assert clock.waits == pytest.approx([30.0])
    shipper._is_stopping = False
    error = OSError("away")
    error.retry_after_s = 30.0
    shipper._lane.last_failure, shipper._lane.is_failing = error, True
    clock.waits.clear()
    clock.at_wait = lambda number: number == 1 and stop(number)
    shipper._back_off()
    assert len(clock.waits) == 2

    def abandon(number):
        shipper._is_abandoned = True
        clock.now_s -= 20.0

    clock.at_wait = abandon
    clock.waits.clear()
    shipper._back_off()
    assert len(clock.waits) == 1


def test_the_thread_ends_when_all_is_shipped_and_at_once_when_it_is_abandoned(made, clock):
    shipper, journal, sink = made
    journal.end = 25
    shipper.stop()
    shipper.run()
    assert sink.values == list(range(25))
    journal.end = 30
    shipper.abandon()
    shipper.run()
    assert len(sink.values) == 25


def test_a_sink_that_fails_is_tried_again_and_pauses_begin_anew_after_a_success(made, clock):
    shipper, journal, sink = made
    journal.end = 3
    told = []
    shipper._lane.tell_if_back = told.append
    sink.error = OSError("away")

    def back(number):
        if number == 3:
            sink.error = None

    clock.at_wait = back
    shipper._is_stopping = True
    shipper.run()
    assert clock.waits == pytest.approx([0.2, 0.4, 0.8])
    assert sink.values == [0, 1, 2]
    assert (shipper._failures, told) == (0, [3])
    assert shipper._lane.retried == 3


def test_an_error_of_our_own_is_logged_and_tried_again(made, clock, caplog):
    shipper, journal, sink = made
    journal.end = 3
    journal.error = RuntimeError("a slip")

    def mend(number):
        journal.error = None

    clock.at_wait = mend
    shipper._is_stopping = True
    shipper.run()
    assert sink.values == [0, 1, 2]
    assert caplog.text.count("shipping to 'tracelet-mine' failed and is tried again") == 1


def test_what_a_fold_holds_back_is_given_at_the_end(made, clock):
    shipper, _, _ = made
    tries = []

    def rest():
        tries.append(1)
        return len(tries) == 3

    shipper._lane.deliver_rest = rest
    shipper.stop()
    shipper.run()
    assert len(tries) == 3
    assert len(clock.waits) == 2
    tries.clear()
    shipper.abandon()
    shipper.run()
    assert tries == []


def test_it_is_a_daemon_by_its_sinks_name(made):
    assert made[0].name == "tracelet-mine"
    assert made[0].daemon
