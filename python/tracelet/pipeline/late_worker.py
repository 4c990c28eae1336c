"""A thread for the end of the process, when Python (from 3.12 on) starts none any more."""

from __future__ import annotations

import threading
from typing import Callable


class LateWorker(threading.Thread):
    """Sleeps from its start until it is given its work, does that, and ends."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work: Callable[[], None] | None = None
        self._is_given = threading.Event()

    def dismiss(self, timeout_s: float) -> None:
        """Ends it, started or not, without work."""
        self.work_on(lambda: None)
        if self.ident is not None:
            self.join(timeout_s)

    def work_on(self, work: Callable[[], None]) -> None:
        """Gives it its work, once. Any thread."""
        self._work = work
        self._is_given.set()

    def run(self) -> None:
        self._is_given.wait()
        work, self._work = self._work, None
        if work is not None:
            work()
