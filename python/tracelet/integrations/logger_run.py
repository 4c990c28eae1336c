"""The run that a framework's logger logs into: the one that goes on, or one of its own."""

from __future__ import annotations

import logging as python_logging
from collections.abc import Mapping, Sequence
from typing import Any

from tracelet.api import get_active_experiment, start_logging
from tracelet.backends.params import leaves, name_of, plain
from tracelet.config import Config
from tracelet.errors import TraceletError
from tracelet.experiment import Experiment
from tracelet.options import resolve_options
from tracelet.pipeline.run import Run
from tracelet.redact import redacted

_log = python_logging.getLogger("tracelet")

_FLUSH_TIMEOUT_S = 5.0
_owner: LoggerRun | None = None
"""Whose own run was started last. Another logger ends it where its training has ended."""


class LoggerRun:
    """What the loggers of all frameworks share.

    A run of the user's is used and never ended. Where there is none, one is started at the first
    call. It is not ended with the training: `trainer.test` after `trainer.fit` logs into the same
    run. It ends with `finish`, with `stop_logging`, with the next logger's own run, or with the
    process.

    What can't be logged is left out, with one warning for each name: nothing but the start of a
    run raises into the framework's loop.
    """

    def __init__(
        self,
        exp_name: str | None,
        project: str | None,
        backend: str | Sequence[str] | None,
        config: Config | None,
    ) -> None:
        options = resolve_options(exp_name, project, backend, config)  # an error is told here
        self._name = options.task_name or options.exp_name
        self._start = (exp_name, project, backend, config)
        self._experiment: Experiment | None = None
        self._own: Experiment | None = None
        self._is_between_trainings = False
        self._warned: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """A copy, of this process or another one, looks for its run anew."""
        return {**self.__dict__, "_experiment": None, "_own": None, "_warned": set()}

    @property
    def name(self) -> str:
        return self._name if self._experiment is None else self._experiment.name

    def experiment(self, name: str | None = None) -> Experiment:
        """The run; where one must be started, it has this name, by default the logger's."""
        experiment = self._experiment
        if experiment is None or not experiment._takes_points(experiment._run):
            experiment = self._experiment = self._find() or self._start_own(name)
        self._is_between_trainings = False
        return experiment

    def _find(self) -> Experiment | None:
        active = get_active_experiment()
        if active is None or _owner is None or active is not _owner._own:
            return active
        if _owner is self or not _owner._is_between_trainings:
            return active  # of another logger of the same training
        _owner.finish()
        return get_active_experiment()

    def _start_own(self, name: str | None) -> Experiment:
        global _owner
        exp_name, project, backend, config = self._start
        self._own = start_logging(name or exp_name, project, backend, config)
        _owner = self
        return self._own

    def begin_training(self) -> None:
        """A training begins for sure. One that a logger's own run was started for, and that did
        not say its end, has failed."""
        if _owner is not None and _owner is not self:
            _owner.finish()

    def end_training(self) -> None:
        """What was logged is in the event files; a run of its own waits for what follows."""
        if (own := self._own) is not None and own.is_active:
            self._is_between_trainings = True
            if isinstance(own._run, Run):
                own._run.flush_event_files(_FLUSH_TIMEOUT_S)

    def finish(self, failure: BaseException | None = None) -> None:
        """Ends the run if it is the logger's own; with `failure` it is a failed one."""
        global _owner
        own, self._own, self._experiment = self._own, None, None
        if _owner is self:
            _owner = None
        if own is not None and own.is_active:
            if failure is not None:
                own._run.note_failure(failure)
            own.stop()

    def log(self, values: Mapping[str, Any], step: float | None = None) -> None:
        """Logs numbers, one-element tensors and texts; a nested mapping's names are "outer/inner".

        The usual case, all of them numbers, is one native call.
        """
        experiment = self.experiment()
        at_step = None if step is None else int(step)
        try:
            experiment.log(values, at_step)
        except (TypeError, ValueError, OverflowError, TraceletError):
            self._log_each(experiment, values, at_step)

    def _log_each(
        self, experiment: Experiment, values: Mapping[str, Any], step: int | None
    ) -> None:
        numbers: dict[str, Any] = {}
        for path, value in leaves(values):
            name = name_of(path)
            try:
                if isinstance(value, str):
                    experiment.log_text(name, value, step)
                elif isinstance(value, (int, float)):
                    numbers[name] = value
                else:  # an array's or a tensor's only element
                    item = getattr(value, "item", None)
                    numbers[name] = float(item() if callable(item) else value)
            except Exception as error:  # of a value of any type
                self._warn(name, f"{type(value).__name__}: {error}")
        try:
            experiment.log(numbers, step)
        except (TypeError, ValueError, OverflowError, TraceletError) as error:
            self._warn(", ".join(numbers), str(error))

    def log_params(self, params: Any) -> None:
        """Logs parameters as `Experiment.log_params` does, without secrets: whoever uses a
        framework's logger has not looked at what it hands over."""
        experiment = self.experiment()
        try:
            experiment.log_params(
                {
                    name_of(path): redacted(name_of(path), plain(_shown(value)))
                    for path, value in leaves(params)
                    if path
                }
            )
        except (TypeError, ValueError, TraceletError) as error:
            self._warn("parameters", str(error))

    def log_model(self, path: str) -> None:
        """Registers a checkpoint's file."""
        try:
            self.experiment().log_model(path)
        except (OSError, TypeError, ValueError, TraceletError) as error:
            self._warn(path, str(error))

    def _warn(self, name: str, why: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            _log.warning("tracelet: %s not logged: %s", name, why)


def _shown(value: Any) -> Any:
    """Without the secrets of mappings that are in a list."""
    if isinstance(value, Mapping):
        return {key: redacted(str(key), _shown(each)) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_shown(each) for each in value)
    return value
