"""Tracelet as its users run it: torch's SummaryWriter, an offline ClearML task, an event file."""

from __future__ import annotations

import resource
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import arrivals, loops
from benchmarks.contender import Contender, cpu_time_s, wait_for_scan

_FLUSH_TIMEOUT_S = 600.0


class TraceletWriter(Contender):
    """`writer` is torch's SummaryWriter while a run with both sinks is active."""

    def __init__(self, folder: Path, zip_session: bool = False) -> None:
        super().__init__(folder)
        import clearml.task
        import tracelet
        from torch.utils.tensorboard import SummaryWriter

        self._zip = MeasuredZip if zip_session else UnwrittenZip
        clearml.task.ZipFile = self._zip
        self._tracelet = tracelet
        config = {"stop_timeout_s": _FLUSH_TIMEOUT_S}
        self._experiment = tracelet.start_logging(
            exp_name="bench", project="bench", backend="clearml", config=config
        )
        wait_for_scan(clearml.Task.current_task())
        self.writer = SummaryWriter(str(folder / "events"))

    def settle(self) -> None:
        if not self._experiment.flush(_FLUSH_TIMEOUT_S):
            raise RuntimeError(f"flush took longer than {_FLUSH_TIMEOUT_S:g} s")

    def close(self) -> None:
        self._tracelet.stop_logging()

    def arrived(self) -> dict[str, int]:
        return {
            "clearml": arrivals.clearml_points(self.folder / "clearml"),
            "event file": arrivals.event_file_points(self.folder / "events"),
        }

    def delivered(self) -> dict[str, int]:
        """As `arrived`, by Tracelet's own account."""
        stats = self._experiment.stats
        return {"accepted": stats.accepted, **stats.delivered}

    def sustained(self, calls: int) -> dict[str, float]:
        """ns per call when far more points are logged than the ring holds."""
        empty_ns = self.run_empty_loop("positional", calls) / calls
        call_ns = self.run_loop("positional", calls) / calls
        return {"calls": calls, "call": call_ns, "empty": empty_ns}

    def single_calls(self, calls: int, pause_after: int) -> dict[str, dict[str, float]]:
        """Percentiles of single calls in ns, of ours and of the empty method.

        After each `pause_after` calls the ring is emptied, untimed; 0: never.
        """
        percentiles = {}
        piece = pause_after or calls
        for name, writer in (("call", self.writer), ("empty", loops.EmptyWriter())):
            times_ns = np.zeros(calls, dtype=np.int64)
            loop = loops.fresh(loops.single_calls)
            for start in range(0, calls, piece):
                loop(writer, loops.TAG, loops.VALUE, self.sent, times_ns[start : start + piece])
                if pause_after:
                    self.settle()
            if name == "call":
                self.sent += calls
            percentiles[name] = _percentiles(times_ns)
        return percentiles

    def ship(self, points: int) -> dict[str, Any]:
        """CPU time and the time of `stop_logging` for so many points, the SDK's zip apart."""
        before_s = _own_cpu_s()
        self.run_empty_loop("positional", points)
        empty_cpu_s = _own_cpu_s() - before_s

        cpu_s, start_s = cpu_time_s(), time.perf_counter()
        self.run_loop("positional", points)
        loop_end_s = time.perf_counter()
        self.close()
        end_s = time.perf_counter()
        cpu_s = cpu_time_s() - cpu_s
        return {
            "cpu_s": cpu_s - self._zip.cpu_s,
            "empty_cpu_s": empty_cpu_s,
            "loop_s": loop_end_s - start_s,
            "stop_s": end_s - loop_end_s - self._zip.wall_s,
            "zip_cpu_s": self._zip.cpu_s,
            "zip_wall_s": self._zip.wall_s,
            "sent": self.sent,
        }

    def paced(self, points_per_s: int, duration_s: float) -> dict[str, float]:
        """The drainer's share of the GIL while points come at a given rate.

        Each millisecond brings its points at once. What is left over is drained before the
        drainer's time is read, but only the time with points coming in counts as wall time.
        """
        run = self._experiment._run
        burst = points_per_s // 1000
        self.settle()
        first_held_ns = run.drainer_cpu_with_gil_ns
        first_sent, start_s = self.sent, time.perf_counter()
        for tick in range(int(duration_s * 1000)):
            wait_s = start_s + tick / 1000 - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            self.run_loop("positional", burst)
        wall_s = time.perf_counter() - start_s
        self.settle()
        # The drainer states its time after each wake-up; its next one is 0.25 s away at most.
        time.sleep(0.6)
        held_s = (run.drainer_cpu_with_gil_ns - first_held_ns) / 1e9
        points = self.sent - first_sent
        return {
            "points_per_s": points / wall_s,
            "gil_percent": 100 * held_s / wall_s,
            "gil_ns_per_point": held_s / points * 1e9,
            "sent": self.sent,
        }


def _percentiles(times_ns: np.ndarray) -> dict[str, float]:
    p50, p99, p999 = np.percentile(times_ns, [50, 99, 99.9])
    return {"p50": p50, "p99": p99, "p99.9": p999, "max": float(times_ns.max())}


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class MeasuredZip(zipfile.ZipFile):
    """Takes the place of clearml.task's ZipFile and counts what the SDK's zip costs."""

    wall_s = 0.0
    cpu_s = 0.0

    def __enter__(self) -> MeasuredZip:
        self._start = time.perf_counter(), time.thread_time()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        MeasuredZip.wall_s += time.perf_counter() - self._start[0]
        MeasuredZip.cpu_s += time.thread_time() - self._start[1]


class UnwrittenZip(MeasuredZip):
    """In its place where the zip does not matter: leaves the files out, which saves minutes."""

    def write(self, *arguments: Any, **options: Any) -> None:
        pass
