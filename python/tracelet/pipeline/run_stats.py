"""The accounts of a run that goes on."""

from __future__ import annotations

from collections import Counter

from tracelet.pipeline.live import Live
from tracelet.pipeline.verbs import Verbs
from tracelet.records import EVENT
from tracelet.stats import Stats


def stats_of(live: Live, verbs: Verbs, system_points: int) -> Stats:
    """Without the points that this process' calls dropped after the run's end. Any thread."""
    ring, lanes = live.ring, live.lanes
    # Before the head, which only grows: the other way round a lane may seem to be beyond it.
    positions = [lane.position - lane.held for lane in lanes]
    accepted = ring.head
    dropped: Counter[str] = Counter(ring.dropped)
    dropped["producer died"] = ring.skipped
    for lane in lanes:
        dropped.update(lane.set_aside)
    return Stats(
        accepted=accepted,
        delivered={
            lane.sink.name: lane.delivered
            for lane in lanes
            # One for events alone is not mentioned before there are any.
            if lane.kinds & ~(1 << EVENT)
            or lane.delivered
            or lane.sink.name in live.drainer.shippers
        },
        pending=max((accepted - position for position in positions), default=0),
        retried=sum(lane.retried for lane in lanes),
        folded=sum(lane.folded for lane in lanes),
        dropped={reason: count for reason, count in dropped.items() if count},
        not_finite=max((lane.not_finite for lane in lanes), default=0),
        artifacts=verbs.uploads.counts,
        not_taken=verbs.not_taken,
        unsent_calls=verbs.unsent,
        system_points=system_points,
        not_finite_values=ring.not_finite_values,
        lanes={lane.sink.name: lane.stats() for lane in lanes},
    )
