"""Files for their owner alone."""

from __future__ import annotations

import os


def private(path: str, flags: int) -> int:
    """An opener for `open` that makes files of mode 0600. Raises OSError."""
    return os.open(path, flags, 0o600)
