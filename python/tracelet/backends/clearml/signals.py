"""What ClearML's SDK puts over the process' signal handlers."""

from __future__ import annotations

from typing import Any


def covered_by_sdk(handler: Any) -> dict[int, Any] | None:
    """What a handler of the SDK covers, by signal; None for another handler.

    The dict is the SDK's own: it looks up there what to call after its own work. It takes SIG_DFL,
    which is 0, for no handler at all.
    """
    covered = getattr(getattr(handler, "__self__", None), "_org_handlers", None)
    return covered if isinstance(covered, dict) else None
