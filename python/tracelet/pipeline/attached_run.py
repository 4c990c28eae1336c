"""A run of another process of this machine, as one sees it that was started by that process and is
no fork of it: what it logs goes into that one's ring."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Callable

from tracelet import _core
from tracelet.backends.handle_folder import HandleFolder
from tracelet.capture.events import EventCapture
from tracelet.runs.progress import Progress
from tracelet.runs.stored_run import StoredRun
from tracelet.stats import Stats
from tracelet.summary import SeriesSummary

_POLL_S = 0.01


class AttachedRun:
    """What a handle and the capture need of it. The run is the other process': nothing of it is
    ended or closed here. Any thread.

    Raises OSError, RuntimeError or TraceletError when the ring, or how far the sinks have come,
    can't be opened.
    """

    def __init__(
        self, stored: StoredRun, on_new_writer: Callable[[], None], rank: int | None = None
    ) -> None:
        """`rank`: of the process that started this one, where it logs into its job's run."""
        self.rank = rank
        self.options = stored.options
        self.run_id = stored.run_id
        self.owner_pid = int(stored.manifest["pid"])
        task = stored.manifest.get("task")
        backend = next(iter(self.options.backend), "")
        self.ids: Mapping[str, str] = MappingProxyType({backend: str(task)} if task else {})
        self.urls: Mapping[str, str] = MappingProxyType({})
        self.is_away = False
        self.ring = _core.Ring.attach(stored.ring_path, self.options.full_ring_timeout_s)
        self._progress = Progress.open(stored.path)
        kept = stored.manifest.get("reopen", {}).get("tensorboard", {}).get("folder")
        default = str(kept) if kept else self.options.handle_log_dir
        self.handle = HandleFolder(self.options, stored.path, reopened=default, rank=rank)
        self.event_capture = EventCapture(
            os.path.join(stored.path, "payloads"),
            self.options.payload_bytes // 4,
            self._make_event_file,
            self.handle,
        )
        self._on_new_writer = on_new_writer

    def _make_event_file(self, log_dir: str, suffix: str) -> str:
        """The owner makes the files. A worker of a pool may be at its next run."""
        if self.ring.is_closed:
            self._on_new_writer()
        return ""

    def push_event(self, event: Any, writer: str | None = None) -> None:
        writer = self.handle.settle() if writer is None else writer
        self.event_capture.push_into(self.ring, writer, event)

    def summary(self) -> dict[str, SeriesSummary]:
        """Empty: the owner's drainer has it."""
        return {}

    def stats(self) -> Stats:
        return stats_from_outside(self.ring, self._progress)

    def flush(self, timeout_s: float) -> bool:
        return flush_from_outside(self.ring, self._progress, timeout_s)

    def note_failure(self, failure: BaseException) -> None:
        """Of a process that is not the run's."""

    def after_fork_in_child(self) -> None:
        self.ring.after_fork_in_child()


def stats_from_outside(ring: _core.Ring, progress: Progress | None) -> Stats:
    """As far as the run's files say it: what each sink has taken is known to the owner. None: no
    sink is there yet."""
    # First: it only grows, and the head is beyond it.
    reached = 0 if progress is None else _reached(progress)
    accepted = ring.head
    dropped = Counter(ring.dropped)
    dropped["producer died"] = ring.skipped
    return Stats(
        accepted=accepted,
        delivered={},
        pending=max(0, accepted - reached),
        retried=0,
        folded=0,
        dropped={reason: count for reason, count in dropped.items() if count},
        not_finite=0,
        not_finite_values=ring.not_finite_values,
    )


def flush_from_outside(ring: _core.Ring, progress: Progress, timeout_s: float) -> bool:
    """Waits until every sink has acknowledged what was logged before this call."""
    end = ring.head
    deadline_s = time.monotonic() + timeout_s
    ring.wake()
    while _reached(progress) < end:
        if time.monotonic() >= deadline_s or ring.is_closed:
            return _reached(progress) >= end
        time.sleep(_POLL_S)
    return True


def _reached(progress: Progress) -> int:
    return min((progress[number] for number in range(progress.count)), default=0)
