"""A lane by itself: what is given again after a failure, with a fold, a skip, a shorter read."""

from __future__ import annotations

import numpy as np
import pytest
import tracelet
from tracelet.backends.base import Delivery
from tracelet.pipeline.lane import NO_ACCOUNT, Lane
from tracelet.records import HISTOGRAM, RECORD_DTYPE, SCALAR

SCALARS = 1 << SCALAR


class Names:
    def text(self, id):
        return "a" if id else ""


class Sink:
    name = "mine"
    is_remote = True
    takes_every_point = False
    record_kinds = (SCALAR,)

    def __init__(self):
        self.values = []
        self.is_away = False

    def write(self, batch):
        if self.is_away:
            raise OSError("not now")
        self.values += batch.records["value"].tolist()
        return Delivery(len(batch))


def records(first, end):
    made = np.zeros(end - first, RECORD_DTYPE)
    made["kind"], made["tag_id"] = SCALAR, 1
    made["sequence"] = np.arange(first + 1, end + 1)
    made["step"] = made["value"] = np.arange(first, end)
    made.flags.writeable = False
    return made


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def lane(sink):
    return Lane(sink, Names(), {"*": {"every_steps": 10, "reduce": "mean"}})


def give(lane, first, end):
    return lane.deliver(records(first, end), b"", first, end - first, SCALARS)


def test_a_batch_that_failed_is_to_be_given_again_with_as_many_records(sink, lane):
    assert lane.redeliver_at_least == 0
    sink.is_away = True
    assert not give(lane, 0, 30)
    assert (lane.redeliver_at_least, lane.position) == (30, 0)
    sink.is_away = False
    assert give(lane, 0, 30)
    assert (lane.redeliver_at_least, lane.position) == (0, 30)


def test_records_that_are_given_again_in_part_are_not_folded_twice(sink, lane):
    """A read may end earlier than the one before, at damage or at its limit of bytes: the rest was
    folded once more with the next batch, and counted twice."""
    sink.is_away = True
    assert not give(lane, 0, 31)
    sink.is_away = False
    assert give(lane, 0, 15)
    assert lane.position == 31  # what went into the fold has come out of it
    assert give(lane, 31, 40)
    assert lane.deliver_rest()
    assert sink.values == [4.5, 14.5, 24.5, 34.5]
    assert lane.folded == 36
    assert lane.delivered == 4


def test_after_a_skip_nothing_of_the_batch_that_failed_is_given(sink, lane):
    sink.is_away = True
    assert not give(lane, 0, 30)
    lane.skip_to(100, "gone")
    assert (lane.redeliver_at_least, lane.position, lane.set_aside["gone"]) == (0, 100, 100)
    sink.is_away = False
    assert give(lane, 100, 130)
    assert lane.deliver_rest()
    given = sink.values
    assert 4.5 not in given
    assert {104.5, 114.5, 124.5} <= set(given)
    assert lane.position == 130


def test_records_of_other_kinds_behind_a_batch_that_failed_are_passed(sink, lane):
    sink.is_away = True
    assert not give(lane, 0, 11)
    sink.is_away = False
    both = records(0, 13).copy()
    both["kind"][11:] = HISTOGRAM
    assert lane.deliver(both, b"", 0, 13, SCALARS | 1 << HISTOGRAM)
    assert (lane.position, lane.not_meant) == (13, 2)


def test_a_sink_that_failed_gets_as_many_points_again_however_few_a_batch_has():
    """What it had done of the batch, it goes on behind."""
    sizes = []

    class Local(Sink):
        name = "local"
        is_remote = False

        def write(self, batch):
            sizes.append(len(batch))
            if len(sizes) < 3:
                raise OSError("not now")
            return Delivery(len(batch))

    tracelet.register_sink("local", lambda info: Local())
    experiment = tracelet.start_logging(
        "again", "tests", "local", config={"batch_max_points": 10, "drain_interval_s": 100.0}
    )
    for step in range(1_000):
        experiment.log_metric("a", step, step)
    assert experiment.flush(60)
    tracelet.stop_logging(60)
    assert sizes[0] > 10
    assert sizes[1] >= sizes[0]
    assert sizes[2] >= sizes[1]


def test_a_rule_of_seconds_alone_has_no_limit_of_steps_and_one_of_steps_none_of_seconds(sink):
    far_apart = records(0, 30).copy()
    far_apart["wall_time"] = np.arange(30) * 60.0
    for rule, values in (
        ({"every_s": 1e6, "reduce": "last"}, [29.0]),
        ({"every_steps": 10}, [4.5, 14.5, 24.5]),
    ):
        sink.values.clear()
        lane = Lane(sink, Names(), {"b": {"every_steps": 3}, "*": rule})
        assert lane.deliver(far_apart, b"", 0, 30, SCALARS)
        assert lane.deliver_rest()
        assert sink.values == values
        assert (lane.folded, lane.held) == (30 - len(values), 0)


def test_each_point_of_a_delivery_is_counted_once_over_all_batches():
    """What the sink says nothing of, too."""

    class Odd(Sink):
        def write(self, batch):
            return Delivery(
                5, not_finite=1, not_meant=2, set_aside={"refused": 3}, failed={"disk": 4}
            )

    lane = Lane(Odd(), Names(), {})
    for first in (0, 30):
        assert give(lane, first, first + 30)
    assert (lane.delivered, lane.not_finite, lane.not_meant) == (10, 2, 4)
    assert lane.set_aside == {"refused": 6, "disk": 8, NO_ACCOUNT: 30}
    assert lane.failed == {"disk": 8}
    assert not lane.is_failing
