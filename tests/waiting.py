"""How tests wait: for what they ask about, never for a time."""

from __future__ import annotations

import time
from typing import Callable


def wait_until(is_so: Callable[[], object], timeout_s: float = 60.0) -> None:
    """The deadline is many times what it takes on a busy machine. Raises AssertionError."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.005)
