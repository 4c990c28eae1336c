"""The ways to log histograms, each as its users run it, in bursts of add_histogram."""

from __future__ import annotations

import functools
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contender import Contender
from benchmarks.rivals.writers import TensorboardXWriter, TorchWriter
from benchmarks.workers.tracelet_writer import TraceletWriter


class Load(NamedTuple):
    """What is logged at each step: so many tensors of float32, each under a tag of its own."""

    tensors: int
    values: int


class HistogramWriter(Contender):
    """A way to log scalars that takes histograms too."""

    def log_histograms(self, load: list[int], steps: int) -> dict[str, float]:
        """ns per step of a loop that logs all of the load's tensors at each step."""
        named = _named_tensors(Load(*load))
        first_step, self.sent = self.sent, self.sent + steps * len(named)
        writer = self.writer
        start_ns = perf_counter_ns()
        for step in range(first_step, first_step + steps):
            for tag, tensor in named:
                writer.add_histogram(tag, tensor, step)
        return {"step": (perf_counter_ns() - start_ns) / steps}


@functools.cache
def _named_tensors(load: Load) -> list[tuple[str, Any]]:
    """Standard normal, the same ones for all contenders; made once."""
    import torch

    rng = np.random.default_rng(0)
    arrays = (rng.standard_normal(load.values, np.float32) for _ in range(load.tensors))
    return [
        (f"weights/{load.values}_{number}", torch.from_numpy(array))
        for number, array in enumerate(arrays)
    ]


class TraceletHistograms(TraceletWriter, HistogramWriter):
    """Tracelet, with an offline ClearML task and an event file."""

    def account_for_all(self) -> dict[str, Any]:
        """By Tracelet's own account, once all is delivered."""
        self.settle()
        stats = self._experiment.stats
        return {
            "sent": self.sent,
            "delivered": dict(stats.delivered),
            "dropped": dict(stats.dropped),
        }


class TorchHistograms(TorchWriter, HistogramWriter):
    """torch's SummaryWriter, unpatched."""


class TensorboardXHistograms(TensorboardXWriter, HistogramWriter):
    """tensorboardX's SummaryWriter."""
