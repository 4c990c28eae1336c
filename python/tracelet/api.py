"""The functions of the package: start, stop, the active experiment.

What runs a run is imported when one starts: it is two thirds of what importing tracelet would take.
"""

from __future__ import annotations

import contextlib
import itertools
import logging as python_logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tracelet.config import Config
from tracelet.environment import option_text
from tracelet.errors import ConfigurationError, CredentialsError, UnknownBackendError
from tracelet.experiment import Experiment
from tracelet.options import Options, check_seconds, resolve_options
from tracelet.parent_run import attach_to_parent, forget_parent, is_attached

if TYPE_CHECKING:
    from tracelet.reading import Logs

_log = python_logging.getLogger("tracelet")

_experiments: list[Experiment] = []  # those that go on, and such as have ended since
_unnamed = itertools.count(1)


def start_logging(
    exp_name: str | None = None,
    project: str | None = None,
    backend: str | Sequence[str] | None = None,
    config: Config | None = None,
) -> Experiment:
    """Starts a run: from now on torch's SummaryWriter logs into it.

    `exp_name` and `project` name it; `backend` is "clearml", "mlflow", "wandb", "aim", "trackio",
    "tensorboard" (event files alone), the name of a sink of your own, or a list of those; event
    files are written with any of them. Without one it is `TRACELET_BACKEND`, else "clearml" where
    ClearML is installed and set up, else "tensorboard". `config` holds further options, see
    `tracelet.options.Options`. Each option may also be set by an environment variable, `TRACELET_`
    and its name; arguments win.

    A run that is active is stopped first, with a warning. Without `stop_logging` the run is
    flushed when the process ends. Raises ConfigurationError (a ValueError) for an option,
    CredentialsError, BackendError; once it has returned, a backend that fails raises nothing.
    """
    try:
        return _start(resolve_options(exp_name, project, _named(backend), config))
    except (ConfigurationError, CredentialsError) as error:
        # Its words say what is wrong and what to do: not below 30 lines of frames that are ours.
        _log.debug("tracelet: start_logging failed", exc_info=error)
        raise error.with_traceback(None) from error.__cause__


def _named(backend: str | Sequence[str] | None) -> str | Sequence[str] | None:
    """Where no backend is named, here or by the environment: what is set up."""
    if backend is not None or option_text("backend") is not None:
        return backend
    from tracelet.backends.default import default_backend

    return default_backend()


def _start(options: Options, block: object = None, is_inside: bool = False) -> Experiment:
    from tracelet.backends import check_backends
    from tracelet.pipeline import lifecycle

    check_backends(options)
    if not is_inside:
        forget_parent()
    experiment = Experiment(lifecycle.start(options, block, is_inside))
    going_on = [each for each in list(_experiments) if lifecycle.takes_points(each._run)]
    _experiments[:] = [*going_on, experiment]
    return experiment


def stop_logging(timeout_s: float | None = None) -> None:
    """Delivers what is left, restores SummaryWriter and ends the run; does nothing without one.

    Returns within `timeout_s` seconds (default: the option `stop_timeout_s`, 30). What could not
    be delivered by then stays on disk, with a warning that says where.
    """
    # Checked before anything ends: a mistake here must leave a run that can be stopped.
    timeout_s = None if timeout_s is None else check_seconds("timeout_s", timeout_s)
    forget_parent()
    if not (_experiments or is_attached()):
        return
    from tracelet.pipeline import lifecycle

    lifecycle.stop(timeout_s)


def get_active_experiment() -> Experiment | None:
    """The running experiment, or None. In a process that was started by the run's, by a fork or
    with `import tracelet` in it, the one it logs into: see its `is_active`."""
    attach_to_parent()
    return _running_experiment(is_own=False)


def _running_experiment(is_own: bool) -> Experiment | None:
    if not (_experiments or is_attached()):
        return None
    from tracelet.pipeline import lifecycle

    run = lifecycle.active_run() if is_own else lifecycle.logged_run()
    if run is None:
        return None
    found = next((each for each in list(_experiments) if each._run is run), None)
    if found is None:  # of a process that this one is attached to
        found = Experiment(run)
        _experiments.append(found)
    return found


@contextlib.contextmanager
def logging(
    backend: str | Sequence[str] | None = None,
    exp_name: str | None = None,
    project: str | None = None,
    config: Config | None = None,
) -> Iterator[Experiment]:
    """A run for a block: `with tracelet.logging("clearml", exp_name="step") as experiment:`.

    As `start_logging` at the start and `stop_logging` at the end, also when the block raises; its
    ClearML task is "failed" then. When the process has a ClearML task (`Task.init`, a step of a
    pipeline), a block with an `exp_name` of its own is a child task of it; after the block that
    task is current again. Without a name the block logs to the current task.

    A block inside a run is a run of its own, a child of that one where the backend has children.
    Inside it SummaryWriters, and `get_active_experiment`, are its; the handle of the outer run logs
    to the outer one, which goes on after it.
    """
    from tracelet.pipeline import lifecycle

    is_named = exp_name is not None
    around = _running_experiment(is_own=True)
    if around is not None and exp_name is None:
        exp_name = f"{around.name}-{next(_unnamed)}"
    if exp_name is not None and (config is None or isinstance(config, Mapping)):
        config = {"child_task": True, **(config or {})}
    block = object()
    options = resolve_options(exp_name, project, _named(backend), config)
    try:
        experiment = _start(options, block, is_inside=True)
    except UnknownBackendError as error:
        if is_named or not isinstance(backend, str):
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
        lifecycle.stop_block(block)


def read(path: str | os.PathLike[str] | Experiment) -> Logs:
    """Reads TensorBoard event files: ours, torch's, TensorFlow's, Keras', tensorboardX'.

    `path` is a log folder, a folder of runs, one event file, or an Experiment of this process.
    `.runs[name].scalars(tag)` has `steps`, `values` and `wall_times` in the order logged; with one
    run, `.scalars(tag)` does too. `.refresh()` goes on with files that have grown. What is damaged
    is passed over with a warning. Raises FileNotFoundError when there is no event file.
    Thread-safe.
    """
    from tracelet.reading import read as read_logs

    if isinstance(path, Experiment):
        return path._event_files("read")
    return read_logs(path)
