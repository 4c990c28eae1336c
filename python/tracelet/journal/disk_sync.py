"""Has the journal reach the disk at an interval, on a thread of its own.

fdatasync waits for the disk, for seconds where it is busy; the drainer must not: the ring holds a
fraction of a second.
"""

from __future__ import annotations

import logging
import threading

from tracelet.journal.journal import Journal

_log = logging.getLogger("tracelet")


class JournalSync(threading.Thread):
    """Started with a run, ended by `stop`, which syncs once more."""

    def __init__(self, journal: Journal, interval_s: float) -> None:
        super().__init__(name="tracelet-journal-sync", daemon=True)
        self._journal = journal
        self._interval_s = interval_s
        self._is_stopping = threading.Event()
        self._has_failed = False
        self._synced_end = 0

    def run(self) -> None:
        while not self._is_stopping.wait(self._interval_s):
            self._sync()

    def stop(self, timeout_s: float) -> None:
        """Also of one that was never started, as with an interval of 0."""
        self._is_stopping.set()
        if self.ident is not None:
            self.join(timeout_s)

    def _sync(self) -> None:
        end = self._journal.end
        if end <= self._synced_end and not self._journal.has_retired_files:
            return
        try:
            self._journal.sync()
            self._synced_end = end
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                _log.warning("tracelet: the journal can't be synced to disk now: %s", error)
            self._has_failed = True
