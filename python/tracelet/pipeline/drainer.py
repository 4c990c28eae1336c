"""The one thread that takes records out of the ring.

It wakes on its interval, or when the ring is half full; leases what is committed; gives it to the
sinks that write at once, straight from the ring's memory; writes to the journal what the others
have yet to take; and gives the space back. A sink that fails is served from the journal from then
on, by a thread of its own: the ring never waits for a backend.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from tracelet import _core
from tracelet.journal.journal import Journal
from tracelet.options import Options
from tracelet.pipeline.lane import Lane
from tracelet.pipeline.shipper import Shipper
from tracelet.ranks.series import RankSeries
from tracelet.records import RECORD_DTYPE, SCALAR

_log = logging.getLogger("tracelet")

_RETRY_S = 0.1
_SCALARS = 1 << SCALAR
_WARNED_OF_HERE = ("ring full", "tag table full")

_Lease = Any  # _core.Lease; its buffer protocol is not in the stub

Complete = Callable[[int], "float | tuple[bytes, int] | None"]
"""Waits for what a device still computes: a ticket to a scalar's value, or to a histogram's payload
and how many of its values are not finite; None when it did not come."""


class Drainer(threading.Thread):
    """Started with a run, ended by `stop`. The lanes and shippers are its own until then."""

    def __init__(
        self,
        ring: _core.Ring,
        lanes: Sequence[Lane],
        journal: Journal,
        options: Options,
        complete: Complete,
        releasable: Callable[[], int],
        ranks: RankSeries | None = None,
    ) -> None:
        super().__init__(name="tracelet-drainer", daemon=True)
        self._ring = ring
        self._payloads = _core.Payloads(ring)
        self._complete = complete
        self._completed_position = 0
        self._observed_position = 0  # of `summaries`: a lease that is given once more adds nothing
        self._releasable = releasable
        self._lanes = lanes
        self._ranks = ranks
        self._journal = journal
        self._options = options
        self._is_stopping = False
        self._is_leaving = False
        self._journal_failed = False
        self._is_over_budget = False
        self._keepers: set[str] = set()
        self._warned: set[str] = set()
        self._without_thread: set[str] = set()  # names of lanes whose thread could not be started
        self.summaries = _core.SeriesSummaries()
        self.shippers: dict[str, Shipper] = {}
        # Payloads that lie in files, by the sequence of their record; oldest first.
        self._payload_files: deque[tuple[int, str]] = deque()
        for lane in lanes:
            # A run that another process had: what this lane lacks is in the journal alone.
            is_behind = lane.position < ring.tail
            if is_behind or (lane.sink.is_remote and lane.kinds & _SCALARS):
                self._start_shipper(lane)
        self.cpu_with_gil_ns = 0
        """CPU time of this thread outside native calls that release the GIL."""

    def stop(self) -> None:
        """Ends the thread once the ring is empty; join it with a deadline."""
        self._is_stopping = True
        self._ring.wake()

    def leave(self) -> None:
        """Ends the thread once all is taken that is there, and the ring goes on: another process
        takes out what comes; join it with a deadline."""
        self._is_leaving = True
        self._ring.wake()

    def run(self) -> None:
        while not (self._ring.is_closed and self._ring.tail == self._ring.head):
            is_stopping, is_leaving = self._is_stopping, self._is_leaving
            if not is_stopping and not is_leaving:
                self._ring.wait_for_records(self._options.drain_interval_s)
            try:
                if not self._drain() and self._ring.is_closed:
                    time.sleep(0.001)  # a claimed slot is not committed yet
                if is_stopping:
                    # A forked child may log on and on: what comes from here on is not accepted.
                    self._ring.close()
            except Exception:
                _log.exception("tracelet: the drainer failed and tries again")
                time.sleep(_RETRY_S)
            self._remove_payload_files()
            self._warn_of_drops()
            if self._without_thread:
                self._start_threads()
            if is_leaving:
                break
            self.cpu_with_gil_ns = time.thread_time_ns() - _core.thread_cpu_without_gil_ns()
        for lane in self._lanes:
            while lane.sink.name not in self.shippers and not lane.deliver_rest():
                time.sleep(_RETRY_S)
        self.cpu_with_gil_ns = time.thread_time_ns() - _core.thread_cpu_without_gil_ns()

    def _drain(self) -> bool:
        """Takes out what is committed now. False when there was nothing."""
        end = self._ring.head
        drained = False
        while (first := self._ring.tail) < end:
            lease = self._ring.lease(self._ring.capacity)
            if len(lease) == 0:
                if self._ring.skip_dead():
                    self._warn_of_skips()
                    continue
                break
            # Released only when all of it succeeds: otherwise the same records are leased again.
            kinds = self._complete_records(lease, first)
            if self._ranks is not None:
                records: Any = lease
                self._ranks.observe(np.frombuffer(records, dtype=RECORD_DTYPE))
            self._deliver(lease, first, kinds)
            self._retain(lease)
            lease.release()
            drained = True
        return drained

    def _complete_records(self, lease: _Lease, first: int) -> int:
        """Puts in what devices had to compute, counts and notes what there is. Returns a bit for
        each kind of record."""
        end = first + len(lease)
        kinds, awaited, files, self._observed_position = _core.inspect(
            lease, self._payloads, self.summaries, self._observed_position
        )
        if end > self._completed_position:
            self._complete_awaited(lease, awaited)
            if awaited:
                self.summaries.observe(lease, self._observed_position)
                self._observed_position = end
            self._payload_files.extend(file for file in files if file[0] > self._completed_position)
            self._completed_position = end
        return kinds

    def _deliver(self, lease: _Lease, first: int, kinds: int) -> None:
        """To each sink that takes its records here; one that waits for a network, or fails, gets a
        thread of its own."""
        end = first + len(lease)
        for lane in self._lanes:
            if lane.sink.name in self.shippers or lane.position >= end:
                continue
            if not kinds & lane.kinds:
                lane.pass_by(end)
                continue
            if lane.sink.is_remote:
                self._start_shipper(lane)
                continue
            start = max(first, lane.position)  # further on, when a lease is given once more
            buffer = self._buffer(lane, lease, start - first)
            if lane.ready(buffer) < end - start:  # it waits, and the ring may not
                self._start_shipper(lane)
                continue
            if not lane.deliver(buffer, self._payloads, start, end - start, kinds):
                self._start_shipper(lane)
            if lease.exports:
                self._note_keeper(lane)

    def _retain(self, lease: _Lease) -> None:
        """For the sinks with threads of their own: the journal keeps it until all have it."""
        if not self.shippers:
            return
        self._write_journal(lease)
        for shipper in self.shippers.values():
            shipper.notify()
        self._journal.release(self._releasable())

    def _remove_payload_files(self) -> None:
        """Removes the files of payloads that every sink has."""
        if not self._payload_files:
            return
        position = self._releasable()
        while self._payload_files and self._payload_files[0][0] <= position:
            path = self._payload_files.popleft()[1]
            try:
                os.unlink(path)
            except OSError as error:
                _log.debug("tracelet: %s was not removed: %s", path, error)

    def _complete_awaited(self, lease: _Lease, awaited: list[tuple[int, int, int, int]]) -> None:
        """Puts in what devices were computing when the records were pushed."""
        for sequence, ticket, offset, size in awaited:
            if sequence <= self._completed_position:
                continue  # of a lease that is given once more
            completed = self._complete(ticket)
            if completed is None:
                continue  # sinks see that it is not complete, and count it
            if isinstance(completed, float):
                _core.complete_scalar(lease, sequence, completed)
                continue
            payload, not_finite = completed
            if len(payload) > size:
                _log.error("tracelet: a histogram from a device does not fit its place")
                continue
            _core.write_payload(self._ring, offset, payload)
            self._ring.add_not_finite_values(not_finite)

    def _buffer(self, lane: Lane, lease: _Lease, skip: int) -> Any:
        if lane.sink.name in self._keepers:
            return bytes(memoryview(lease)[skip * RECORD_DTYPE.itemsize :])
        return np.frombuffer(lease, dtype=RECORD_DTYPE)[skip:] if skip else lease

    def _note_keeper(self, lane: Lane) -> None:
        """The ring's memory is used again in a moment: this sink may keep copies alone."""
        self._keepers.add(lane.sink.name)
        _log.error(
            "tracelet: the sink %r kept a view of the ring after write() had returned; what it "
            "shows changes from now on. Copy what you keep. This sink gets copies from now on.",
            lane.sink.name,
        )

    def _warn_of_skips(self) -> None:
        if "producer died" not in self._warned:
            self._warned.add("producer died")
            _log.warning(
                "tracelet: a process was killed inside a call that logs; that point is lost. Stats "
                "count such points under 'producer died'."
            )

    def _warn_of_drops(self) -> None:
        ring = self._ring
        for reason, count in ring.dropped.items():
            if count and reason in _WARNED_OF_HERE and reason not in self._warned:
                self._warned.add(reason)
                _log.warning(
                    "tracelet: points are being dropped (%s), %d so far; stats counts them. The "
                    "drainer can't keep up, or the file system of %s is full.",
                    reason, count, ring.path,
                )  # fmt: skip

    def _start_shipper(self, lane: Lane) -> None:
        self.shippers[lane.sink.name] = Shipper(lane, self._journal, self._options)
        self._start_threads()

    def _start_threads(self) -> None:
        """Starts the shippers that have no thread yet; tried again with each drain.

        The process may have as many threads as it is allowed now, or be ending: Python (from 3.12
        on) starts no more then, and what the lane lacks is in the journal, for `tracelet sync`.
        """
        for name, shipper in list(self.shippers.items()):
            if shipper.ident is not None:
                continue
            try:
                shipper.start()
            except RuntimeError as error:
                if name not in self._without_thread and not self._is_stopping:
                    _log.warning(
                        "tracelet: no thread for %r now (%s); tracelet tries again", name, error
                    )
                self._without_thread.add(name)
                continue
            self._without_thread.discard(name)
            shipper.notify()

    def _write_journal(self, lease: _Lease) -> None:
        """Retries while the disk is full: the ring fills, and then its own limit decides."""
        if not self._make_room(len(lease) * RECORD_DTYPE.itemsize):
            first = self._ring.tail
            self._journal.pass_over(first, first + len(lease))
            return
        while True:
            records = np.frombuffer(lease, dtype=RECORD_DTYPE)
            try:
                self._journal.append(records, self._payloads)
                self._journal_failed = False
                return
            except OSError as error:
                if not self._journal_failed:
                    _log.warning("tracelet: the journal can't be written now: %s", error)
                self._journal_failed = True
            finally:
                del records
            self._warn_of_drops()
            time.sleep(_RETRY_S)
            self._free_journal_quietly()

    def _free_journal_quietly(self) -> None:
        """A second failure on top of the first is no reason to give the first up."""
        try:
            self._free_journal()
        except OSError as error:
            _log.debug("tracelet: the journal can't be made smaller now: %s", error)

    def _free_journal(self) -> None:
        """Deletes what every sink has acknowledged, while nothing can be appended: better than to
        drop points, though it may be missing after a loss of power in this very second."""
        self._journal.make_room(min(lane.position for lane in self._lanes))
        if self._options.journal_sync_interval_s <= 0:
            self._journal.sync()  # nobody else does, and the files' space is free when they close

    def _make_room(self, size_bytes: int) -> bool:
        """Keeps the journal within its limit, by the policy; False when these are to be dropped."""
        options = self._options
        if self._journal.size_bytes + size_bytes > options.journal_limit_bytes:
            self._free_journal_quietly()
        if self._journal.size_bytes + size_bytes <= options.journal_limit_bytes:
            self._is_over_budget = False
            return True
        if options.journal_overflow == "block" and not self._is_over_budget:
            # Half as long as a call waits for room: no call waits in vain because of this wait, and
            # so its point is in the event file.
            deadline_s = time.monotonic() + options.full_ring_timeout_s / 2
            while (left_s := deadline_s - time.monotonic()) > 0:
                time.sleep(min(_RETRY_S, left_s))
                self._free_journal_quietly()
                if self._journal.size_bytes + size_bytes <= options.journal_limit_bytes:
                    return True
        self._is_over_budget = True
        self._warn_of_budget()
        if options.journal_overflow != "drop_oldest":
            return False
        while self._journal.size_bytes + size_bytes > options.journal_limit_bytes > size_bytes:
            self._journal.drop_oldest_segment()
        return True

    def _warn_of_budget(self) -> None:
        if "journal full" not in self._warned:
            self._warned.add("journal full")
            _log.warning(
                "tracelet: the journal has reached its limit of %d bytes (journal_limit_bytes) "
                "because a backend stays away; by the policy %r (journal_overflow) points are "
                "dropped. stats counts them under 'journal full'; event files keep every point.",
                self._options.journal_limit_bytes, self._options.journal_overflow,
            )  # fmt: skip
