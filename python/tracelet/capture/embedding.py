"""SummaryWriter.add_embedding writes files of its own beside the event files, and no event.

So a run sees nothing of it; it is counted for the backends that have no form for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tracelet.capture.patch import Patch

_NAME = "add_embedding"


def patch_add_embedding(cls: type, note: Callable[[], None]) -> list[Patch]:
    """Has torch's or tensorboardX' SummaryWriter call `note` once an embedding is written."""
    original = vars(cls).get(_NAME)
    if not callable(original):
        return []

    @functools.wraps(original)
    def add_embedding(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        note()
        return result

    return [Patch(cls, {_NAME: add_embedding})]
