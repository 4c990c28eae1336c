"""The run that a framework's logger logs into: the one that goes on, or one of its own."""

from __future__ import annotations

import contextlib
import logging as python_logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable

from tracelet.api import get_active_experiment, start_logging
from tracelet.backends.params import leaves, name_of
from tracelet.config import Config
from tracelet.experiment import Experiment
from tracelet.integrations.shown import shown_params
from tracelet.options import resolve_options
from tracelet.pipeline.run import Run

_log = python_logging.getLogger("tracelet")

_FLUSH_TIMEOUT_S = 5.0
_owner: tuple[weakref.ref[LoggerRun], Experiment] | None = None
"""Who has started a run last, and that. Another logger ends it where its training has ended."""
_loggers: weakref.WeakSet[LoggerRun] = weakref.WeakSet()
"""Those whose training has begun."""


class LoggerRun:
    """What the loggers of all frameworks share.

    A run of the user's is used and never ended. Where there is none, one is started at the first
    call. It is not ended with the training: `trainer.test` after `trainer.fit` logs into the same
    run. It ends with `finish`, with `stop_logging`, with the next logger's own run, or with the
    process.

    Where another logger's training goes on, its run is shared, with a warning. Of several loggers
    of one and the same training the first writes: a point would be there twice.

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
        self._forget()

    def _forget(self) -> None:
        self._experiment: Experiment | None = None
        self._own: Experiment | None = None
        self._last: Experiment | None = None  # kept, to be read when the run has ended
        self._is_training = False
        self._is_between_trainings = False
        self._training: weakref.ref[Any] | None = None
        self._goes_on: Callable[[], bool] | None = None
        self._first: weakref.ref[LoggerRun] | None = None  # that writes in place of this one
        self._warned: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """A copy, of this process or another one, looks for its run anew."""
        return {"_name": self._name, "_start": self._start}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def name(self) -> str:
        experiment = self._experiment or self._last
        return self._name if experiment is None else experiment.name

    @property
    def id(self) -> str | None:
        """Of the run that is, or was last; starts none."""
        experiment = self._experiment or self._last or get_active_experiment()
        return None if experiment is None else experiment.id

    @property
    def is_active(self) -> bool:
        """Whether there is a run to log into."""
        return get_active_experiment() is not None

    def handle(self) -> Experiment:
        """The run for who reads it: outside of a training the one that was last is followed by no
        other, which would be empty."""
        experiment = self._experiment or self._last
        if experiment is None or self._is_training or self.is_active:
            return self.experiment()
        return experiment

    def experiment(self, name: str | None = None) -> Experiment:
        """The run; where one must be started, it has this name, by default the logger's."""
        experiment = self._experiment
        if experiment is None or not experiment._takes_points(experiment._run):
            experiment = self._experiment = self._find() or self._start_own(name)
        return experiment

    def _find(self) -> Experiment | None:
        self._end_what_has_ended()
        active = get_active_experiment()
        if active is not None and _owner is not None and active is _owner[1]:
            other = _owner[0]()
            is_of_this = other is None or other is self or repr(other._start) == repr(self._start)
            if not is_of_this and self._first is None:
                self._tell(
                    "shared",
                    f"the training of another logger goes on: {self._name!r} logs into its run "
                    f"{active.name!r}, and its own name and options are not used",
                )
        return active

    def _end_what_has_ended(self) -> None:
        """Ends another logger's own run, unless that one's training goes on."""
        global _owner
        if _owner is None or get_active_experiment() is not _owner[1]:
            return
        other, experiment = _owner[0](), _owner[1]
        if other is None:
            _owner = None
            experiment.stop()
        elif other is not self and other._has_ended:
            other.finish()

    @property
    def _has_ended(self) -> bool:
        return self._is_between_trainings or (self._goes_on is not None and not self._goes_on())

    def _start_own(self, name: str | None) -> Experiment:
        global _owner
        exp_name, project, backend, config = self._start
        self._own = start_logging(name or exp_name, project, backend, config)
        _owner = weakref.ref(self), self._own
        return self._own

    def begin_training(
        self,
        training: object | None = None,
        name: str | None = None,
        goes_on: Callable[[], bool] | None = None,
    ) -> None:
        """A training begins for sure. `training` is an object that all its loggers are given and
        no other training's; `goes_on` says whether it does, where a failed one does not tell."""
        self._end_what_has_ended()
        self._is_training, self._is_between_trainings = True, False
        self._goes_on, self._first = goes_on, self._first_of(training)
        self._training = None if training is None else weakref.ref(training)
        _loggers.add(self)
        self.experiment(name)
        if self._is_second():
            self._tell(
                "second",
                f"two loggers of one training log into the run {self.name!r}: the first one does, "
                "the second writes nothing",
            )

    def _first_of(self, training: object | None) -> weakref.ref[LoggerRun] | None:
        for other in list(_loggers):
            is_of_it = other._training is not None and other._training() is training
            if other is not self and training is not None and is_of_it and other._first is None:
                return weakref.ref(other)
        return None

    def _is_second(self) -> bool:
        first = None if self._first is None else self._first()
        return first is not None and first._experiment is self._experiment

    def end_training(self) -> None:
        """What was logged is in the event files; a run of its own waits for what follows."""
        self.flush()
        self._is_training, self._training, self._goes_on, self._first = False, None, None, None
        if self._own is not None and self._own.is_active:
            self._is_between_trainings = True

    def flush(self) -> None:
        """What was logged to a run of its own is in the event files; the training goes on."""
        own = self._own
        if own is not None and own.is_active and isinstance(own._run, Run):
            own._run.flush_event_files(_FLUSH_TIMEOUT_S)

    def finish(self, failure: BaseException | None = None) -> None:
        """Ends the run if it is the logger's own; with `failure` it is a failed one."""
        global _owner
        own, last = self._own, self._experiment or self._last
        warned = self._warned
        self._forget()
        self._last, self._warned = last, warned
        if _owner is not None and _owner[0]() is self:
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
        if self._is_second():
            return
        with self._guarded("metrics"):
            at_step = None if step is None else int(step)
            try:
                experiment.log(values, at_step)
            except Exception:  # of a value of any type
                self._log_each(experiment, values, at_step)

    def _log_each(
        self, experiment: Experiment, values: Mapping[str, Any], step: int | None
    ) -> None:
        numbers: dict[str, float] = {}
        for key, entry in values.items():
            with self._guarded(str(key)):
                for path, value in list(leaves(entry, (key,))):  # all, or none of what holds itself
                    name = name_of(path)
                    with self._guarded(name, value):
                        if isinstance(value, str):
                            experiment.log_text(name, value, step)
                        else:  # also an array's or a tensor's only element
                            item = getattr(value, "item", None)
                            numbers[name] = float(item() if callable(item) else value)
        try:
            experiment.log(numbers, step)
        except Exception:  # of a name, most likely: the others are logged
            for name, number in numbers.items():
                with self._guarded(name):
                    experiment.log({name: number}, step)

    def log_params(self, params: Any) -> None:
        """Logs parameters as `Experiment.log_params` does, without secrets: whoever uses a
        framework's logger has not looked at what it hands over."""
        experiment = self.experiment()
        if not self._is_second():
            with self._guarded("parameters"):
                shown = shown_params(params, lambda: self._guarded("parameters"))
                experiment.log_params(shown)

    def log_model(self, path: str) -> None:
        """Registers a checkpoint: a file or a folder."""
        experiment = self.experiment()
        if not self._is_second():
            with self._guarded(path):
                experiment.log_model(path)

    @contextlib.contextmanager
    def _guarded(self, name: str, value: object = None) -> Iterator[None]:
        """What goes wrong in the block costs that, with a warning; Ctrl-C passes."""
        try:
            yield
        except Exception as error:
            kind = "" if value is None else f"{type(value).__name__}: "
            self.warn(name, f"{kind}{str(error) or type(error).__name__}")

    def warn(self, name: str, why: str) -> None:
        """Says once that something of this name is not logged."""
        self._tell(name, f"{name} not logged: {why}")

    def _tell(self, key: str, words: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            _log.warning("tracelet: %s", words)
