"""How long may a single call take? Percentiles, with the clock's own cost in all of them.

The goal is for calls without a pause, so that the drainer works beside them and the ring may fill.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.harness import Entrant, Settings, interleave, summarise, worker
from benchmarks.report import Figure, Part, short

_GOAL = "without a pause"
_PERCENTILES = ("p50", "p99", "p99.9", "max")


def run(settings: Settings) -> Part:
    rounds = settings.pick(5, 1)
    ways = {_GOAL: 0, "ring emptied after each 50,000": settings.pick(50_000, 5_000)}
    entrants = [
        Entrant(name, partial(_measure, settings, pause_after), rounds)
        for name, pause_after in ways.items()
    ]
    rng = settings.rng("latency")
    results = interleave(entrants, rounds, rng, warm_up=False)

    part = Part("latency", rounds=results)
    for name in ways:
        for key, what in (("call", "add_scalar"), ("empty", "empty method")):
            measured_us = {
                percentile: summarise(
                    each[key][percentile] / 1e3 for each in results[name].values()
                )
                for percentile in _PERCENTILES
            }
            part.table.append(
                {
                    "Single calls": f"{what}, {name}",
                    **{f"{p}, us": short(measured_us[p].median) for p in _PERCENTILES},
                }
            )
            if name == _GOAL:
                target = (20, 2) if key == "call" else (None, None)
                label = f"single {what}, {name}, p99.9"
                part.figures.append(Figure(label, "us", measured_us["p99.9"], *target))
    return part


def _measure(settings: Settings, pause_after: int) -> dict[str, Any]:
    """In a new process each time: its files are gone before a disk must take them."""
    with worker(settings, "benchmarks.workers.tracelet_writer:TraceletWriter") as made:
        made.call("run_loop", shape="positional", calls=settings.pick(200_000, 5_000))
        made.settle()
        calls = settings.pick(1_000_000, 20_000)
        measured: dict[str, Any] = made.call("single_calls", calls=calls, pause_after=pause_after)
        return measured
