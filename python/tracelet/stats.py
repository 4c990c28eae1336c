"""What became of the points of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LaneStats:
    """What became of the points on the way to one sink.

    In a run that has come to rest, `passed` is the sum of all that follows, and with the points
    that are pending for this sink it is `Stats.accepted`.
    """

    passed: int
    """Points that this sink is done with."""
    delivered: int
    not_finite: int
    not_meant: int
    """Points of kinds that the sink is not given, or without a log folder for event files."""
    set_aside: Mapping[str, int]
    """By reason."""
    folded: int
    held: int
    """Points that wait in a fold for their window to end."""
    by_others: int = 0
    """Points that it was given by another rank of the job, which led the run before this one."""


@dataclass(frozen=True)
class Stats:
    """A moment's account of a run. Each point that was accepted is delivered, pending, folded, not
    finite or dropped under a reason, for each sink it was meant for."""

    accepted: int
    """Points for which a logging call returned and a place in the ring was taken."""
    delivered: Mapping[str, int]
    """Points each sink has taken. The "tensorboard" sink is meant only for points that have a log
    folder: those of a SummaryWriter, and of `log_metric` when `log_dir` is set. "clearml" takes
    scalars and histograms; "clearml-media", which is here from the first such point on, what other
    methods log: images, text, audio, curves, hyperparameters."""
    pending: int
    """Points that some sink has yet to take; they are in the ring or in the journal."""
    retried: int
    """Batches that were given to a sink again, because it had failed."""
    folded: int
    """Points that others stand for, by the option `aggregate`."""
    dropped: Mapping[str, int]
    """Points no sink will get, or that a sink's server would not take, by reason."""
    not_finite: int
    """NaN and infinite points that a backend can't hold; the event file has them."""
    not_finite_values: int = 0
    """NaN and infinities among the values of histograms; they are in no bin."""
    artifacts: Mapping[str, int] = field(default_factory=dict)
    """Artifacts and models: how many are "uploaded", "pending" and "failed"."""
    not_taken: Mapping[str, int] = field(default_factory=dict)
    """Calls of `log_params`, `log_artifact`, `add_embedding` and so on that a backend has no form
    for, or failed at, by "BACKEND: reason"; the other backends have them."""
    unsent_calls: int = 0
    """Calls of `log_params`, `set_tags` and `set_notes` that are in the run's folder and not in
    their backend yet; what a run leaves of them is sent by `tracelet sync`."""
    system_points: int = 0
    """Of all these points, those that the option `system_metrics` has logged."""
    lanes: Mapping[str, LaneStats] = field(default_factory=dict, compare=False)
    """The account of each sink."""
