"""A process that was started by one with a run (spawn, forkserver, loky, subprocess), and imports
tracelet: it logs into that run.

Nothing is opened before it is needed: by the import of torch's or tensorboardX' SummaryWriter, or
by `get_active_experiment`. So commands and programs that do not log cost and hold nothing.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import types
from typing import TYPE_CHECKING

from tracelet import environment
from tracelet.errors import TraceletError

if TYPE_CHECKING:
    from tracelet.pipeline.attached_run import AttachedRun
    from tracelet.runs.stored_run import StoredRun

_log = logging.getLogger("tracelet")

_WRITERS = ("torch.utils.tensorboard", "tensorboardX")

_MOST_LOOKED_AT = 20  # runs, the newest
_LOOK_S = 0.1

_parent = environment.parent_run()
_is_wanted = _parent is not None  # to be looked at yet
_next_look_s = 0.0
_run: AttachedRun | None = None
_lock = threading.RLock()


def watch_for_writers() -> None:
    """For the import of tracelet: has SummaryWriters log to the parent's run, if it has one."""
    if _parent is None:
        return
    from tracelet.capture.import_hook import ImportHook

    for name in _WRITERS:
        ImportHook(name, before=lambda module: None, after=_on_writers)


def _on_writers(module: types.ModuleType) -> None:
    """Waits for no lock: this thread has that of the import."""
    try:
        if _lock.acquire(blocking=False):
            try:
                attach_to_parent(may_wait=False)
            finally:
                _lock.release()
            is_needed = _run is not None
        else:
            is_needed = True  # another thread is at it
        if is_needed and module.__name__ == _WRITERS[0]:
            from tracelet.pipeline.lifecycle import see_to_torch

            see_to_torch()
    except Exception as error:  # the import of somebody else must not fail
        _tell(error)


def is_attached() -> bool:
    return _run is not None


def forget_parent() -> None:
    """This process has a run of its own, or wants none."""
    global _is_wanted, _parent
    _is_wanted = False
    _parent = None


def attach_to_parent(may_wait: bool = True) -> None:
    """Looks at the run of the process that started this one: once, and again when that has ended,
    since a worker of a pool serves its next run, too."""
    global _is_wanted, _run, _next_look_s
    if not _is_wanted and (_run is None or not _run.ring.is_closed):
        return
    with _lock:
        parent = _parent
        # A step may ask for the handle, and a look reads a folder.
        if parent is None or time.monotonic() < _next_look_s:
            return
        _is_wanted, _next_look_s = False, time.monotonic() + _LOOK_S
        run = _open(parent)
        if run is None:
            return
        from tracelet.pipeline import lifecycle

        if lifecycle.attach(run, may_wait):
            lifecycle.set_look_for_next(attach_to_parent)
            _run = run
        else:
            _is_wanted, _next_look_s = True, 0.0


def _open(parent: environment.ParentRun) -> AttachedRun | None:
    """None, without a word, for a run that has ended, is of another machine, or of this process."""
    if parent.pid == os.getpid():
        return None  # this process has started another program
    from tracelet.ranks.job import find_job, rank_here

    if rank_here() != parent.rank:  # else one series would be a mix of all ranks
        _tell(f"this is {find_job()}, and ranks are not brought together yet")
        return None
    from tracelet.pipeline.attached_run import AttachedRun
    from tracelet.runs.stored_run import StoredRun

    folder = parent.folder
    try:
        stored = StoredRun(folder) if os.path.isdir(folder) else None
        if stored is None or not _goes_on(stored):
            stored = _next_of(parent)
        if stored is None:
            return None
        job = find_job() if stored.manifest.get("is_of_ranks") else None
        rank = parent.rank if job is not None and job.local_rank else None
        run = AttachedRun(stored, attach_to_parent, rank)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, TraceletError) as error:
        if os.path.isdir(folder):  # else it has just ended
            _tell(error)
        return None
    return None if run.ring.is_closed else run


def _next_of(parent: environment.ParentRun) -> StoredRun | None:
    """The run that the same process has now: a worker of a pool, and what a fork server starts,
    know the one that there was when they began."""
    from tracelet.runs.stored_run import scan_runs

    runs_dir = os.path.dirname(parent.folder)
    if not parent.start or not os.path.isdir(runs_dir):
        return None
    found, _ = scan_runs(runs_dir, _MOST_LOOKED_AT)
    for stored in reversed(found):
        its = stored.manifest
        is_of_it = (its.get("pid"), its.get("process_start")) == (parent.pid, parent.start)
        if is_of_it and _goes_on(stored):
            return stored
    return None


def _goes_on(stored: StoredRun) -> bool:
    from tracelet.runs.process_identity import is_alive

    manifest = stored.manifest
    return manifest.get("state") == "running" and is_alive(manifest) is True


def _tell(reason: object) -> None:
    _log.warning(
        "tracelet: process %d can't log into the run of the process that started it, and what it "
        "logs is not in that run: %s", os.getpid(), reason,
    )  # fmt: skip


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
