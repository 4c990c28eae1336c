"""The journal's disk budget while a backend stays away: each policy, what is kept, the counts."""

from __future__ import annotations

import os
import threading
import time

import pytest
import tracelet
from tracelet.backends.base import Delivery
from tracelet.errors import ConfigurationError

LIMIT = 1 << 20  # 16,384 records


class Away:
    """A remote sink that takes nothing until it is back."""

    name = "away"
    is_remote = True
    takes_every_point = True

    def __init__(self) -> None:
        self.is_back = threading.Event()
        self.steps: list[int] = []

    def write(self, batch):
        if not self.is_back.is_set():
            raise ConnectionError("away")
        self.steps += batch.records["step"].tolist()
        return Delivery(len(batch))

    def close(self, process_is_ending):
        pass


def run(policy: str, points: int, caplog, **config):
    sink = Away()
    tracelet.register_sink("away", lambda info: sink)
    config = {
        "journal_limit_bytes": LIMIT,
        "journal_overflow": policy,
        "ring_slots": 4096,
        **config,
    }
    experiment = tracelet.start_logging("budget", backend="away", config=config)
    folder = experiment._run.folder.path
    largest = 0
    for step in range(points):
        experiment.log_metric("a", step, step)
        if step % 5_000 == 0:
            time.sleep(0.02)
            sizes = [e.stat().st_size for e in os.scandir(folder) if "journal-" in e.name]
            largest = max(largest, sum(sizes))
    deadline = time.monotonic() + 20
    ring = experiment._run.ring  # its head is short of `points` where some found it full
    while ring.tail < ring.head and time.monotonic() < deadline:
        time.sleep(0.01)
    sink.is_back.set()
    tracelet.stop_logging(timeout_s=30)
    assert largest <= LIMIT * 1.3
    assert caplog.text.count("has reached its limit") == 1
    stats = experiment.stats
    assert stats.pending == 0
    assert stats.delivered["away"] == len(sink.steps)
    assert stats.accepted == len(sink.steps) + stats.dropped["journal full"]
    assert sink.steps == sorted(set(sink.steps))
    return sink.steps, stats


def test_drop_new_keeps_what_came_first(caplog):
    steps, stats = run("drop_new", 60_000, caplog)
    assert steps[:8_000] == list(range(8_000))
    assert 8_000 < len(steps) <= 20_000
    assert set(stats.dropped) == {"journal full"}


def test_drop_oldest_keeps_what_came_last(caplog):
    steps, stats = run("drop_oldest", 60_000, caplog)
    assert steps[-8_000:] == list(range(52_000, 60_000))
    assert 8_000 < len(steps) <= 20_000
    assert set(stats.dropped) == {"journal full"}


def test_block_waits_once_and_then_drops_new_ones(caplog):
    start = time.monotonic()
    steps, _ = run("block", 60_000, caplog, full_ring_timeout_s=0.5)
    assert steps[:8_000] == list(range(8_000))
    assert time.monotonic() - start < 20


def test_a_backend_that_comes_back_in_time_gets_everything_under_block():
    sink = Away()
    tracelet.register_sink("away", lambda info: sink)
    config = {"journal_limit_bytes": LIMIT, "journal_overflow": "block", "ring_slots": 4096}
    experiment = tracelet.start_logging("budget", backend="away", config=config)
    threading.Timer(1.0, sink.is_back.set).start()
    for step in range(60_000):
        experiment.log_metric("a", step, step)
    tracelet.stop_logging(timeout_s=30)
    assert sink.steps == list(range(60_000))
    assert experiment.stats.dropped == {}


def test_options_are_checked():
    with pytest.raises(ConfigurationError, match="journal_overflow must be one of"):
        tracelet.start_logging(backend="tensorboard", config={"journal_overflow": "drop"})
    with pytest.raises(ConfigurationError, match="journal_limit_bytes must be"):
        tracelet.start_logging(backend="tensorboard", config={"journal_limit_bytes": 100})
