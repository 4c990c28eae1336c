"""In the place of a backend that can't be opened now, in a run that another process had opened it
for: what its sinks lack is kept in the journal, for `tracelet sync`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracelet.backends.base import Backend, Batch, Delivery
from tracelet.errors import SinkUnavailableError
from tracelet.records import EVENT, HISTOGRAM, SCALAR


class AbsentBackend(Backend):
    """What the run's manifest says of it stays as it is."""

    def __init__(self, name: str, sinks: Sequence[str], manifest: Mapping[str, Any], why: str):
        self.name = name
        self.id = dict(manifest.get("ids", {})).get(name)
        self.url = dict(manifest.get("urls", {})).get(name, "")
        self.reopen_state = dict(manifest.get("reopen", {})).get(name, {})
        self._names = sinks
        self._why = why

    def open_sinks(self, ring: Any) -> None:
        self.sinks = [_AbsentSink(name, self._why) for name in self._names]


class _AbsentSink:
    is_remote = True
    takes_every_point = False
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM, EVENT)

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self._why = why

    def write(self, batch: Batch) -> Delivery:
        raise SinkUnavailableError(self._why)

    def close(self, process_is_ending: bool) -> None:
        """There is nothing."""
