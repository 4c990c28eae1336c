"""The active run of this process: its start, its stop, the end of the process, fork."""

from __future__ import annotations

import atexit
import logging
import math
import os
import signal
import sys
import threading
import time
from typing import Callable, Union, cast

from tracelet import _core, environment
from tracelet.backends import before_torch_is_imported
from tracelet.capture import device
from tracelet.capture.embedding import patch_add_embedding
from tracelet.capture.event_writer import set_event_capture
from tracelet.capture.patch import Patch
from tracelet.capture.summary_writer import (
    find_summary_writer,
    patch_summary_writer,
    patch_summary_writer_beside,
)
from tracelet.capture.tensorboardx import TensorboardXCapture
from tracelet.options import Options
from tracelet.pipeline.attached_run import AttachedRun
from tracelet.pipeline.exit_signals import LONGEST_ON_SIGTERM_S, SigTerm, UserHandlers
from tracelet.pipeline.rank_run import RankRun, begin_run
from tracelet.pipeline.run import Run
from tracelet.ranks.job import rank_here
from tracelet.runs.process_identity import start_of
from tracelet.writer_key import set_rank

_log = logging.getLogger("tracelet")

AnyRun = Union[Run, RankRun, AttachedRun]

TORCH_WRITERS = "torch.utils.tensorboard"
_FLUSH_EVENT_FILES_TIMEOUT_S = 5.0


class _Attached:
    """The run of another process, that goes on as far as this one knows."""

    def __init__(self, run: AttachedRun) -> None:
        self.run = run
        self.owner_pid = run.owner_pid

    def after_fork_in_child(self) -> None:
        self.run.after_fork_in_child()


class _Active:
    """A run that goes on, with what belongs to it."""

    def __init__(self, run: Run | RankRun, handlers: UserHandlers, block: object) -> None:
        self.run = run
        self.handlers = handlers
        self.block = block
        """Of the `with` block whose end ends it, and another run that takes its place."""
        self.sigterm = SigTerm(
            handlers.of(signal.SIGTERM),
            _stop_on_sigterm,
            min(run.options.exit_timeout_s, LONGEST_ON_SIGTERM_S),
        )
        self.owner_pid = os.getpid()

    def after_fork_in_child(self) -> None:
        self.sigterm.in_child()
        self.run.after_fork_in_child()


# The runs that go on; all but the last have others inside them. What SummaryWriters log goes to the
# last; the handle of each logs to its own.
_runs: list[_Active | _Attached] = []
_ending: list[_Active] = []  # each from the beginning of its end until that is done
_patches: list[Patch | TensorboardXCapture] = []
_patches_are_beside: bool | None = None  # None: there are none
_lock = threading.RLock()  # of start and stop, and all of these


def _last() -> _Active | _Attached | None:
    runs = _runs
    return runs[-1] if runs else None


def _of_this_process(each: _Active | _Attached | None) -> _Active | None:
    return each if isinstance(each, _Active) and each.owner_pid == os.getpid() else None


def _left() -> list[_Active]:
    """Those of this process whose end is not done, the innermost first."""
    each_of_both = map(_of_this_process, [*reversed(_ending), *reversed(_runs)])
    return [each for each in each_of_both if each is not None]


def active_run() -> Run | RankRun | None:
    """The run of this process that SummaryWriters log to. None in a forked child, and in one that
    is attached, though their points go to the run of another process."""
    active = _of_this_process(_last())
    return None if active is None else active.run


def logged_run() -> AnyRun | None:
    """The run that SummaryWriters log to, this process' or that of another one."""
    last = _last()
    return None if last is None else last.run


def running(run: AnyRun) -> Run | RankRun | None:
    """The run, where it is one of this process that goes on, maybe with others inside it."""
    for each in map(_of_this_process, list(_runs)):
        if each is not None and each.run is run:
            return each.run
    return None


def takes_points(run: AnyRun) -> bool:
    """Whether what is logged goes to the run: it goes on, in this process or in the one that it was
    forked from or is attached to. The end of another's is in the ring."""
    return any(each.run is run for each in list(_runs))


def attach(run: AttachedRun, may_wait: bool) -> bool:
    """Has what this process logs go to another's run, unless it has one of its own already. One
    that it was attached to before has ended. False when another thread is at a start or a stop and
    this one may not wait for that."""
    if not _lock.acquire(blocking=may_wait):
        return False
    try:
        if all(isinstance(each, _Attached) for each in _runs):
            _runs[:] = [_Attached(run)]
            _capture_for(run)
    finally:
        _lock.release()
    _see_to_torch()
    return True


_torch_is_new = False  # set by an import hook; cleared, and seen to, by whoever has the lock


def see_to_torch() -> None:
    """torch's SummaryWriter has just been imported into a process that may be attached. Waits for
    nothing: it is called with the lock of an import, for which the holder of `_lock` may wait."""
    global _torch_is_new
    _torch_is_new = True
    _see_to_torch()


def _see_to_torch() -> None:
    # Whoever has the lock looks again when it has let go of it: one of the two sees the other.
    global _torch_is_new, _patches_are_beside
    while _torch_is_new and _lock.acquire(blocking=False):
        try:
            _torch_is_new = False
            last = _last()
            if isinstance(last, _Attached):
                _patches_are_beside = None
                _capture_for(last.run)
        finally:
            _lock.release()


def start(options: Options, block: object = None, is_inside: bool = False) -> Run | RankRun:
    """Starts a run, and makes it the active one; a run that is active ends first.

    With `is_inside` that one goes on and is the active one again when the new one has ended.
    """
    with _lock:
        if active_run() is not None and not is_inside:
            _log.warning("tracelet: start_logging while a run is active: that run is stopped first")
            last = _of_this_process(_last())
            block = last.block if block is None and last is not None else block
            stop(None)
        elif _runs and active_run() is None and not is_inside:
            leave_in_child()
        while _ending:
            stop(None)  # ends that were interrupted
        _stop_in_earlier_imports()
        handlers = UserHandlers()  # before a backend's SDK sets its own
        before_torch_is_imported()
        find_summary_writer()  # imports torch before a backend starts threads that disturb imports
        # It is in one of the two lists at each moment: Ctrl-C may come at any.
        opened: list[Run | RankRun] = []
        try:
            run = begin_run(options, opened.append, is_inside)
            run.handle.takes_earlier_writers = not _runs
            active = _Active(run, handlers, block)
            _runs.append(active)
            _capture_for(run)
            # Registered anew, so that it runs before the hooks that backends have just registered.
            atexit.unregister(_stop_all)
            atexit.register(_stop_all)
            active.sigterm.install()  # over what the backends have just set
            handlers.restore_for_faults()
            run.begin_monitors()
            run.begin_lines()
            _announce()
        except BaseException as error:
            handlers.restore_for_faults()
            for run in opened:
                _end_half_started(run, error)
            handlers.restore()  # where a backend's SDK has not given them back
            raise
        return run


def _end_half_started(run: Run | RankRun, failure: BaseException) -> None:
    run.note_failure(failure)
    started = [each for each in _runs if each.run is run]
    if not started:
        run.stop(run.options.stop_timeout_s, process_is_ending=False)
    for active in started:
        stop(None, active=_of_this_process(active))


def stop(
    timeout_s: float | None, process_is_ending: bool = False, active: _Active | None = None
) -> None:
    """Ends a run, by default the last, or one whose end was interrupted; does nothing without
    one."""
    with _lock:
        if active is None:
            last = _ending[-1] if _ending else _last()
            active = _of_this_process(last)
            if last is not None and active is None:
                leave_in_child()
        if active is None or active not in (*_runs, *_ending):
            return
        active.sigterm.hold()
        is_around_others = active in _runs[:-1]
        if active in _runs:
            _ending.append(active)
            _runs.remove(active)
            _announce()
        options = active.run.options
        default_s = options.exit_timeout_s if process_is_ending else options.stop_timeout_s
        try:
            try:
                if not is_around_others:
                    _go_on_with(logged_run())
            finally:
                active.run.stop(default_s if timeout_s is None else timeout_s, process_is_ending)
            _ending.remove(active)  # not when it was interrupted: it is to be called again
        finally:
            active.sigterm.remove()
            active.handlers.restore()
            active.sigterm.let_go()


def stop_run(run: AnyRun) -> None:
    """Ends this run, if it goes on."""
    with _lock:
        for active in _left():
            if active.run is run:
                stop(None, active=active)


def stop_block(block: object) -> None:
    """Ends the runs of a `with` block, if they go on."""
    with _lock:
        for active in _left():
            if active.block is block:
                stop(None, active=active)


def _stop_all(longest_s: float = math.inf) -> None:
    """Ends all runs, those inside others first, in the time that one has: the process ends."""
    with _lock:
        left = _left()
        if not left:
            return
        timeout_s = max(each.run.options.exit_timeout_s for each in left)
        deadline_s = time.monotonic() + min(timeout_s, longest_s)
        for active in left:
            try:
                stop(max(0.0, deadline_s - time.monotonic()), True, active)
            except Exception as error:  # the others are ended all the same
                _log.warning("tracelet: the flush at exit failed: %s", error)


def _flush_event_files() -> None:
    if (run := active_run()) is not None:
        run.flush_event_files(_FLUSH_EVENT_FILES_TIMEOUT_S)


def _note_embedding() -> None:
    if (run := active_run()) is not None:
        run.verbs.note_embedding()


def _announce() -> None:
    """To the processes that this one starts: the run that goes on now."""
    run, pid = active_run(), os.getpid()
    environment.announce_run(
        None
        if run is None
        else environment.ParentRun(run.folder.path, pid, start_of(pid) or "", rank_here())
    )


def _go_on_with(run: AnyRun | None) -> None:
    """One that was inside it has ended."""
    _capture_for(run)
    if run is not None and run is active_run():
        run.renew_event_files()


def _capture_for(run: AnyRun | None) -> None:
    """Has SummaryWriters log to this run, or to none. Between two runs of one kind the patches stay
    where they are: a thread that logs meanwhile logs to either.

    When it raises, a call for another run, or for none, undoes what was done.
    """
    try:
        _patch_for(run)
        if run is not None:
            # One of another process may be logged to by its handle, with others inside it.
            own = list(map(_of_this_process, list(_runs)))
            # Nor is a rank's ring drained here, as a rule.
            device.set_drained_here(all(each and isinstance(each.run, Run) for each in own))
            _core.set_histogram_threads(run.options.histogram_threads)
    finally:
        set_rank(None if run is None else run.rank)
        set_event_capture(None if run is None else run.event_capture, _patches_are_beside is True)
        _core.set_active_run(None if run is None else run.ring)


def _patch_for(run: AnyRun | None) -> None:
    global _patches_are_beside
    beside = None if run is None else run.options.tensorboard == "passthrough"
    if beside is not None and beside == _patches_are_beside:
        return
    _patches_are_beside = None  # until all of them are there
    while _patches:
        _patches.pop(0).undo()
    if beside is None:
        return
    # A process that is attached need not use torch, which is patched when it is imported.
    is_wanted = not isinstance(run, AttachedRun) or TORCH_WRITERS in sys.modules
    cls = find_summary_writer() if is_wanted else None
    try:
        if cls is not None and beside:
            _patches.extend(patch_summary_writer_beside(cls))
        elif cls is not None:
            _patches.extend(patch_summary_writer(cls, _flush_event_files))
        if cls is not None:
            _patches.extend(patch_add_embedding(cls, _note_embedding))
    except (AttributeError, KeyError) as error:  # a stand-in of a test, another version
        _log.warning(
            "tracelet: this version of torch's SummaryWriter is not known, and what it logs is not "
            "captured: %r", error,
        )  # fmt: skip
    _patches.append(TensorboardXCapture(_flush_event_files, beside, _note_embedding))
    _patches_are_beside = beside


def _stop_each() -> None:
    while left := _left():
        stop(None, active=left[0])


def _stop_in_earlier_imports() -> None:
    """Of a process that imported tracelet before, and dropped it from `sys.modules`: what
    SummaryWriters log goes to one import's runs."""
    for each in list(_stops):
        if each is not _stop_each:
            each()


# Of all imports of tracelet in this process.
_stops = cast("list[Callable[[], None]]", _core.shared().setdefault("stops", []))
_stops.append(_stop_each)


_look_for_next: Callable[[], None] | None = None


def set_look_for_next(look: Callable[[], None]) -> None:
    """What a process that is attached does when the run that it logs into has ended."""
    global _look_for_next
    _look_for_next = look


def _tell_of_end(is_forked: bool) -> None:
    where = "ended in the process that started it" if is_forked else "ended meanwhile"
    _log.warning(
        "tracelet: process %d logs into a run that has %s; its points are dropped. stats counts "
        "them under 'run ended'.", os.getpid(), where,
    )  # fmt: skip
    if isinstance(_last(), _Attached) and (look := _look_for_next) is not None:
        look()  # of a pool that is used by the next run


_core.set_end_teller(_tell_of_end)


def leave_in_child() -> None:
    """Ends capture in a child. The runs are the parent's: nothing of them is closed here."""
    _runs.clear()
    _ending.clear()
    _capture_for(None)


class Terminated(KeyboardInterrupt):
    """SIGTERM, told to a backend as Ctrl-C is: the run was stopped, it did not fail."""


def _stop_on_sigterm() -> None:
    for active in list(_runs):
        active.run.note_failure(Terminated("SIGTERM"))
    _stop_all(LONGEST_ON_SIGTERM_S)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    for active in (*reversed(_ending), *reversed(_runs)):
        active.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
