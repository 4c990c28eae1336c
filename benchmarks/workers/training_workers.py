"""A small training loop with and without logging, in turns: the worker's side."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter_ns
from typing import Any

from benchmarks.contender import Contender
from benchmarks.rivals.writers import TorchWriter
from benchmarks.workers.tracelet_writer import TraceletWriter

_SCALARS = 20
_HISTOGRAMS_EVERY = 10
_BLOCK_STEPS = 50  # of one kind, before the other kind has its turn


class TrainingWriter(Contender):
    """MLP 784-128-10, batch 32, Adam; 20 scalars a step, all parameters each 10 steps."""

    def prepare(self) -> None:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)
        self._model = torch.nn.Sequential(
            torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
        )
        self._optimizer = torch.optim.Adam(self._model.parameters())
        self._loss = torch.nn.CrossEntropyLoss()
        self._inputs, self._targets = torch.randn(32, 784), torch.randint(0, 10, (32,))
        self._parameters = [(f"params/{n}", p) for n, p in self._model.named_parameters()]
        self._tags = [f"train/metric_{number}" for number in range(_SCALARS)]
        self._step = 0

    def train(self, blocks: int, logged_first: bool) -> dict[str, float]:
        """ns per step with and without logging, in blocks by turns."""
        plain_ns = logged_ns = 0
        for block in range(2 * blocks):
            if logged_first == (block % 2 == 0):
                logged_ns += self._run(_BLOCK_STEPS, self.writer)
            else:
                plain_ns += self._run(_BLOCK_STEPS, None)
        steps = blocks * _BLOCK_STEPS
        return {"plain": plain_ns / steps, "logged": logged_ns / steps}

    def _run(self, steps: int, writer: Any) -> int:
        start_ns = perf_counter_ns()
        for _ in range(steps):
            self._optimizer.zero_grad()
            loss = self._loss(self._model(self._inputs), self._targets)
            loss.backward()
            self._optimizer.step()
            value = loss.item()
            step = self._step = self._step + 1
            if writer is None:
                continue
            for tag in self._tags:
                writer.add_scalar(tag, value, step)
            if step % _HISTOGRAMS_EVERY == 0:
                for tag, parameter in self._parameters:
                    writer.add_histogram(tag, parameter, step)
        return perf_counter_ns() - start_ns


class TraceletTraining(TraceletWriter, TrainingWriter):
    """Tracelet, with an offline ClearML task and an event file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.prepare()


class TorchTraining(TorchWriter, TrainingWriter):
    """torch's SummaryWriter, unpatched."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.prepare()
