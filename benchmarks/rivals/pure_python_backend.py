"""Tracelet's job in pure Python, built the usual way: a queue and a worker thread.

Nothing in it is slow on purpose, and it loses no point: `stop` drains before it closes.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Point:
    """A point on its way from the training loop to the backend."""

    tag: str
    value: float
    step: int
    wall_time_s: float


class PurePythonBackend:
    """Sends what a SummaryWriter class logs to a ClearML logger as well, from `start` to `stop`."""

    def __init__(self, summary_writer_class: type, logger: Any) -> None:
        self._class = summary_writer_class
        self._logger = logger
        self._original = summary_writer_class.__dict__["add_scalar"]
        self._queue: queue.Queue[Point | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="pure-python", daemon=True)

    def start(self) -> None:
        original, put = self._original, self._queue.put

        def add_scalar(
            writer: Any,
            tag: str,
            scalar_value: Any,
            global_step: int | None = None,
            walltime: float | None = None,
            new_style: bool = False,
            double_precision: bool = False,
        ) -> None:
            original(writer, tag, scalar_value, global_step, walltime, new_style, double_precision)
            wall_time_s = time.time() if walltime is None else walltime
            put(Point(tag, float(scalar_value), int(global_step or 0), wall_time_s))

        self._class.add_scalar = add_scalar
        self._thread.start()

    def drain(self) -> None:
        """Waits until the logger was given every point."""
        self._queue.join()

    def stop(self) -> None:
        """Restores the class, gives the logger what is left and ends the thread."""
        self._class.add_scalar = self._original
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (point := self._queue.get()) is not None:
            title, _, series = point.tag.rpartition("/")
            self._logger.report_scalar(
                title=title or series, series=series, value=point.value, iteration=point.step
            )
            self._queue.task_done()
