"""What a way to log scalars offers to be measured, in a worker process."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks import loops

PIECES = 5  # the numbers of calls are multiples of it
_CHILDREN_TIMEOUT_S = 30.0
_SCAN_TIMEOUT_S = 60.0


class Contender:
    """A way to log scalars. Made in a worker process, with a folder for all of its files."""

    loops: dict[str, Callable[..., int]] = {  # noqa: RUF012
        "positional": loops.positional,
        "keyword": loops.keyword,
    }
    """The ways to call it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None
        """What the loops call; set by the subclass."""
        self.sent = 0
        self._loops = {name: loops.fresh(loop) for name, loop in self.loops.items()}
        self._empty = loops.EmptyWriter()
        self._empty_loops = {
            name: loops.fresh(getattr(loops, name)) for name in ("positional", "keyword")
        }

    def settle(self) -> None:
        """Waits until the points logged so far are delivered, where the contender can tell."""

    def close(self) -> None:
        """Ends logging as its users do."""

    def arrived(self) -> dict[str, int]:
        """How many points are in its files, by sink; after `close`."""
        raise NotImplementedError

    def run_loop(self, shape: str, calls: int) -> int:
        """Logs so many points; returns the time in ns."""
        first_step, self.sent = self.sent, self.sent + calls
        return self._loops[shape](self.writer, loops.TAG, loops.VALUE, first_step, calls)

    def run_empty_loop(self, shape: str, calls: int) -> int:
        loop = self._empty_loops[shape]
        return loop(self._empty, loops.TAG, loops.VALUE, self.sent, calls)

    def burst(
        self, shape: str, calls: int, empty_calls: int, empty_first: bool
    ) -> dict[str, float]:
        """ns per call of the contender, of the empty method, and of a bare loop's iteration.

        Both take turns in `PIECES` pieces, so that what disturbs one mostly disturbs the other.
        """
        call_ns = empty_ns = 0
        for piece in range(2 * PIECES):
            if empty_first == (piece % 2 == 0):
                empty_ns += self.run_empty_loop(shape, empty_calls // PIECES)
            else:
                call_ns += self.run_loop(shape, calls // PIECES)
        return {
            "call": call_ns / calls,
            "empty": empty_ns / empty_calls,
            "bare_loop": loops.nothing(empty_calls) / empty_calls,
        }

    def account(self, points: int) -> dict[str, Any]:
        """All that so many points cost, with the end of logging, and what arrived."""
        shape = "positional"
        cpu_s, start_s = cpu_time_s(), time.perf_counter()
        loop_ns = self.run_loop(shape, points)
        self.close()
        wall_s = time.perf_counter() - start_s
        wait_for_children()
        return {
            "points": points,
            "call_us": loop_ns / points / 1e3,
            "total_us": wall_s / points * 1e6,
            "cpu_us": (cpu_time_s() - cpu_s) / points * 1e6,
            "sent": self.sent,
            "arrived": self.arrived(),
        }


def wait_for_scan(task: Any) -> None:
    """Until the ClearML SDK has looked through the repository and the packages.

    It does so in a thread that Task.init starts, and Task.close waits for it, sometimes for
    minutes. It has to do with the start of a task, which is not measured here.
    """
    task._wait_for_repo_detection(timeout=_SCAN_TIMEOUT_S)


def cpu_time_s() -> float:
    """User and system time of this process, all its threads, its children dead and alive."""
    total_s = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total_s += usage.ru_utime + usage.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total_s += times.user + times.system
    return total_s


def wait_for_children() -> None:
    """Until the helper processes of an SDK have ended, or for half a minute."""
    deadline_s = time.monotonic() + _CHILDREN_TIMEOUT_S
    while time.monotonic() < deadline_s:
        children = psutil.Process().children(recursive=True)
        if all(_has_ended(child) for child in children):
            return
        time.sleep(0.05)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
