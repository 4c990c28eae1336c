"""The contract on ClearML online: the SDK in a process of its own, the loopback server."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from test_contract import OUTAGE_S, PARAMS, SHOWN, STEPS, expected
from trackers import ClearMLServer

pytest.importorskip("clearml")
pytestmark = pytest.mark.slow

CONTRACT = f"""
    import math, sys, tracelet

    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from given_again import give_again

    def start(name):
        experiment = tracelet.start_logging(name, "tests", "clearml", {{"batch_max_points": 500}})
        print(name, experiment.id, flush=True)
        return experiment

    experiment = start("points")
    (sink,) = [s for b in experiment._run._live.backends for s in b.sinks if s.name == "clearml"]
    calls = give_again(sink)
    for step in range({STEPS}):
        experiment.log_metric("train/loss", step * 0.5, step)
    for step, value in enumerate([1.0, math.nan, math.inf, -math.inf, 2.0]):
        experiment.log_metric("odd", value, step)
    names = ["a?b", "a*b", "é/ü", "../up", "/root", "x" * 400, "x" * 399 + "y", "a//b", ".", "a:b"]
    for name in names:
        experiment.log_metric("names of " + name, 1.0, 1)
    experiment.log_params({PARAMS!r})
    open("notes.txt", "w").write("as it was")
    experiment.log_artifact("notes.txt")
    open("notes.txt", "w").write("changed")
    experiment.log_artifact(bytes([0, 1, 2]), artifact_path="deep/data.bin")
    assert experiment.flush({60 + STEPS / 500})
    tracelet.stop_logging(60)
    assert len(calls) >= 2 and experiment.stats.not_finite == 3, experiment.stats
    assert experiment.stats.artifacts == {{"uploaded": 2}}, experiment.stats

    try:
        with start("fails"):
            raise KeyError("boom")
    except KeyError:
        pass

    experiment = start("outage")
    for step in range({STEPS}):
        experiment.log_metric("train/loss", step * 0.5, step)
    assert experiment.flush({OUTAGE_S + 60 + STEPS / 500})
    tracelet.stop_logging(60)
    assert experiment.stats.retried > 0, experiment.stats
"""


def ids(output):
    lines = (line.split() for line in output.splitlines())
    names = ("points", "fails", "outage", "killed")
    return {words[0]: words[1] for words in lines if len(words) == 2 and words[0] in names}


def test_what_is_logged_arrives_exactly_in_spite_of_refusals_and_outages(
    clearml_server, run_script, tmp_path
):
    def away_for_a_while():
        """From the beginning of the last run's points on."""
        while not done.is_set():
            if any(each["name"] == "outage" for each in list(clearml_server.tasks.values())):
                clearml_server.faults.add("503")
                done.wait(OUTAGE_S + 1)
                clearml_server.faults.clear()
                return
            done.wait(0.01)

    done = threading.Event()
    watcher = threading.Thread(target=away_for_a_while)
    watcher.start()
    try:
        script = run_script(CONTRACT, env=clearml_server.environment())
    finally:
        done.set()
        watcher.join()
    tracker, runs = ClearMLServer(tmp_path, clearml_server), ids(script.stdout)
    found = tracker.scalars(runs["points"])
    assert found[tracker.tag("train/loss")] == expected()
    assert found[tracker.tag("odd")] == [(0, 1.0), (4, 2.0)]
    named = [points for tag, points in found.items() if tag.startswith("names of ")]
    assert named == [[(1, 1.0)]] * 10
    assert tracker.params(runs["points"]) == {**SHOWN, "nested/none": tracker.none}
    assert tracker.artifact(runs["points"], "notes.txt") == b"as it was"
    assert tracker.artifact(runs["points"], "deep/data.bin") == b"\0\1\2"
    assert tracker.status(runs["points"]) == "finished"
    assert tracker.status(runs["fails"]) == "failed"
    assert tracker.scalars(runs["outage"])[tracker.tag("train/loss")] == expected()
    assert clearml_server.schema_violations == []


def test_what_a_killed_process_left_online_is_sent_by_sync_once(
    clearml_server, run_script, tmp_path
):
    code = f"""
        import os, signal, tracelet
        experiment = tracelet.start_logging("killed", "tests", "clearml")
        print("killed", experiment.id, flush=True)
        experiment.log_params({{"lr": 0.1}})
        for step in range({STEPS}):
            experiment.log_metric("train/loss", step * 0.5, step)
            if step == {STEPS} // 2:
                experiment.flush(60)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = clearml_server.environment()
    killed = run_script(code, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    sync = "import sys; from tracelet.cli import main; sys.exit(main(['sync', '--all']))"
    run_script(sync, env=environment)
    tracker, run_id = ClearMLServer(tmp_path, clearml_server), ids(killed.stdout)["killed"]
    assert tracker.scalars(run_id)[tracker.tag("train/loss")] == expected()
    assert tracker.params(run_id)["lr"] == "0.1"
    assert tracker.status(run_id) in ("killed", "failed")
    assert os.listdir(tmp_path / "tracelet-runs") == []
