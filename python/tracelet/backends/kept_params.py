"""Parameters on their way to a tracker: on disk from the call on, until it has them.

A call puts its line into the run's folder and returns; the run's queue of calls sends what waits,
in the order of the calls, the last value of a name winning. What a dead process, or one whose
tracker stayed away, has not sent is sent by `tracelet sync`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, Callable

from tracelet.backends.base import Later
from tracelet.backends.kept import KeptLines
from tracelet.fork import renew_at_fork

_log = logging.getLogger("tracelet")

Send = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Sends parameters, by name, what is JSON. Returns those that the tracker refused for good, with
its words; raises when it can't take any now. Sent again, they must do no harm."""


class KeptParams:
    """An Upload of all calls that wait. Any thread; one at a time uploads."""

    size_bytes: int | None = None

    def __init__(self, backend: str, lines: KeptLines, send: Send, what: str = "parameter") -> None:
        """`what`: one of those that are kept, for messages."""
        self.name = f"{what}s"
        self._what = what
        self._backend = backend
        self._lines = lines
        self._send = send
        self._number = 0
        self.renew_in_child()
        renew_at_fork(self)
        self._has_told = False
        self.logged: dict[str, Any] = {}
        """All that a dead process has logged, from `restore` on."""
        self._later: Later | None = None

    def renew_in_child(self) -> None:
        """What waits is the parent's to send."""
        # Of all that is here. Reentrant: a signal's handler may log as well.
        self._lock = threading.RLock()
        self._waiting: dict[int, Mapping[str, Any]] = {}  # by the number of the call
        self._is_queued = False

    def add(self, params: Mapping[str, Any], later: Later) -> None:
        """One call: it is on disk when this returns, or a warning says why not, and that it is in
        memory alone. No request is sent here."""
        if not params:
            return
        with self._lock:
            self._later = later
            number = self._number = self._number + 1
            is_kept = self._lines.append(number, dict(params))
            self._waiting[number] = dict(params)
            is_queued, self._is_queued = self._is_queued, True
            is_news = not is_kept and not self._has_told
            self._has_told |= is_news
        if is_news:
            _log.warning(
                "tracelet: %s can't be written to the run's folder: they are sent, and are lost if "
                "this process dies before that", self.name,
            )  # fmt: skip
        if not is_queued:
            later.soon(self)

    @property
    def unsent(self) -> int:
        """Calls that the tracker has not got yet."""
        with self._lock:
            return len(self._waiting)

    def restore(self) -> None:
        """Takes up what a dead process has left."""
        for line in self._lines.read():
            if not _is_call(line):
                _log.warning("tracelet: %s: damaged %s are left out", self._backend, self.name)
                continue
            number, *params = line
            if params:
                self.logged.update(params[0])
                self._waiting[number] = params[0]
            else:  # all up to this one were sent
                self._waiting = {n: each for n, each in self._waiting.items() if n > number}
            self._number = max(self._number, number)

    def send_left(self) -> int:
        """Sends what a dead process has left; returns how many calls that were. Raises as `Send`
        does; may be called again."""
        self.restore()
        count = self.unsent
        self.upload()
        return count

    def upload(self) -> None:
        while True:
            with self._lock:
                calls = dict(self._waiting)
                if not calls:
                    self._is_queued = False
                    return
            merged: dict[str, Any] = {}
            for params in calls.values():
                merged.update(params)
            refused = self._send(merged)
            if refused:
                self._count(refused)
            with self._lock:
                self._lines.append(max(calls))
                for number in calls:
                    del self._waiting[number]

    def _count(self, refused: Mapping[str, str]) -> None:
        for name, words in refused.items():
            reason = f"refused {self._what}: {words}"[:200]
            if self._later is not None:
                self._later.count(self._backend, reason, f"{name!r:.100}")
            else:
                _log.warning("tracelet: %s: %.100r: %s", self._backend, name, reason)

    def close(self) -> None:
        self._lines.close()

    def is_refused(self, error: Exception) -> bool:
        return False

    def keep(self, folder: str) -> str:
        return ""

    def discard(self) -> None:
        """What is sent is noted as sent; the file goes with the run's folder."""


def _is_call(line: Any) -> bool:
    """Whether it is what `add` or `upload` wrote."""
    return (
        isinstance(line, list)
        and len(line) in (1, 2)
        and type(line[0]) is int
        and all(isinstance(each, dict) for each in line[1:])
    )
