"""Runs on Weights & Biases online: the real wandb-core against a stand-in for its server."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from tracelet.runs.stored_run import find_runs
from wandb_server import WandbServer

pytest.importorskip("wandb")
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from trackers import Wandb

pytestmark = pytest.mark.slow
COUNT = 300
SYNC = "import sys; from tracelet.cli import main; sys.exit(main(['sync', '--all']))"


@pytest.fixture
def server():
    server = WandbServer()
    yield server
    server.stop()


def script(body, config):
    config = {**config, "wandb": {"dir": "."}}
    return f"""
import os, signal, sys, time, tracelet
experiment = tracelet.start_logging("online", "tests", "wandb", {config!r})
print("id", experiment.id, experiment.url, flush=True)
def log(steps):
    for step in steps:
        experiment.log_metric("x", step * 0.5, step)
{body}
"""


def ids(done):
    (line,) = [line.split() for line in done.stdout.splitlines() if line.startswith("id ")]
    return line[1], line[2]


def assert_has_all(run):
    assert [row["_step"] for row in run.rows()] == list(range(COUNT))
    found = [(row["global_step"], row["x"]) for row in run.rows()]
    assert found == [(step, step * 0.5) for step in range(COUNT)]


def test_a_run_arrives_as_it_was_logged(server, run_script, tmp_path):
    body = f"""
experiment.log_params({{"lr": 0.1, "model": {{"depth": 3}}}})
log(range({COUNT}))
tracelet.stop_logging()
assert experiment.stats.delivered["wandb"] == {COUNT}, experiment.stats
try:
    with tracelet.logging("wandb", "fails", "tests", {{"wandb": {{"id": "fails"}}}}):
        raise KeyError("boom")
except KeyError:
    pass
"""
    done = run_script(script(body, {}), env=server.environment(tmp_path))
    run_id, url = ids(done)
    run = server.runs[run_id]
    assert_has_all(run)
    assert url == f"{server.url}/me/tests/runs/{run_id}"
    assert run.params == {"lr": 0.1, "model": {"depth": 3}}
    assert (run.exit_code, server.runs["fails"].exit_code) == (0, 1)


@pytest.mark.parametrize("has_lines", [False, True])
def test_what_a_killed_run_left_is_on_the_server_once_after_sync(
    has_lines, server, run_script, tmp_path
):
    """The server has nothing of it yet, or what wandb-core had sent; there is more in W&B's file,
    and more behind it in tracelet's folder."""
    environment = server.environment(tmp_path)
    if not has_lines:
        environment["WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL"] = "600"

    def tell():
        if server.has_lines.wait(100):
            (tmp_path / "has lines").touch()

    teller = threading.Thread(target=tell)
    teller.start()
    body = f"""
experiment.log_params({{"lr": 0.1}})
log(range(100))
experiment.log_image("picture", [[0, 255], [255, 0]], 99)
assert experiment.flush(60)
deadline_s = time.monotonic() + 60
while {has_lines} and not os.path.exists("has lines"):
    assert time.monotonic() < deadline_s
    time.sleep(0.01)
log(range(100, 200))
assert experiment.flush(60)
log(range(200, {COUNT}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = run_script(script(body, {}), env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run_id, _ = ids(killed)
    run = server.runs[run_id]
    assert bool(run.lines) == has_lines
    server.has_lines.set()
    teller.join()
    run_script(SYNC, env=server.environment(tmp_path))
    assert_has_all(run)
    assert run.params == {"lr": 0.1}
    assert run.exit_code == 137
    picture = run.rows()[99]["picture"]
    files = list(tmp_path.rglob(picture["path"]))
    assert len(files) == (1 if has_lines else 2)  # the resumed run has it, too, and sends it
    assert find_runs(os.environ["TRACELET_DIR"]) == []


def test_a_run_that_another_process_has_resumed_is_left_to_that_one(server, run_script, tmp_path):
    """A training that was killed and restarted; `tracelet sync` comes while the second one lives,
    and again when it has ended."""
    own = f"{{'dir': {str(tmp_path)!r}, 'id': 'job', 'resume': 'allow'}}"
    begin = f"""
import os, signal, subprocess, sys, tracelet
experiment = tracelet.start_logging("t", "tests", "wandb", {{"wandb": {own}}})
def log(steps):
    for step in steps:
        experiment.log_metric("x", step, step)
    assert experiment.flush(60)
"""
    environment = server.environment(tmp_path)
    unsent = {**environment, "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "600"}
    kill = "log(range(100))\nos.kill(os.getpid(), signal.SIGKILL)"
    killed = run_script(begin + kill, env=unsent, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = find_runs(os.environ["TRACELET_DIR"])
    body = f"""
log(range(1000, 1005))
environment = {{name: os.environ[name] for name in os.environ if name != "WANDB_SERVICE"}}
done = subprocess.run([sys.executable, "-c", {SYNC!r}], env=environment, capture_output=True)
assert done.returncode == 1 and b"resumed by another process" in done.stdout + done.stderr, done
log(range(1005, 1050))
tracelet.stop_logging()
"""
    run_script(begin + body, env=environment)
    run = server.runs["job"]
    assert run_script(SYNC, env=environment, check=False).returncode == 1
    assert [row["x"] for row in run.rows()] == list(range(1000, 1050))
    assert run.exit_code == 0
    assert [each.run_id for each in find_runs(os.environ["TRACELET_DIR"])] == [left.run_id]


def test_a_server_that_is_not_there_makes_the_run_an_offline_one(run_script, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        environment = {
            "WANDB_BASE_URL": f"http://127.0.0.1:{taken.getsockname()[1]}", "WANDB_MODE": "online",
            "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"),
        }  # fmt: skip
        body = f"log(range({COUNT}))"
        begin_s = time.monotonic()
        done = run_script(script(body, {"start_timeout_s": 4}), env=environment)
    assert time.monotonic() - begin_s < 90
    assert "the run is kept offline" in done.stderr
    found = Wandb(tmp_path).scalars(ids(done)[0])
    assert found["x"] == [(step, step * 0.5) for step in range(COUNT)]


def test_a_server_that_goes_away_holds_back_neither_the_training_nor_the_exit(
    server, run_script, tmp_path
):
    gone = threading.Event()

    def go():
        if server.has_lines.wait(100):
            server.stop()
            (tmp_path / "gone").touch()
            gone.set()

    goer = threading.Thread(target=go)
    goer.start()
    body = f"""
log(range(10))
while not os.path.exists("gone"):
    time.sleep(0.01)
begin_s = time.monotonic()
log(range(10, {COUNT}))
assert time.monotonic() - begin_s < 5
assert experiment.flush(60)
print("end", time.time(), flush=True)
"""
    done = run_script(script(body, {"exit_timeout_s": 3}), env=server.environment(tmp_path))
    end_s = time.time()
    goer.join()
    assert gone.is_set()
    (line,) = [line.split() for line in done.stdout.splitlines() if line.startswith("end ")]
    assert end_s - float(line[1]) < 30
    assert "tracelet sync" in done.stderr, done.stderr
    run = server.runs[ids(done)[0]]
    assert len(run.lines) < COUNT
    server.start()
    run_script(SYNC, env=server.environment(tmp_path))
    assert_has_all(run)
    assert run.exit_code == 0
    assert find_runs(os.environ["TRACELET_DIR"]) == []
