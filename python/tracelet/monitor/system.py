"""What the machine does: CPUs, memory, disk and network by psutil, GPUs by NVML.

Where a container is limited, the limit stands in for the host's memory and CPUs. One thread samples
once a second, disk and network each 10 s; what one source can't say is left out of that sample.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

import psutil

from tracelet.monitor import SYSTEM_PREFIX
from tracelet.monitor.cgroups import cpu_limit, memory_limit
from tracelet.monitor.gpus import open_gpus

_log = logging.getLogger("tracelet")

_GIB, _MIB = 1 << 30, 1 << 20
_SLOW = ("disk", "network")
_SLOW_S = 10.0
"""How often those are looked at: they cost as much as all others together, and a mean over 10 s
tells as much of them."""

Source = Callable[[float], Mapping[str, float]]
"""Values by name, given the seconds since the sample before; what is a rate is missing at first."""


class System:
    """All sources. One thread."""

    def __init__(self, folder: str, root: str = "/") -> None:
        """`folder`: of the disk that is looked at. `root`: where /proc and /sys lie, for tests."""
        self._folder = folder
        self._process = psutil.Process()
        self._before: dict[str, float] = {}
        self._told: set[str] = set()
        self._cpus = cpu_limit(root)
        self._memory = memory_limit(root)
        if self._memory is not None and self._memory.most >= psutil.virtual_memory().total:
            self._memory = None
        gpus = open_gpus()
        self._sources: dict[str, Source] = {
            "CPUs": self._cpu, "memory": self._memory_use, "process": self._process_use,
            "disk": self._disk, "network": self._network,
        }  # fmt: skip
        if gpus is not None:
            self._sources["GPUs"] = lambda elapsed_s: gpus.sample()
        # By source: when it was asked, and how often.
        self._asked: dict[str, tuple[float, int]] = {}

    def sample(self, now_s: float) -> dict[str, float]:
        """What is known now, `now_s` as time.monotonic() has it. Never raises an Exception."""
        found: dict[str, float] = {}
        for name, source in self._sources.items():
            asked_s, count = self._asked.get(name, (now_s, 0))
            elapsed_s = now_s - asked_s
            if name in _SLOW and count > 1 and elapsed_s < _SLOW_S:
                continue
            self._asked[name] = now_s, count + 1
            try:
                found.update(source(elapsed_s))
            except Exception as error:
                if name not in self._told:
                    self._told.add(name)
                    _log.warning("tracelet: no system metrics of the %s: %r", name, error)
        return {SYSTEM_PREFIX + name: value for name, value in found.items()}

    def _cpu(self, elapsed_s: float) -> Mapping[str, float]:
        """Of the CPUs that this process may use, all of them busy being 100."""
        if self._cpus is not None:
            share = self._rate("cgroup", self._cpus.used(), elapsed_s)
            return {} if share is None else {"cpu_percent": 100 * share / self._cpus.most}
        own = self._own_cpus()
        if own is None:
            percent = psutil.cpu_percent()
        else:
            each = psutil.cpu_percent(percpu=True)
            chosen = [each[n] for n in own if n < len(each)]
            percent = sum(chosen) / len(chosen)
        # The first call of psutil has nothing to compare with.
        return {"cpu_percent": percent} if elapsed_s > 0 else {}

    @staticmethod
    def _own_cpus() -> set[int] | None:
        """None: all of them."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        own = os.sched_getaffinity(0)
        return None if len(own) >= (os.cpu_count() or 1) else own

    def _memory_use(self, elapsed_s: float) -> Mapping[str, float]:
        if self._memory is not None:
            used, most = self._memory.used(), self._memory.most
        else:
            memory = psutil.virtual_memory()
            used, most = memory.total - memory.available, memory.total
        return {"memory_gib": used / _GIB, "memory_percent": 100 * used / most}

    def _process_use(self, elapsed_s: float) -> Mapping[str, float]:
        """Of this process: 100 percent are one CPU."""
        found = {"process_memory_gib": self._process.memory_info().rss / _GIB}
        share = self._rate("process", time.process_time(), elapsed_s)
        return found if share is None else {**found, "process_cpu_percent": 100 * share}

    def _disk(self, elapsed_s: float) -> Mapping[str, float]:
        found = {"disk_percent": psutil.disk_usage(self._folder).percent}
        counters = psutil.disk_io_counters(nowrap=False)
        if counters is not None:  # there is no disk, as in some containers
            rates = {"disk_read": counters.read_bytes, "disk_write": counters.write_bytes}
            found.update(self._rates(rates, elapsed_s))
        return found

    def _network(self, elapsed_s: float) -> Mapping[str, float]:
        counters = psutil.net_io_counters(nowrap=False)
        if counters is None:
            return {}
        rates = {"network_received": counters.bytes_recv, "network_sent": counters.bytes_sent}
        return self._rates(rates, elapsed_s)

    def _rates(self, counts: Mapping[str, int], elapsed_s: float) -> dict[str, float]:
        rates = {name: self._rate(name, count, elapsed_s) for name, count in counts.items()}
        return {f"{n}_mib_per_s": rate / _MIB for n, rate in rates.items() if rate is not None}

    def _rate(self, name: str, count: float, elapsed_s: float) -> float | None:
        """None at first, and where a counter began anew (a card that was taken out)."""
        before = self._before.get(name)
        self._before[name] = count
        if before is None or count < before or elapsed_s <= 0:
            return None
        return (count - before) / elapsed_s


class SystemSampler(threading.Thread):
    """Samples until `end`; a sample that hangs (a disk that is gone) holds up nothing else."""

    def __init__(
        self, system: Any, log: Callable[[Mapping[str, float], int], None], interval_s: float
    ) -> None:
        """`log` is called with values by tag, and the seconds since the start for a step."""
        super().__init__(name="tracelet-system", daemon=True)
        self._system = system
        self._log_values = log
        self._interval_s = interval_s
        self._is_ended = threading.Event()

    def run(self) -> None:
        try:
            self._sample_each_interval()
        except Exception as error:
            _log.warning("tracelet: system metrics end: %r", error)

    def _sample_each_interval(self) -> None:
        start_s = time.monotonic()
        self._system.sample(start_s)  # for what is a rate
        count = 0
        while True:
            now_s = time.monotonic() - start_s
            # On a machine that stood still, or slept, no sample is made up for.
            count = max(count + 1, int(now_s / self._interval_s))
            if self._is_ended.wait(max(0.0, count * self._interval_s - now_s)):
                return
            now_s = time.monotonic()
            values = self._system.sample(now_s)
            if self._is_ended.is_set():
                return
            self._log_values(values, int(now_s - start_s))

    def end(self, timeout_s: float) -> None:
        """Once is enough. What the thread is at when it returns is not logged any more, unless its
        log call has begun."""
        self._is_ended.set()
        if self.ident is not None and self is not threading.current_thread():
            self.join(timeout_s)
