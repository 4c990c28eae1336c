"""What does a scalar cost inside a step that `torch.compile` has compiled?

Two functions that differ in 20 calls of add_scalar, compiled by inductor for the CPU, are called in
turn, in short bursts. Counted besides: graph breaks, and compilations after the second step.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Settings, summarise, worker
from benchmarks.report import Figure, Part
from benchmarks.workers.tracelet_writer import TraceletWriter

SCALARS = 20


class CompiledSteps(TraceletWriter):
    """The worker's side."""

    def __init__(self, folder: Path, backend: str) -> None:
        super().__init__(folder)
        import torch
        from torch._dynamo.utils import counters

        writer, tags = self.writer, [f"train/value_{number}" for number in range(SCALARS)]

        def without(rows: Any, step: int) -> Any:
            return (rows * rows).sum(1)

        def logging(rows: Any, step: int) -> Any:
            sums = (rows * rows).sum(1)
            for number, tag in enumerate(tags):
                writer.add_scalar(tag, sums[number], step)
            return sums

        self._counters = counters
        self._rows = torch.randn(SCALARS, 256)
        self._steps = {
            each.__name__: torch.compile(each, backend=backend, fullgraph=True)
            for each in (without, logging)
        }
        for each in self._steps.values():
            for step in range(2):
                each(self._rows, step)
        self._step = 2
        self._graphs = self._count("stats", "unique_graphs")

    def _count(self, kind: str, name: str) -> int:
        return int(self._counters[kind][name])

    def measure(self, calls: int) -> dict[str, float]:
        """ns per call of each, beside each other."""
        times_ns = dict.fromkeys(self._steps, 0)
        piece = max(1, calls // 10)
        for _ in range(10):
            for name, compiled in self._steps.items():
                begin_ns = time.perf_counter_ns()
                for step in range(self._step, self._step + piece):
                    compiled(self._rows, step)
                times_ns[name] += time.perf_counter_ns() - begin_ns
            self._step += piece
        self.settle()
        return {name: time_ns / (10 * piece) for name, time_ns in times_ns.items()}

    def counted(self) -> dict[str, int]:
        return {
            "points": self.delivered()["accepted"],
            "calls": self._step * SCALARS,
            "breaks": sum(self._counters["graph_break"].values()),
            "compilations": self._count("stats", "unique_graphs") - self._graphs,
        }


def run(settings: Settings) -> Part:
    backend = "aot_eager" if settings.quick else "inductor"  # whose compiler takes half a minute
    with worker(settings, "benchmarks.parts.compiled:CompiledSteps", backend=backend) as made:
        rounds = [
            made.call("measure", calls=settings.pick(2_000, 10))
            for _ in range(settings.pick(25, 2))
        ]
        counted = made.call("counted")
    costs_us = [(each["logging"] - each["without"]) / SCALARS / 1000 for each in rounds]
    steps_us = [each["without"] / 1000 for each in rounds]
    return Part(
        name="compiled",
        figures=[
            Figure(
                f"a scalar in a compiled step with {SCALARS}, over the same step without",
                "us",
                summarise(costs_us),
                at_least=2.5,
                aim=0.7,
            ),
            Figure("that step without a scalar", "us", summarise(steps_us)),
            Figure("graph breaks", "", summarise([counted["breaks"]]), at_least=0, aim=0),
            Figure(
                "compilations after the second step",
                "",
                summarise([counted["compilations"]]),
                at_least=0,
                aim=0,
            ),
            Figure(
                "points that did not arrive of those logged",
                "",
                summarise([counted["calls"] - counted["points"]]),
                at_least=0,
                aim=0,
            ),
        ],
        notes=[f"backend {backend}, on the CPU; nothing was measured on a GPU"],
        rounds=rounds,
    )
