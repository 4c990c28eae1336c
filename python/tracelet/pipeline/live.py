"""What a run has while it lives."""

from __future__ import annotations

from dataclasses import dataclass

from tracelet import _core
from tracelet.backends import Backend, Sink
from tracelet.journal.disk_sync import DiskSync
from tracelet.pipeline.drainer import Drainer
from tracelet.pipeline.lane import Lane
from tracelet.pipeline.late_worker import LateWorker
from tracelet.runs.progress import Progress


@dataclass(frozen=True)
class Live:
    """What a run has until it has ended: let go of at once, by one assignment."""

    ring: _core.Ring
    backends: list[Backend]
    lanes: list[Lane]
    drainer: Drainer
    disk_sync: DiskSync
    closer: LateWorker
    progress: Progress

    def is_busy(self, sink: Sink) -> bool:
        return self.drainer.shippers.get(sink.name, self.drainer).is_alive()
