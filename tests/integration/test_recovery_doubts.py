"""Recovery when it can't look: an error of the disk, no descriptor, another boot. What could not be
read is not taken for damaged, and nothing is destroyed for it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter

import pytest
from dead_runs import POINTS, make_dead_runs
from read_only import read_only
from readers import event_file_scalars, steps_in
from tracelet import _core
from tracelet.backends.clearml.session import edit_task
from tracelet.backends.tensorboard.recovered import LEDGER, SYNCED, RecoveredFiles
from tracelet.cli import main
from tracelet.runs import stored_run
from tracelet.runs.stored_run import StoredRun, UnreadableRunError, find_runs

pytest.importorskip("torch")


@pytest.fixture
def killed(run_script, tmp_path):
    def run(code):
        done = run_script(textwrap.dedent(code), check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        (left,) = find_runs(str(tmp_path / "tracelet-runs"))
        return left

    return run


@pytest.mark.parametrize("host", ["", "node7"])
def test_scalars_of_the_ring_are_sent_after_another_boot_beside_histograms_and_suffixes(
    killed, tmp_path, monkeypatch, capsys, host
):
    """On this machine, or of another one whose ring is in a folder that both have."""
    run = killed("""
        import os, numpy as np, tracelet
        from torch.utils.tensorboard import SummaryWriter
        tracelet.start_logging("boot", "tests", "tensorboard", {"drain_interval_s": 60})
        suffixed = SummaryWriter("log", filename_suffix=".x")
        writer = SummaryWriter("log")
        for step in range(20):
            suffixed.add_scalar("other", step, step)
            writer.add_histogram("h", np.arange(100.0), step)
            writer.add_scalar("loss", step, step)
        os.kill(os.getpid(), 9)
    """)
    monkeypatch.setattr(stored_run, "boot_id", lambda: "another")
    if host:
        run.update(host=host)
    why = f"it ran on {host}" if host else "the machine was started anew since"
    for _ in range(2):  # the histograms are lost, and told, and counted once
        assert main(["sync", run.run_id]) == 1
        told = capsys.readouterr().err
        assert f"20 points are lost: {why}, and what lies behind it may be older" in told
        assert "what is left is kept" in told
        assert os.path.exists(run.ring_path)
        assert len(StoredRun(run.path).manifest["damages"]) == 1
    scalars = event_file_scalars(tmp_path / "log")
    for tag in ("other", "loss"):
        assert [step for step, _, _ in scalars[tag]] == list(range(20)), tag


def test_a_file_that_can_t_be_read_now_is_no_file_without_events(tmp_path, monkeypatch):
    """An error of the disk is raised; the file stays as it is."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "log")) as writer:
        for step in range(100):
            writer.add_scalar("a", step, step)
    (source,) = (tmp_path / "log").iterdir()
    path = tmp_path / "events.out.tfevents.1700000000.host.1.tracelet000001"
    shutil.copy(source, path)
    size_bytes = path.stat().st_size
    (tmp_path / "run").mkdir()
    ledger = _core.FileLedger.create(str(tmp_path / "run" / LEDGER))
    ledger.acknowledge(ledger.add(1, str(path)), size_bytes, 100, 100)
    _core.FileLedger.create(str(tmp_path / "run" / SYNCED))
    del ledger
    ring = _core.Ring.create(str(tmp_path / "ring"), 16, 0.0)
    recovered = RecoveredFiles(str(tmp_path / "run"), True)
    files = _core.EventFileSet(ring, recovered.ledger)
    recovered.take_up(files)
    (before,) = recovered.before.values()
    assert [end for _, end, _ in before.ends] == [size_bytes]
    before.ends = [(entry, 0, 0) for entry, _, _ in before.ends]  # as if nothing could be read
    recovered.settle()
    assert path.stat().st_size == size_bytes


def test_a_batch_without_a_line_says_nothing_of_those_behind_it(killed):
    """Points between a line and its note in the ledger, behind 70,000 that are not finite."""
    pytest.importorskip("clearml")
    run = killed("""
        import gc, os, time, tracelet
        from tracelet.backends.clearml.offline import OfflineClearMLSink
        from torch.utils.tensorboard import SummaryWriter

        class DiesBeforeTheNote:
            def __init__(self, ledger):
                self.ledger = ledger
            def acknowledge(self, *_):
                os.kill(os.getpid(), 9)
            def __getattr__(self, name):
                return getattr(self.ledger, name)

        tracelet.start_logging("nan", "tests", "clearml", {"drain_interval_s": 60})
        (sink,) = [each for each in gc.get_objects() if isinstance(each, OfflineClearMLSink)]
        sink._ledger = DiesBeforeTheNote(sink._ledger)
        writer = SummaryWriter("log")
        for step in range(70_000):
            writer.add_scalar("nan", float("nan"), step)
        for step in range(50):
            writer.add_scalar("loss", step, step)
        tracelet.get_active_experiment().flush(60)
        time.sleep(60)
    """)
    folder = run.manifest["reopen"]["clearml"]["offline_folder"]
    assert main(["sync", run.run_id]) == 0
    with open(os.path.join(folder, "metrics.jsonl")) as file:
        events = [event for line in file for event in json.loads(line)]
    steps = Counter(event["iter"] for event in events if event.get("variant") == "loss")
    assert steps == Counter(range(50))


def test_a_session_s_damaged_task_is_not_replaced_by_one_edit(tmp_path):
    whole = json.dumps({"id": "x", "name": "mine", "hyperparams": {"General": {}}})
    (tmp_path / "task.json").write_text(whole[:-5])
    with pytest.raises(OSError, match="is damaged, and is left as it is"):
        edit_task(tmp_path, lambda content: content.update(configuration={"a": 1}))
    assert (tmp_path / "task.json").read_text() == whole[:-5]
    (tmp_path / "task.json").write_text(whole)
    edit_task(tmp_path, lambda content: content.update(configuration={"a": 1}))
    assert json.loads((tmp_path / "task.json").read_text())["name"] == "mine"


def test_a_child_without_a_descriptor_for_its_hold_takes_it_with_a_later_point(killed, tmp_path):
    """The parent is dead, the child logs on: the run is not taken from it."""
    run = killed("""
        import os, resource, time, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("held", "tests", "tensorboard")
        writer = SummaryWriter("log")
        writer.add_scalar("a", 0, 0)
        assert experiment.flush(60)
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)  # else whoever reads the script's output waits for this one, too
            os.dup2(null, 2)
            os.close(null)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            writer.add_scalar("child", 0, 0)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            writer.add_scalar("child", 1, 1)
            open("logged", "w").close()
            while not os.path.exists("go"):
                time.sleep(0.02)
            for step in range(2, 100):
                writer.add_scalar("child", step, step)
            os._exit(0)
        while not os.path.exists("logged"):
            time.sleep(0.02)
        os.kill(os.getpid(), 9)
    """)
    assert main(["sync", run.run_id]) == 1  # the child lives
    (tmp_path / "go").touch()
    deadline = 60
    while main(["sync", run.run_id]) != 0:
        deadline -= 1
        assert deadline, "the child did not end"
    scalars = event_file_scalars(tmp_path / "log")
    assert [step for step, _, _ in scalars["child"]] == list(range(100))


@pytest.mark.slow
def test_a_ring_on_a_read_only_file_system_keeps_no_other_run_from_being_sent(tmp_path):
    """It can't be taken from its users for writing, which ended all three commands."""
    walled_in = tmp_path / "walled in"
    walled_in.mkdir()
    (walled,) = make_dead_runs(tmp_path, ["walled"], TRACELET_RING_DIR=str(walled_in)).values()
    (good,) = make_dead_runs(tmp_path, ["good"]).values()
    prefix = read_only(walled_in)

    def tracelet(*arguments):
        return subprocess.run(
            [*prefix, sys.executable, "-m", "tracelet", *arguments], cwd=tmp_path, timeout=120,
            env={**os.environ, "TRACELET_DIR": str(tmp_path / "tracelet-runs")},
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    listed = tracelet("runs")
    assert all(f"{run.run_id}  unsent" in listed.stdout for run in (walled, good)), listed
    cleaned = tracelet("clean")
    assert walled.run_id not in cleaned.stdout + cleaned.stderr, cleaned
    assert good.run_id not in cleaned.stdout, cleaned
    sent = tracelet("sync", "--all")
    assert sent.returncode == 1, sent
    assert walled.run_id in sent.stderr, sent
    assert "Read-only" in sent.stderr or "Permission" in sent.stderr, sent
    assert not os.path.exists(good.path)
    assert steps_in(tmp_path / "logs" / "good") == list(range(POINTS))
    for path in (walled_in, *walled_in.iterdir()):
        path.chmod(0o700)
    assert main(["sync", "--runs-dir", os.path.dirname(walled.path), walled.run_id]) == 0
    assert steps_in(tmp_path / "logs" / "walled") == list(range(POINTS))


def test_a_ring_that_can_t_be_opened_now_is_not_taken_for_one_that_nobody_holds(killed):
    run = killed("""
        import os, tracelet
        tracelet.start_logging("few", "tests", "tensorboard").log_metric("loss", 0.5, 1)
        os.kill(os.getpid(), 9)
    """)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))  # no descriptor is to be had
    try:
        with pytest.raises(UnreadableRunError, match="can't be opened now"):
            run.take_ring()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert main(["sync", run.run_id]) == 0
