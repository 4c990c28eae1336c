"""Ctrl-C at each line of a start and of a stop, as far as they are tracelet's own: nothing stays
behind a start, and a stop can be called again."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest
import tracelet
from tracelet.monitor import console, system
from tracelet.pipeline import lifecycle, monitors
from tracelet.pipeline import run as run_module
from tracelet.runs.stored_run import find_runs

LOOKED_AT = {each.__file__ for each in (lifecycle, run_module, monitors, console, system)}
MONITORS = {"environment": True, "console": True, "system_metrics": True, "system_interval_s": 60}
POINTS = 50


class InterruptAt:
    """Raises KeyboardInterrupt before the line that is the `number`-th to be run in this thread."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.where = ""

    def __enter__(self) -> InterruptAt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame, event, arg):
        if frame.f_code.co_filename not in LOOKED_AT:
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


def start(log_dir: Path) -> tracelet.Experiment:
    config = {"log_dir": str(log_dir), **MONITORS}
    return tracelet.start_logging("cut", "tests", "tensorboard", config)


def is_captured() -> bool:
    return any("write" in vars(each) for each in (sys.stdout, sys.stderr))


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("tracelet")]


pytestmark = pytest.mark.slow  # a run for each line


def put_own_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the place of those that pytest sets for the test's own part: another test of the process
    may have left ClearML's `write` on them."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO())


@pytest.fixture(autouse=True)
def _no_tracer():
    before = sys.gettrace()
    yield
    sys.settrace(before)


def test_ctrl_c_at_any_line_of_a_start_leaves_nothing(tmp_path, monkeypatch):
    put_own_streams(monkeypatch)
    start(tmp_path / "log")  # what is imported at the first start only
    tracelet.stop_logging()
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    number = 0
    while True:
        number += 1
        with InterruptAt(number) as cut, contextlib.suppress(KeyboardInterrupt):
            start(tmp_path / "log")
        if not cut.where:
            break
        if lifecycle.active_run() is None:
            assert threads() == [], cut.where
            assert not is_captured(), cut.where
            assert find_runs(str(tmp_path / "tracelet-runs")) == [], cut.where
        # else it had begun, and the user may end it
        tracelet.stop_logging()
        assert threads() == [], cut.where
        assert not is_captured(), cut.where
        assert find_runs(str(tmp_path / "tracelet-runs")) == [], cut.where
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers, (
            cut.where
        )
    assert number > 100
    tracelet.stop_logging()


def test_a_stop_that_ctrl_c_cut_at_any_line_is_finished_by_the_next(tmp_path, monkeypatch):
    put_own_streams(monkeypatch)
    number = 0
    while True:
        number += 1
        log_dir = tmp_path / f"log{number}"
        experiment = start(log_dir)
        print(f"line {number}")
        for step in range(POINTS):
            experiment.log_metric("loss", step, step)
        with InterruptAt(number) as cut, contextlib.suppress(KeyboardInterrupt):
            tracelet.stop_logging()
        tracelet.stop_logging()
        assert threads() == [], cut.where
        assert not is_captured(), cut.where
        assert experiment.stats.delivered == {"tensorboard": POINTS}, cut.where
        left = find_runs(str(tmp_path / "tracelet-runs"))
        # It may have come between two hands: what was printed stays in the run's own folder.
        assert not left or cut.where.startswith("monitors.py"), cut.where
        kept = [path for each in left for path in Path(each.path).rglob("console.log")]
        kept = kept or [log_dir / "artifacts" / "console.log"]
        assert [f"line {number}\n" in each.read_text() for each in kept] == [True], cut.where
        for each in left:
            shutil.rmtree(each.path)
        if not cut.where:
            break
    assert number > 50
