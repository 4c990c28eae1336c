"""Disks that are full for a while: one warning, a count, and nothing earlier is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import subprocess
import time

import pytest
import tracelet
from readers import event_files, quick_events
from recording_sink import RecordingSink

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from event_session import all_files  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

NOISE = np.random.default_rng(0).random((3, 40, 40))


def start(backend="tensorboard", **config):
    config = {"drain_interval_s": 0.02, **config}
    return tracelet.start_logging("disks", "tests", backend=backend, config=config)


@contextlib.contextmanager
def file_size_limit(limit_bytes):
    """No file of this process grows beyond: what a full disk looks like, without being root."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture
def small_disk(tmp_path):
    """A folder with a file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield folder
    finally:
        tracelet.stop_logging()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def log(writer, steps):
    for step in steps:
        writer.add_scalar("s", step, step)
        writer.add_image("i", NOISE, step)
        writer.add_histogram("h", NOISE, step)


def points(folder):
    (path,) = event_files(folder)
    return [(v.tag, e.step) for e in quick_events(path) for v in e.summary.value]


def check(folder, count):
    expected = [(tag, step) for step in range(count) for tag in "sih"]
    assert points(folder) == expected


def wait_until_failing(run):
    (lane,) = (lane for lane in run._run._live.lanes if lane.sink.name == "tensorboard")
    while not lane.is_failing:
        assert not run._run.flush_event_files(0.05)


@pytest.mark.slow
def test_an_event_files_disk_that_is_full_for_a_while(small_disk, tmp_path, caplog):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(900_000))
    sink = RecordingSink().register()
    run = start(["tensorboard", "recording"])
    writer = SummaryWriter(small_disk / "log")
    log(writer, range(4))
    assert run.flush()
    with caplog.at_level(logging.WARNING):
        log(writer, range(4, 40))
        wait_until_failing(run)
        # Readers meanwhile: whole events, from the first on.
        early = points(writer.log_dir)
        assert early == [(tag, step) for step in range(40) for tag in "sih"][: len(early)]
        assert len(early) >= 12
        accumulator = EventAccumulator(str(writer.log_dir)).Reload()
        assert [e.step for e in accumulator.Scalars("s")][:4] == list(range(4))
        log(writer, range(40, 60))
        assert run.stats.pending > 0
        while len(sink.points) < 180:  # the others go on
            assert not run._run.flush_event_files(0.05)
            time.sleep(0.01)
        ballast.unlink()
        assert run.flush(20)
    check(writer.log_dir, 60)
    log(writer, range(60, 70))
    tracelet.stop_logging()
    check(writer.log_dir, 70)
    assert caplog.text.count("the backend 'tensorboard' can't take points now") == 1
    assert caplog.text.count("the backend 'tensorboard' takes points again") == 1
    assert len(caplog.records) == 2
    assert run.stats.delivered["tensorboard"] == run.stats.accepted == 210
    assert not run.stats.dropped
    assert run.stats.retried > 0
    assert not list((tmp_path / "tracelet-runs").iterdir())


def fill(path):
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_disk_that_is_full_when_a_file_is_to_be_made(small_disk, caplog):
    """Its header finds no room, again and again: in the end there is one file, and no empty one."""
    fill(small_disk / "ballast")
    run = start()
    writer = SummaryWriter(small_disk / "log")
    with caplog.at_level(logging.WARNING):
        log(writer, range(2))
        assert not run.flush(1.0)
        assert run.stats.retried > 2
        (small_disk / "ballast").unlink()
        assert run.flush(20)
    log(writer, range(2, 4))
    tracelet.stop_logging()
    check(small_disk / "log", 4)
    assert len(list(all_files(small_disk / "log"))) == 1
    assert len(caplog.records) == 2  # that it can't, and that it can again


def test_a_limit_of_file_sizes_is_as_a_full_disk(tmp_path):
    """Here the journal can't grow either: the points wait in the ring."""
    run = start()
    writer = SummaryWriter(tmp_path / "log")
    with file_size_limit(1000):
        log(writer, range(3))
        wait_until_failing(run)
    assert run.flush(20)
    tracelet.stop_logging()
    check(tmp_path / "log", 3)


def test_no_room_for_large_events_in_the_runs_folder(small_disk, tmp_path, monkeypatch, caplog):
    """They are counted and left out; all others go on, and large ones do again with more room."""
    monkeypatch.setenv("TRACELET_DIR", str(small_disk / "runs"))
    run = start(payload_bytes=1 << 16, ring_dir=str(tmp_path / "ring"))
    writer = SummaryWriter(tmp_path / "log")
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            writer.add_text("large", "x" * 2_000_000, step)
            writer.add_text("small", "x", step)
            writer.add_scalar("s", step, step)
        (folder,) = (small_disk / "runs").glob("*/payloads")
        assert not list(folder.iterdir())  # not even a part of one
        writer.add_text("large", "x" * 500_000, 5)
    tracelet.stop_logging()
    small = [(tag, step) for step in range(5) for tag in ("small/text_summary", "s")]
    assert points(writer.log_dir) == [*small, ("large/text_summary", 5)]
    assert run.stats.dropped == {"no disk space": 5}
    assert caplog.text.count("can't be kept for the sinks") == 1
    assert len(caplog.records) == 1
    assert not list((small_disk / "runs").iterdir())


def test_a_large_event_that_finds_the_ring_full_leaves_no_file(tmp_path):
    import threading

    go_on, held = threading.Event(), threading.Event()

    def hold():
        held.set()
        go_on.wait(20)

    RecordingSink(fail=hold).register()
    run = start(
        "recording",
        payload_bytes=1 << 16,
        ring_slots=16,
        full_ring_timeout_s=0.2,
        tensorboard="off",
    )
    writer = SummaryWriter(tmp_path / "log")
    writer.add_text("t", "x" * 100_000, 0)
    assert held.wait(5)
    for step in range(1, 40):
        writer.add_text("t", "x" * 100_000, step)
    (folder,) = (tmp_path / "tracelet-runs").glob("*/payloads")
    assert len(list(folder.iterdir())) == run.stats.accepted == 16
    assert run.stats.dropped == {"ring full": 24}
    go_on.set()
    tracelet.stop_logging()


def test_a_payload_file_that_is_gone_is_counted(tmp_path):
    import shutil
    import threading

    go_on = threading.Event()
    sink = RecordingSink(fail=lambda: go_on.wait(20), kinds=(tracelet.SCALAR,))
    sink.name = "slow"
    tracelet.register_sink("slow", lambda info: sink)
    run = start(["slow", "tensorboard"], payload_bytes=1 << 16, drain_interval_s=0.5)
    writer = SummaryWriter(tmp_path / "log")
    writer.add_text("t", "x" * 100_000, 0)
    (folder,) = (tmp_path / "tracelet-runs").glob("*/payloads")
    shutil.rmtree(folder)
    writer.add_text("t", "x", 1)
    go_on.set()
    tracelet.stop_logging()
    assert points(writer.log_dir) == [("t/text_summary", 1)]
    assert run.stats.dropped == {"payload can't be read": 1}
    assert run.stats.delivered["tensorboard"] == 1


def test_a_run_that_has_ended_gets_no_folder_again(tmp_path):
    """By a thread, or a forked child, that was about to write a large event."""
    from tracelet.capture.events import EventCapture

    run = start(payload_bytes=1 << 16)
    writer = SummaryWriter(tmp_path / "log")
    capture = EventCapture(run._run.folder.payloads_path, 100, run._run.make_event_file)
    tracelet.stop_logging()
    from tensorboard.compat.proto.event_pb2 import Event
    from torch.utils.tensorboard.summary import text

    assert not capture.push(str(writer.log_dir), Event(summary=text("t", "x" * 1000)))
    assert not list((tmp_path / "tracelet-runs").iterdir())


def test_a_full_disk_holds_back_no_file_on_another_and_no_training(small_disk, tmp_path):
    run = start()
    begun, other = SummaryWriter(small_disk / "log"), SummaryWriter(tmp_path / "log")
    begun.add_scalar("s", 0, 0)
    assert run.flush()
    fill(small_disk / "ballast")
    not_begun = SummaryWriter(small_disk / "next")
    for step in range(1, 5):
        for writer in (begun, not_begun, other):
            writer.add_image("i", NOISE, step)
    wait_until_failing(run)
    before_s = time.monotonic()
    for _ in range(5):
        begun.flush()
    assert time.monotonic() - before_s < 2
    deadline_s = time.monotonic() + 20
    while not event_files(tmp_path / "log") or len(points(tmp_path / "log")) < 4:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    (small_disk / "ballast").unlink()
    assert run.flush(20)
    tracelet.stop_logging()
    expected = [("i", step) for step in range(1, 5)]
    assert points(tmp_path / "log") == points(small_disk / "next") == expected
    assert points(small_disk / "log") == [("s", 0), *expected]
