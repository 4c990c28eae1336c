"""Each option at its limits: a run starts with it, takes ten points, delivers them and stops."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import tracelet
from tracelet.option_kinds import Choice, Count, Kind, Seconds
from tracelet.options import Options

_MOST = {
    # Memory that the ring's file takes: the greatest are tried by `test_the_largest_ring`.
    "ring_slots": 1 << 18,
    "payload_bytes": 1 << 25,
}
_COMPANIONS = {
    # A run whose event files are not written needs another backend.
    "tensorboard": {"journal_sync_interval_s": 0},
}


def _limits(name: str, kind: Kind) -> list[object]:
    if isinstance(kind, Seconds):
        return [kind.least, math.inf, 1e10]
    if isinstance(kind, Count):
        return [kind.least, _MOST.get(name, kind.most)]
    return list(kind.choices) if isinstance(kind, Choice) else []


CASES = [
    (each.name, value)
    for each in fields(Options)
    for value in _limits(each.name, each.metadata["kind"])
]


class _CountingSink:
    """One that waits for a network: its points go by the journal."""

    name = "counting"
    is_remote = True
    takes_every_point = False

    def __init__(self) -> None:
        self.count = 0

    def write(self, batch):
        self.count += len(batch)
        return tracelet.Delivery(len(batch))

    def close(self, process_is_ending):
        pass


def _log_ten_points(config: dict[str, object]) -> None:
    sink = _CountingSink()
    tracelet.register_sink("counting", lambda info: sink)
    experiment = tracelet.start_logging("run", "project", ["counting"], config)
    for step in range(10):
        experiment.log_metric("a", float(step), step)
    tracelet.stop_logging()
    assert experiment.stats.pending == 0
    assert experiment.stats.delivered["counting"] == sink.count == 10
    assert not experiment.stats.dropped


@pytest.mark.timeout(60)  # a wait without an end would be one here
@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{n}={v}" for n, v in CASES])
def test_a_run_with_an_option_at_its_limit(name, value):
    if name in ("stop_timeout_s", "exit_timeout_s") and value < 1:
        value = 1  # so short a time may rightly leave points behind
    _log_ten_points({name: value, **_COMPANIONS.get(name, {})})


@pytest.mark.slow
def test_the_largest_ring(tmp_path):
    most = {each.name: each.metadata["kind"].most for each in fields(Options) if each.name in _MOST}
    try:
        _log_ten_points({**most, "ring_dir": tmp_path})
    except OSError as error:
        pytest.skip(f"no room for 2 GiB here: {error}")
