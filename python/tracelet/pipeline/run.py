"""One run: the ring, the drainer, the lanes and their sinks, put together and taken apart."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from typing import Any

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.options import Options
from tracelet.pipeline.drainer import Drainer
from tracelet.pipeline.journal import Journal
from tracelet.pipeline.lane import Lane
from tracelet.pipeline.run_folder import RunFolder
from tracelet.sinks import RunInfo, Sink, make_sink
from tracelet.sinks.tensorboard import TensorBoardSink
from tracelet.stats import Stats

_log = logging.getLogger("tracelet")

_POLL_S = 0.002


class Run:
    """A run from its start to its end. Its methods may be called by any thread.

    Raises on construction what a sink raises that can't be started; nothing is left behind then.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = RunFolder(options)
        self.sinks: list[Sink] = []
        try:
            info = RunInfo(options, self.folder.run_id, self.folder.path)
            self.sinks = [make_sink(n, info) for n in options.backend if n != "tensorboard"]
            self.ring = _core.Ring.create(
                self.folder.ring_path, options.ring_slots, options.full_ring_timeout_s
            )
        except BaseException:
            for sink in self.sinks:
                sink.close(process_is_ending=False)
            self.folder.remove()
            raise
        self._final_stats: Stats | None = None
        self._journal = Journal(self.folder.path)
        # No sink in a local name: ClearML's SDK keeps this frame, from its look at the call stack.
        self._lanes = [
            Lane(sink, self.ring, options.aggregate)
            for sink in [TensorBoardSink(self.ring), *self.sinks]
        ]
        self._drainer = Drainer(self.ring, self._lanes, self._journal, options)
        self._drainer.start()
        self.folder.update(state="running", task=self.task_id)

    @property
    def task_id(self) -> str | None:
        return next((s.task.id for s in self.sinks if hasattr(s, "task")), None)

    @property
    def metric_writer_id(self) -> int:
        """The writer id of points that no SummaryWriter logs (`Options.log_dir`)."""
        log_dir = self.options.log_dir
        if log_dir is None and "tensorboard" in self.options.backend:
            log_dir = os.path.join("runs", self.options.exp_name)
        return _core.NO_WRITER if log_dir is None else self.ring.intern(os.path.abspath(log_dir))

    def stats(self) -> Stats:
        if self._final_stats is not None:
            return self._final_stats
        accepted = self.ring.head
        dropped: Counter[str] = Counter()
        dropped["ring full"] = self.ring.dropped_ring_full
        dropped["tag table full"] = self.ring.dropped_tag_table_full
        for lane in self._lanes:
            dropped.update(lane.set_aside)
        behind = max(accepted - lane.position + lane.held for lane in self._lanes)
        return Stats(
            accepted=accepted,
            delivered={lane.sink.name: lane.delivered for lane in self._lanes},
            pending=behind,
            retried=sum(lane.retried for lane in self._lanes),
            folded=sum(lane.folded for lane in self._lanes),
            dropped={reason: count for reason, count in dropped.items() if count},
            not_finite=max(lane.not_finite for lane in self._lanes),
        )

    @property
    def drainer_cpu_with_gil_ns(self) -> int:
        """CPU time the drainer spent holding the GIL, for the benchmarks."""
        return self._drainer.cpu_with_gil_ns if self._final_stats is None else 0

    def flush(self, timeout_s: float, event_files_only: bool = False) -> bool:
        """Waits until the points logged before this call are delivered.

        False when that took longer than `timeout_s`, or the drainer is gone.
        """
        if self._final_stats is not None:
            return self._final_stats.pending == 0
        end = self.ring.head
        lanes = self._lanes[:1] if event_files_only else self._lanes
        deadline_s = time.monotonic() + timeout_s
        self.ring.wake()
        while any(lane.position < end for lane in lanes):
            for shipper in list(self._drainer.shippers.values()):
                shipper.hurry(end)
            if time.monotonic() >= deadline_s or not self._drainer.is_alive():
                return False
            time.sleep(_POLL_S)
        return True

    def stop(self, timeout_s: float, process_is_ending: bool) -> None:
        """Delivers what is left and ends the run, within the time-out.

        Points that could not be delivered stay on disk, with a line that says where.
        """
        deadline_s = time.monotonic() + timeout_s
        self._drainer.stop()
        self._drainer.join(_left_s(deadline_s))
        shippers = list(self._drainer.shippers.values())
        for shipper in shippers:
            shipper.stop()
        for shipper in shippers:
            shipper.join(_left_s(deadline_s))
        workers = [self._drainer, *shippers]
        is_delivered = not any(worker.is_alive() for worker in workers)
        self._close_sinks(_left_s(deadline_s), process_is_ending)
        self._finish_folder(is_delivered)
        if is_delivered:
            self._let_go()

    def _let_go(self) -> None:
        """Unmaps the ring now, though the user may hold on to the experiment for its stats."""
        self._final_stats = self.stats()
        self._lanes.clear()
        self.sinks.clear()
        del self._drainer, self.ring

    def _close_sinks(self, timeout_s: float, process_is_ending: bool) -> None:
        """Closes every sink; one that hangs (an SDK that waits for a server) is left behind."""

        def close_all() -> None:
            for lane in self._lanes:
                try:
                    lane.sink.close(process_is_ending)
                except Exception as error:
                    _log.warning("tracelet: closing %r failed: %s", lane.sink.name, error)

        if process_is_ending:
            close_all()  # no task is closed then, so nothing waits
            return
        closer = threading.Thread(target=close_all, name="tracelet-close", daemon=True)
        closer.start()
        closer.join(max(timeout_s, 1.0))
        if closer.is_alive():
            _log.warning(
                "tracelet: a backend did not finish within the time-out of %g s and is left to end "
                "on its own (option stop_timeout_s)", self.options.stop_timeout_s,
            )  # fmt: skip

    def _finish_folder(self, is_delivered: bool) -> None:
        kept_aside = any(lane.set_aside.get("refused by clearml") for lane in self._lanes)
        if is_delivered and not kept_aside:
            self._journal.close()
            self.folder.remove()
            return
        if is_delivered:
            self.folder.remove_ring()
            self.folder.update(state="finished")
            return
        self.folder.update(
            state="unsent", positions={lane.sink.name: lane.position for lane in self._lanes}
        )
        _log.warning(
            "tracelet: %d points are not delivered yet. They are kept in %s",
            self.stats().pending, self.folder.path,
        )  # fmt: skip

    def after_fork_in_child(self) -> None:
        self.ring.after_fork_in_child()


def _left_s(deadline_s: float) -> float:
    return max(0.0, deadline_s - time.monotonic())


def sink_method(run: Run, name: str) -> list[Any]:
    """The sinks' own methods of that name, for what is logged by hand.

    Raises TraceletError when no backend has it.
    """
    tasks = [getattr(sink, "task", sink) for sink in run.sinks]
    methods = [getattr(task, name) for task in tasks if hasattr(task, name)]
    if not methods:
        raise TraceletError(f"no backend of this run takes {name}; backends: {run.options.backend}")
    return methods
