"""What instructions.py counts: loops of hot calls, a mark before and after each.

    valgrind ... python -m benchmarks.instruction_loops FOLDER

The mark is the system call getppid, which callgrind is told to end a count at. The ring holds all
the points, and nothing drains it: only the calls are counted. torch stays away, as it would take a
minute under valgrind; the class here is as good for the native methods.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tracelet import _core
from tracelet.capture import summary_writer as _resolver  # noqa: F401  (finds a writer's folder)

CALLS = 2_000
_RING_SLOTS = 1 << 15
_WARM_UP_CALLS = 500

Loop = Callable[[Any, int], None]


class Writer:
    """What the native methods need of a SummaryWriter; its own methods are what they replace."""

    log_dir = "log"

    def add_scalar(
        self, tag, scalar_value, global_step=None, walltime=None, new_style=False,
        double_precision=False,
    ):  # fmt: skip
        pass

    def empty(
        self, tag, scalar_value, global_step=None, walltime=None, new_style=False,
        double_precision=False,
    ):  # fmt: skip
        pass

    def add_scalars(self, main_tag, tag_scalar_dict, global_step=None, walltime=None):
        pass

    def add_histogram(
        self, tag, values, global_step=None, bins="tensorflow", walltime=None, max_bins=None
    ):
        pass

    def add_histogram_raw(
        self, tag, min, max, num, sum, sum_squares, bucket_limits, bucket_counts,
        global_step=None, walltime=None,
    ):  # fmt: skip
        pass


def _bare(writer: Any, calls: int) -> None:
    for _step in range(calls):
        pass


def _empty_method(writer: Any, calls: int) -> None:
    for step in range(calls):
        writer.empty("train/loss", 0.5, step)


def _positional(writer: Any, calls: int) -> None:
    for step in range(calls):
        writer.add_scalar("train/loss", 0.5, step)


def _keyword(writer: Any, calls: int) -> None:
    for step in range(calls):
        writer.add_scalar("train/loss", 0.5, global_step=step)


def _numpy_value(writer: Any, calls: int) -> None:
    value = np.float32(0.5)
    for step in range(calls):
        writer.add_scalar("train/loss", value, step)


LOOPS: dict[str, Loop] = {
    "bare loop": _bare,
    "empty Python method": _empty_method,
    "add_scalar, positional": _positional,
    "add_scalar, global_step=": _keyword,
    "add_scalar of a numpy.float32": _numpy_value,
}


def main(folder: str) -> None:
    ring = _core.Ring.create(os.path.join(folder, "ring"), _RING_SLOTS, 10.0)
    for name, method in _core.make_methods(Writer, dict(Writer.__dict__)).items():
        setattr(Writer, name, method)
    _core.set_active_run(ring)
    writer = Writer()
    gc.collect()
    gc.disable()
    for loop in LOOPS.values():  # CPython specialises each loop's bytecode meanwhile
        loop(writer, _WARM_UP_CALLS)
    for loop in LOOPS.values():
        os.getppid()
        loop(writer, CALLS)
    os.getppid()
    _core.set_active_run(None)
    logged = (len(LOOPS) - 2) * (CALLS + _WARM_UP_CALLS)
    assert ring.head == logged, f"{ring.head} points in the ring instead of {logged}"


if __name__ == "__main__":
    main(sys.argv[1])
