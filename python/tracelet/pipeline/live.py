"""What a run has while it lives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tracelet import _core
from tracelet.backends import Backend, Sink
from tracelet.journal.disk_sync import DiskSync
from tracelet.pipeline.drainer import Drainer
from tracelet.pipeline.lane import Lane
from tracelet.pipeline.late_worker import LateWorker
from tracelet.runs.progress import Progress

_POLL_S = 0.002


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

    def wait_for(self, lanes: Sequence[Lane], deadline_s: float, or_failure: bool = False) -> bool:
        """Until these have what was logged before this call. False when they have not by then (as
        time.monotonic() has it), when the drainer is gone, and, `or_failure`, when one can't take
        it now."""
        end = self.ring.head
        self.ring.wake()
        while lagging := [lane for lane in lanes if lane.position < end]:
            if or_failure and any(lane.is_failing for lane in lagging):
                return False
            for shipper in list(self.drainer.shippers.values()):
                shipper.hurry(end)
            if time.monotonic() >= deadline_s or not self.drainer.is_alive():
                return False
            time.sleep(_POLL_S)
        return True

    def is_busy(self, sink: Sink) -> bool:
        return self.drainer.shippers.get(sink.name, self.drainer).is_alive()
