"""A tracker for Hugging Face's Accelerate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process

from tracelet.config import Config
from tracelet.experiment import Experiment
from tracelet.integrations.logger_run import LoggerRun


class TraceletTracker(GeneralTracker):  # type: ignore[misc]
    """`Accelerator(log_with=TraceletTracker())` logs into the run that goes on, or starts one.

    The arguments are those of `tracelet.start_logging`, for a run that it starts and that
    `accelerator.end_training()` ends. A run of yours is never ended. The main process alone logs.
    """

    name = "tracelet"
    requires_logging_directory = False
    main_process_only = True

    def __init__(
        self,
        exp_name: str | None = None,
        project: str | None = None,
        backend: str | Sequence[str] | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__()
        self._run = LoggerRun(exp_name, project, backend, config)

    @property
    def tracker(self) -> Experiment:
        """The run's handle; after the training's end that of the run that was."""
        return self._run.handle()

    @on_main_process  # type: ignore[untyped-decorator]
    def start(self) -> None:
        self._run.begin_training()

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Logs parameters, nested ones as "outer/inner", without what is named like a secret."""
        self._run.log_params(values)

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: Mapping[str, Any], step: int | None = None, **others: Any) -> None:
        """Logs numbers and texts. Without a step it counts up."""
        self._run.log(values, step)

    @on_main_process  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """Ends the run that the tracker has started; does nothing to one of yours."""
        self._run.finish()
