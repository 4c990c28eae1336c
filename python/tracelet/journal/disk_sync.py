"""Has what a run wrote reach the disk at an interval, on a thread of its own.

fdatasync waits for the disk, for seconds where it is busy; the drainer must not: the ring holds a
fraction of a second.

The order is what a loss of power leaves to be gone on with: first the run's small files (which name
a series has, which rows a batch); then the sinks' files, and each sink's note of how far they are
on the disk; then the sinks' positions; then the journal. A segment of the journal, or a large
event's file, is deleted only once the positions behind it have reached the disk (`releasable`): at
any instant what is not in a sink's file for certain is in the journal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from tracelet.journal.journal import Journal

_log = logging.getLogger("tracelet")


class _Lane(Protocol):
    durable_position: int

    @property
    def position(self) -> int: ...

    def sync_sink(self) -> None: ...


class _Synced(Protocol):
    def sync(self) -> None: ...


class DiskSync(threading.Thread):
    """Started with a run, ended by `stop`, which syncs once more."""

    def __init__(
        self, journal: Journal, small_files: _Synced, lanes: Sequence[_Lane], progress: _Synced,
        interval_s: float,
    ) -> None:  # fmt: skip
        super().__init__(name="tracelet-journal-sync", daemon=True)
        self._journal = journal
        self._small_files = small_files
        self._lanes = lanes
        self._progress = progress
        self._interval_s = interval_s
        self._wake = threading.Event()
        self._is_stopping = False
        self._failed: set[str] = set()
        self._synced_end = 0
        self._has_unsynced_lanes = False  # one of them failed the last time

    def run(self) -> None:
        # Once more after `stop`: what a sync that was under way then has left out.
        is_last = False
        while not is_last:
            self._wake.wait(self._interval_s)
            is_last = self._is_stopping
            self._sync()

    def stop(self, timeout_s: float) -> None:
        """Also of one that was never started, as with an interval of 0."""
        self._is_stopping = True
        self._wake.set()
        if self.ident is not None:
            self.join(timeout_s)

    @property
    def releasable(self) -> int:
        """The position before which nothing has to be kept for a sink."""
        if self.ident is None:  # nobody syncs
            return min(lane.position for lane in self._lanes)
        return min(lane.durable_position for lane in self._lanes)

    def _sync(self) -> None:
        self._try("the run's small files", self._small_files.sync)
        self._sync_lanes()
        end = self._journal.end
        if end <= self._synced_end and not self._journal.has_retired_files:
            return
        if self._try("the journal", self._journal.sync):
            self._synced_end = end

    def _sync_lanes(self) -> None:
        positions = [lane.position for lane in self._lanes]
        is_done = positions == [lane.durable_position for lane in self._lanes]
        if is_done and not self._has_unsynced_lanes:
            return
        are_synced = [self._try("a sink's files", lane.sync_sink) for lane in self._lanes]
        are_synced.append(self._try("the sinks' positions", self._progress.sync))
        self._has_unsynced_lanes = not all(are_synced)
        # Also of what could not be synced: the journal must not grow without end, and the sinks'
        # own notes say how far they are on the disk.
        for lane, position in zip(self._lanes, positions):
            lane.durable_position = position

    def _try(self, what: str, sync: object) -> bool:
        assert callable(sync)
        try:
            sync()
        except Exception as error:  # of a user's sink as well: the thread goes on
            if what not in self._failed:
                _log.warning("tracelet: %s can't be synced to disk now: %s", what, error)
            self._failed.add(what)
            return False
        self._failed.discard(what)
        return True
