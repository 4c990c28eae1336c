"""The end of a run by hand: who is closed, what is left, and in which order."""

from __future__ import annotations

import logging
import os
import threading
from types import SimpleNamespace

import pytest
from tracelet.pipeline import exit_signals
from tracelet.pipeline.late_worker import LateWorker
from tracelet.pipeline.run_end import close_backends, finish_folder
from tracelet.runs.deletion import Delivered


class Backend:
    def __init__(self, name, *sinks, error=None):
        self.name = name
        self.sinks = [SimpleNamespace(name=each, close=self._note(each)) for each in sinks]
        self.did = []
        self.error = error

    def _note(self, what):
        def note(*arguments):
            self.did.append((what, *arguments))
            if self.error:
                raise self.error

        return note

    def begin_end(self):
        self.is_told = True

    def close(self, process_is_ending):
        self._note("close")(process_is_ending)

    def leave(self, process_is_ending):
        self._note("leave")(process_is_ending)

    def let_process_end(self):
        self._note("let end")()


def live_of(*backends, busy=()):
    live = SimpleNamespace(backends=backends, closer=LateWorker("test-close"))
    live.closer.start()
    live.is_busy = lambda sink: sink.name in busy
    return live


def test_each_sink_is_closed_and_then_its_backend():
    one, two, none = Backend("one", "a", "b"), Backend("two", "c"), Backend("none")
    live = live_of(one, two, none)
    close_backends(live, 30.0, False)
    live.closer.join(30)
    assert one.did == [("a", False), ("b", False), ("close", False)]
    assert two.did == [("c", False), ("close", False)]
    assert none.did == [("close", False)]


def test_a_backend_whose_first_sink_is_busy_is_left_and_the_process_may_end():
    first, second = Backend("one", "a", "b"), Backend("two", "c", "d")
    close_backends(live_of(first, second, busy=("a", "d")), 30.0, True)
    assert first.did == [("b", True), ("leave", True), ("let end",)]
    assert second.did == [("c", True), ("close", True), ("let end",)]


def test_all_are_told_that_the_end_begins_before_one_is_closed():
    """What hangs in `close` keeps the others from theirs, and nothing of them may be forgotten."""
    hold, first, second = threading.Event(), Backend("first"), Backend("second")
    first.close = lambda ending: hold.wait(60)
    live = live_of(first, second)
    close_backends(live, 0.0, True)
    assert second.is_told
    assert ("close", True) not in second.did
    hold.set()
    live.closer.join(30)


def test_one_that_fails_or_hangs_holds_up_no_other(caplog):
    bad, good = Backend("bad", "a", error=OSError("no")), Backend("good", "b")
    close_backends(live_of(bad, good), 30.0, False)
    assert good.did == [("b", False), ("close", False)]
    assert caplog.text.count("closing 'a' failed: no") == 1
    hold = threading.Event()
    hanging = Backend("hanging")
    hanging.close = lambda ending: hold.wait(60)
    live = live_of(hanging)
    for ending, option in ((False, "stop_timeout_s"), (True, "exit_timeout_s")):
        close_backends(live, 0.0, ending)
        assert f"is left to end on its own (option {option})" in caplog.text
    hold.set()
    live.closer.join(30)


def test_the_closer_does_its_work_once_and_ends():
    did = []
    worker = LateWorker("late")
    worker.start()
    assert worker.daemon
    assert worker.is_alive()
    worker.work_on(lambda: did.append(1))
    worker.join(30)
    worker.run()
    assert did == [1]


class Folder:
    """In the place of RunFolder; `did` has the order of what was done."""

    def __init__(self, path, has_set_aside=False):
        self.path = str(path)
        self.run_id = "a-run"
        self.has_set_aside = has_set_aside
        self.did = []

    def __getattr__(self, name):
        return lambda *arguments, **named: self.did.append((name, *arguments, *named.items()))


class Lane:
    def __init__(self, position):
        self.sink = SimpleNamespace(name="one")
        self.position = position


@pytest.fixture
def ended(tmp_path):
    """Ends a run whose lane has come to `position` of 10."""

    def end(position=10, is_delivered=True, unsent=0, set_aside=False, alive=False, error=None):
        folder = Folder(tmp_path, set_aside)
        shipper = SimpleNamespace(
            ident=1, abandon=lambda: folder.did.append("abandon"),
            join=lambda: folder.did.append("join"),
        )  # fmt: skip
        not_started = SimpleNamespace(
            ident=None, abandon=lambda: folder.did.append("abandon"), join=None
        )

        def sync():
            folder.did.append("journal sync")
            if error:
                raise error

        journal = SimpleNamespace(close=lambda: folder.did.append("journal close"), sync=sync)
        live = SimpleNamespace(
            disk_sync=SimpleNamespace(stop=lambda timeout_s: folder.did.append("disk sync")),
            lanes=[Lane(position)], ring=SimpleNamespace(head=10),
            drainer=SimpleNamespace(
                is_alive=lambda: alive, shippers={"one": shipper, "two": not_started}
            ),
        )  # fmt: skip
        stats = SimpleNamespace(unsent_calls=unsent, pending=10 - position)
        notes = []
        at = []

        def note(stats, is_delivered):
            notes.append(is_delivered)
            at.append("journal close" in folder.did)  # it is noted while all is there

        finish_folder(live, folder, journal, lambda: stats, is_delivered, note)
        for thread in threading.enumerate():
            if thread.name == "tracelet-leave":
                thread.join(30)
        assert at == [False]
        return [*folder.did, ("noted", *notes)]

    return end


def test_a_run_that_is_delivered_goes_with_the_proof_of_it(ended):
    *before, (what, proof), noted = ended()
    assert noted == ("noted", True)
    assert before == ["disk sync", "journal close", ("remove_artifacts_folder",)]
    assert what == "remove"
    assert isinstance(proof, Delivered)
    assert proof.objections() == []


def test_what_was_set_aside_stays_and_the_rest_goes(ended):
    assert ended(set_aside=True)[3:] == [
        ("remove_ring", 10), ("remove_payloads",), ("update", ("state", "finished")), ("leave",),
        ("noted", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "why",
    [{"position": 9}, {"is_delivered": False}, {"unsent": 1}],
    ids=lambda why: next(iter(why)),
)
def test_what_is_not_delivered_is_left_and_its_ring_goes_when_the_journal_is_on_disk(
    ended, why, caplog
):
    with caplog.at_level(logging.WARNING):
        did = ended(**why)
    assert did == [
        "disk sync", ("update", ("state", "unsent")), "journal sync", ("remove_ring", 10),
        "abandon", "abandon", "join", ("leave",), ("noted", False),
    ]  # fmt: skip
    assert "tracelet sync a-run" in caplog.text
    assert (" and 1 calls (log_params" in caplog.text) == ("unsent" in why)


def test_while_a_sink_hangs_in_the_drainer_the_ring_stays(ended):
    assert ended(position=3, alive=True) == [
        "disk sync", ("update", ("state", "unsent")), ("noted", False),
    ]  # fmt: skip


def test_a_journal_that_can_not_be_synced_is_told_of(ended, caplog):
    ended(position=3, error=OSError("broken"))
    assert caplog.text.count("the journal can't be synced to disk: broken") == 1


# ---- SIGTERM, by a table of handlers in the place of the process'.


@pytest.fixture
def signals(monkeypatch):
    import signal

    table = {number: signal.SIG_DFL for number in exit_signals._COVERED}
    killed = []

    def set_(number, handler):
        before, table[number] = table[number], handler
        return before

    monkeypatch.setattr(exit_signals.signal, "signal", set_)
    monkeypatch.setattr(exit_signals.signal, "getsignal", table.__getitem__)
    monkeypatch.setattr(exit_signals.os, "kill", lambda pid, number: killed.append((pid, number)))
    table["killed"] = killed
    return table


def handler_of(users, flush=lambda: None, timeout_s=5.0):
    return exit_signals.SigTerm(users, flush, timeout_s)


def test_without_a_handler_the_run_is_flushed_and_the_signal_ends_the_process(signals):
    term = exit_signals.signal.SIGTERM
    flushed = []
    sigterm = handler_of(exit_signals.signal.SIG_DFL, lambda: flushed.append(1))
    sigterm.install()
    assert signals[term] == sigterm._handle
    signals[term](term, None)
    assert flushed == [1]
    assert signals[term] is exit_signals.signal.SIG_DFL
    assert signals["killed"] == [(os.getpid(), term)]


def test_a_handler_of_the_users_is_called_and_nothing_is_flushed_or_ended(signals):
    term = exit_signals.signal.SIGTERM
    calls, flushed = [], []
    users = lambda number, frame: calls.append((number, frame))  # noqa: E731
    signals[term] = users
    sigterm = handler_of(users, lambda: flushed.append(1))
    sigterm.install()
    signals[term](term, "frame")
    assert (calls, flushed, signals["killed"]) == ([(term, "frame")], [], [])
    sigterm.remove()
    assert signals[term] is users


def test_what_is_ignored_or_set_by_native_code_stays(signals):
    term = exit_signals.signal.SIGTERM
    for before in (exit_signals.signal.SIG_IGN, None):
        signals[term] = before
        sigterm = handler_of(before)
        sigterm.install()
        assert signals[term] is before
        sigterm.remove()
        sigterm.in_child()
        assert signals[term] is before


def test_a_handler_that_was_set_during_the_run_is_not_put_away(signals):
    term = exit_signals.signal.SIGTERM
    sigterm = handler_of(exit_signals.signal.SIG_DFL)
    sigterm.install()
    signals[term] = later = lambda *_: None
    sigterm.remove()
    sigterm.in_child()
    assert signals[term] is later


def test_in_a_child_it_is_the_users_own_again(signals):
    term = exit_signals.signal.SIGTERM
    sigterm = handler_of(exit_signals.signal.SIG_DFL)
    sigterm.install()
    sigterm.in_child()
    assert signals[term] is exit_signals.signal.SIG_DFL
    sigterm._owner_pid += 1
    flushed = []
    sigterm._flush = lambda: flushed.append(1)
    sigterm._handle(term, None)  # set in the parent
    assert flushed == []


def test_a_signal_that_comes_while_the_run_ends_waits_for_that(signals):
    term = exit_signals.signal.SIGTERM
    flushed = []
    sigterm = handler_of(exit_signals.signal.SIG_DFL, lambda: flushed.append(1))
    sigterm.install()
    sigterm.hold()
    sigterm.let_go()
    assert signals["killed"] == []
    sigterm.hold()
    signals[term](term, None)
    assert (flushed, signals["killed"]) == ([], [])
    sigterm.let_go()
    assert signals["killed"] == [(os.getpid(), term)]


def test_a_flush_that_hangs_is_left_and_told_of(signals, monkeypatch, caplog):
    monkeypatch.setattr(exit_signals, "_MARGIN_S", 0.0)
    hold = threading.Event()
    sigterm = handler_of(exit_signals.signal.SIG_DFL, lambda: hold.wait(60), 0.01)
    sigterm._flush_in_time()
    assert "the flush on SIGTERM took too long" in caplog.text
    hold.set()
    caplog.clear()
    sigterm._timeout_s = 30.0
    sigterm._flush_in_time()
    assert caplog.text == ""


def test_outside_the_main_thread_no_handler_is_set(monkeypatch):
    def refuse(number, handler):
        raise ValueError("signal only works in main thread")

    monkeypatch.setattr(exit_signals.signal, "signal", refuse)
    assert exit_signals.set_handler(2, 0) is False
    monkeypatch.setattr(exit_signals.signal, "signal", lambda number, handler: None)
    assert exit_signals.set_handler(2, 0) is True


def test_what_a_sdk_put_over_the_users_handlers_is_seen_through_and_put_back(signals, monkeypatch):
    term, fault = exit_signals.signal.SIGTERM, exit_signals._FAULTS[0]

    def of_the_user(*_): ...

    def of_the_sdk(*_): ...

    covers = {term: of_the_user}
    monkeypatch.setattr(
        exit_signals, "covered_by_sdk", lambda handler: covers if handler is of_the_sdk else None
    )
    signals[term] = signals[fault] = of_the_sdk
    users = exit_signals.UserHandlers()
    assert users.of(term) is of_the_user
    assert users.of(fault) is of_the_sdk
    users._handlers[fault] = None
    users.restore_for_faults()
    assert signals[fault] is exit_signals.signal.SIG_DFL
    assert signals[term] is of_the_sdk
    users.restore()  # its handler does something still
    assert signals[term] is of_the_sdk
    covers.clear()
    users.restore()
    assert signals[term] is of_the_user
    assert signals[fault] is exit_signals.signal.SIG_DFL
