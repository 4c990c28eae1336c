"""What does an outage cost? Calls and memory while a backend is away, and the end of the run.

`python -m benchmarks.outage`; TRACELET_OUTAGE_POINTS (10,000,000) sets how many points come in.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time

import psutil


class _Away:
    """A remote sink that fails as a server does that can't be reached, until it is back."""

    name = "away"
    is_remote = True
    takes_every_point = True

    def __init__(self) -> None:
        self.is_back = threading.Event()

    def write(self, batch):
        from tracelet.sinks.base import Delivery

        if not self.is_back.is_set():
            raise ConnectionError("away")
        return Delivery(len(batch))

    def close(self, process_is_ending: bool) -> None:
        pass


def _median_ns(log, rounds: int = 41, calls: int = 5_000) -> float:
    """Of an average call, in rounds with pauses, as training has them."""
    costs = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for step in range(calls):
            log("loss", 0.5, step)
        costs.append((time.perf_counter_ns() - start) / calls)
        time.sleep(0.02)
    return statistics.median(costs)


def main() -> None:
    points = int(float(os.environ.get("TRACELET_OUTAGE_POINTS", "10_000_000")))
    with tempfile.TemporaryDirectory(prefix="tracelet-bench-") as folder:
        os.environ["TRACELET_DIR"] = folder
        import tracelet

        sink = _Away()
        tracelet.register_sink("away", lambda info: sink)
        experiment = tracelet.start_logging("outage", backend="away")
        sink.is_back.set()
        log = experiment.log_metric
        _median_ns(log)
        before_ns = _median_ns(log)
        experiment.flush(30)

        sink.is_back.clear()
        during_ns = _median_ns(log)
        process = psutil.Process()
        start_bytes = largest_bytes = process.memory_info().rss
        start = time.perf_counter()
        for step in range(points):
            log("loss", 0.5, step)
            if step % 100_000 == 0:
                largest_bytes = max(largest_bytes, process.memory_info().rss)
        took_s = time.perf_counter() - start
        while experiment._run.ring.tail < experiment._run.ring.head:
            time.sleep(0.01)
        largest_bytes = max(largest_bytes, process.memory_info().rss)
        print(f"a call before the outage {before_ns:.0f} ns, during it {during_ns:.0f} ns (median)")
        print(
            f"{points:,} points in {took_s:.1f} s while it is away: "
            f"{(largest_bytes - start_bytes) / 1e6:.1f} MB more memory"
        )
        start = time.monotonic()
        tracelet.stop_logging(timeout_s=2)
        print(
            f"stop_logging(timeout_s=2): {time.monotonic() - start - 2:+.3f} s; {experiment.stats}"
        )


if __name__ == "__main__":
    main()
