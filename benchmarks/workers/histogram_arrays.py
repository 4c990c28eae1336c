"""Counting itself, without a writer: `tracelet.histogram` and its rivals over the same array.

This is the worker's side. In a contest the contenders take turns in one process, on one array.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil

OURS = "Tracelet"
NUMPY, TORCH, FAST, BOOST = "numpy", "torch", "fast-histogram", "boost-histogram"
NO_RANGE = "Tracelet, range=None"
TWO_THREADS = "Tracelet, two threads"
READERS = ("numpy max", "numpy sum", "torch sum")
"""The ways to read an array; the fastest one stands for the memory's bandwidth."""
DTYPES = ("float32", "float64", "float16", "bfloat16", "int32")

_BINS, _RANGE = 64, (-5.0, 5.0)
_INT32_SCALE = 1_000  # of standard normal values

Contest = dict[str, Callable[[], Any]]


class Arrays:
    """Contests over arrays of standard normal values, torch limited to one thread."""

    def __init__(self, folder: Path, values: int, many_values: int) -> None:
        import torch
        import tracelet

        torch.set_num_threads(1)
        self._tracelet, self._torch = tracelet, torch
        self._missing: list[str] = []
        self._fast = self._import_rival(FAST, "fast_histogram")
        self._boost = self._import_rival(BOOST, "boost_histogram")
        rng = np.random.default_rng(0)
        self._values = rng.standard_normal(values, np.float32)
        self._many = rng.standard_normal(many_values, np.float32)
        self._edges = tracelet.histogram(self._values[:1]).bin_edges
        self._check_counts()
        self._contests = {
            "default bins": self._default_bins(),
            "torch.histogram": self._torch_histogram(),
            "dtypes": self._dtypes(),
            "uniform bins": self._uniform_bins(),
            "many values": self._many_values(),
        }

    def rivals(self) -> dict[str, Any]:
        """Versions of those that are there, a line for each of those that are not."""
        versions = {
            name: importlib.metadata.version(name)
            for name, module in ((FAST, self._fast), (BOOST, self._boost))
            if module
        }
        return {
            "missing": self._missing,
            "versions": {NUMPY: np.__version__, TORCH: self._torch.__version__, **versions},
        }

    def compete(self, contest: str, turns: int, turn_s: float) -> dict[str, float]:
        """Time of a call in s, by contender: the mean over a turn, the least of the turns.

        A contender calls for `turn_s` in each of its turns. As all turns are as long, a quick call
        has no better chance than a long one to miss what else runs on the machine.
        """
        contenders = list(self._contests[contest].items())
        least_s = dict.fromkeys(self._contests[contest], float("inf"))
        for turn in range(turns):
            for name, call in contenders if turn % 2 == 0 else reversed(contenders):
                least_s[name] = min(least_s[name], _mean_s(call, turn_s))
        return least_s

    def _import_rival(self, name: str, module: str) -> ModuleType | None:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            self._missing.append(f"{name}: not measured, {error}")
            return None

    def _check_counts(self) -> None:
        """What counts wrongly may be as fast as it likes."""
        ours = self._tracelet.histogram(self._values).counts
        np.testing.assert_array_equal(ours, np.histogram(self._values, self._edges)[0])
        ours = self._tracelet.histogram(self._values, _BINS, _RANGE).counts
        np.testing.assert_array_equal(ours, np.histogram(self._values, _BINS, _RANGE)[0])

    def _default_bins(self) -> Contest:
        values, edges, histogram = self._values, self._edges, self._tracelet.histogram
        return {
            NUMPY: lambda: np.histogram(values, edges),
            OURS: lambda: histogram(values, threads=1),
        }

    def _torch_histogram(self) -> Contest:
        torch, histogram = self._torch, self._tracelet.histogram
        values = torch.from_numpy(self._values)
        edges = torch.from_numpy(self._edges).to(torch.float32)  # it wants the values' dtype
        return {
            TORCH: lambda: torch.histogram(values, edges),
            OURS: lambda: histogram(values, threads=1),
        }

    def _dtypes(self) -> Contest:
        def contender(dtype: str) -> Callable[[], Any]:
            values = self._torch.from_numpy(self._values)
            if dtype == "int32":
                values = values * _INT32_SCALE
            values = values.to(getattr(self._torch, dtype))
            return lambda: self._tracelet.histogram(values, threads=1)

        return {dtype: contender(dtype) for dtype in DTYPES}

    def _uniform_bins(self) -> Contest:
        values, histogram = self._values, self._tracelet.histogram
        contest: Contest = {
            NUMPY: lambda: np.histogram(values, _BINS, _RANGE),
            OURS: lambda: histogram(values, _BINS, _RANGE, threads=1),
            NO_RANGE: lambda: histogram(values, _BINS, threads=1),
        }
        fast, boost = self._fast, self._boost
        if fast:
            contest[FAST] = lambda: fast.histogram1d(values, _BINS, _RANGE)
        if boost:
            # Faster than its numpy.histogram, and than its default storage of doubles.
            axis, storage = boost.axis.Regular(_BINS, *_RANGE), boost.storage.Int64()
            contest[BOOST] = lambda: boost.Histogram(axis, storage=storage).fill(values, threads=1)
        return contest

    def _many_values(self) -> Contest:
        values, histogram = self._many, self._tracelet.histogram
        contest: Contest = dict(
            zip(READERS, (values.max, values.sum, self._torch.from_numpy(values).sum))
        )
        contest[OURS] = lambda: histogram(values, threads=1)
        if len(os.sched_getaffinity(0)) > 1:
            contest[TWO_THREADS] = lambda: histogram(values, threads=2)
        return contest


def _mean_s(call: Callable[[], Any], turn_s: float) -> float:
    calls = 0
    start_s = now_s = time.perf_counter()
    while now_s - start_s < turn_s:
        call()
        calls += 1
        now_s = time.perf_counter()
    return (now_s - start_s) / calls


class Memory:
    """The memory of a process while it counts one large array."""

    def __init__(self, folder: Path, values: int) -> None:
        import tracelet

        self._histogram = tracelet.histogram
        piece = np.random.default_rng(0).standard_normal(1 << 20, np.float32)
        self._values = np.resize(piece, values)

    def added(self) -> dict[str, Any]:
        """The peak of the resident memory during a call, above what it was before, in bytes.

        The kernel counts by batches: what was mapped and given back within the call shows from
        some 150 kB on. Its page faults are counted exactly.
        """
        with _PeakMemory() as peak:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            self._histogram(self._values)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return {"bytes": peak.added_bytes, "faults": faults, "how": peak.how}


class _PeakMemory:
    """While entered: how far resident memory rises, by the kernel's peak where it can be reset."""

    how = "VmHWM"
    added_bytes = 0

    def __enter__(self) -> _PeakMemory:
        self._watch = self._watch_kernel() if _can_reset_peak() else self._sample()
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watch.__exit__(*error)

    @contextmanager
    def _watch_kernel(self) -> Iterator[None]:
        _status_bytes("VmHWM")  # its own memory is there now
        _reset_peak()
        before = _status_bytes("VmHWM")
        yield
        self.added_bytes = _status_bytes("VmHWM") - before

    @contextmanager
    def _sample(self) -> Iterator[None]:
        self.how = "samples of each ms"
        is_over = threading.Event()
        process = psutil.Process()
        started = threading.Event()
        samples = []

        def sample() -> None:
            while not is_over.wait(0.001):
                samples.append(process.memory_info().rss)
                started.set()

        thread = threading.Thread(target=sample)
        thread.start()
        started.wait()
        before = process.memory_info().rss
        yield
        is_over.set()
        thread.join()
        self.added_bytes = max(samples) - before


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _can_reset_peak() -> bool:
    try:
        _reset_peak()
        return _status_bytes("VmHWM") - _status_bytes("VmRSS") < 1 << 20
    except OSError:
        return False


def _status_bytes(name: str) -> int:
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
