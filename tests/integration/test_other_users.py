"""Commands of another pid namespace that shares /dev/shm, and of another user with the same
TRACELET_DIR: neither obeys, nor destroys, what is not its own or lives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from dead_runs import POINTS, make_dead_runs
from readers import event_files, quick_events
from tracelet.cli import main

pytestmark = pytest.mark.slow

LIVING = """
import sys, time, tracelet
experiment = tracelet.start_logging("living", backend="tensorboard", config={
    "log_dir": "logs", "drain_interval_s": 0.01, "ring_slots": 1024, "payload_bytes": 65536})
for step in range(100):
    experiment.log_metric("a", step, step)
ring = experiment._run.ring
while ring.tail < 100:  # an empty one is the one that may be taken for an orphan
    time.sleep(0.01)
print(experiment._run.ring.path, experiment._run.folder.run_id, flush=True)
sys.stdin.readline()
tracelet.stop_logging()
"""


def working(*commands):
    """The first that can be run here; else the test is skipped."""
    for command in commands:
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "true"], capture_output=True, timeout=60).returncode == 0:
            return list(command)
    pytest.skip(f"the kernel, or the container, forbids {commands[0][0]}")


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs /dev/shm")
def test_another_pid_namespace_takes_no_living_ring(tmp_path):
    alone = ("unshare", "--pid", "--fork", "--mount-proc")
    unshare = working(alone, (*alone, "--user", "--map-root-user"))
    environment = {**os.environ, "TRACELET_RING_DIR": "/dev/shm", "CLEARML_OFFLINE_MODE": "1"}
    living = subprocess.Popen(
        [sys.executable, "-c", LIVING],
        env=environment, cwd=tmp_path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def tracelet(*arguments, runs_dir):
        done = subprocess.run(
            [*unshare, sys.executable, "-m", "tracelet", *arguments, "--runs-dir", str(runs_dir)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    try:
        ring, run_id = living.stdout.readline().split()
        os.utime(ring, (time.time() - 3_600,) * 2)  # not as young as one that is being made
        runs_dir = tmp_path / "tracelet-runs"
        assert f"{run_id}  running" in tracelet("runs", runs_dir=runs_dir).stdout
        assert tracelet("sync", run_id, runs_dir=runs_dir).returncode == 1
        assert tracelet("sync", "--all", runs_dir=runs_dir).returncode == 0  # nothing to send
        assert tracelet("clean", run_id, "--yes", runs_dir=runs_dir).returncode == 1
        for folder in (runs_dir, tmp_path / "others"):  # there the ring is of no run that is known
            assert ring not in tracelet("clean", runs_dir=folder).stdout
        assert os.path.exists(ring)
    finally:
        living.communicate("\n", timeout=60)
    assert living.returncode == 0
    steps = [
        event.step
        for path in event_files(tmp_path / "logs")
        for event in quick_events(path)
        for _ in event.summary.value
    ]
    assert steps == list(range(100))
    assert not os.path.exists(ring)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_another_user_s_run_is_named_and_neither_obeyed_nor_destroyed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TRACELET_RING_DIR", str(tmp_path / "shm"))
    runs = make_dead_runs(tmp_path, ["mine", "theirs"])
    theirs = Path(runs["theirs"].path)
    for path in (theirs, *theirs.rglob("*")):
        os.chown(path, 65534, 65534)
    before = {path: path.stat().st_mtime_ns for path in theirs.rglob("*")}
    assert main(["sync", "--all"]) == 1
    assert "belongs to the user 65534" in capsys.readouterr().err
    assert not os.path.exists(runs["mine"].path)
    assert main(["runs"]) == 1
    assert main(["clean", "--yes"]) in (0, 1)
    assert main(["clean", runs["theirs"].run_id, "--yes"]) == 1
    assert {path: path.stat().st_mtime_ns for path in theirs.rglob("*")} == before
    assert os.path.exists(runs["theirs"].ring_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_second_user_can_do_nothing_to_a_run_in_a_shared_folder(monkeypatch):
    setpriv = working(("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"))
    probe = [*setpriv, sys.executable, "-c", "import tracelet"]
    if subprocess.run(probe, capture_output=True, timeout=60, cwd="/").returncode:
        pytest.skip("the second user can't read this Python's packages")
    with tempfile.TemporaryDirectory(prefix="tracelet-shared-") as shared:
        folder = Path(shared)
        folder.chmod(0o1777)
        monkeypatch.setenv("TRACELET_RING_DIR", str(folder / "shm"))
        (run,) = make_dead_runs(folder, ["mine"]).values()
        (folder / "tracelet-runs").chmod(0o1777)
        for arguments in (["sync", "--all"], ["clean", "--yes"], ["sync", run.run_id], ["runs"]):
            done = subprocess.run(
                [*setpriv, sys.executable, "-m", "tracelet", *arguments,
                 "--runs-dir", str(folder / "tracelet-runs")],
                env={**os.environ, "HOME": shared, "CLEARML_OFFLINE_MODE": "1"},
                cwd="/", capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert "Traceback" not in done.stderr, done.stderr
            assert arguments == ["clean", "--yes"] or done.returncode != 0, (arguments, done)
            assert run.run_id in done.stdout + done.stderr
            assert os.path.exists(run.ring_path)
        assert main(["sync", run.run_id, "--runs-dir", str(folder / "tracelet-runs")]) == 0
        files = event_files(folder / "logs" / "mine")
        events = [event for path in files for event in quick_events(path)]
        assert sum(len(event.summary.value) for event in events) == POINTS
