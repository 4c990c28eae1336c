"""A logger for Lightning 2.x, of `lightning.pytorch` and of `pytorch_lightning`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from tracelet.config import Config
from tracelet.experiment import Experiment
from tracelet.integrations.logger_run import LoggerRun

if TYPE_CHECKING:
    from argparse import Namespace

    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import Logger as _Logger

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _modules() -> list[Any]:
    """Lightning comes under two names, with a Logger each: of what is imported, else of what is
    there; of both where both are imported."""
    names = [name for name in _PACKAGES if name in sys.modules] or [_installed()]
    return [importlib.import_module(f"{name}.loggers.logger") for name in names]


def _installed() -> str:
    for name in _PACKAGES:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            return name
    raise ImportError(
        "tracelet.integrations.lightning needs Lightning: pip install lightning (or "
        "pytorch-lightning)"
    )


def _callers() -> set[Any]:
    """The code of the trainer's functions that call a logger before a training."""
    found = set()
    for name in _PACKAGES:
        if name in sys.modules:
            call = importlib.import_module(f"{name}.trainer.call")
            utilities = importlib.import_module(f"{name}.loggers.utilities")
            of_each = (call, "_call_setup_hook"), (utilities, "_log_hyperparams")
            found |= {getattr(getattr(*each, None), "__code__", None) for each in of_each}
    return found - {None}


_lightning = _modules()
_CALLERS = _callers()
_FRAMES = 2  # from a logger's method to the trainer's function: a property is wrapped
_rank_zero_experiment = _lightning[0].rank_zero_experiment
if not TYPE_CHECKING:
    _bases = tuple(module.Logger for module in _lightning)
    _Logger = _bases[0] if len(_bases) == 1 else type("_Logger", _bases, {})

# One for both packages, and set by either.
from lightning_utilities.core.rank_zero import rank_zero_only  # noqa: E402


class TraceletLogger(_Logger):  # type: ignore[misc]
    """`Trainer(logger=TraceletLogger())` logs into the run that goes on, or starts one.

    The arguments are those of `tracelet.start_logging`, for a run that it starts; that one takes
    what several calls of the trainer log, and ends with `finish`, `tracelet.stop_logging`, an
    exception in `fit`, the next logger's own run, or the process. A run of yours is never ended.
    Of two in one trainer that have one run the first one writes.

    `save_dir` is where Lightning puts its checkpoints (default: the trainer's own folder);
    `prefix` stands before all metrics' names. `log_model=True` registers the best checkpoint and
    the last one at the end of `fit`, "all" each one when it is saved. Hyperparameters named like
    secrets are not shown. Rank 0 alone logs.
    """

    def __init__(
        self,
        exp_name: str | None = None,
        project: str | None = None,
        backend: str | Sequence[str] | None = None,
        config: Config | None = None,
        save_dir: str | os.PathLike[str] | None = None,
        prefix: str = "",
        log_model: bool | Literal["all"] = False,
    ) -> None:
        super().__init__()
        self._run = LoggerRun(exp_name, project, backend, config)
        self._save_dir = None if save_dir is None else os.fspath(save_dir)
        self._prefix = f"{prefix}/" if prefix else ""
        self._log_model = log_model
        self._at_end: set[str] = set()  # checkpoints that are registered at the end of `fit`
        self._logged_models: dict[str, float] = {}

    @property
    @_rank_zero_experiment  # type: ignore[untyped-decorator]
    def experiment(self) -> Experiment:
        """The run's handle; on ranks other than 0 something whose methods do nothing.

        After the run's end it is that of the run that was, until a training begins or something is
        logged."""
        trainer = _beginning_trainer()
        if trainer is not None and trainer.predicting and not self._run.is_active:
            return cast(Experiment, None)  # the trainer looks whether there is one, and has no use
        if trainer is not None:
            self._run.begin_training(trainer)
        return self._run.handle()

    @property
    def name(self) -> str:
        """The run's name."""
        return self._run.name

    @property
    def version(self) -> str | None:
        """The id of the run that is, or was last; None before the first, and on other ranks."""
        return self._run.id if rank_zero_only.rank == 0 else None

    @property
    def save_dir(self) -> str | None:
        """Where Lightning puts checkpoints; None: in the trainer's own folder."""
        return self._save_dir

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs numbers. What is not one is left out, with a warning; a text is logged as a text."""
        if rank_zero_only.rank == 0:
            if self._prefix:
                metrics = {f"{self._prefix}{name}": value for name, value in metrics.items()}
            self._run.log(metrics, step)

    def log_hyperparams(
        self,
        params: Mapping[str, Any] | Namespace | None,
        metrics: Mapping[str, Any] | None = None,
        step: int | None = None,
    ) -> None:
        """Logs parameters, nested ones as "outer/inner"; `metrics` as `log_metrics`, at `step`."""
        trainer = _beginning_trainer()
        if trainer is not None and trainer.predicting and not self._run.is_active:
            return  # nothing else would be in the run
        if rank_zero_only.rank == 0:
            self._run.log_params({} if params is None else params)
            if metrics:
                self.log_metrics(metrics, 0 if step is None else step)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        best_and_last = {checkpoint_callback.best_model_path, checkpoint_callback.last_model_path}
        if self._log_model == "all":
            self._log_models({*checkpoint_callback.best_k_models, *best_and_last})
        elif self._log_model:
            self._at_end = best_and_last

    def _log_models(self, paths: set[str]) -> None:
        """Those that are new, or have been written anew."""
        for path in sorted(filter(None, paths)) if rank_zero_only.rank == 0 else ():
            changed_s = _changed_s(path)
            if changed_s is None:
                self._run.warn(path, "the checkpoint is not on this machine")
            elif self._logged_models.get(path) != changed_s:
                self._logged_models[path] = changed_s
                self._run.log_model(path)

    def finalize(self, status: str) -> None:
        """Called by the trainer at the end of each of `fit`, `validate`, `test` and `predict`; and
        with "finished" in the middle of a `fit` that goes on, before SLURM puts it in the queue
        again."""
        if rank_zero_only.rank != 0:
            return
        if status == "success":
            self._log_models(self._at_end)
            self._run.end_training()
        elif status == "finished":
            self._run.flush()
        else:
            self._run.finish(sys.exc_info()[1] or RuntimeError(f"Lightning says {status!r}"))

    def finish(self) -> None:
        """Ends the run that the logger has started; does nothing to one of yours."""
        self._run.finish()


def _beginning_trainer() -> Any:
    """The trainer that calls a logger before a training, that is: to see whether it has a run, and
    to log hyperparameters. Nothing else tells a logger what begins."""
    frame: Any = sys._getframe(1)
    for _ in range(_FRAMES):
        frame = frame.f_back
        if frame is None:
            return None
        if frame.f_code in _CALLERS:
            return frame.f_locals.get("trainer")
    return None


def _changed_s(path: str) -> float | None:
    """When a file, or the newest in a folder, was changed; None for what is not there."""
    inside = [os.path.join(at, name) for at, _, names in os.walk(path) for name in names]
    try:
        return max(map(os.path.getmtime, [path, *inside]))
    except OSError:
        return None
