"""A user's own sinks as a backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracelet.backends.base import Backend, Sink


class PlainBackend(Backend):
    """Sinks, and nothing else: what is not a point has no form here."""

    def __init__(self, name: str, sinks: Sequence[Sink]) -> None:
        self.name = name
        self.sinks = list(sinks)

    @property
    def reopen_state(self) -> Mapping[str, Any]:  # type: ignore[override]
        """That of the first sink that has one: for the protocol of a sink it is optional."""
        states = (getattr(sink, "reopen_state", None) for sink in self.sinks)
        return next((dict(state) for state in states if state), {})
