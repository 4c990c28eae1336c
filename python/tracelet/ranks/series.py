"""Whose points of a tag a backend is given, where several ranks log into one run: option `ranks`.

By tag pattern: "first", the points of the lowest rank that logs the tag; "each", all of them, a
series a rank. What is left out is in the rank's own event files, and counted.

Whose a tag is must be known before its first point is given to anybody, and may not change then: a
series would be a mix. So a tag that the leading rank logs is its at once; one that another rank
logs first waits a while for a lower one. What was decided is written down before it is acted on:
who sends the run after a crash decides the same.
"""

from __future__ import annotations

import fnmatch
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tracelet.backends.kept import KeptLines
from tracelet.records import RECORD_DTYPE, SKIPPED
from tracelet.writer_key import key_without_rank, rank_of_key

_log = logging.getLogger("tracelet")

ANOTHER_RANKS = "another rank's"
"""The reason under which points are counted that are not those of the rank whose tag it is."""
OWNERS = "rank_owners.jsonl"
_FIRST, _EACH = 1, 2
_NOBODY = np.int64(1 << 40)  # above all ranks
_LEADING = -1
"""The rank of a writer without a mark: the one that leads, lower than all others."""


class Names(Protocol):
    """A ring's tag table, or what stands in its place for a dead one."""

    def text(self, id: int) -> str: ...

    def text_count(self) -> int: ...

    def intern(self, text: str) -> int: ...


class RankSeries:
    """Of one run, for all its lanes. Any thread."""

    def __init__(
        self,
        rules: Mapping[str, str],
        leading_rank: int,
        window_s: float,
        names: Names,
        run_dir: str,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`leading_rank`: the number of the rank whose writers have no mark."""
        self._rules = rules
        self._leading_rank = leading_rank
        self._window_s = window_s
        self._names = names
        self._now_s = now_s
        self._kept = KeptLines(run_dir, OWNERS)
        self._lock = threading.Lock()
        self._known = 1  # ids below it are looked at
        self._ranks = np.full(1, _LEADING, np.int64)  # by writer id
        self._plain = np.zeros(1, np.uint32)  # the id of the writer's key without a rank, by its id
        self._modes = np.zeros(1, np.int8)  # by tag id; 0: not looked at
        self._owners = np.full(1, _NOBODY)  # by tag id
        self._lowest = np.full(1, _NOBODY)  # seen so far, by tag id
        self._since: dict[int, float] = {}  # by the id of a tag that is not decided
        self._of_each: dict[tuple[int, int], int] = {}  # the id of the tag's series, by (tag, rank)
        self._has_ranks = False
        self._has_told = False
        self._has_each = "each" in rules.values()
        self._before = {tag: rank for tag, rank in self._kept.read(str, int)}

    @property
    def is_needed(self) -> bool:
        """Whether records may have to be left out, changed or waited for."""
        if self._has_each or self._has_ranks:
            return True
        if self._names.text_count() >= self._known:
            with self._lock:
                self._look_at_names()
        return self._has_ranks

    def observe(self, records: NDArray[Any]) -> None:
        """Is told of records as they come, so that it knows more than a lane that lags."""
        if self.is_needed and len(records):
            with self._lock:
                self._look_at(records)

    def _look_at(self, records: NDArray[Any]) -> Any:
        """Which of them nobody can tell yet whose they are."""
        self._look_at_names()
        is_point = records["kind"] != SKIPPED
        tags = np.where(is_point, records["tag_id"], 0)
        ranks = self._ranks[np.where(is_point, records["writer_id"], 0)]
        self._look_at_tags(tags)
        is_open = is_point & (self._owners[tags] == _NOBODY) & (self._modes[tags] == _FIRST)
        if not is_open.any():
            return is_open
        np.minimum.at(self._lowest, tags[is_open], ranks[is_open])
        now_s = self._now_s()
        for tag in np.unique(tags[is_open]).tolist():
            since_s = self._since.setdefault(tag, now_s)
            if self._lowest[tag] == _LEADING or now_s - since_s >= self._window_s:
                self._decide(tag)
        return is_open & (self._owners[tags] == _NOBODY)

    def decide_all(self) -> None:
        """Nothing more comes that could be of a lower rank: nothing is waited for any more."""
        with self._lock:
            self._window_s = 0.0
            for tag in list(self._since):
                self._decide(tag)

    def ready(self, records: NDArray[Any]) -> int:
        """How many of these, from the first on, may be given to a sink now."""
        if not self.is_needed:
            return len(records)
        with self._lock:
            is_open = self._look_at(records)
        return int(is_open.argmax()) if is_open.any() else len(records)

    def select(self, buffer: Any) -> tuple[Any, int]:
        """Of records that are ready those that a sink is given, as it is to see them; and how many
        are another rank's."""
        if not self.is_needed:
            return buffer, 0
        records = np.frombuffer(buffer, dtype=RECORD_DTYPE)
        with self._lock:
            self._look_at(records)
            tags, ranks = records["tag_id"], self._ranks[records["writer_id"]]
            is_each = self._modes[tags] == _EACH
            is_meant = is_each | (self._owners[tags] == ranks)
            others = int(len(records) - is_meant.sum())
            if not others and not is_each.any() and (ranks == _LEADING).all():
                return buffer, 0
            chosen = records[is_meant]
            chosen["writer_id"] = self._plain[chosen["writer_id"]]
            self._name_each(chosen, is_each[is_meant], ranks[is_meant])
        if others:
            self._tell(records[~is_meant])
        chosen.flags.writeable = False
        return chosen, others

    def _name_each(self, chosen: NDArray[Any], is_each: Any, ranks: Any) -> None:
        places = np.flatnonzero(is_each)
        for place in places.tolist():
            key = int(chosen["tag_id"][place]), int(ranks[place])
            found = self._of_each.get(key)
            if found is None:
                rank = self._leading_rank if key[1] == _LEADING else key[1]
                # Where the table is full, all ranks' points have the tag's own name: 0 is none.
                found = self._names.intern(f"{self._names.text(key[0])}/rank {rank}") or key[0]
                self._of_each[key] = found
            chosen["tag_id"][place] = found

    def _look_at_names(self) -> None:
        """Of all ids, whether they are a writer's: a tag has no NUL, and is never asked for."""
        count = self._names.text_count()
        if count < self._known:
            return
        more = 2 * count + 64 - len(self._ranks)
        if count >= len(self._ranks):
            self._ranks = np.append(self._ranks, np.full(more, _LEADING))
            self._plain = np.append(self._plain, np.zeros(more, np.uint32))
            self._modes = np.append(self._modes, np.zeros(more, np.int8))
            self._owners = np.append(self._owners, np.full(more, _NOBODY))
            self._lowest = np.append(self._lowest, np.full(more, _NOBODY))
        first, self._known = self._known, count + 1
        for id in range(first, count + 1):
            key = self._names.text(id)
            self._plain[id] = id
            rank = rank_of_key(key) if "\0" in key else None
            if rank is not None:
                self._ranks[id], self._has_ranks = rank, True
                plain = key_without_rank(key)
                self._plain[id] = self._names.intern(plain) if plain else 0

    def _look_at_tags(self, tags: Any) -> None:
        new = np.unique(tags[self._modes[tags] == 0])
        for tag in new.tolist():
            text = self._names.text(tag)
            rule = next(
                (how for like, how in self._rules.items() if fnmatch.fnmatchcase(text, like)),
                "first",
            )
            self._modes[tag] = _EACH if rule == "each" else _FIRST
            before = self._before.get(text)
            if before is not None:
                self._owners[tag] = before

    def _decide(self, tag: int) -> None:
        owner = int(self._lowest[tag])
        self._kept.append(self._names.text(tag), owner)
        self._owners[tag] = owner
        self._since.pop(tag, None)

    def _tell(self, records: NDArray[Any]) -> None:
        if self._has_told:
            return
        self._has_told = True
        tag = int(records["tag_id"][0])
        owner = int(self._owners[tag])
        _log.warning(
            "tracelet: several ranks log %r: the backends get the points of rank %d, the others' "
            "are in their own event files (rank-N in the log folder) and counted under %r. "
            'config={"ranks": {%r: "each"}} makes a series for each rank. This is said once.',
            self._names.text(tag), self._leading_rank if owner == _LEADING else owner,
            ANOTHER_RANKS, self._names.text(tag),
        )  # fmt: skip

    def close(self) -> None:
        self._kept.close()
