"""A sink on its way through what a dead process' run has left."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracelet.pipeline.lane import Lane
from tracelet.runs.progress import Progress


@dataclass
class Way:
    """A lane with what the pipeline does not count, because it never meets it."""

    lane: Lane
    start: int
    missing: int = 0
    """Records that nobody could give it."""
    dropped: int = 0
    """Records that the run gave up on purpose while it lived."""
    acknowledged: int = 0
    """Where the sink was when the process died; behind `start` where its files may lack some."""
    passed: int = 0
    """Records before that, which are nowhere but in the sink's files."""
    lost: int = 0
    """Of what was acknowledged: no longer in the sink's files."""
    checked_end: int = 0
    """Behind the last record that was looked at: what is given once more is not counted twice."""
    gone: set[str] = field(default_factory=set)
    """Names of files of large events that are not there."""
    failure: str = ""

    @property
    def failed(self) -> int:
        return sum(self.lane.failed.values()) + len(self.gone)


class Acknowledge:
    """Notes in the run's folder how far a sink has come.

    Up to the first point that it lacks for reasons of its own, no further: that one is given again
    another time, and what was sent behind it too, which sinks must not mind.
    """

    def __init__(self, progress: Progress, number: int) -> None:
        self._progress = progress
        self._number = number
        self.way: Way | None = None

    def __call__(self, position: int) -> None:
        if self.way is None or not (self.way.failed or self.way.failure):
            self._progress[self._number] = position
