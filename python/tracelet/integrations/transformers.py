"""A callback for the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import rewrite_logs

from tracelet.config import Config
from tracelet.integrations.logger_run import LoggerRun


class TraceletCallback(TrainerCallback):  # type: ignore[misc]
    """`Trainer(..., callbacks=[TraceletCallback()])` logs into the run that goes on, or starts one.

    The arguments are those of `tracelet.start_logging`, for a run that it starts; without a name it
    is the training's `run_name`. That run takes what `evaluate` logs after `train`, and ends with
    `finish`, `tracelet.stop_logging`, the next callback's own run, or the process. A run of yours
    is never ended.

    Metrics have the names that transformers gives them in TensorBoard: "train/loss", "eval/loss".
    The training's arguments and the model's configuration are parameters, "args/..." and
    "model_config/...", without what is named like a secret. The first process of all alone logs.
    """

    def __init__(
        self,
        exp_name: str | None = None,
        project: str | None = None,
        backend: str | Sequence[str] | None = None,
        config: Config | None = None,
    ) -> None:
        self._has_name = exp_name is not None
        self._run = LoggerRun(exp_name, project, backend, config)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **others: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        if state.is_hyper_param_search:
            self._run.finish()  # each trial is a run of its own
        goes_on = partial(_is_within, weakref.ref(state))
        self._run.begin_training(state, self._name(args, state), goes_on)
        params = {"args": args.to_dict()}
        if getattr(model, "config", None) is not None:
            params["model_config"] = model.config.to_dict()
        self._run.log_params(params)

    def _name(self, args: TrainingArguments, state: TrainerState) -> str | None:
        if state.is_hyper_param_search and state.trial_name:
            return str(state.trial_name)
        return None if self._has_name else args.run_name

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            self._run.experiment(self._name(args, state))
            self._run.log(rewrite_logs(logs), state.global_step)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        if state.is_world_process_zero:
            self._run.end_training()

    def finish(self) -> None:
        """Ends the run that the callback has started; does nothing to one of yours."""
        self._run.finish()


def _is_within(found: weakref.ref[TrainerState]) -> bool:
    """Whether a thread is within the training of this state: a callback is told of no exception
    that has ended it."""
    state = found()
    for frame in sys._current_frames().values():
        around: FrameType | None = frame
        while around is not None and state is not None:
            trainer = around.f_locals.get("self")
            if inspect.getattr_static(trainer, "state", None) is state:
                return True
            around = around.f_back
    return False
