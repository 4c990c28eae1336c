"""What do other calls cost than the plainest one: other tags, other values?

In a round each shape has a burst of plain calls right beside it; the ratio is formed of the two.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import loops
from benchmarks.contender import PIECES
from benchmarks.harness import (
    Entrant,
    Settings,
    Worker,
    column,
    interleave,
    ratios,
    summarise,
    worker,
)
from benchmarks.report import Figure, Part
from benchmarks.workers.tracelet_writer import TraceletWriter


class Target(NamedTuple):
    """What a shape may cost, as a multiple of the plain call."""

    at_least: float | None = None
    aim: float | None = None


_ON_THE_FLY = "f-string tags, their making included"
_WRITERS = (1, 2, 8, 64)
_IN_TURN = {count: f"{count} writer{'s' * (count > 1)} in turn" for count in _WRITERS}
_SHAPES = {
    "20 tags in turn": Target(2, 1.3),
    "0-d float32 tensor": Target(6, 3),
    "np.float32": Target(3, 1.5),
    "np.float64": Target(),
    "int": Target(),
    "0-d float32 tensor that requires grad": Target(),
    "0-d bfloat16 tensor": Target(),
    "no step": Target(),
    _ON_THE_FLY: Target(),
    **{shape: Target() for shape in _IN_TURN.values()},
}


class ShapesWriter(TraceletWriter):
    """The worker's side: Tracelet called in each of the shapes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import torch
        from torch.utils.tensorboard import SummaryWriter

        others = [SummaryWriter(str(folder / "events" / str(n))) for n in range(1, max(_WRITERS))]
        writers = [self.writer, *others]
        tags = [f"train/loss_{number}" for number in range(20)]
        same = loops.positional
        made: dict[str, tuple[Callable[..., int], Any, Any]] = {
            "20 tags in turn": (loops.tags_in_turn, tags, loops.VALUE),
            "0-d float32 tensor": (same, loops.TAG, torch.tensor(0.5)),
            "np.float32": (same, loops.TAG, np.float32(0.5)),
            "np.float64": (same, loops.TAG, np.float64(0.5)),
            "int": (same, loops.TAG, 7),
            "0-d float32 tensor that requires grad": (
                same,
                loops.TAG,
                torch.tensor(0.5, requires_grad=True),
            ),
            "0-d bfloat16 tensor": (same, loops.TAG, torch.tensor(0.5, dtype=torch.bfloat16)),
            _ON_THE_FLY: (
                loops.tags_on_the_fly,
                loops.TAG,
                loops.VALUE,
            ),
            "no step": (loops.without_step, loops.TAG, loops.VALUE),
            **{
                shape: (loops.writers_in_turn, writers[:count], loops.VALUE)
                for count, shape in _IN_TURN.items()
            },
        }
        self._shapes = {
            name: (loops.fresh(loop), loops.fresh(loop), tag, value)
            for name, (loop, tag, value) in made.items()
        }

    def compare(self, shape: str, calls: int, plain_first: bool) -> dict[str, float]:
        """ns per call of the shape, of the plain call beside it, and of the empty method's."""
        loop, empty_loop, tag, value = self._shapes[shape]
        times_ns = {"call": 0, "plain": 0, "empty": 0}
        piece = calls // PIECES
        for number in range(2 * PIECES):
            if plain_first == (number % 2 == 0):
                times_ns["plain"] += self.run_loop("positional", piece)
            else:
                times_ns["call"] += loop(self.writer, tag, value, self.sent, piece)
                self.sent += piece
                times_ns["empty"] += empty_loop(self._empty, tag, value, self.sent, piece)
        self.settle()
        return {what: time_ns / calls for what, time_ns in times_ns.items()}


def run(settings: Settings) -> Part:
    rng = settings.rng("call_shapes")
    rounds = settings.pick(25, 2)
    with worker(settings, "benchmarks.parts.call_shapes:ShapesWriter") as made:
        entrants = [_entrant(made, shape, settings, rng) for shape in _SHAPES]
        results = interleave(entrants, rounds, rng)
    part = Part("call_shapes", rounds=results)
    plain_ns = [cost for each in results.values() for cost in column(each, "plain").values()]
    part.figures.append(Figure("plain add_scalar beside the following", "ns", summarise(plain_ns)))
    for shape, target in _SHAPES.items():
        ratio = ratios(column(results[shape], "call"), column(results[shape], "plain"))
        part.figures.append(Figure(f"{shape}, by the plain call", "x", ratio, *target))
    by_one = column(results[_IN_TURN[1]], "call")
    for count in _WRITERS[1:]:
        ratio = ratios(column(results[_IN_TURN[count]], "call"), by_one)
        part.figures.append(Figure(f"{_IN_TURN[count]}, by one", "x", ratio, 1.2, 1.2))
    on_the_fly = results[_ON_THE_FLY]
    ratio = ratios(column(on_the_fly, "call"), column(on_the_fly, "empty"))
    part.figures.append(Figure(f"{_ON_THE_FLY}, by an empty method", "x", ratio))
    return part


def _entrant(made: Worker, shape: str, settings: Settings, rng: random.Random) -> Entrant:
    calls = settings.pick(20_000, 500)

    def measure() -> dict[str, Any]:
        plain_first = rng.random() < 0.5
        measured: dict[str, Any] = made.call(
            "compare", shape=shape, calls=calls, plain_first=plain_first
        )
        return measured

    return Entrant(shape, measure, rounds=1_000)
