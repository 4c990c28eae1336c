"""One sink and how far it has come."""

from __future__ import annotations

import fnmatch
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from tracelet import _core
from tracelet.backends import EVENT_FILES
from tracelet.backends.base import Batch, Delivery, FileSink, Names, Sink
from tracelet.ranks.series import ANOTHER_RANKS, RankSeries
from tracelet.records import HISTOGRAM, RECORD_DTYPE, SCALAR
from tracelet.stats import LaneStats

_log = logging.getLogger("tracelet")

_QUIET_S = 60.0
"""A sink that fails within so long after its last failure is told of no more: a server that fails
now and then would fill the log."""

NO_ACCOUNT = "no account by the sink"
"""The reason under which points are counted that a sink's Delivery says nothing of; below zero when
it speaks of more than it was given."""

_REDUCE = {
    "mean": _core.Reduce.MEAN,
    "last": _core.Reduce.LAST,
    "min_max": _core.Reduce.MIN_MAX,
}


class Lane:
    """The way to one sink: folds what its option says, counts, and remembers its position.

    `position` is the acknowledged one: the sink has every record before it. `on_acknowledge` is
    told of it, for what outlives the process. `durable_position` outlives a loss of power, too. One
    thread delivers at a time; the counters may be read by any.
    """

    def __init__(
        self,
        sink: Sink,
        names: Names,
        aggregate: Mapping[str, Mapping[str, Any]],
        position: int = 0,
        on_acknowledge: Callable[[int], None] = lambda position: None,
        ranks: RankSeries | None = None,
    ) -> None:
        """`ranks`: of a run that several ranks may log into."""
        self.sink = sink
        # Event files have all ranks' points.
        self._ranks = ranks if sink.name != EVENT_FILES else None
        self._on_acknowledge = on_acknowledge
        self._position = position
        self._by_others = position
        self.durable_position = position
        """Written by the thread that syncs, read by the drainer: an int, so either sees a whole
        one."""
        kinds = getattr(sink, "record_kinds", (SCALAR, HISTOGRAM))
        self.kinds = sum(1 << kind for kind in set(kinds))
        """A bit for each kind of record that the sink is given, 1 << kind."""
        self.delivered = 0
        self.not_finite = 0
        self.not_meant = 0
        self.set_aside: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        """Those of `set_aside` that the sink lacks for reasons of its own (Delivery.failed)."""
        self.retried = 0
        self.is_failing = False
        self.last_failure: Exception | None = None
        self._failed_at_s = -math.inf  # as time.monotonic() has it
        self._outage: _Outage | None = None
        self._names = names
        self._fold = _LaneFold(aggregate) if aggregate and not sink.takes_every_point else None
        self.redeliver_at_least = 0
        """How many records the batch had that failed last; it is to be given again with at least
        these, so that a sink may count on having seen them."""
        # The batch at hand after the fold, while it fails: its records are not folded twice.
        self._folded: _FoldedBatch | None = None

    @property
    def position(self) -> int:
        return self._position

    def acknowledge(self, end: int) -> None:
        """The sink has all before `end`: it outlives the process from here on."""
        self._position = end
        self._on_acknowledge(end)

    @property
    def folded(self) -> int:
        return self._fold.folded if self._fold else 0

    @property
    def held(self) -> int:
        """Points that wait in the fold for their window to end."""
        return self._fold.held if self._fold else 0

    def ready(self, buffer: Any) -> int:
        """How many of these records, from the first on, can be delivered now: of the others it is
        not known yet which rank's the backend gets."""
        if self._ranks is None:
            return memoryview(buffer).nbytes // RECORD_DTYPE.itemsize
        return self._ranks.ready(np.frombuffer(buffer, dtype=RECORD_DTYPE))

    def deliver(self, buffer: Any, payloads: Any, first: int, count: int, kinds: int) -> bool:
        """Gives the sink the `count` records of `buffer`, which begin at position `first`.

        `kinds` has a bit for each kind there is. False when the sink failed; these records, and
        maybe more, are then to be given again.
        """
        if kinds & ~self.kinds:
            buffer = _core.select_kinds(buffer, self.kinds)
            kept = len(buffer) // RECORD_DTYPE.itemsize
        else:
            kept = count
        others = 0
        if self._ranks is not None:
            buffer, others = self._ranks.select(buffer)
            kept -= others
        shipped = self._fold_batch(buffer, kept, count, others) if self._fold else buffer
        if self._folded is not None:
            # All that went into the fold is in what comes out of it, however few of these records
            # could be read again: the others must not be folded twice.
            kept, count = self._folded.count, self._folded.passed
            others = self._folded.others
        if not self._write(shipped, payloads):
            self.redeliver_at_least = count
            return False
        self.not_meant += count - kept - others
        if others:
            self.set_aside[ANOTHER_RANKS] += others
        self.acknowledge(first + count)
        self.redeliver_at_least = 0
        self._folded = None
        return True

    def pass_by(self, end: int) -> None:
        """Goes on at `end`: no record before it is of a kind that the sink is given."""
        self.not_meant += end - self.position
        self.acknowledge(end)

    def sync_sink(self) -> None:
        """Has what the sink has taken reach the disk, where that is this machine's. By a thread of
        its own. Raises OSError."""
        if isinstance(self.sink, FileSink):
            self.sink.sync()

    def stats(self) -> LaneStats:
        return LaneStats(
            passed=self.position,
            delivered=self.delivered,
            not_finite=self.not_finite,
            not_meant=self.not_meant,
            set_aside=dict(self.set_aside),
            folded=self.folded,
            held=self.held,
            by_others=self._by_others,
        )

    def _fold_batch(self, buffer: Any, count: int, passed: int, others: int) -> Any:
        assert self._fold is not None
        before = self._folded
        if before is None:
            records = self._fold.apply(buffer, self._names)
            self._folded = _FoldedBatch(count, passed, records, others)
        elif count > before.count:
            rest = np.frombuffer(buffer, dtype=RECORD_DTYPE)[before.count :]
            more = self._fold.apply(rest, self._names)
            both = np.concatenate([before.records, more])
            both.flags.writeable = False
            self._folded = _FoldedBatch(count, passed, both, others)
        elif passed > before.passed:  # more of kinds, or of ranks, that are not for this sink
            self._folded = _FoldedBatch(before.count, passed, before.records, others)
        assert self._folded is not None
        return self._folded.records

    def skip_to(self, position: int, reason: str) -> None:
        """Goes on at `position`; the records before it are gone, and counted under the reason."""
        self.set_aside[reason] += position - self.position
        self.acknowledge(position)
        self.redeliver_at_least = 0
        self._folded = None

    def deliver_rest(self) -> bool:
        """Gives the sink what the fold still holds back, when nothing more will come."""
        if not self._fold:
            return True
        if self._folded is None:
            self._folded = _FoldedBatch(0, 0, self._fold.flush())
        return self._write(self._folded.records, None)

    def _write(self, buffer: Any, payloads: Any) -> bool:
        if memoryview(buffer).nbytes == 0:
            return True
        batch = Batch(buffer, self._names, payloads)
        count = len(batch)
        try:
            delivery = self.sink.write(batch)
            if not isinstance(delivery, Delivery):
                raise TypeError(
                    f"{self.sink.name}.write() must return a Delivery, not {delivery!r}"
                )
        except Exception as error:
            self._note_failure(error)
            return False
        finally:
            batch.end()
        self._note_success(delivery, count)
        return True

    def _note_failure(self, error: Exception) -> None:
        now_s = time.monotonic()
        if not self.is_failing and now_s - self._failed_at_s >= _QUIET_S:
            _log.warning(
                "tracelet: the backend %r can't take points now (%.500s). They are kept and "
                "sent again later; the training goes on.", self.sink.name, str(error),
            )  # fmt: skip
            self._outage = self._outage or _Outage(now_s, self.delivered)
        _log.debug("tracelet: the sink %r failed", self.sink.name, exc_info=error)
        self.is_failing = True
        self._failed_at_s = now_s
        # Without the frames, and so without the batch: whoever keeps a log's records (pytest,
        # Sentry), or this lane, would hold megabytes for each outage.
        self.last_failure = error.with_traceback(None)
        self.retried += 1

    def tell_if_back(self, end: int) -> None:
        """Tells once that an outage is over, when the sink has what had come by then: all before
        `end`, at the first call after a success."""
        outage = self._outage
        if outage is None or self.is_failing:
            return
        if outage.until_position is None:
            outage.until_position = end
        if self.position < outage.until_position:
            return
        self._outage = None
        _log.warning(
            "tracelet: the backend %r takes points again: %s that had waited were sent, %.0f s "
            "after it had failed.",
            self.sink.name, f"{self.delivered - outage.delivered:,}",
            time.monotonic() - outage.since_s,
        )  # fmt: skip

    def _note_success(self, delivery: Delivery, count: int) -> None:
        self.is_failing = False
        self.not_meant += delivery.not_meant
        # A sink that says nothing of a point must not make it vanish from the account.
        if missing := count - delivery.total:
            self.set_aside[NO_ACCOUNT] += missing
        self.delivered += delivery.delivered
        self.not_finite += delivery.not_finite
        for reason, count in delivery.set_aside.items():
            self.set_aside[reason] += count
        for reason, count in delivery.failed.items():
            self.set_aside[reason] += count
            self.failed[reason] += count


@dataclass
class _Outage:
    """One that was told, until its end is."""

    since_s: float  # as time.monotonic() has it
    delivered: int  # before it
    until_position: int | None = None
    """Where the lane has caught up: what had come by the first success."""


@dataclass(frozen=True)
class _FoldedBatch:
    count: int  # records that went into the fold
    passed: int  # and those of other kinds among them
    records: Any  # and what came out
    others: int = 0  # another rank's among those that passed


class _LaneFold:
    """The option `aggregate` for one sink: patterns to the native fold's rules, tag by tag."""

    def __init__(self, aggregate: Mapping[str, Mapping[str, Any]]) -> None:
        self._aggregate = aggregate
        self._native = _core.Fold()

    @property
    def folded(self) -> int:
        return int(self._native.folded)

    @property
    def held(self) -> int:
        return int(self._native.held)

    def apply(self, buffer: Any, names: Names) -> Any:
        for tag_id in self._native.undefined_tags(buffer):
            self._define(tag_id, names.text(tag_id))
        return np.frombuffer(self._native.apply(buffer), dtype=RECORD_DTYPE)

    def flush(self) -> Any:
        return np.frombuffer(self._native.flush(), dtype=RECORD_DTYPE)

    def _define(self, tag_id: int, tag: str) -> None:
        for pattern, rule in self._aggregate.items():
            if fnmatch.fnmatchcase(tag, pattern):
                reduce = _REDUCE[rule.get("reduce", "mean")]
                every_steps, every_s = int(rule.get("every_steps", 0)), rule.get("every_s", 0)
                self._native.define(tag_id, reduce, every_steps, float(every_s))
                return
        self._native.pass_through(tag_id)
