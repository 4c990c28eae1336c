"""What all tests share. Servers are started on loopback and stopped by the tests themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

# A shell starts what runs in the background with Ctrl-C ignored, and so would every process be that
# the tests start: those that press it would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# clearml reads its environment when it is first imported: in this process it is offline for good,
# and tests that need it online run a script in a process of its own.
_SESSION_DIR = tempfile.TemporaryDirectory(prefix="tracelet-tests-")
os.environ["CLEARML_OFFLINE_MODE"] = "1"
os.environ["CLEARML_CACHE_DIR"] = _SESSION_DIR.name
os.environ["CLEARML_LOG_LEVEL"] = "ERROR"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["TRACKIO_DIR"] = os.path.join(_SESSION_DIR.name, "trackio")
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_ERROR_REPORTING"] = "false"
for _kind in ("DATA", "CACHE", "CONFIG"):
    os.environ[f"WANDB_{_kind}_DIR"] = os.path.join(_SESSION_DIR.name, "wandb")
os.environ["TRACELET_QUIET"] = "1"  # tests look at what is told; test_run_lines.py at the lines
os.environ["TRACELET_ENVIRONMENT"] = "0"  # a git for each run; test_environment.py has it
os.environ["TRACELET_DIR"] = os.path.join(_SESSION_DIR.name, "runs")
os.environ["TRACELET_HISTORY_DIR"] = os.path.join(_SESSION_DIR.name, "history")

import pytest
import tracelet
from tracelet import backends as sinks
from tracelet.pipeline.run import Run
from warm_python import run_new, run_warm

with contextlib.suppress(ImportError):  # the core's tests run without jsonschema as well
    from clearml_server.fixtures import clearml_server  # noqa: F401


def assert_accounts_balance(stats: tracelet.Stats) -> None:
    """Accepted = delivered + pending + counted, for every lane of a run that has come to rest."""
    assert stats.lanes
    for name, lane in stats.lanes.items():
        counted = lane.not_finite + lane.not_meant + sum(lane.set_aside.values())
        counted += lane.folded + lane.held + lane.by_others
        assert lane.delivered + counted == lane.passed, (name, stats)
        assert 0 <= lane.passed <= stats.accepted, (name, stats)
        assert stats.accepted - lane.passed <= stats.pending, (name, stats)
        assert min(lane.set_aside.values(), default=0) >= 0, (name, stats)


@pytest.fixture(autouse=True)
def _accounts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The accounts of every run that a test ends in this process add up."""
    ended: list[tracelet.Stats] = []
    stop = Run.stop

    def stop_and_note(run: Run, timeout_s: float, process_is_ending: bool) -> None:
        was_live = run._live is not None
        stop(run, timeout_s, process_is_ending)
        if was_live and run._live is None:  # all is delivered
            ended.append(run.stats())

    monkeypatch.setattr(Run, "stop", stop_and_note)
    yield
    for stats in ended:
        assert_accounts_balance(stats)


@pytest.fixture(autouse=True)
def _clearml_looks_for_no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a clone with a remote, the SDK reads each file of it at each task, for what it imports:
    5 s of CPU time, which a task's end waits for. The first task of a process has it as it is."""
    module = sys.modules.get("clearml.backend_interface.task.repo.scriptinfo")
    if module is not None:
        monkeypatch.setattr(
            module.ScriptRequirements, "get_requirements", lambda *_, **__: ("", "")
        )


RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


# What trackers make in the working folder. One such folder of 200 MB was once committed.
_LEFT_BY_TRACKERS = ("logs", "runs", "mlruns", "mlartifacts", "mlflow.db", "wandb", ".aim")


@pytest.fixture(autouse=True)
def _repository_is_left_alone(pytestconfig: pytest.Config) -> Iterator[None]:
    """Nothing is written where the tests were started, or by which test is told."""
    places = [pytestconfig.rootpath / name for name in _LEFT_BY_TRACKERS]
    before = {place for place in places if place.exists()}
    yield
    left = [str(place) for place in places if place not in before and place.exists()]
    assert not left, f"this test, or the one beside it, has left {left}"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _accounts: None) -> Iterator[None]:
    """Each test works in a folder of its own, and leaves no run behind, nor a sink's name."""
    monkeypatch.setattr(sinks, "_factories", dict(sinks._factories))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACELET_DIR", str(tmp_path / "tracelet-runs"))
    # Not in it, as it would be: many tests look at what a run has left there.
    monkeypatch.setenv("TRACELET_HISTORY_DIR", os.path.join(_SESSION_DIR.name, "h", tmp_path.name))
    yield
    tracelet.stop_logging()
    # Set by the SDK in this process: the tasks of scripts that tests start would count as part of
    # one of its own.
    for name in ("CLEARML_PROC_MASTER_ID", "TRAINS_PROC_MASTER_ID"):
        os.environ.pop(name, None)


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Runs Python code in a process of its own, offline unless `env` says otherwise. It is forked
    from a warm one (see warm_python.py), or, with `is_new`, begins with the interpreter's start."""

    def run(
        code: str,
        env: dict[str, str] | None = None,
        timeout_s: float = 240,
        check: bool = True,
        is_new: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TRACELET_DIR": str(tmp_path / "tracelet-runs")}
        environment["CLEARML_CACHE_DIR"] = str(tmp_path / "clearml")
        environment.pop("CLEARML_PROC_MASTER_ID", None)  # of a test's own run
        environment.pop("TRAINS_PROC_MASTER_ID", None)
        environment.pop("WANDB_SERVICE", None)  # a wandb-core of its own
        if env and "CLEARML_API_HOST" in env:
            environment.pop("CLEARML_OFFLINE_MODE")
        environment.update(env or {})
        arguments = (textwrap.dedent(code), environment, tmp_path, timeout_s)
        done = run_new(*arguments) if is_new else run_warm(*arguments)
        if check and done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run
