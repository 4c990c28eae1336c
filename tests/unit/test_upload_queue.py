"""The queue of uploads by hand, its clock played: order, pauses, what is counted and given up."""

from __future__ import annotations

import threading
import types
from types import SimpleNamespace

import pytest
from tracelet.pipeline import uploads as module
from tracelet.pipeline.uploads import Uploads


class Job:
    def __init__(self, name="a", errors=(), size_bytes=1, refused=False):
        self.name = name
        self.errors = list(errors)
        self.size_bytes = size_bytes
        self.refused = refused
        self.did = []

    def upload(self):
        self.did.append("tried")
        if self.errors:
            raise self.errors.pop(0)

    def is_refused(self, error):
        return self.refused

    def keep(self, folder):
        self.did.append(f"aside in {folder}")
        return folder

    def discard(self):
        self.did.append("discarded")


class Clock:
    def __init__(self):
        self.now_s = 100.0
        self.waits = []

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
        assert timeout_s is not None, "nobody would wake it"
        assert len(self.waits) < 100
        self.now_s += timeout_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_random", types.SimpleNamespace(uniform=lambda low, high: high))
    return clock


@pytest.fixture
def queue(clock):
    """One whose thread is not started: the test is it, by `_run`."""
    made = Uploads("folder")
    made._changed = clock
    made._thread = threading.current_thread()
    return made


def test_all_are_uploaded_in_their_order_and_counted_where_they_are_files(queue):
    jobs = [Job("a"), Job("b", size_bytes=None), Job("c", size_bytes=0)]
    for job in jobs:
        queue.add(job)
    assert queue.counts == {"pending": 2}
    assert not queue.is_idle
    last = Job("last", size_bytes=None)
    queue.at_end(Job("replaced"))
    queue.at_end(last)
    queue.stop()
    queue._run()
    assert all(job.did == ["tried", "discarded"] for job in [*jobs, last])
    assert queue.counts == {"uploaded": 2}
    assert queue.is_idle


def test_one_that_fails_goes_behind_the_others_with_pauses_that_grow(queue, clock, caplog):
    late, other = Job("late", [OSError("away")] * 10), Job("other")
    queue.add(late)
    queue.add(other)
    assert queue._take().upload is late
    assert queue.counts == {"pending": 2}
    queue._note_failure(queue._busy, OSError("away"))
    assert queue._take().upload is other
    queue._note_success(queue._busy)
    pauses = []
    for _ in range(10):
        before_s = clock.now_s
        assert queue._take().upload is late
        pauses.append(clock.now_s - before_s)
        queue._note_failure(queue._busy, OSError("away"))
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])
    assert caplog.text.count("late can't be sent now (away). It is tried again") == 1
    queue.stop()  # now it is in haste
    before_s = clock.now_s
    assert queue._take().upload is late
    assert clock.now_s - before_s == pytest.approx(1.0)


def test_the_one_that_is_due_is_taken_whoever_came_first(queue, clock):
    queue.add(Job("a"))
    queue.add(Job("b"))
    first, second = queue._waiting
    first.due_s, second.due_s = clock.now_s + 9, clock.now_s + 5
    assert queue._take() is second
    assert clock.waits == [5.0]
    assert queue._waiting == [first]


def test_what_is_refused_is_set_aside_at_once_with_the_reason(queue, caplog, tmp_path):
    queue._kept_dir = str(tmp_path)
    job = Job("bad", [ValueError("x" * 600)], refused=True)
    wordless = Job("wordless", [ValueError()], refused=True)
    for each in (job, wordless):
        queue.add(each)
    queue.stop()
    queue._run()
    assert job.did == ["tried", f"aside in {tmp_path}"]
    assert queue.counts == {"failed": 2}
    assert f"bad is not on the server: {'x' * 500}. It is kept in {tmp_path}." in caplog.text
    assert "wordless is not on the server: ValueError." in caplog.text


def test_what_is_left_at_the_end_is_given_up_with_its_last_reason(queue, caplog):
    queue._thread = SimpleNamespace(join=lambda timeout_s: None)  # it hangs
    waiting, failed, busy = Job("waiting"), Job("failed"), Job("busy")
    for each in (busy, failed, waiting):
        queue._waiting.append(module._Job(each))
    queue._take()
    queue._waiting[0].reason = "it was away"
    held = queue._busy
    queue.at_end(Job("last"))
    queue.finish(0.0)
    assert queue.counts == {"failed": 3}
    assert "busy is not on the server: not uploaded by the end: the time at the end" in caplog.text
    assert "failed is not on the server: not uploaded by the end: it was away" in caplog.text
    assert queue._last is None
    queue._note_success(held)  # comes back too late: it is counted
    queue._note_failure(held, OSError("late"))
    assert queue.counts == {"failed": 3}
    assert "discarded" not in busy.did


def test_what_is_on_disk_already_is_left_there_without_a_word(clock, caplog):
    queue = Uploads("folder", are_kept=True)
    queue._waiting.append(module._Job(Job("kept")))
    queue.finish(0.0)
    assert queue.counts == {}
    assert queue.is_idle
    assert caplog.text == ""


def test_a_child_of_a_fork_has_none_of_what_waits(queue):
    queue.add(Job())
    queue._take()
    queue.at_end(Job())
    queue.renew_in_child()
    assert (queue.is_idle, queue._last, queue._thread) == (True, None, None)


def test_without_a_thread_it_is_tried_again_with_the_next_one(monkeypatch):
    queue = Uploads("folder")
    started = []

    class Thread:
        def __init__(self, target, name, daemon):
            assert (name, daemon) == ("tracelet-uploads", True)

        def start(self):
            started.append(self)
            if len(started) == 1:
                raise RuntimeError("can't start new thread")

        def join(self, timeout_s):
            started.append(timeout_s)

    monkeypatch.setattr(module.threading, "Thread", Thread)
    queue.add(Job("a"))
    assert queue._thread is None
    queue.add(Job("b"))
    queue.add(Job("c"))
    assert len(started) == 2
    assert queue._thread is started[1]
    queue.finish(3.0)
    assert started[2] == 3.0
