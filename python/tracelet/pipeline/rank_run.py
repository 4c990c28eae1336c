"""A rank's part in the run of its job: what it logs goes into the ring that all ranks of the node
have, and the one that leads ships it. Where none leads, the lowest of them does."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Callable

from tracelet.backends import Backend
from tracelet.backends.handle_folder import HandleFolder
from tracelet.capture.events import EventCapture
from tracelet.capture.watch import Watches
from tracelet.errors import TraceletError
from tracelet.options import Options
from tracelet.pipeline.attached_run import flush_from_outside, stats_from_outside
from tracelet.pipeline.run import Run
from tracelet.places import warn_once
from tracelet.ranks.job import find_job
from tracelet.ranks.meeting import Member, meet, tell_of_own_run
from tracelet.runs.progress import Progress
from tracelet.stats import Stats
from tracelet.summary import SeriesSummary

_log = logging.getLogger("tracelet")

_POLL_S = 0.25
_LEFT_ALONE_S = 0.5  # points may wait so long in a ring that nobody leads
_MOST_WAITING = 1_000
_PAUSE_S = 5.0  # after a backend could not be opened
_AFTER_LEFT_S = 0.2


def begin_run(
    options: Options, note_open: Callable[[Run | RankRun], object], is_inside: bool
) -> Run | RankRun:
    """A run of this process' own; or, for a rank of a job, its part in that one's run, where the
    option `ranks` asks for that. Raises as `Run`."""
    job = find_job()
    if job is None or job.world_size == 1:
        return Run(options, note_open)
    if not options.ranks:
        tell_of_own_run(job, "config={'ranks': {'*': 'first'}} makes one run of all")
        return Run(options, note_open)
    if is_inside and job.rank:
        tell_of_own_run(job, "ranks are not brought together in a run inside another")
    member = None if is_inside else meet(options, job)
    if member is None:
        return Run(options, note_open)
    if job.rank and member.marked_rank is None:
        tell_of_own_run(job, "the ranks of each node have one; nodes are not brought together yet")
    try:
        if member.marked_rank is None and member.lead():
            return Run(options, note_open, member)
        return RankRun(options, note_open, member)
    except BaseException:
        member.give_up()
        raise


class RankRun:
    """As `Run`, of a process that does not lead; it waits for no other. Any thread."""

    def __init__(
        self, options: Options, note_open: Callable[[RankRun], object], member: Member
    ) -> None:
        self.options = options
        self.folder = member.folder
        self.run_id = member.folder.run_id
        self.backends: list[Backend] = []
        self.is_away = False
        self.ring = member.ring
        self.rank = member.marked_rank
        self.is_forked = False
        self.watches = Watches()
        self.handle = HandleFolder(options, member.folder.path, rank=self.rank)
        self.ids = _Noted(member, "ids")
        self.urls = _Noted(member, "urls")
        self._member = member
        self._progress: Progress | None = None
        self._led: Run | None = None
        self.takes_verbs = False
        """Whether it leads from the run's beginning: a run that is taken over is known to its
        backends by what was noted of it, which is enough for points."""
        self._failure: BaseException | None = None
        self._final_stats: Stats | None = None
        self._not_taken: Counter[str] = Counter()
        self._is_ending = threading.Event()
        self._is_left = False  # it ended while the other thread opened a backend
        self._lock = threading.RLock()  # of what leads
        self.event_capture = EventCapture(
            os.path.join(member.folder.path, "payloads"),
            options.payload_bytes // 4,
            lambda log_dir, suffix: "",  # the leading rank makes the files
            self.handle,
        )
        self.verbs = _Verbs(self)
        self._stand_in = _StandIn(self)
        note_open(self)
        self._stand_in.start()

    def begin_monitors(self) -> None:
        """The leading rank has them."""

    def begin_lines(self) -> None:
        """The leading rank says them."""

    def push_event(self, event: Any, writer: str | None = None) -> None:
        writer = self.handle.settle() if writer is None else writer
        self.event_capture.push_into(self.ring, writer, event)

    def renew_event_files(self) -> None:
        led = self._led
        if led is not None:
            led.renew_event_files()

    def event_files(self) -> list[str]:
        led = self._led
        return led.event_files() if led is not None else []

    def summary(self) -> dict[str, SeriesSummary]:
        """Empty where another process drains the ring."""
        led = self._led
        return led.summary() if led is not None and not self.is_forked else {}

    def stats(self) -> Stats:
        """Of all ranks: they have one ring."""
        led = self._led
        if self._final_stats is not None:
            return self._final_stats
        if led is not None and not self.is_forked:
            stats = led.stats()
        else:
            progress = self._opened_progress()
            stats = stats_from_outside(self.ring, progress)
        return replace(stats, not_taken={**stats.not_taken, **self._not_taken})

    def flush(self, timeout_s: float) -> bool:
        """Waits for the leading rank; where there is none yet, for one that leads."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            led, progress = self._led, self._opened_progress()
            if led is not None and not self.is_forked:
                return led.flush(max(0.0, deadline_s - time.monotonic()))
            if progress is not None:
                return flush_from_outside(
                    self.ring, progress, max(0.0, deadline_s - time.monotonic())
                )
            time.sleep(0.01)
        return False

    def flush_event_files(self, timeout_s: float) -> bool:
        """Nothing is waited for: they are another process'."""
        led = self._led
        return True if led is None or self.is_forked else led.flush_event_files(timeout_s)

    def _opened_progress(self) -> Progress | None:
        if self._progress is None:
            with contextlib.suppress(OSError, ValueError, TraceletError):  # nobody has led yet
                self._progress = Progress.open(self.folder.path)
        return self._progress

    def note_failure(self, failure: BaseException) -> None:
        self._failure = failure
        led = self._led
        if led is not None:
            led.note_failure(failure)

    def count_not_taken(self, method: str) -> None:
        self._not_taken[f"{method} on a rank that does not lead"] += 1
        warn_once(
            f"{method}: this is {find_job()}; it is left to the rank that leads the run. Call it "
            "there"
        )

    def lead(self, is_urgent: bool = False) -> Run | None:
        """Drains and ships from now on, where no other process does. Raises what a backend raises
        that can't be opened, unless it is urgent."""
        with self._lock:
            has_begun = self._member.is_begun
            if self._led is None and self._member.lead():
                self._led = self._open(is_urgent)
                self.takes_verbs = not has_begun
                if self._failure is not None:
                    self._led.note_failure(self._failure)
                self.verbs.give_to(self._led if self.takes_verbs else None)
                if self._is_left:
                    self._led.stop(_AFTER_LEFT_S, process_is_ending=False)
            return self._led

    @property
    def led(self) -> Run | None:
        """The run, where this process leads it."""
        return self._led if not self.is_forked else None

    @property
    def is_begun(self) -> bool:
        """Whether another process leads the run, or did."""
        return self._member.is_begun

    def _open(self, is_urgent: bool) -> Run:
        """As a run begins. Where it can't, and the ring fills, event files are written: no call is
        to wait for room."""
        stored, options = self._member.stored(), self.options
        if stored is not None and "sinks" in stored.manifest:  # as the first leader was asked to
            names = (each["backend"] for each in stored.manifest["sinks"])
            options = replace(options, backend=tuple(dict.fromkeys(names)))
        try:
            return Run(options, lambda run: None, self._member)
        except Exception as error:
            warn_once(f"{find_job()} can't lead the run as it was asked to: {error}")
            if not is_urgent or self._member.is_begun or not self._member.lead():
                raise
            options = replace(self.options, backend=("tensorboard",))
            run = Run(options, lambda run: None, self._member)
            warn_once(f"the points of {find_job()} and the ranks with it are in event files alone")
            return run

    def stop(self, timeout_s: float, process_is_ending: bool) -> None:
        """Leaves the run to the other ranks, or ends it, where this one is the last."""
        if self._final_stats is not None:
            return
        deadline_s = time.monotonic() + timeout_s
        self._is_ending.set()
        self.watches.end(None)
        if self._may_end(deadline_s):
            try:
                if self._led is None and not self._member.leave():
                    self._lead_at_last(deadline_s)
            finally:
                self._lock.release()
        else:
            self._tell_of_rest()
        led = self._led
        if led is not None:
            led.stop(max(0.0, deadline_s - time.monotonic()), process_is_ending)
        self.verbs.give_to(None)
        stats = self.stats()
        self._member.end()
        self.folder.leave()
        self._final_stats = stats
        self._stand_in.join(max(0.0, min(1.0, deadline_s - time.monotonic())))

    def _may_end(self, deadline_s: float) -> bool:
        """Takes the lock. False while the other thread opens a backend, to lead, which may hang in
        its SDK: that thread ends then what it has opened."""
        if self._lock.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            return True
        self._is_left = True
        return self._lock.acquire(timeout=_AFTER_LEFT_S)  # it may not have seen that

    def _tell_of_rest(self) -> None:
        _log.warning(
            "tracelet: what this job has logged is not all delivered. It is kept in %s; this sends "
            "it:\n    tracelet sync %s", self.folder.path, self.run_id,
        )  # fmt: skip

    def _lead_at_last(self, deadline_s: float) -> None:
        """Nobody else is there: what is left is this one's to ship. A leader that has left may be
        at its end yet."""
        while not self.ring.is_closed and self._member.stored() is not None:
            with contextlib.suppress(Exception):
                if self.lead() is not None:
                    return
                if time.monotonic() < deadline_s:
                    time.sleep(0.02)
                    continue
            self._tell_of_rest()
            return

    def after_fork_in_child(self) -> None:
        self.is_forked = True
        self._lock = threading.RLock()
        self.ring.after_fork_in_child()
        led = self._led
        if led is not None:
            led.is_forked = True


class _StandIn(threading.Thread):
    """Looks whether the run is led, and leads it where it must. One thread."""

    def __init__(self, run: RankRun) -> None:
        super().__init__(name="tracelet-rank", daemon=True)
        self._rank_run = run
        self._begun_s = time.monotonic()
        self._alone_since_s: float | None = None

    def run(self) -> None:
        failed_s = -math.inf
        while not self._rank_run._is_ending.wait(_POLL_S):
            is_paused = time.monotonic() - failed_s < _PAUSE_S and not self._is_filling
            try:
                if not is_paused and self._is_wanted():
                    self._rank_run.lead(self._is_filling)
                    return
            except Exception as error:
                _log.debug("tracelet: no rank leads the run", exc_info=error)
                failed_s = time.monotonic()

    @property
    def _is_filling(self) -> bool:
        ring = self._rank_run.ring
        return ring.head - ring.tail > ring.capacity // 2

    def _is_wanted(self) -> bool:
        run, member = self._rank_run, self._rank_run._member
        if (
            run.ring.is_closed
            or member.is_led()
            or min(member.others(), default=1 << 30) < member.job.rank
        ):
            self._alone_since_s = None
            return False
        progress = run._opened_progress()
        if progress is None:  # the first rank may be on its way
            is_late = time.monotonic() - self._begun_s >= run.options.start_timeout_s
            return is_late or self._is_filling
        reached = min((progress[number] for number in range(progress.count)), default=0)
        if reached >= run.ring.head:
            self._alone_since_s = None
            return False  # it left, and there is nothing to do
        now_s = time.monotonic()
        self._alone_since_s = self._alone_since_s or now_s
        return now_s - self._alone_since_s >= _LEFT_ALONE_S or self._is_filling


class _Verbs:
    """What is not points is logged by the rank that leads: on the others it is counted. Of calls
    from before one leads it is not known yet: they wait, and are this one's when it does. Any
    thread."""

    def __init__(self, run: RankRun) -> None:
        self._run = run
        self._waiting: deque[tuple[str, tuple[Any, ...], dict[str, Any]]] = deque()

    def __getattr__(self, name: str) -> Callable[..., None]:
        led = self._run.led
        if led is not None and self._run.takes_verbs:
            found: Callable[..., None] = getattr(led.verbs, name)
            return found
        return partial(self._later, name)

    def _later(self, name: str, *args: Any, **kwargs: Any) -> None:
        if self._run.is_begun or len(self._waiting) >= _MOST_WAITING:
            self._run.count_not_taken(name)
        else:
            self._waiting.append((name, args, kwargs))

    def give_to(self, led: Run | None) -> None:
        """None: another rank leads, or none did."""
        while self._waiting:
            name, args, kwargs = self._waiting.popleft()
            if led is None:
                self._run.count_not_taken(name)
                continue
            try:
                getattr(led.verbs, name)(*args, **kwargs)
            except Exception as error:  # the caller's, who is gone
                _log.warning("tracelet: %s failed: %s", name, error)


class _Noted(Mapping[str, str]):
    """What the manifest says of the run's backends, once it does."""

    def __init__(self, member: Member, name: str) -> None:
        self._member = member
        self._name = name
        self._found: dict[str, str] = {}

    def _read(self) -> dict[str, str]:
        if not self._found and (stored := self._member.stored()) is not None:
            self._found = dict(stored.manifest.get(self._name, {}))
        return self._found

    def __getitem__(self, key: str) -> str:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())
