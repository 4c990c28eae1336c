"""The drainer, the lanes, the journal and a user's own sink."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import tracelet
from tracelet import _core
from tracelet.errors import JournalError
from tracelet.journal.format import scan_segment, segment_paths
from tracelet.journal.journal import Journal
from waiting import wait_until


class Collecting:
    """A sink that keeps copies of what it is given."""

    def __init__(self, is_remote=False, fail=lambda call: None):
        self.name = "mine"
        self.is_remote = is_remote
        self.takes_every_point = False
        self.batches = []
        self.tags = {}
        self.calls = 0
        self.closed = 0
        self._fail = fail

    def write(self, batch):
        self.calls += 1
        self._fail(self.calls)
        records = batch.records
        assert records.dtype == tracelet.RECORD_DTYPE
        assert not records.flags.writeable
        for tag_id in np.unique(records["tag_id"]):
            self.tags[int(tag_id)] = batch.tag(tag_id)
        self.batches.append(records.copy())
        return tracelet.Delivery(len(records))

    def close(self, process_is_ending):
        self.closed += 1

    @property
    def records(self):
        return np.concatenate(self.batches) if self.batches else np.empty(0, tracelet.RECORD_DTYPE)


def start(sink, **config):
    tracelet.register_sink("mine", lambda info: sink)
    return tracelet.start_logging("pipeline", "tests", backend="mine", config=config)


def wait_until_drained(experiment):
    ring = experiment._run.ring
    wait_until(lambda: ring.tail >= ring.head)


@pytest.mark.parametrize("is_remote", [False, True], ids=["from the ring", "from the journal"])
def test_a_sink_of_ones_own_gets_every_point_in_order(is_remote):
    sink = Collecting(is_remote)
    experiment = start(sink, ring_slots=1024)
    for step in range(20_000):
        experiment.log_metric("a", step * 0.5, step)
    tracelet.stop_logging()
    records = sink.records
    assert np.array_equal(records["step"], np.arange(20_000))
    assert np.array_equal(records["value"], np.arange(20_000) * 0.5)
    assert np.array_equal(records["sequence"], np.arange(1, 20_001))
    assert set(sink.tags.values()) == {"a"}
    assert sink.closed == 1
    assert experiment.stats == tracelet.Stats(
        accepted=20_000, delivered={"tensorboard": 0, "mine": 20_000}, pending=0, retried=0,
        folded=0, dropped={}, not_finite=0,
    )  # fmt: skip


def test_a_view_is_of_the_rings_own_memory_and_ends_with_the_call():
    kept = []

    class Keeping(Collecting):
        def write(self, batch):
            if self.calls == 0:
                address = batch.records.__array_interface__["data"][0]
                with open("/proc/self/maps") as maps:
                    path = experiment._run.folder.ring_path
                    lines = [line for line in maps if line.rstrip().endswith(path)]
                first, last = lines[0].split()[0].split("-")
                assert int(first, 16) <= address < int(last, 16)
                kept.extend([batch, batch.records])
            return super().write(batch)

    sink = Keeping()
    experiment = start(sink)
    experiment.log_metric("a", 1.0, 1)
    assert experiment.flush()
    batch, view = kept
    with pytest.raises(tracelet.LeaseError, match="copy what you keep"):
        _ = batch.records
    assert len(view) == 1  # a view that was kept is no crash, even after the run
    kept.clear()
    experiment.log_metric("a", 2.0, 2)
    tracelet.stop_logging()
    assert view["kind"][0] in (0, 1)
    assert sink.records["value"].tolist() == [1.0, 2.0]


def test_a_sink_that_keeps_a_view_is_told_and_gets_copies(caplog):
    kept = []

    class Keeping(Collecting):
        def write(self, batch):
            kept.append(batch.records)
            return super().write(batch)

    sink = Keeping()
    experiment = start(sink, ring_slots=16)
    for step in range(200):
        experiment.log_metric("a", step, step)
        if step % 10 == 0:
            experiment.flush()
    tracelet.stop_logging()
    assert caplog.text.count("kept a view of the ring") == 1
    assert np.array_equal(np.concatenate(kept[1:])["step"], sink.records["step"][len(kept[0]) :])


def test_a_released_lease_raises_and_tells_of_views(tmp_path):
    ring = _core.Ring.create(str(tmp_path / "ring"), 64, 1.0)
    _core.set_active_run(ring)
    _core.log_metric("a", 1.0, 1, "")
    _core.set_active_run(None)
    lease = ring.lease(10)
    view = np.frombuffer(lease, dtype=tracelet.RECORD_DTYPE)
    part = view[:1]
    del view
    assert lease.exports == 1
    assert lease.release() == 1
    assert lease.release() == 1  # ends once
    with pytest.raises(BufferError, match="lease has ended"):
        np.frombuffer(lease, dtype=tracelet.RECORD_DTYPE)
    assert ring.tail == 1
    del lease, ring
    assert part["value"][0] == 1.0


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_sink_that_fails_gets_the_same_points_again(is_remote, caplog):
    def fail(call):
        if call in (1, 2, 4, 7):
            raise OSError("the backend is gone")

    sink = Collecting(is_remote, fail)
    experiment = start(sink, ring_slots=256, batch_max_points=500, batch_max_age_s=0.01)
    for step in range(5_000):
        experiment.log_metric("a", step, step)
    assert experiment.flush(20)
    tracelet.stop_logging()
    assert np.array_equal(sink.records["step"], np.arange(5_000))
    assert experiment.stats.delivered["mine"] == 5_000
    assert experiment.stats.retried == 4
    assert caplog.text.count("can't take points now") == 1  # though it came back in between
    assert caplog.text.count("takes points again") == 1


@pytest.mark.parametrize("is_remote", [False, True])
def test_after_an_outage_one_line_says_that_it_is_over_and_how_much_went(is_remote, caplog):
    """When the sink has caught up, not with the first batch that it takes."""
    is_away = threading.Event()
    told_early = []

    def fail(call):
        if is_away.is_set():
            raise OSError("away")
        told_early.append("takes points again" in caplog.text)

    sink = Collecting(is_remote, fail)
    experiment = start(sink, batch_max_points=100, batch_max_age_s=0.01)
    for step in range(300):
        experiment.log_metric("a", step, step)
    assert experiment.flush(60)
    is_away.set()
    for step in range(300, 1_000):
        experiment.log_metric("a", step, step)
    while not experiment.stats.retried:
        time.sleep(0.01)
    assert "takes points again" not in caplog.text
    is_away.clear()
    assert experiment.flush(60)
    tracelet.stop_logging()
    (line,) = [each.getMessage() for each in caplog.records if "again: " in each.msg]
    assert re.fullmatch(
        r"tracelet: the backend 'mine' takes points again: 700 that had waited were sent, \d+ s "
        r"after it had failed\.", line
    )  # fmt: skip
    assert not any(told_early)
    assert len(sink.records) == 1_000


def test_an_outage_leaves_no_batch_in_memory(caplog):
    """caplog keeps the log's records, as Sentry does."""
    batches = []

    class Away(Collecting):
        def write(self, batch):
            records = batch.records
            batches.append(weakref.ref(records))
            if self.calls == 0:
                self.calls += 1
                raise ConnectionError("away")
            return super().write(batch)

    experiment = start(Away(True), batch_max_age_s=0.01)
    experiment.log_metric("a", 1.0, 1)
    assert experiment.flush(20)
    assert "can't take points now (away)" in caplog.text
    tracelet.stop_logging()  # the shipper has ended
    gc.collect()
    assert [batch() for batch in batches] == [None] * len(batches)


def test_damage_to_the_journal_costs_its_block_and_holds_up_nothing(caplog):
    is_back = threading.Event()

    def fail(call):
        if not is_back.is_set():
            raise OSError("the backend is gone")

    sink = Collecting(True, fail)
    experiment = start(sink, drain_interval_s=0.01, batch_max_points=10)
    for step in range(300):
        experiment.log_metric("a", step, step)
        if step % 100 == 99:
            wait_until_drained(experiment)
    (segment,) = segment_paths(experiment._run.folder.path)
    blocks = scan_segment(segment)[0]
    block = next(block for block in blocks if block.first >= 100)
    data = bytearray(Path(segment).read_bytes())
    data[block.offset_bytes + 100] ^= 1
    Path(segment).write_bytes(data)
    is_back.set()
    assert experiment.flush(20)
    tracelet.stop_logging()
    lost = range(block.first, block.end)
    assert sink.records["step"].tolist() == [step for step in range(300) if step not in lost]
    assert experiment.stats.dropped == {"journal damaged": len(lost)}
    assert f"at byte {block.offset_bytes}: the records are damaged" in caplog.text


def test_a_sink_that_is_gone_costs_one_warning_and_leaves_the_points_on_disk(caplog, tmp_path):
    def fail(call):
        raise OSError("the backend is gone")

    sink = Collecting(True, fail)
    experiment = start(sink)
    for step in range(1_000):
        experiment.log_metric("a", step, step)
    before = time.monotonic()
    tracelet.stop_logging(timeout_s=0.5)
    assert time.monotonic() - before < 2.5
    assert caplog.text.count("can't take points now") == 1
    assert "1000 points are not delivered yet" in caplog.text
    assert experiment.stats.pending == 1_000
    (folder,) = (tmp_path / "tracelet-runs").iterdir()
    assert str(folder) in caplog.text
    assert list(folder.glob("journal-*.bin"))
    assert not os.path.exists(experiment._run.folder.ring_path)  # all is in the journal


def test_a_slow_remote_sink_does_not_hold_back_the_event_file_or_the_calls(tmp_path):
    is_called, may_go_on = threading.Event(), threading.Event()

    def hold(call):
        is_called.set()
        may_go_on.wait(120)

    sink = Collecting(True, hold)
    experiment = start(sink, ring_slots=256, log_dir=str(tmp_path / "log"), batch_max_age_s=0.01)
    for step in range(20_000):
        experiment.log_metric("a", step, step)
    assert experiment._run.flush_event_files(60)
    assert experiment.stats.delivered["tensorboard"] == 20_000
    assert is_called.wait(60)
    assert len(sink.records) == 0  # it has taken nothing yet
    may_go_on.set()
    tracelet.stop_logging(60)
    assert np.array_equal(sink.records["step"], np.arange(20_000))


def test_a_full_ring_waits_then_drops_with_a_count(caplog):
    held, go_on = threading.Event(), threading.Event()

    def hold(call):
        held.set()
        go_on.wait(20)

    sink = Collecting(False, hold)
    experiment = start(sink, ring_slots=16, full_ring_timeout_s=0.3)
    experiment.log_metric("a", 0, 0)
    assert held.wait(5)
    before = time.monotonic()
    for step in range(1, 100):
        experiment.log_metric("a", step, step)
    assert 0.25 < time.monotonic() - before < 10.0  # one wait, not one for each of 84 points
    stats = experiment.stats
    assert stats.accepted + stats.dropped["ring full"] == 100
    assert stats.accepted == 16
    go_on.set()
    tracelet.stop_logging()
    assert np.array_equal(sink.records["step"], np.arange(16))
    assert experiment.stats.delivered["mine"] == 16
    assert caplog.text.count("points are being dropped (ring full), 84 so far") == 1


def test_a_full_file_system_for_the_tags_drops_with_a_count(caplog, tmp_path):
    """The table grows by a megabyte at a time; here the file may not grow beyond its size."""
    import resource
    import signal

    sink = Collecting()
    experiment = start(sink, ring_slots=16, ring_dir=str(tmp_path / "ring"))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size_bytes = os.stat(experiment._run.folder.ring_path).st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        experiment.log_metric("a" * 2_000_000, 1.0, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    experiment.log_metric("b", 2.0, 2)
    tracelet.stop_logging()
    assert experiment.stats.dropped == {"tag table full": 1}
    assert "points are being dropped (tag table full), 1 so far" in caplog.text
    assert sink.records["value"].tolist() == [2.0]


def test_a_drainer_that_fails_gives_the_same_points_again(monkeypatch, caplog):
    from tracelet.pipeline.drainer import Drainer

    write_journal, failures = Drainer._write_journal, []

    def fail_twice(self, lease):
        if len(failures) < 2:
            failures.append(1)
            experiment.log_metric("a", 0, 1_000 + len(failures))  # the next lease is longer
            raise RuntimeError("a fault of our own")
        write_journal(self, lease)

    monkeypatch.setattr(Drainer, "_write_journal", fail_twice)
    remote, local = Collecting(True), Collecting()
    tracelet.register_sink("local", lambda info: local)
    local.name = "local"
    tracelet.register_sink("mine", lambda info: remote)
    experiment = tracelet.start_logging("faults", "tests", backend=["local", "mine"])
    for step in range(1_000):
        experiment.log_metric("a", step, step)
    assert experiment.flush()
    tracelet.stop_logging()
    assert len(failures) == 2
    for sink in (remote, local):
        assert np.array_equal(sink.records["sequence"], np.arange(1, 1_003))
    assert "the drainer failed and tries again" in caplog.text


def test_a_drainer_that_fails_after_the_journal_was_written_loses_nothing(monkeypatch):
    """The lease is given once more, longer: the journal takes what it does not hold."""
    release, failures = Journal.release, []

    def fail_twice(self, position):
        if len(failures) < 2:
            failures.append(1)
            experiment.log_metric("a", 0, 1_000 + len(failures))
            raise OSError("a file can't be deleted")
        release(self, position)

    monkeypatch.setattr(Journal, "release", fail_twice)
    sink = Collecting(True)
    experiment = start(sink)
    for step in range(1_000):
        experiment.log_metric("a", step, step)
    wait_until(lambda: len(failures) == 2)
    tracelet.stop_logging()
    assert np.array_equal(sink.records["sequence"], np.arange(1, 1_003))


def test_failures_of_the_operating_system_are_os_errors(tmp_path):
    path = tmp_path / "ring"
    path.touch()
    with pytest.raises(FileExistsError, match="cannot create"):
        _core.Ring.create(str(path), 64, 1.0)
    with pytest.raises(ValueError, match="power of two"):
        _core.Ring.create(str(tmp_path / "other"), 63, 1.0)


def test_a_run_folder_that_cant_be_made_names_the_variable(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRACELET_DIR", str(tmp_path / "file" / "runs"))
    with pytest.raises(tracelet.ConfigurationError, match="TRACELET_DIR"):
        tracelet.start_logging("run", "tests", backend="tensorboard")


def test_a_full_ring_waits_for_room_and_loses_nothing():
    def slow(call):
        time.sleep(0.01)

    sink = Collecting(False, slow)
    experiment = start(sink, ring_slots=64)
    for step in range(3_000):
        experiment.log_metric("a", step, step)
    tracelet.stop_logging()
    assert np.array_equal(sink.records["step"], np.arange(3_000))
    assert experiment.stats.dropped == {}


def test_eight_threads_push_at_once():
    sink = Collecting()
    experiment = start(sink, ring_slots=1024)

    def log(thread):
        for step in range(20_000):
            experiment.log_metric(f"thread{thread}", thread, step)

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracelet.stop_logging()
    records = sink.records
    assert len(records) == 160_000
    for number in range(8):
        mine = records[records["value"] == number]
        assert np.array_equal(mine["step"], np.arange(20_000))


@pytest.mark.parametrize("reduce", ["mean", "last", "min_max"])
@pytest.mark.parametrize("is_remote", [False, True])
def test_aggregation_by_steps(reduce, is_remote, tmp_path):
    from readers import event_file_scalars

    sink = Collecting(is_remote)
    rule = {"every_steps": 100, "reduce": reduce}
    experiment = start(
        sink, aggregate={"train/*": rule}, log_dir=str(tmp_path / "log"), ring_slots=512
    )
    values = np.random.default_rng(5).normal(size=1_050)
    for step, value in enumerate(values):
        experiment.log_metric("train/loss", value, step)
        experiment.log_metric("val/loss", value, step)
    tracelet.stop_logging()
    by_tag = {name: sink.records[sink.records["tag_id"] == i] for i, name in sink.tags.items()}
    assert np.array_equal(by_tag["val/loss"]["value"], values)
    folded = by_tag["train/loss"]
    windows = [values[start : start + 100] for start in range(0, 1_050, 100)]
    if reduce == "mean":
        assert np.allclose(folded["value"], [w.mean() for w in windows])
        assert folded["step"].tolist() == [*range(99, 1_000, 100), 1_049]
    elif reduce == "last":
        assert folded["value"].tolist() == [w[-1] for w in windows]
    else:
        expected = [
            values[i]
            for k, w in enumerate(windows)
            for i in sorted({100 * k + w.argmin(), 100 * k + w.argmax()})
        ]
        assert folded["value"].tolist() == expected
    stats = experiment.stats
    assert stats.folded + len(folded) == 1_050
    assert stats.delivered["mine"] + stats.folded == stats.accepted == 2_100
    assert stats.pending == 0
    assert len(event_file_scalars(tmp_path / "log")["train/loss"]) == 1_050


def test_what_the_fold_holds_back_is_pending():
    sink = Collecting()
    experiment = start(sink, aggregate={"*": {"every_steps": 100}})
    for step in range(150):
        experiment.log_metric("a", 1.0, step)
    assert experiment.flush()
    stats = experiment.stats
    assert (stats.delivered["mine"], stats.folded, stats.pending) == (1, 99, 50)


def test_a_folded_batch_that_fails_is_not_folded_twice():
    def fail(call):
        if call in (1, 2):
            raise OSError("not now")

    sink = Collecting(True, fail)
    experiment = start(sink, aggregate={"*": {"every_steps": 10, "reduce": "mean"}})
    for step in range(100):
        experiment.log_metric("a", step, step)
    tracelet.stop_logging()
    assert sink.records["value"].tolist() == [10 * k + 4.5 for k in range(10)]
    assert experiment.stats.folded == 90


@pytest.mark.parametrize("is_remote", [False, True])
def test_points_that_come_while_a_folded_batch_fails_are_folded_too(is_remote):
    """The batch that is given again is longer than the one that failed."""

    def fail(call):
        if call <= 4:
            raise OSError("not now")

    sink = Collecting(is_remote, fail)
    rule = {"every_steps": 10, "reduce": "mean"}
    experiment = start(sink, aggregate={"*": rule}, drain_interval_s=0.01, batch_max_age_s=0.01)
    for step in range(1_000):
        experiment.log_metric("a", step, step)
        if step % 100 == 0:
            time.sleep(0.05)
    tracelet.stop_logging()
    assert sink.calls > 4
    assert sink.records["value"].tolist() == [10 * k + 4.5 for k in range(100)]
    stats = experiment.stats
    assert (stats.folded, stats.delivered["mine"], stats.pending) == (900, 100, 0)


def some_records(count, first=0):
    records = np.zeros(count, dtype=tracelet.RECORD_DTYPE)
    records["sequence"] = np.arange(first + 1, first + count + 1)
    records["value"] = np.random.default_rng(first).normal(size=count)
    return records


def test_the_journal_gives_back_what_was_put_in(tmp_path):
    journal = Journal(str(tmp_path))
    records = some_records(30_000)
    for start_ in range(0, 30_000, 7_001):
        journal.append(records[start_ : start_ + 7_001])
    assert journal.end == 30_000
    for position in (0, 1, 6_999, 7_001, 8_192, 29_999):
        for limit in (1, 5_000, 100_000):
            expected = records[position : position + limit]
            assert np.array_equal(journal.read(position, limit, 1 << 30)[0], expected)
    assert len(journal.read(30_000, 10, 1 << 30)[0]) == 0


def test_the_journal_deletes_what_every_sink_has(tmp_path, monkeypatch):
    monkeypatch.setattr("tracelet.journal.journal._SEGMENT_BYTES", 100_000)
    journal = Journal(str(tmp_path))
    for first in range(0, 20_000, 1_000):
        journal.append(some_records(1_000, first))
    files = len(list(tmp_path.glob("journal-*")))
    assert files == 10
    journal.release(10_000)
    assert len(list(tmp_path.glob("journal-*"))) == files // 2
    assert journal.read(10_000, 1, 1 << 30)[0]["sequence"] == 10_001
    journal.release(20_000)
    assert len(list(tmp_path.glob("journal-*"))) == 1  # the one being written


def test_an_append_that_is_repeated_is_kept_once(tmp_path):
    journal = Journal(str(tmp_path))
    records = some_records(20_000)
    for count in (1_000, 1_000, 3_000, 16_384, 20_000):  # also longer than what was cut to blocks
        journal.append(records[:count])
    assert np.array_equal(journal.read(0, 100_000, 1 << 30)[0], records)
    (path,) = tmp_path.glob("journal-*")
    assert path.stat().st_size < records.nbytes + 300


def test_a_damaged_block_is_reported_with_its_place(tmp_path):
    journal = Journal(str(tmp_path))
    journal.append(some_records(100))
    (path,) = tmp_path.glob("journal-*")
    data = bytearray(path.read_bytes())
    data[3_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"at byte 24: the records are damaged"):
        journal.read(0, 10, 1 << 30)
    path.write_bytes(data[:1_000])
    with pytest.raises(JournalError, match="cut off"):
        journal.read(0, 10, 1 << 30)


def test_flush_says_whether_all_was_delivered():
    def fail(call):
        raise OSError("gone")

    experiment = start(Collecting(True, fail))
    assert experiment.flush(0.1)
    experiment.log_metric("a", 1.0)
    before = time.monotonic()
    assert not experiment.flush(0.3)
    assert time.monotonic() - before < 1.0
    tracelet.stop_logging(timeout_s=0.2)
    assert not os.path.exists(experiment._run.folder.ring_path)  # all is in the journal


def test_a_sink_that_is_still_busy_at_the_deadline_is_not_closed():
    """A sink is used by one thread at a time; its own ends some time after the run."""
    go_on = threading.Event()
    sink = Collecting(False, lambda call: go_on.wait(20))
    experiment = start(sink)
    experiment.log_metric("a", 1.0)
    before = time.monotonic()
    tracelet.stop_logging(timeout_s=0.3)
    assert time.monotonic() - before < 1.0
    assert sink.closed == 0
    assert experiment.stats.pending == 1
    go_on.set()
    os.unlink(experiment._run.folder.ring_path)


def test_flush_and_stats_from_another_thread_while_the_run_ends():
    experiment = start(Collecting())
    errors, done = [], threading.Event()

    def use():
        try:
            while not done.is_set():
                experiment.flush(0.01)
                assert experiment.stats.accepted >= 0
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(20_000):
        experiment.log_metric("a", step, step)
    tracelet.stop_logging()
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert experiment.stats.delivered["mine"] == 20_000


def test_a_sink_that_returns_no_delivery_is_an_error_of_that_sink(caplog):
    class Wrong(Collecting):
        def write(self, batch):
            return None

    experiment = start(Wrong())
    experiment.log_metric("a", 1.0)
    experiment.flush(0.3)
    tracelet.stop_logging(timeout_s=0.3)
    assert "must return a Delivery" in caplog.text
    assert not os.path.exists(experiment._run.folder.ring_path)  # all is in the journal


def test_taken_sink_names_and_wrong_factories_raise():
    with pytest.raises(ValueError, match="taken"):
        tracelet.register_sink("clearml", Collecting)
    with pytest.raises(TypeError, match="callable"):
        tracelet.register_sink("other", 5)
