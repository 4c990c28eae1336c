"""A small file system that fills up under the run folder, the ring or the log folder: one warning,
counters right, training goes on, nothing of before lost. Needs root, to mount a tmpfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from readers import event_file_scalars

pytest.importorskip("torch")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


TESTS = str(Path(__file__).parents[1])
AWAY = f"""
    import os, sys, time, tracelet
    from torch.utils.tensorboard import SummaryWriter
    sys.path.insert(0, {TESTS!r})
    from away_sink import away_sink
    sink = away_sink()
"""


@pytest.mark.slow
def test_the_run_folder_fills_up_while_a_backend_is_away(small_disk, run_script, tmp_path):
    """The journal can't grow: calls wait for room in the ring once, then points are counted."""
    done = run_script(
        AWAY
        + """
    config = {"full_ring_timeout_s": 0.3, "ring_slots": 16384}
    experiment = tracelet.start_logging("full", backend="away", config=config)
    writer = SummaryWriter("log")
    for step in range(400_000):  # 25 MB of them
        writer.add_scalar("a", step, step)
    sink.is_back.set()
    assert experiment.flush(60)
    writer.add_scalar("a", 400_000, 400_000)  # there is room again
    tracelet.stop_logging(60)
    stats = experiment.stats
    print(stats)
    dropped = sum(stats.dropped.values())
    assert set(stats.dropped) == {"ring full"}, stats
    assert stats.accepted + dropped == 400_001
    assert stats.pending == 0
    assert stats.delivered == {"tensorboard": stats.accepted, "away": stats.accepted}
    assert len(sink.steps) == stats.accepted
    """,
        env={"TRACELET_DIR": str(small_disk / "runs")},
    )
    assert done.stderr.count("the journal can't be written now") == 1
    assert done.stderr.count("points are being dropped") == 1
    points = [step for step, _, _ in event_file_scalars(tmp_path / "log")["a"]]
    assert points[:200_000] == list(range(200_000))  # of before the disk was full
    assert points[-1] == 400_000


@pytest.mark.slow
def test_the_rings_folder_has_no_room(small_disk, run_script):
    """An error at the start that names the file system, not a SIGBUS in the middle of training."""
    done = run_script(
        f"""
        import tracelet
        (tracelet.start_logging("small", backend="tensorboard", config={{"log_dir": "log"}}))
        tracelet.stop_logging()
        config = {{"ring_dir": {str(small_disk)!r}, "ring_slots": 1 << 20}}
        try:
            tracelet.start_logging("large", backend="tensorboard", config=config)
        except OSError as error:
            print("refused:", error)
        """
    )
    assert "refused:" in done.stdout
    assert "No space left" in done.stdout
    assert list(small_disk.iterdir()) == []


@pytest.mark.slow
def test_tags_that_find_the_rings_folder_full(small_disk, run_script):
    """The ring's own space is there from the start; the table of tags grows, and may not be able
    to: points of new tags are counted, those of known ones go on."""
    done = run_script(
        f"""
        import os, tracelet
        config = {{"ring_dir": {str(small_disk)!r}, "ring_slots": 4096, "payload_bytes": 1 << 16,
                   "log_dir": "log"}}
        experiment = tracelet.start_logging("tags", backend="tensorboard", config=config)
        experiment.log_metric("known", 1.0, 0)
        with open({str(small_disk / "other")!r}, "wb") as other:
            try:
                while True:
                    other.write(bytes(1 << 16))
                    other.flush()
            except OSError:
                pass
        for step in range(1_000):
            experiment.log_metric(f"new/{{step}}" + "x" * 1_000, step, step)
            experiment.log_metric("known", step, step)
        tracelet.stop_logging()
        print(experiment.stats)
        stats = experiment.stats
        assert stats.pending == 0
        assert set(stats.dropped) == {{"tag table full"}}
        assert stats.accepted + stats.dropped["tag table full"] == 2_001
        """
    )
    assert done.stderr.count("points are being dropped (tag table full)") == 1


@pytest.mark.slow
def test_the_log_folder_fills_up(small_disk, run_script):
    done = run_script(
        f"""
        import os, time, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("log", backend="tensorboard")
        writer = SummaryWriter({str(small_disk / "log")!r})
        for step in range(100_000):
            writer.add_scalar("a", step, step)
        assert experiment.flush(30)
        with open({str(small_disk / "other")!r}, "wb") as other:
            try:
                while True:
                    other.write(bytes(1 << 16))
                    other.flush()
            except OSError:
                pass
        for step in range(100_000, 200_000):
            writer.add_scalar("a", step, step)
        deadline_s = time.monotonic() + 60
        while experiment.stats.retried == 0 and time.monotonic() < deadline_s:
            time.sleep(0.01)  # until a write has failed
        os.unlink({str(small_disk / "other")!r})
        tracelet.stop_logging(60)
        print(experiment.stats)
        assert experiment.stats.pending == 0
        assert experiment.stats.dropped == {{}}
        """
    )
    assert done.stderr.count("can't take points now") == 1
    points = [step for step, _, _ in event_file_scalars(small_disk / "log")["a"]]
    assert points == list(range(200_000))
