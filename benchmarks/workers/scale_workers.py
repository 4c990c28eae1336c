"""Tracelet with many points, tags and threads: the worker's side of scale.py."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import loops
from benchmarks.contender import Contender, cpu_time_s
from benchmarks.workers.tracelet_writer import TraceletWriter

_FLUSH_TIMEOUT_S = 600.0


class ScaleLoops(Contender):
    """What is measured, for whatever `writer` logs to."""

    def points(self, points: int) -> dict[str, float]:
        """So many of one tag, then until they are delivered; all figures are per point."""
        cpu_s, start_s = cpu_time_s(), time.perf_counter()
        loop_ns = self.run_loop("positional", points)
        self.settle()
        return {
            "call": loop_ns / points,
            "delivered": (time.perf_counter() - start_s) / points * 1e9,
            "cpu": (cpu_time_s() - cpu_s) / points * 1e9,
        }

    def sent_so_far(self) -> int:
        return self.sent

    def tags(self, tags: int, calls: int) -> dict[str, float]:
        """ns per call with so many tags in turn: of the first round of them, and of later ones."""
        names = [f"{loops.TAG} {tags} {number}" for number in range(tags)]
        first_ns = loops.tags_in_turn(self.writer, names, loops.VALUE, self.sent, tags)
        self.sent += tags
        self.settle()
        later = max(calls, tags) // tags * tags
        later_ns = loops.tags_in_turn(self.writer, names, loops.VALUE, self.sent, later)
        self.sent += later
        self.settle()
        return {"first": first_ns / tags, "call": later_ns / later}

    def threads(self, threads: int, calls: int) -> dict[str, float]:
        """ns per call of so many threads that log the same number of points between them.

        The wall time of all calls by their number: with the GIL threads take turns.
        """
        each = calls // threads
        barrier = threading.Barrier(threads + 1)

        def log(number: int) -> None:
            loop = loops.fresh(loops.positional)
            barrier.wait()
            loop(self.writer, f"{loops.TAG} thread {number}", loops.VALUE, 0, each)

        workers = [threading.Thread(target=log, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        barrier.wait()
        start_s = time.perf_counter()
        for worker in workers:
            worker.join()
        wall_s = time.perf_counter() - start_s
        self.sent += each * threads
        self.settle()
        return {"call": wall_s / (each * threads) * 1e9}


class ScaleWriter(TraceletWriter, ScaleLoops):
    """Both files: an offline ClearML session and an event file."""


class CountingWriter(ScaleLoops):
    """A sink of one's own that counts the points, and no files: the ring and the drainer alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import tracelet
        from torch.utils.tensorboard import SummaryWriter

        class Counting:
            name = "counting"
            is_remote = False
            takes_every_point = True
            points = 0

            def write(self, batch: tracelet.Batch) -> tracelet.Delivery:
                self.points += len(batch.records)
                return tracelet.Delivery(len(batch.records))

            def close(self, process_is_ending: bool) -> None:
                pass

        self._tracelet, self._sink = tracelet, Counting()
        tracelet.register_sink("counting", lambda info: self._sink)
        self._experiment = tracelet.start_logging(
            "scale", "bench", backend="counting", config={"tensorboard": "off"}
        )
        self.writer: Any = SummaryWriter(str(folder / "events"))

    def settle(self) -> None:
        if not self._experiment.flush(_FLUSH_TIMEOUT_S):
            raise RuntimeError(f"flush took longer than {_FLUSH_TIMEOUT_S:g} s")

    def close(self) -> None:
        self._tracelet.stop_logging()

    def arrived(self) -> dict[str, int]:
        return {"counted": self._sink.points}
