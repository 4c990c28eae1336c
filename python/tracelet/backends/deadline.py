"""What a tracker's SDK does by itself, with an end to the wait for it."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable

from tracelet.errors import BackendError
from tracelet.redact import without_user


def within(
    tracker: str,
    timeout_s: float,
    what: str,
    do: Callable[[], Any],
    undo: Callable[[Any], None] | None = None,
) -> Any:
    """What `do` returns, from a thread of its own. What comes too late, or behind a Ctrl-C, is
    undone. Raises BackendError."""
    lock = threading.Lock()
    done: list[Any] = []
    failed: list[BaseException] = []
    is_late = False

    def work() -> None:
        try:
            result = do()
        except BaseException as error:
            failed.append(error)
            return
        with lock:
            done.append(result)
            is_for_nobody = is_late
        if is_for_nobody and undo is not None and result is not None:
            with contextlib.suppress(Exception):
                undo(result)

    thread = threading.Thread(target=work, name=f"tracelet-{tracker}-start", daemon=True)
    thread.start()
    try:
        thread.join(timeout_s)
    except BaseException:
        with lock:
            is_late = True
        if done and undo is not None and done[0] is not None:  # it has just come, and may wait
            threading.Thread(target=undo, args=done, name=thread.name, daemon=True).start()
        raise
    with lock:
        is_late = not done
        if done:
            return done[0]
    if failed:
        raise BackendError(f"{tracker}: {without_user(str(failed[0])):.500}") from failed[0]
    raise BackendError(f"{tracker} did not {what} within {timeout_s:g} s")
