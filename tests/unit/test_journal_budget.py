"""The journal's disk budget while a backend stays away: each policy, what is kept, the counts."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import tracelet
from away_sink import away_sink
from tracelet.errors import ConfigurationError
from tracelet.journal.drops import DROPPED, DropNotes, Drops
from tracelet.journal.journal import Journal
from tracelet.recovery.resend import resend
from tracelet.recovery.result import table_of
from tracelet.runs.stored_run import StoredRun
from waiting import wait_until

LIMIT = 1 << 20  # 16,384 records


def run(policy: str, points: int, caplog, **config):
    sink = away_sink()
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
    accepted_when_drained(experiment)
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


@pytest.mark.slow
def test_a_backend_that_comes_back_in_time_gets_everything_under_block():
    sink = away_sink()
    config = {"journal_limit_bytes": LIMIT, "journal_overflow": "block", "ring_slots": 4096}
    experiment = tracelet.start_logging("budget", backend="away", config=config)
    threading.Timer(1.0, sink.is_back.set).start()
    for step in range(60_000):
        experiment.log_metric("a", step, step)
    tracelet.stop_logging(timeout_s=30)
    assert sink.steps == list(range(60_000))
    assert experiment.stats.dropped == {}


@pytest.mark.parametrize("policy", ["drop_new", "drop_oldest"])
def test_what_was_dropped_on_purpose_is_no_damage_to_sync(policy):
    """The gap was taken for damage: exit code 1 at each sync, and the run was kept for ever."""
    sink = away_sink()
    run, held, dropped = leave_run(policy)
    sink.is_back.set()
    result = resend(run)
    assert result.kept == result.notes == []
    assert len(sink.steps) == held
    assert sink.steps == sorted(set(sink.steps))
    (away,) = (each for each in result.sinks if each.name == "away")
    # Of the oldest its shipper, while it lived, may have known already.
    assert away.before + away.dropped == dropped
    assert away.total == result.logged == held + dropped
    if policy == "drop_new":
        assert f"  away: {dropped:,} dropped by the run: its journal was full" in "\n".join(
            table_of(result)
        )
    assert not os.path.exists(run.path)


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_drop_whose_note_is_damaged_is_taken_for_damage(damage):
    sink = away_sink()
    run, held, dropped = leave_run("drop_new")
    notes = Path(run.path, DROPPED)
    data = bytearray(notes.read_bytes())
    assert Drops.read(run.path).count_between(0, held + dropped) == dropped
    for start in range(0, len(data), 32):
        data[start + 8] ^= 1
    notes.write_bytes(data) if damage == "flipped" else notes.unlink()
    sink.is_back.set()
    result = resend(run)
    assert result.kept == [f"{dropped:,} records for away are lost to damage"]
    assert result.lost == dropped
    assert len(sink.steps) == held
    assert os.path.exists(run.path)


def accepted_when_drained(experiment):
    """Short of what was logged where some found the ring full."""
    ring = experiment._run.ring
    wait_until(lambda: ring.tail >= ring.head)
    return ring.head


def leave_run(policy: str):
    """A run whose backend stayed away to its end, how many of its points are in its journal, and
    how many it gave up."""
    config = {"journal_limit_bytes": LIMIT, "journal_overflow": policy, "ring_slots": 4096}
    experiment = tracelet.start_logging("left", backend="away", config=config)
    folder = experiment._run.folder.path
    for step in range(60_000):
        experiment.log_metric("a", step, step)
    accepted = accepted_when_drained(experiment)
    tracelet.stop_logging(timeout_s=0.3)
    run = StoredRun(folder)
    # Its shipper, in the middle of a pause, has the run's lock.
    wait_until(lambda: not run.is_alive)
    held = Journal.recover(folder).count_from(0)
    assert 8_000 < held <= 20_000
    return run, held, accepted - held


def test_notes_of_drops_grow_with_what_is_apart_alone(tmp_path):
    notes = DropNotes(str(tmp_path))
    for first, end in [(10, 20), (20, 30), (30, 31), (50, 60), (60, 60), (60, 70), (5, 12)]:
        notes.note(first, end)
    notes.close()
    assert (tmp_path / DROPPED).stat().st_size == 3 * 32
    drops = Drops.read(str(tmp_path))
    assert [drops.count_between(*pair) for pair in [(0, 99), (0, 10), (31, 50), (30, 51)]] == [
        46, 5, 0, 2,
    ]  # fmt: skip
    again = DropNotes(str(tmp_path))  # goes on behind what is there
    again.note(80, 90)
    again.close()
    assert Drops.read(str(tmp_path)).count_between(0, 99) == 56
    assert Drops.read(str(tmp_path / "none")).count_between(0, 99) == 0


def test_options_are_checked():
    with pytest.raises(ConfigurationError, match="journal_overflow must be one of"):
        tracelet.start_logging(backend="tensorboard", config={"journal_overflow": "drop"})
    with pytest.raises(ConfigurationError, match="journal_limit_bytes must be"):
        tracelet.start_logging(backend="tensorboard", config={"journal_limit_bytes": 100})
