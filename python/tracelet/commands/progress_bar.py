"""A progress bar: tqdm's where it is installed, else a line that is written over."""

from __future__ import annotations

import sys
import time
from typing import Any

_WIDTH = 30
_INTERVAL_S = 0.1


class ProgressBar:
    """One bar for each sink of a run; none where stderr is no terminal. One thread."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._name = ""
        self._bar: Any = None
        self._next_s = 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        if not self._is_shown or not total:
            return
        if name != self._name:
            self.close()
            self._name = name
            self._bar = _tqdm_bar(name, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif done == total or time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _INTERVAL_S
            filled = "#" * (_WIDTH * done // total)
            line = f"\r{name:<14} [{filled:<{_WIDTH}}] {100 * done // total:3d} %  {done:,} points"
            print(line, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._name:
            print(file=sys.stderr)
        self._bar, self._name = None, ""


def _tqdm_bar(name: str, total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, desc=name, unit=" points", unit_scale=True)
