"""The calls of SummaryWriter that are not hot, timed as their users make them."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np

from benchmarks.contender import Contender
from benchmarks.rivals.writers import TorchWriter
from benchmarks.workers.tracelet_writer import TraceletWriter

KINDS = {
    "image": "add_image of 3 x 256 x 256",
    "text": "add_text of 200 characters",
    "figure": "add_figure of a line plot",
}
"""What is timed, and how it is called in a report."""


class MediaWriter(Contender):
    """A way to log that takes images, text and figures too."""

    def log_media(self, kind: str, calls: int) -> dict[str, float]:
        """ns per call of a burst."""
        call = self._calls()[kind]
        elapsed_ns = 0
        for _ in range(calls):
            self.sent += 1
            argument = call[1]()
            start_ns = perf_counter_ns()
            call[0](f"{kind}/sample", argument, self.sent)
            elapsed_ns += perf_counter_ns() - start_ns
        return {"call": elapsed_ns / calls}

    def _calls(self) -> dict[str, tuple[Callable[..., Any], Callable[[], Any]]]:
        """Method and what makes its argument, which is not timed."""
        return {
            "image": (self.writer.add_image, _image),
            "text": (
                self.writer.add_text,
                lambda: "a line of some fifty characters, four times " * 4,
            ),
            "figure": (self.writer.add_figure, _figure),
        }


def _image() -> Any:
    rng = np.random.default_rng(0)
    coarse = rng.random((3, 16, 16), np.float32)
    return np.kron(coarse, np.ones((1, 16, 16), np.float32))


def _figure() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3))
    figure.add_subplot().plot(np.sin(np.arange(100) / 10))
    return figure


class TraceletMedia(TraceletWriter, MediaWriter):
    """Tracelet, with an offline ClearML task and an event file."""


class TorchMedia(TorchWriter, MediaWriter):
    """torch's SummaryWriter, unpatched."""
