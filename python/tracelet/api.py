"""The functions of the package: start, stop, the active experiment.

What runs a run is imported when one starts: it is two thirds of what importing tracelet would take.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracelet.errors import UnknownBackendError
from tracelet.experiment import Experiment
from tracelet.options import check_seconds, resolve_options

_experiment: Experiment | None = None


def start_logging(
    exp_name: str | None = None,
    project: str | None = None,
    backend: str | Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Experiment:
    """Starts a run: from now on torch's SummaryWriter logs into it.

    `exp_name` and `project` name it; `backend` is "clearml" (the default), "tensorboard" (event
    files alone), the name of a sink of your own, or a list of those; event files are written with
    any of them. `config` holds further options, see `tracelet.options.Options`. Each option may
    also be set by an environment variable, `TRACELET_` and its name; arguments win.

    A run that is active is stopped first, with a warning. Without `stop_logging` the run is
    flushed when the process ends. Raises ConfigurationError (a ValueError) for an option,
    CredentialsError, BackendError; once it has returned, a backend that fails raises nothing.
    """
    global _experiment
    from tracelet.backends import check_backends
    from tracelet.pipeline import lifecycle

    options = resolve_options(exp_name, project, backend, config)
    check_backends(options)
    _experiment = Experiment(lifecycle.start(options))
    return _experiment


def stop_logging(timeout_s: float | None = None) -> None:
    """Delivers what is left, restores SummaryWriter and ends the run; does nothing without one.

    Returns within `timeout_s` seconds (default: the option `stop_timeout_s`, 30). What could not
    be delivered by then stays on disk, with a warning that says where.
    """
    # Checked before anything ends: a mistake here must leave a run that can be stopped.
    timeout_s = None if timeout_s is None else check_seconds("timeout_s", timeout_s)
    if _experiment is None:
        return
    from tracelet.pipeline import lifecycle

    lifecycle.stop(timeout_s)


def get_active_experiment() -> Experiment | None:
    """The running experiment, or None."""
    return _experiment if _experiment is not None and _experiment.is_active else None


@contextlib.contextmanager
def logging(
    backend: str | Sequence[str] | None = None,
    exp_name: str | None = None,
    project: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Experiment]:
    """A run for a block: `with tracelet.logging("clearml", exp_name="step") as experiment:`.

    As `start_logging` at the start and `stop_logging` at the end, also when the block raises; its
    ClearML task is "failed" then. When the process has a ClearML task (`Task.init`, a step of a
    pipeline), a block with an `exp_name` of its own is a child task of it; after the block that
    task is current again. Without a name the block logs to the current task.
    """
    if exp_name is not None and (config is None or isinstance(config, Mapping)):
        config = {"child_task": True, **(config or {})}
    try:
        experiment = start_logging(exp_name, project, backend, config)
    except UnknownBackendError as error:
        if exp_name is not None or not isinstance(backend, str):
            raise
        raise UnknownBackendError(
            f"{error}. The first argument of tracelet.logging is the backend; if this is the run's "
            f"name: tracelet.logging(exp_name={backend!r})"
        ) from None
    try:
        yield experiment
    except BaseException as error:
        experiment._run.note_failure(error)
        raise
    finally:
        stop_logging()
