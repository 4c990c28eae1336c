"""Where the ranks of a job on one node meet: one run's folder and its ring, made by whoever comes
first. Nobody waits for anybody here, but for the lock under which they look.

A job's record, in the folder `.jobs` beside the runs, says which run it is. Each rank that logs
into that has a lock of its own in the run's folder, which the kernel gives back when it dies: so
each sees which others live. Which of them leads, and so drains the ring, the run's own lock says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.options import Options
from tracelet.places import warn_once
from tracelet.ranks.job import Job
from tracelet.runs.deletion import NothingLogged
from tracelet.runs.ownership import read_own
from tracelet.runs.process_identity import process_identity
from tracelet.runs.run_folder import RUN_LOCK, RunFolder
from tracelet.runs.run_lock import RunLock
from tracelet.runs.stored_run import StoredRun
from tracelet.runs.whole_file import write_whole

_JOBS = ".jobs"
_LOCK = "lock"
_LOOKED_AT_S = 0.2  # who looks whether a rank lives has its lock for a moment
_LOCK_S = 10.0  # it is held while a folder and a ring are made
_MOST_RECORD_BYTES = 1 << 16
_MEMBER = re.compile(r"rank-(\d{1,9})\.lock")
# What can go wrong where they meet; then a rank has a run of its own.
_FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, TraceletError)

_starts: Counter[str] = Counter()  # of this process, by `_name`


class Member:
    """A rank's part in its job's run. `leave` is for one thread; the rest for any."""

    def __init__(
        self, job: Job, record: str, folder: RunFolder, ring: _core.Ring, lock: RunLock
    ) -> None:
        self.job = job
        self.folder = folder
        self.ring = ring
        self._record = record
        self._lock = lock

    @property
    def leading_rank(self) -> int:
        """The first of this node: the one that leads, if it is there."""
        return self.job.rank - self.job.local_rank

    @property
    def marked_rank(self) -> int | None:
        """Which rank its writers are marked with; None for the first of this node."""
        return self.job.rank if self.job.local_rank else None

    def others(self) -> list[int]:
        """The ranks that log into the run now, without this one."""
        lives = ranks_that_live(self.folder.path)
        return [rank for rank in sorted(lives) if lives[rank] and rank != self.job.rank]

    def is_led(self) -> bool:
        """By whatever process."""
        return RunLock.is_held(os.path.join(self.folder.path, RUN_LOCK)) is not False

    def stored(self) -> StoredRun | None:
        """The run as it is on disk now; None when it is gone."""
        try:
            return StoredRun(self.folder.path)
        except TraceletError:
            return None

    @property
    def is_begun(self) -> bool:
        """Whether a process has led the run, and opened its backends."""
        stored = self.stored()
        return stored is None or "sinks" in stored.manifest

    def lead(self) -> bool:
        """Whether it leads from now on: False when another one does, or the run is gone. Raises
        OSError."""
        stored = self.stored()
        if stored is None or self.ring.is_closed:
            return False
        path = self.folder.path
        return self.folder.adopt(path, stored.manifest, self.ring.path)

    def leave(self) -> bool:
        """It logs into the run no more. False where it is the last one: then it stays, and ends the
        run, which nobody finds any more."""
        with contextlib.suppress(*_FAILURES), _locked(os.path.dirname(self._record)):
            if self.others():
                self._unlock()
                return True
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._record)
            return False
        return bool(self.others())  # they could not be asked under the lock

    def give_up(self) -> None:
        """The run could not begin here: it is left to the others, or removed where there are none
        and nothing was logged."""
        if not self.leave() and not self.ring.head:
            with contextlib.suppress(*_FAILURES):
                self.folder.remove(NothingLogged(self.ring.head))
        self.folder.leave()
        self.end()

    def end(self) -> None:
        """The run has ended, or could not begin."""
        self._unlock()

    def _unlock(self) -> None:
        """One whose file stays, and is not locked, has died."""
        with contextlib.suppress(OSError):
            os.unlink(_member_path(self.folder.path, self.job.rank))
        self._lock.release()


def ranks_that_live(folder: str) -> dict[int, bool]:
    """Of all ranks that log into a run whether they live, but for those that have left it."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if match := _MEMBER.fullmatch(name):
                found[int(match[1])] = RunLock.is_held(os.path.join(folder, name)) is not False
    return found


def meet(options: Options, job: Job) -> Member | None:
    """This rank's part in the run of its job, which is made if need be; None, with a line, where it
    can't be brought together with the others: it has a run of its own then."""
    if not job.id:
        tell_of_own_run(job, "nobody says which job it is; TRACELET_JOB does")
        return None
    name = _name(options, job)
    key = f"{name}-{_starts[name]}" if _starts[name] else name
    folder = os.path.join(options.runs_dir, _JOBS)
    record = os.path.join(folder, f"{key}.json")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with _locked(folder):
            member = _join(options, job, record)
            if member is None:
                member = _make(options, job, record)
    except _FAILURES as error:
        tell_of_own_run(job, error)
        return None
    _starts[name] += 1
    return member


def tell_of_own_run(job: Job, reason: object) -> None:
    if job.rank:  # the first one may be the only one that logs
        warn_once(f"this is {job}, and it has a run of its own: {reason}")


def _name(options: Options, job: Job) -> str:
    """What ranks of one run have in common, beside the number of runs of that name that a process
    has had: all ranks start them in the same order."""
    here = process_identity()
    shared = [
        job.id, here["host"], here["pid_namespace"], options.project, options.exp_name,
        options.task_name, options.ring_dir,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:32]


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Raises TraceletError, OSError."""
    lock = RunLock(os.path.join(folder, _LOCK))
    if not lock.acquire(_LOCK_S):
        raise TraceletError(f"{folder} is locked for more than {_LOCK_S:g} s")
    try:
        yield
    finally:
        lock.release()


def _join(options: Options, job: Job, record: str) -> Member | None:
    """None when there is no run of the job that goes on."""
    try:
        noted: Mapping[str, Any] = json.loads(read_own(record, _MOST_RECORD_BYTES))
        stored = StoredRun(str(noted["folder"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, TraceletError):
        return None
    if stored.manifest.get("state") != "running" or not stored.has_ring:
        return None
    if os.path.lexists(_member_path(stored.path, job.rank)):
        return None  # this rank is there already, or died in it: this is another start of the job
    ring = _core.Ring.attach(stored.ring_path, options.full_ring_timeout_s)
    folder = RunFolder(options)
    folder.path, folder.run_id = stored.path, stored.run_id
    folder.ring_path = stored.ring_path
    lock = RunLock(_member_path(stored.path, job.rank))
    member = Member(job, record, folder, ring, lock)
    if ring.is_closed or not (member.others() or member.is_led()) or not lock.acquire(_LOOKED_AT_S):
        return None  # it ended, all of it is dead, or this rank is there already
    folder.hold_ring()
    return member


def _make(options: Options, job: Job, record: str) -> Member:
    folder = RunFolder(options)
    folder.make()
    try:
        ring = _core.Ring.create(
            folder.ring_path,
            options.ring_slots,
            options.full_ring_timeout_s,
            options.payload_bytes,
        )
        folder.hold_ring()
        lock = RunLock(_member_path(folder.path, job.rank))
        lock.acquire()
        folder.update(state="running", ring_id=ring.id, job=asdict(job), is_of_ranks=True)
        # Not synced: after a loss of power no rank is alive that it would lead anywhere.
        content = json.dumps({"folder": folder.path, "made_s": time.time()}).encode()
        write_whole(record, content, is_synced=False)
    except BaseException:
        folder.remove_start()
        raise
    folder.leave_to_others()  # who is to lead takes it
    return Member(job, record, folder, ring, lock)


def _member_path(folder: str, rank: int) -> str:
    return os.path.join(folder, f"rank-{rank}.lock")
