"""The active run of this process: its start, its stop, the end of the process, fork."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading

from tracelet import _core
from tracelet.backends import before_torch_is_imported
from tracelet.capture.event_writer import set_event_capture
from tracelet.capture.events import EventCapture
from tracelet.capture.patch import Patch
from tracelet.capture.summary_writer import (
    find_summary_writer,
    patch_summary_writer,
    patch_summary_writer_beside,
)
from tracelet.capture.tensorboardx import TensorboardXCapture
from tracelet.options import Options
from tracelet.pipeline.exit_signals import SigTerm, UserHandlers
from tracelet.pipeline.run import Run

_log = logging.getLogger("tracelet")

_FLUSH_EVENT_FILES_TIMEOUT_S = 5.0


class _Active:
    """What belongs to the active run."""

    def __init__(self, run: Run, handlers: UserHandlers) -> None:
        self.run = run
        self.handlers = handlers
        self.sigterm = SigTerm(
            handlers.of(signal.SIGTERM),
            _stop_on_sigterm,
            run.options.exit_timeout_s,
        )
        self.owner_pid = os.getpid()
        beside = run.options.tensorboard == "passthrough"
        self.patches: list[Patch | TensorboardXCapture] = []
        cls = find_summary_writer()
        if cls is not None and beside:
            self.patches += patch_summary_writer_beside(cls)
        elif cls is not None:
            self.patches += patch_summary_writer(cls, self._flush_event_files)
        self.patches.append(TensorboardXCapture(self._flush_event_files, beside))

    def _flush_event_files(self) -> None:
        if os.getpid() == self.owner_pid:
            self.run.flush(_FLUSH_EVENT_FILES_TIMEOUT_S, event_files_only=True)


_active: _Active | None = None
_lock = threading.RLock()  # of start and stop


def active_run() -> Run | None:
    """The run of this process. In a forked child: None, though its points still go to the run."""
    active = _active
    return active.run if active and active.owner_pid == os.getpid() else None


def start(options: Options) -> Run:
    """Starts a run, and makes it the active one; a run that is active ends first."""
    global _active
    with _lock:
        if active_run() is not None:
            _log.warning("tracelet: start_logging while a run is active: that run is stopped first")
            stop(None)
        elif _active is not None:
            leave_in_child()
        handlers = UserHandlers()  # before a backend's SDK sets its own
        before_torch_is_imported()
        find_summary_writer()  # imports torch before a backend starts threads that disturb imports
        run = Run(options)
        _active = _Active(run, handlers)
        _core.set_histogram_threads(options.histogram_threads)
        payloads = run.folder.payloads_path
        set_event_capture(EventCapture(payloads, options.payload_bytes // 4, run.make_event_file))
        _core.set_active_run(run.ring)
        # Registered anew, so that it runs before the hooks that the backends have just registered.
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
        _active.sigterm.install()  # over what the backends have just set
        handlers.restore_for_faults()
        return run


def stop(timeout_s: float | None, process_is_ending: bool = False) -> None:
    """Ends the active run; does nothing without one."""
    global _active
    with _lock:
        active = _active
        if active is None:
            return
        if active.owner_pid != os.getpid():
            leave_in_child()
            return
        active.sigterm.hold()
        _active = None
        _stop_capture(active)
        options = active.run.options
        default_s = options.exit_timeout_s if process_is_ending else options.stop_timeout_s
        try:
            active.run.stop(default_s if timeout_s is None else timeout_s, process_is_ending)
        finally:
            active.sigterm.remove()
            active.handlers.restore()
            active.sigterm.let_go()


def _tell_of_end() -> None:
    _log.warning(
        "tracelet: process %d logs into a run that has ended in the process it was forked from; "
        "its points are dropped. stats counts them under 'run ended'.", os.getpid(),
    )  # fmt: skip


_core.set_end_teller(_tell_of_end)


def _stop_capture(active: _Active) -> None:
    for patch in active.patches:
        patch.undo()
    set_event_capture(None)
    _core.set_active_run(None)


def leave_in_child() -> None:
    """Ends capture in a forked child. The run is the parent's: nothing of it is closed here."""
    global _active
    if _active is not None:
        _stop_capture(_active)
        _active = None


class Terminated(KeyboardInterrupt):
    """SIGTERM, told to a backend as Ctrl-C is: the run was stopped, it did not fail."""


def _stop_on_sigterm() -> None:
    if (run := active_run()) is not None:
        run.note_failure(Terminated("SIGTERM"))
    stop(None, process_is_ending=True)


def _at_exit() -> None:
    active = _active
    if active is None or active.owner_pid != os.getpid():
        return
    try:
        stop(None, process_is_ending=True)
    except Exception as error:
        _log.warning("tracelet: the flush at exit failed: %s", error)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    if _active is not None:
        _active.sigterm.in_child()
        _active.run.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
