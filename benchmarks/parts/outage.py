"""What does an outage cost? Calls and memory while a backend is away, and the end of the run."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Settings, summarise, worker
from benchmarks.report import Figure, Part

_STOP_TIMEOUT_S = 2.0


def run(settings: Settings) -> Part:
    points = settings.pick(10_000_000, 100_000)
    with worker(settings, "benchmarks.parts.outage:Outage") as made:
        calls = made.call("calls", rounds=settings.pick(61, 3), calls=5_000)
        before = made.rss_bytes()
        samples = [before]
        made.call("log", lambda: samples.append(made.rss_bytes()), points=points)
        samples.append(made.rss_bytes())
        stop = made.call("stop")
    added_mb = (max(samples) - before) / 1e6
    return Part(
        name="outage",
        figures=[
            Figure(
                "log_metric while a backend is away, by the same before",
                "x",
                summarise(calls["ratios"]),
                at_least=1.2,
                aim=1.0,
            ),
            Figure("log_metric while a backend is away", "ns", summarise(calls["during_ns"])),
            Figure(
                f"resident memory added by {points:,} points while it is away",
                "MB",
                summarise([added_mb]),
                at_least=64,
                aim=24,
            ),
            Figure(
                f"stop_logging(timeout_s={_STOP_TIMEOUT_S:g}) with it gone, beyond its deadline",
                "s",
                summarise([stop["beyond_s"]]),
                at_least=0.5,
                aim=0.1,
            ),
        ],
        notes=[
            "Outage: a sink that raises ConnectionError; in rounds of 5,000 calls with pauses, as "
            "training has them, away and not away by turns. At the end of the outage "
            f"{stop['accepted']:,} points were accepted, {stop['delivered']:,} delivered, "
            f"{stop['pending']:,} pending in a journal of {stop['journal_bytes'] / 1e6:,.0f} MB, "
            f"{stop['dropped']:,} dropped."
        ],
        rounds={**calls, "added_mb": added_mb, **stop},
    )


class _Away:
    """A remote sink that fails as a server does that can't be reached, until it is back."""

    name = "away"
    is_remote = True
    takes_every_point = True

    def __init__(self) -> None:
        self.is_back = threading.Event()
        self.is_back.set()

    def write(self, batch: Any) -> Any:
        from tracelet.backends.base import Delivery

        if not self.is_back.is_set():
            raise ConnectionError("away")
        return Delivery(len(batch))

    def close(self, process_is_ending: bool) -> None:
        pass


class Outage:
    """The worker: a run with that sink alone."""

    def __init__(self, folder: Path) -> None:
        import tracelet

        self._folder = folder
        self._tracelet = tracelet
        self._sink = _Away()
        tracelet.register_sink("away", lambda info: self._sink)
        self._experiment = tracelet.start_logging("outage", backend="away")

    def calls(self, rounds: int, calls: int) -> dict[str, list[float]]:
        """ns per call of each round while the sink is away, and their ratios to those before."""
        log = self._experiment.log_metric
        _round_ns(log, calls)
        before_ns, during_ns = [], []
        for _ in range(rounds):
            self._sink.is_back.set()
            before_ns.append(_round_ns(log, calls))
            self._sink.is_back.clear()
            during_ns.append(_round_ns(log, calls))
        before = statistics.median(before_ns)
        return {"during_ns": during_ns, "ratios": [each / before for each in during_ns]}

    def log(self, points: int) -> None:
        """Logs them, and returns when all are out of the ring."""
        self._sink.is_back.clear()
        log = self._experiment.log_metric
        for step in range(points):
            log("loss", 0.5, step)
        ring = self._experiment._run.ring
        while ring.tail < ring.head:
            time.sleep(0.01)

    def stop(self) -> dict[str, float]:
        journal_bytes = sum(
            path.stat().st_size for path in self._folder.rglob("journal-*.bin") if path.exists()
        )
        start_s = time.monotonic()
        self._tracelet.stop_logging(timeout_s=_STOP_TIMEOUT_S)
        beyond_s = time.monotonic() - start_s - _STOP_TIMEOUT_S
        stats = self._experiment.stats
        return {
            "beyond_s": beyond_s,
            "accepted": stats.accepted,
            "delivered": stats.delivered["away"],
            "pending": stats.pending,
            "dropped": sum(stats.dropped.values()),
            "journal_bytes": journal_bytes,
        }

    def settle(self) -> None:
        pass


def _round_ns(log: Callable[..., None], calls: int) -> float:
    start_ns = time.perf_counter_ns()
    for step in range(calls):
        log("loss", 0.5, step)
    elapsed_ns = time.perf_counter_ns() - start_ns
    time.sleep(0.02)
    return elapsed_ns / calls
