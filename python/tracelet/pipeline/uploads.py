"""What a run uploads by hand, artifacts and models: in the background, counted, never silent."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tracelet.backends.base import Upload
from tracelet.fork import renew_at_fork

_log = logging.getLogger("tracelet")
_random = random.Random()  # of its own: the training's numbers are not to be drawn from

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 30.0
_LONGEST_BACKOFF_IN_HASTE_S = 1.0


@dataclass
class _Job:
    upload: Upload
    failures: int = 0
    due_s: float = 0.0  # not tried before this, as time.monotonic() has it
    reason: str = ""  # of the last failure


class Uploads:
    """A queue of uploads and one thread for it, which is there from the first one on.

    Scalars and images have lanes of their own: nothing here holds them back. What fails is tried
    again, with a backoff of its own that grows, until `finish`'s deadline; what the server
    refuses for good, and what is left then, is kept in `kept_dir` with a warning that
    names it and the reason. All methods may be called by any thread.
    """

    def __init__(self, kept_dir: str, are_kept: bool = False) -> None:
        """`are_kept`: what is left at the end is on disk already, for `tracelet sync`: neither kept
        there nor counted here."""
        self._kept_dir = kept_dir
        self._are_kept = are_kept
        self._is_stopping = False
        self._uploaded = 0
        self._failed = 0
        self.renew_in_child()
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        """What waits is the parent's, whose thread goes on with it."""
        self._changed = threading.Condition()
        self._waiting: list[_Job] = []
        self._last: _Job | None = None
        self._busy: _Job | None = None
        self._thread: threading.Thread | None = None

    def add(self, upload: Upload) -> None:
        with self._changed:
            self._waiting.append(_Job(upload))
            self._start()

    def at_end(self, upload: Upload) -> None:
        """Does this when all others are done and the run ends; replaces one given before."""
        with self._changed:
            self._last = _Job(upload)
            self._start()

    @property
    def counts(self) -> Mapping[str, int]:
        """ "uploaded", "pending" and "failed", those that are not 0."""
        with self._changed:
            jobs = [*self._waiting, *([self._busy] if self._busy else [])]
            pending = sum(job.upload.size_bytes is not None for job in jobs)
            counts = {"uploaded": self._uploaded, "pending": pending, "failed": self._failed}
        return {name: count for name, count in counts.items() if count}

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or is on its way."""
        with self._changed:
            return not self._waiting and self._busy is None

    def stop(self) -> None:
        """Ends the thread once all is uploaded; `finish` waits for it."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def finish(self, timeout_s: float) -> None:
        """Waits for the thread and sets aside what it has not uploaded by then."""
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self._changed:
            left = [*([self._busy] if self._busy else []), *self._waiting]
            self._waiting = []
            self._last = self._busy = None
        for job in left if not self._are_kept else ():
            reason = job.reason or "the time at the end of the run was too short"
            self._give_up(job.upload, f"not uploaded by the end: {reason}")

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="tracelet-uploads", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads, or the process is ending
                _log.debug("tracelet: no thread for the uploads now: %s", error)
                return
            self._thread = thread
        self._changed.notify()

    def _run(self) -> None:
        while (job := self._take()) is not None:
            try:
                job.upload.upload()
            except Exception as error:
                self._note_failure(job, error)
            else:
                self._note_success(job)

    def _take(self) -> _Job | None:
        """The job that is due, once there is one; None when the thread is to end."""
        with self._changed:
            while True:
                now_s = time.monotonic()
                if self._is_stopping and not self._waiting:
                    self._busy, self._last = self._last, None
                    return self._busy
                for job in self._waiting:
                    if self._due_s(job, now_s) <= now_s:
                        self._waiting.remove(job)
                        self._busy = job
                        return job
                next_s = min((self._due_s(job, now_s) for job in self._waiting), default=None)
                self._changed.wait(None if next_s is None else next_s - now_s)

    def _due_s(self, job: _Job, now_s: float) -> float:
        if self._is_stopping:
            job.due_s = min(job.due_s, now_s + _LONGEST_BACKOFF_IN_HASTE_S)
        return job.due_s

    def _note_success(self, job: _Job) -> None:
        with self._changed:
            if self._busy is not job:
                return  # given up meanwhile
            self._busy = None
            self._uploaded += job.upload.size_bytes is not None
        job.upload.discard()

    def _note_failure(self, job: _Job, error: Exception) -> None:
        """Puts the job behind the others, or aside."""
        _log.debug("tracelet: uploading %s failed", job.upload.name, exc_info=error)
        reason = f"{error}"[:500] or type(error).__name__
        with self._changed:
            if self._busy is not job:
                return
            self._busy = None
            if is_retried := not job.upload.is_refused(error):
                job.failures += 1
                pause_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(job.failures - 1, 30))
                job.due_s = time.monotonic() + pause_s * _random.uniform(0.5, 1.0)
                job.reason = reason
                self._waiting.append(job)
        if not is_retried:
            self._give_up(job.upload, reason)
        elif job.failures == 1:
            _log.warning(
                "tracelet: %s can't be sent now (%.500s). It is tried again; training goes on.",
                job.upload.name, reason,
            )  # fmt: skip

    def _give_up(self, upload: Upload, reason: str) -> None:
        with self._changed:
            self._failed += 1
        kept = upload.keep(self._kept_dir)
        where = f" It is kept in {kept}." if kept and os.path.exists(kept) else ""
        _log.warning("tracelet: %s is not on the server: %.500s.%s", upload.name, reason, where)
