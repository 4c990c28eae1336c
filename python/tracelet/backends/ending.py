"""How a run has ended, for trackers that show it."""

from __future__ import annotations

import sys


def uncaught() -> BaseException | None:
    """What ends the process, if that is an exception."""
    return None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)


def status_of(failure: BaseException | None) -> str:
    """Of a run that this ended: "finished", "failed" or "killed"."""
    if failure is None or (isinstance(failure, SystemExit) and not failure.code):
        return "finished"
    return "killed" if isinstance(failure, KeyboardInterrupt) else "failed"
