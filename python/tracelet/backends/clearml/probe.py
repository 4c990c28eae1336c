"""Tells a backend that is away from one that refuses a single thing."""

from __future__ import annotations

from typing import Any, Callable

_LARGEST_BYTES = 4 << 20
REFUSALS_BEFORE_SETTING_ASIDE = 5
"""How often one thing must be refused, by a backend that takes another right after it each time."""


class Probe:
    """After a failure, gives the backend again what it took last: that must do no harm.

    Without it a sick server (500 for everything) could not be told from one that refuses one
    event for good, when no others are at hand to compare with.
    """

    def __init__(self, give: Callable[..., Any]) -> None:
        self._give = give
        self._taken: tuple[Any, ...] | None = None
        self.is_away = False
        """Whether trying more is of no use in this attempt."""

    def begin_attempt(self) -> None:
        self.is_away = False

    @property
    def has_something(self) -> bool:
        """Whether anything was ever taken."""
        return self._taken is not None

    def remember(self, size_bytes: int, *taken: Any) -> None:
        """The arguments of a call that succeeded; not kept when they are large."""
        if size_bytes <= _LARGEST_BYTES:
            self._taken = taken

    def passes(self) -> bool:
        """After a failure: whether the backend takes something else, so that it is not away."""
        try:
            if self._taken is None:
                raise LookupError("nothing to compare with yet")
            self._give(*self._taken)
        except Exception:
            self.is_away = True
        return not self.is_away
