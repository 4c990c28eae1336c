"""What does logging add to a training step?

The same process trains with and without logging by turns, so that both meet the same machine.
"""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.harness import Entrant, Rounds, Settings, Worker, interleave, summarise, workers
from benchmarks.report import Figure, Part
from benchmarks.workers.event_file_workers import TORCH, TRACELET

_WRITERS = {
    TRACELET: "benchmarks.workers.training_workers:TraceletTraining",
    TORCH: "benchmarks.workers.training_workers:TorchTraining",
}


def run(settings: Settings) -> Part:
    rounds = settings.pick(15, 1)
    made = {name: Worker(settings, target) for name, target in _WRITERS.items()}
    turns = itertools.cycle((True, False))

    def entrant(name: str) -> Entrant:
        blocks = settings.pick(20 if name == TRACELET else 4, 1)

        def measure() -> dict[str, Any]:
            worker = made[name]
            measured: dict[str, Any] = worker.call("train", blocks=blocks, logged_first=next(turns))
            worker.settle()
            return measured

        return Entrant(name, measure, rounds)

    with workers(made, required=TRACELET) as (ready, missing):
        results = interleave([entrant(name) for name in ready], rounds, settings.rng("training"))
    figures = [figure for name in results for figure in _figures(name, results[name])]
    return Part(name="training", figures=figures, notes=missing, rounds=results)


def _figures(name: str, rounds: Rounds) -> list[Figure]:
    added = summarise((each["logged"] / each["plain"] - 1) * 100 for each in rounds.values())
    plain_us = summarise(each["plain"] / 1e3 for each in rounds.values())
    what = "20 scalars a step and histograms of all parameters each 10 steps, MLP 784-128-10"
    if name != TRACELET:
        return [Figure(f"{what}: overhead of {name}", "%", added)]
    return [
        Figure(f"{what}: overhead", "%", added, at_least=5, aim=1),
        Figure("the step without logging", "us", plain_us),
    ]
