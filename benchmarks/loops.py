"""The timed loops, and the empty method they are compared with.

Each loop is written out for its kind of call: nothing but the call and the `for` is inside.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

TAG = "train/loss"
VALUE = 0.5


class EmptyWriter:
    """A method of add_scalar's signature that does nothing: the mark for a call's cost."""

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        pass


def fresh(loop: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a loop with bytecode of its own.

    CPython specialises the calls in a piece of bytecode for the type they meet. A program's loop
    meets one type; two contenders that shared one loop's bytecode would slow each other down.
    """
    return types.FunctionType(loop.__code__.replace(), loop.__globals__, loop.__name__)


def positional(writer: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """`writer.add_scalar(tag, value, step)`; returns the time of all calls in ns, as all below."""
    start_ns = perf_counter_ns()
    for step in range(first_step, first_step + calls):
        writer.add_scalar(tag, value, step)
    return perf_counter_ns() - start_ns


def keyword(writer: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """`writer.add_scalar(tag, value, global_step=step)`."""
    start_ns = perf_counter_ns()
    for step in range(first_step, first_step + calls):
        writer.add_scalar(tag, value, global_step=step)
    return perf_counter_ns() - start_ns


def without_step(writer: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """`writer.add_scalar(tag, value)`."""
    start_ns = perf_counter_ns()
    for _ in range(first_step, first_step + calls):
        writer.add_scalar(tag, value)
    return perf_counter_ns() - start_ns


def tags_in_turn(writer: Any, tags: Sequence[str], value: Any, first_step: int, calls: int) -> int:
    """`writer.add_scalar(tag, value, step)` for each of the tags at each step."""
    steps = range(first_step, first_step + calls // len(tags))
    start_ns = perf_counter_ns()
    for step in steps:
        for tag in tags:
            writer.add_scalar(tag, value, step)
    return perf_counter_ns() - start_ns


def writers_in_turn(
    writer: Any, writers: Sequence[Any], value: Any, first_step: int, calls: int
) -> int:
    """`writer.add_scalar(tag, value, step)`, each call with the next of the writers, of which
    `writer` is one; another `writer` is called alone."""
    each = writers if writer in writers else [writer]
    turns = zip(range(first_step, first_step + calls), itertools.cycle(each))
    start_ns = perf_counter_ns()
    for step, writer in turns:
        writer.add_scalar(TAG, value, step)
    return perf_counter_ns() - start_ns


def tags_on_the_fly(writer: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """`writer.add_scalar(f"{tag}_{n}", value, step)` with 20 n: each call gets a new str object."""
    start_ns = perf_counter_ns()
    for step in range(first_step, first_step + calls):
        writer.add_scalar(f"{tag}_{step % 20}", value, step)
    return perf_counter_ns() - start_ns


def report_scalar(logger: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """ClearML's own `logger.report_scalar(title, series, value, iteration)`."""
    title, series = tag.rsplit("/", 1)
    start_ns = perf_counter_ns()
    for step in range(first_step, first_step + calls):
        logger.report_scalar(title, series, value, step)
    return perf_counter_ns() - start_ns


def log_dict(run: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """wandb's and trackio's `log({tag: value}, step=step)`."""
    start_ns = perf_counter_ns()
    for step in range(first_step, first_step + calls):
        run.log({tag: value}, step=step)
    return perf_counter_ns() - start_ns


def log_metric(mlflow: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """`mlflow.log_metric(tag, value, step=step)`."""
    start_ns = perf_counter_ns()
    for step in range(first_step, first_step + calls):
        mlflow.log_metric(tag, value, step=step)
    return perf_counter_ns() - start_ns


def log_metric_async(mlflow: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """`mlflow.log_metric(tag, value, step=step, synchronous=False)`."""
    start_ns = perf_counter_ns()
    for step in range(first_step, first_step + calls):
        mlflow.log_metric(tag, value, step=step, synchronous=False)
    return perf_counter_ns() - start_ns


def track(run: Any, tag: str, value: Any, first_step: int, calls: int) -> int:
    """aim's `run.track(value, name=tag, step=step)`."""
    start_ns = perf_counter_ns()
    for step in range(first_step, first_step + calls):
        run.track(value, name=tag, step=step)
    return perf_counter_ns() - start_ns


def nothing(calls: int) -> int:
    """The bare `for`."""
    start_ns = perf_counter_ns()
    for _step in range(calls):
        pass
    return perf_counter_ns() - start_ns


def single_calls(writer: Any, tag: str, value: Any, first_step: int, times_ns: np.ndarray) -> None:
    """Times each call of its own, clock included, into `times_ns`."""
    clock = perf_counter_ns
    for index in range(len(times_ns)):
        step = first_step + index
        start_ns = clock()
        writer.add_scalar(tag, value, step)
        end_ns = clock()
        times_ns[index] = end_ns - start_ns
