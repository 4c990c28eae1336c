"""What happens to a journal under a living run: its folder removed, its files not to be opened."""

from __future__ import annotations

import errno
import os
import shutil
import threading

import tracelet
from away_sink import away_sink
from tracelet.journal import journal as journal_module
from tracelet.pipeline.shipper import Shipper
from waiting import wait_until

CONFIG = {"drain_interval_s": 0.01, "batch_max_age_s": 0.02, "ring_slots": 4096}


def start():
    sink = away_sink()
    return sink, tracelet.start_logging("faults", backend="away", config=CONFIG)


def test_a_run_whose_folder_is_removed_goes_on_and_counts_what_went_with_it(caplog):
    sink, experiment = start()
    run = experiment._run
    for step in range(500):
        experiment.log_metric("a", step, step)
    wait_until(lambda: run.ring.tail == 500)
    shutil.rmtree(run.folder.path)
    for step in range(500, 1_000):
        experiment.log_metric("a", step, step)
    wait_until(lambda: run.ring.tail == 1_000)
    sink.is_back.set()
    tracelet.stop_logging(timeout_s=60)
    stats = experiment.stats
    assert stats.accepted == 1_000
    assert stats.delivered["away"] + stats.dropped.get("journal removed", 0) == 1_000
    assert set(range(500, 1_000)) <= set(sink.steps)
    assert stats.dropped["journal removed"] > 0
    assert caplog.text.count("a file of the journal was removed") <= 2
    assert "the drainer failed" not in caplog.text


def test_a_journal_that_can_not_be_opened_is_told_once_and_stop_logging_does_not_raise(
    caplog, monkeypatch
):
    sink, experiment = start()
    run = experiment._run
    real = os.open
    refused = threading.Event()

    def refuse(path, *arguments, **named):
        if "journal-" in str(path):
            refused.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *arguments, **named)

    monkeypatch.setattr(journal_module.os, "open", refuse)
    for step in range(500):
        experiment.log_metric("a", step, step)
    assert refused.wait(60)
    assert experiment.stats.pending == 500  # in the ring
    tracelet.stop_logging(timeout_s=0.5)
    assert caplog.text.count("the journal can't be written now") == 1
    monkeypatch.undo()
    sink.is_back.set()
    wait_until(lambda: run.ring.tail == 500)


def test_a_lane_whose_thread_can_not_be_started_at_first_is_served_later(caplog, monkeypatch):
    tries = []
    real = Shipper.start

    def start_third_time(self):
        tries.append(self)
        if len(tries) < 3:
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(Shipper, "start", start_third_time)
    sink, experiment = start()
    sink.is_back.set()
    for step in range(100):
        experiment.log_metric("a", step, step)
    wait_until(lambda: len(sink.steps) == 100)
    tracelet.stop_logging(timeout_s=60)
    assert experiment.stats.delivered["away"] == 100
    assert caplog.text.count("no thread for") == 1
