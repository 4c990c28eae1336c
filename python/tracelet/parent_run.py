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
import types
from typing import TYPE_CHECKING

from tracelet import environment
from tracelet.errors import TraceletError

if TYPE_CHECKING:
    from tracelet.pipeline.attached_run import AttachedRun
    from tracelet.runs.stored_run import StoredRun

_log = logging.getLogger("tracelet")

_WRITERS = ("torch.utils.tensorboard", "tensorboardX")

_folder = environment.parent_run()  # None: none, or it was looked at already
_is_attached = False
_lock = threading.RLock()


def watch_for_writers() -> None:
    """For the import of tracelet: has SummaryWriters log to the parent's run, if it has one."""
    if _folder is None:
        return
    from tracelet.capture.import_hook import ImportHook

    for name in _WRITERS:
        ImportHook(name, before=lambda module: None, after=_on_writers)


def _on_writers(module: types.ModuleType) -> None:
    try:
        attach_to_parent()
        if _is_attached and module.__name__ == _WRITERS[0]:
            from tracelet.pipeline.lifecycle import see_to_torch

            see_to_torch()
    except Exception as error:  # the import of somebody else must not fail
        _tell(error)


def is_attached() -> bool:
    return _is_attached


def forget_parent() -> None:
    """This process has a run of its own, or wants none."""
    global _folder
    _folder = None


def attach_to_parent() -> None:
    """Looks, once, at the run that this process' parent had when it started it."""
    global _folder, _is_attached
    if _folder is None:
        return
    with _lock:
        folder, _folder = _folder, None
        run = None if folder is None else _open(folder)
        if run is None:
            return
        from tracelet.pipeline import lifecycle

        lifecycle.attach(run)
        _is_attached = True


def _open(folder: str) -> AttachedRun | None:
    """None, without a word, for a run that has ended, is of another machine, or of this process."""
    if not os.path.isdir(folder):
        return None
    from tracelet.pipeline.attached_run import AttachedRun
    from tracelet.runs.stored_run import StoredRun

    try:
        stored = StoredRun(folder)
        if not _goes_on(stored):
            return None
        run = AttachedRun(stored)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, TraceletError) as error:
        if os.path.isdir(folder):  # else it has just ended
            _tell(error)
        return None
    return None if run.ring.is_closed else run


def _goes_on(stored: StoredRun) -> bool:
    from tracelet.runs.process_identity import is_alive

    manifest = stored.manifest
    is_own = manifest.get("pid") == os.getpid()  # this process has started another program
    return manifest.get("state") == "running" and not is_own and is_alive(manifest) is True


def _tell(error: Exception) -> None:
    _log.warning(
        "tracelet: process %d can't log into the run of the process that started it, and what it "
        "logs is not in that run: %s", os.getpid(), error,
    )  # fmt: skip


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
