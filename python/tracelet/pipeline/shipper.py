"""Brings a lane up to date from the journal: for sinks that wait for a network, or that failed."""

from __future__ import annotations

import logging
import random
import threading
import time

from tracelet import _core
from tracelet.errors import JournalError
from tracelet.fork import renew_at_fork
from tracelet.journal.journal import Journal
from tracelet.options import Options
from tracelet.pipeline.lane import Lane

_log = logging.getLogger("tracelet")
_random = random.Random()  # of its own: the training's numbers are not to be drawn from

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 30.0
_LONGEST_BACKOFF_IN_HASTE_S = 1.0
_LONGEST_RETRY_AFTER_S = 300.0
_RANKS_S = 0.1
"""How often it is asked whether it is known by now which rank's points of a tag are sent."""
JOURNAL_FULL = "journal full"
"""The reason under which records are counted that found no room within `journal_limit_bytes`; also
those of kinds that the sink is not given."""
JOURNAL_REMOVED = "journal removed"
"""The reason under which records are counted whose file somebody has removed."""
JOURNAL_DAMAGED = "journal damaged"
"""The reason under which records are counted that the disk gave back other than they were written.
"""


class Shipper(threading.Thread):
    """One thread for one lane, so that a slow backend holds back no other.

    It reads the journal from the lane's position, gives the sink batches that are full, old or
    wanted now, and backs off (exponentially, with jitter) while the sink fails.
    """

    def __init__(self, lane: Lane, journal: Journal, options: Options) -> None:
        super().__init__(name=f"tracelet-{lane.sink.name}", daemon=True)
        self._lane = lane
        self._journal = journal
        self._options = options
        self.renew_in_child()
        renew_at_fork(self)
        self._haste_until_position = 0
        self._is_stopping = False
        self._is_abandoned = False
        self._failures = 0
        self._oldest_seen_s = 0.0

    def renew_in_child(self) -> None:
        self._changed = threading.Condition()

    def notify(self) -> None:
        """There are more records in the journal."""
        with self._changed:
            self._changed.notify()

    def hurry(self, position: int) -> None:
        """Ships the records before `position` without waiting for more to go with them."""
        with self._changed:
            self._haste_until_position = max(self._haste_until_position, position)
            self._changed.notify()

    def stop(self) -> None:
        """Ends the thread once the journal is shipped; join it with a deadline."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def abandon(self) -> None:
        """Ends the thread as soon as the sink lets go of it; what is left is another process'."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify()

    def run(self) -> None:
        while True:
            count = self._wait_for_batch()
            if count == 0:
                break
            if self._is_abandoned:
                return
            try:
                is_shipped = self._ship(count)
            except Exception:
                _log.exception("tracelet: shipping to %r failed and is tried again", self.name)
                is_shipped = False
            if is_shipped:
                self._failures = 0
                self._lane.tell_if_back(self._journal.end)
            else:
                self._back_off()
        while not self._is_abandoned and not self._lane.deliver_rest():
            self._back_off()

    def _wait_for_batch(self) -> int:
        """How many records to ship now; 0 when the thread is to end."""
        options = self._options
        with self._changed:
            while True:
                waiting = self._journal.end - self._lane.position
                is_wanted = self._is_stopping or self._lane.position < self._haste_until_position
                if waiting <= 0 or waiting < self._lane.redeliver_at_least:
                    if self._is_stopping and waiting <= 0:
                        return 0
                    self._oldest_seen_s = 0.0
                    self._changed.wait()
                    continue
                now_s = time.monotonic()
                self._oldest_seen_s = self._oldest_seen_s or now_s
                age_s = now_s - self._oldest_seen_s
                if (
                    is_wanted
                    or waiting >= options.batch_max_points
                    or age_s >= options.batch_max_age_s
                ):
                    self._oldest_seen_s = 0.0
                    return max(
                        min(waiting, options.batch_max_points), self._lane.redeliver_at_least
                    )
                self._changed.wait(options.batch_max_age_s - age_s)

    def _ship(self, count: int) -> bool:
        position = self._lane.position
        lost_by = JOURNAL_FULL
        try:
            records, payloads = self._journal.read(position, count, self._options.batch_max_bytes)
        except JournalError as error:
            _log.error("tracelet: a block of the journal is lost: %s", error)
            self._journal.drop_block_at(position)
            records, lost_by = (), JOURNAL_DAMAGED
        except FileNotFoundError as error:
            if self._journal.next_position(position) == position:
                _log.error("tracelet: a file of the journal was removed: %s", error)
                self._journal.drop_file_at(position)
                lost_by = JOURNAL_REMOVED
            records = ()
        except OSError as error:
            if self._journal.next_position(position) == position:
                _log.error("tracelet: the journal can't be read: %s", error)
                return False
            records = ()  # dropped while it was read
        if len(records) == 0:
            held = self._journal.next_position(position)
            self._lane.skip_to(self._journal.end if held is None else held, lost_by)
            return True
        ready = self._lane.ready(records)
        if ready == 0:
            with self._changed:
                if not self._is_abandoned:
                    self._changed.wait(_RANKS_S)
            return True
        if ready < len(records):
            records = records[:ready]
        kinds = _core.kinds_in(records)
        return self._lane.deliver(records, payloads, position, len(records), kinds)

    def _back_off(self) -> None:
        self._failures = min(self._failures + 1, 30)
        with self._changed:
            longest_s = _LONGEST_BACKOFF_IN_HASTE_S if self._is_stopping else _LONGEST_BACKOFF_S
            pause_s = min(longest_s, _FIRST_BACKOFF_S * 2 ** (self._failures - 1))
            pause_s *= _random.uniform(0.5, 1.0)
            # What the backend asks for, and a little more, so that not all come back at once.
            failure = self._lane.last_failure if self._lane.is_failing else None
            asked_s = min(getattr(failure, "retry_after_s", 0.0), _LONGEST_RETRY_AFTER_S)
            deadline_s = time.monotonic() + max(pause_s, asked_s * _random.uniform(1.0, 1.1))
            while (left_s := deadline_s - time.monotonic()) > 0 and not self._is_abandoned:
                was_stopping = self._is_stopping
                self._changed.wait(left_s)
                if self._is_stopping and not was_stopping and not asked_s:
                    return
