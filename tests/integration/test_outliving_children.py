"""Children that outlive a killed parent: those that have logged since their fork keep its run
alive, others do not, and what these log after `tracelet sync` has sent it is told and counted."""

from __future__ import annotations

import os
import signal
import time

import pytest
from readers import event_files, quick_events
from tracelet.cli import main
from tracelet.runs.stored_run import find_runs

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="of forks")

_HEAD = """
import json, multiprocessing, os, signal, subprocess, sys, time
import numpy as np
import tracelet
from torch.utils.tensorboard import SummaryWriter
experiment = tracelet.start_logging(
    "outlived", "tests", backend="tensorboard", config={"log_dir": "log"}
)
writer = SummaryWriter("log")
writer.add_scalar("parent", 0.5, 1)
writer.add_text("parent", "text", 1)

def detach():
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(os.open("told.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)

def say(name, content=""):
    with open(name + ".new", "w") as file:
        file.write(content)
    os.rename(name + ".new", name)

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)

LOG = {
    "add_scalar": lambda step: writer.add_scalar("child", 0.5, step),
    "add_histogram": lambda step: writer.add_histogram("child", np.ones(3), step),
    "add_text": lambda step: writer.add_text("child", "text", step),
    "log_metric": lambda step: experiment.log_metric("child", 0.5, step),
}

def log_when_told():
    detach()
    say("pid", str(os.getpid()))
    wait_for("go")
    for step, log in enumerate(LOG.values()):
        log(step)
    say("dropped", json.dumps(experiment.stats.dropped))
    os._exit(0)
"""
_KILL = "\nwait_for('pid')\nos.kill(os.getpid(), signal.SIGKILL)\n"

SLEEPING = {
    "fork": "if os.fork() == 0: log_when_told()",
    "multiprocessing": (
        "multiprocessing.get_context('fork').Process(target=log_when_told).start()"
    ),
    "of a child": "if os.fork() == 0:\n    if os.fork() == 0: log_when_told()\n    os._exit(0)",
    "of a child that logged": (
        "if os.fork() == 0:\n"
        "    LOG['add_scalar'](100)\n"
        "    if os.fork() == 0: log_when_told()\n"
        "    os._exit(0)\n"
        "os.wait()"
    ),
}


def killed(run_script, tmp_path, body):
    done = run_script(_HEAD + body + _KILL, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (run,) = find_runs(str(tmp_path / "tracelet-runs"))
    return run


def wait_for(condition):
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def points(tmp_path, tag):
    return sorted(
        event.step
        for path in event_files(tmp_path / "log")
        for event in quick_events(path)
        for value in event.summary.value
        if value.tag.split("/")[0] == tag
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLEEPING)
def test_a_child_that_has_not_logged_keeps_no_dead_parents_run(kind, run_script, tmp_path, capsys):
    run = killed(run_script, tmp_path, SLEEPING[kind])
    assert run.state == "unsent"
    assert main(["sync", run.run_id]) == 0, capsys.readouterr().err
    assert points(tmp_path, "parent") == [1, 1]
    assert not os.path.exists(run.path)
    (tmp_path / "go").touch()
    wait_for((tmp_path / "dropped").exists)
    assert (tmp_path / "dropped").read_text() == '{"run ended": 4}'
    assert (tmp_path / "told.txt").read_text().count("logs into a run that has ended") == 1
    assert points(tmp_path, "child") == ([100] if "that logged" in kind else [])


@pytest.mark.slow
def test_what_runs_another_program_keeps_no_dead_parents_run(run_script, tmp_path):
    run = killed(
        run_script, tmp_path, "say('pid', str(subprocess.Popen(['sleep', '60'], stdout=2).pid))"
    )
    try:
        assert run.state == "unsent"
        assert main(["sync", run.run_id]) == 0
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert points(tmp_path, "parent") == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["add_scalar", "add_histogram", "add_text", "log_metric"])
def test_a_child_that_has_logged_keeps_a_dead_parents_run(way, run_script, tmp_path, capsys):
    run = killed(
        run_script,
        tmp_path,
        f"if os.fork() == 0:\n    LOG[{way!r}](100)\n    log_when_told()",
    )
    assert run.state == "running"
    assert main(["sync", run.run_id]) == 1
    assert "or a child of it, is alive" in capsys.readouterr().err
    (tmp_path / "go").touch()
    wait_for(lambda: not run.is_alive)
    assert (tmp_path / "dropped").read_text() == "{}"
    assert main(["sync", run.run_id]) == 0
    assert points(tmp_path, "parent") == [1, 1]
    assert points(tmp_path, "child") == [0, 1, 2, 3, 100]


@pytest.mark.slow
def test_a_child_that_first_logs_after_its_parents_death_keeps_the_run(run_script, tmp_path):
    body = """
def log_and_stay():
    detach()
    say("pid", str(os.getpid()))
    wait_for("go")
    LOG["add_scalar"](100)
    say("logged")
    wait_for("end")
    os._exit(0)
if os.fork() == 0:
    log_and_stay()
"""
    run = killed(run_script, tmp_path, body)
    assert run.state == "unsent"
    (tmp_path / "go").touch()
    wait_for((tmp_path / "logged").exists)
    assert run.state == "running"
    (tmp_path / "end").touch()
    wait_for(lambda: not run.is_alive)
    assert main(["sync", run.run_id]) == 0
    assert points(tmp_path, "child") == [100]
