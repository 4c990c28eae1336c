"""Signals while a run is active: SIGTERM flushes the run before the process ends by it.

Pre-emption and schedulers end a process with SIGTERM, whose default action runs no atexit hook.
SIGINT needs no handler: Python's raises KeyboardInterrupt, and the hooks run.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Callable, Union

from tracelet.backends import covered_by_sdk

_log = logging.getLogger("tracelet")

_Handler = Union[Callable[[int, Any], Any], int, None]  # what signal.getsignal returns

LONGEST_ON_SIGTERM_S = 9.0
"""Of `exit_timeout_s`: with the margins it is 10 s, and Kubernetes kills after 30."""
_MARGIN_S = 0.5
_SHORTEST_TASK_END_S = 0.5  # also when the flush took all the time: a task should be ended
# Those that a tracker's SDK may put a handler over.
_COVERED = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE", "SIGQUIT")
    if hasattr(signal, name)
]

# Raised by the very instruction that went wrong, and again each time a handler returns to it.
_FAULTS = [
    getattr(signal, name) for name in ("SIGSEGV", "SIGILL", "SIGFPE") if hasattr(signal, name)
]


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the process as the signal does by default."""
    set_handler(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class UserHandlers:
    """The handlers that the user, or nobody, has set, whatever a backend's SDK put over them."""

    def __init__(self) -> None:
        self._handlers: dict[int, _Handler] = {}
        for number in _COVERED:
            handler: _Handler = signal.getsignal(number)
            covered = covered_by_sdk(handler)
            self._handlers[number] = covered.get(number, handler) if covered else handler

    def of(self, number: int) -> _Handler:
        return self._handlers[number]

    def restore_for_faults(self) -> None:
        """Puts them back where the SDK's handler would keep a process alive that went wrong.

        A handler in Python runs once native code has returned, and after a fault that never does:
        the process would stand still, with a core at work, instead of ending.
        """
        for number in _FAULTS:
            if covered_by_sdk(signal.getsignal(number)):
                handler = self._handlers[number]
                set_handler(number, signal.SIG_DFL if handler is None else handler)

    def restore(self) -> None:
        """Puts them back where the SDK left a handler of its own that does nothing any more.

        It gives them back when its task is closed, which fails where that is not the main thread:
        Ctrl-C and SIGTERM would then be swallowed for good.
        """
        for number, handler in self._handlers.items():
            if handler is not None and covered_by_sdk(signal.getsignal(number)) == {}:
                set_handler(number, handler)


def set_handler(number: int, handler: _Handler) -> bool:
    """False outside the main thread, the only one in which Python sets handlers."""
    try:
        signal.signal(number, handler)
    except ValueError:
        return False
    return True


class SigTerm:
    """Our handler of SIGTERM, put over what is there, from `install` to `remove`.

    Without a handler of the user's it flushes, and then does what was there before: the exit code
    stays that of the signal. With one it only hands on: whether the run goes on for a last
    checkpoint is for that handler to say, and what it logs still belongs to the run. A handler that
    is set during the run replaces ours. For the main thread, the only one in which Python sets
    handlers; elsewhere `install` does nothing.
    """

    def __init__(self, users: _Handler, flush: Callable[[], None], timeout_s: float) -> None:
        self._users = users
        self._flush = flush
        self._timeout_s = timeout_s
        self._before: _Handler = None
        self._owner_pid = os.getpid()
        self._is_held = False
        self._was_held = False

    def install(self) -> None:
        before: _Handler = signal.getsignal(signal.SIGTERM)
        # None: set by native code. Ignored: on purpose.
        if before is None or before is signal.SIG_IGN:
            return
        self._before = before  # first: Ctrl-C may come between
        if not set_handler(signal.SIGTERM, self._handle):
            self._before = None

    def remove(self) -> None:
        """Puts back what was there before, unless another handler has been set since."""
        if self._is_ours() and set_handler(signal.SIGTERM, self._before):
            self._before = None

    def hold(self) -> None:
        """A signal that comes from now on waits for `let_go`: the run is being flushed anyway."""
        self._is_held = True

    def let_go(self) -> None:
        self._is_held = False
        if self._was_held:
            os.kill(os.getpid(), signal.SIGTERM)

    def in_child(self) -> None:
        """In a forked child SIGTERM is the child's own again: it has no run to flush."""
        if self._is_ours():
            set_handler(signal.SIGTERM, self._users)

    def _is_ours(self) -> bool:
        return self._before is not None and signal.getsignal(signal.SIGTERM) == self._handle

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_ours_to_end = os.getpid() == self._owner_pid and self._users is signal.SIG_DFL
        if os.getpid() == self._owner_pid and self._is_held:
            self._was_held = True
            return
        if is_ours_to_end:
            deadline_s = time.monotonic() + self._timeout_s
            self._flush_in_time()
            covered = covered_by_sdk(self._before)
            if covered is not None:
                # The SDK takes SIG_DFL, which is 0, for no handler and would swallow the signal. So
                # it ends its task, within what is left of the time.
                covered[number] = _end
                left_s = max(deadline_s - time.monotonic(), _SHORTEST_TASK_END_S)
                watchdog = threading.Timer(left_s, os.kill, (os.getpid(), number))
                watchdog.daemon = True
                watchdog.start()
        if callable(self._before):
            self._before(number, frame)
        if is_ours_to_end or not callable(self._before):
            _end(number, frame)

    def _flush_in_time(self) -> None:
        """By a thread of its own: this one may have been interrupted with any lock in its hands."""
        flusher = threading.Thread(target=self._flush, name="tracelet-sigterm", daemon=True)
        flusher.start()
        flusher.join(self._timeout_s + _MARGIN_S)
        if flusher.is_alive():
            _log.warning("tracelet: the flush on SIGTERM took too long; what is left is on disk")
