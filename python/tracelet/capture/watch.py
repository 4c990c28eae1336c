"""A model that is watched: its gradients and parameters as histograms, at optimizer steps.

By the hook that torch calls before each step of any optimizer: gradients are whole then, those of
several backward passes (accumulation) too, and so a step counts once. They are counted in place,
natively; nothing is changed, and nothing that goes wrong here reaches the training.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

from tracelet.errors import TraceletError
from tracelet.fork import renew_at_fork

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("tracelet")

Log = Callable[[str, Any, int], None]
"""(name, values, step): logs a histogram."""


class ModelWatch:
    """From its making to `remove`. Any thread may step an optimizer."""

    def __init__(
        self,
        model: torch.nn.Module,
        every: int,
        prefix: str,
        log: Log,
        step: Callable[[], int | None],
    ) -> None:
        """`step` gives the step that the user has set, or None. Raises TypeError, ValueError, and
        TraceletError where torch is too old."""
        self._model = weakref.ref(_checked_model(model))
        self._every = _checked_every(every)
        self._prefix = prefix
        self._log = log
        self._step = step
        # How many steps each optimizer has made, also of other models': whose parameters it has
        # may change (unfreezing, a new head), and is looked at anew each time it would be logged.
        self._counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.renew_in_child()
        renew_at_fork(self)
        self._told: set[str] = set()
        self._hook = _register(self._before_step)

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()  # of the counts

    def is_of(self, model: object) -> bool:
        return self._model() is model

    def remove(self) -> None:
        """Takes the hook away; once is enough."""
        self._hook.remove()

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        try:
            count = self._count(optimizer)
            if count % self._every == 0:
                step = self._step()
                self._log_all(optimizer, count if step is None else step)
        except Exception as error:
            self._tell("the step", error)

    def _count(self, optimizer: Any) -> int:
        """Which step of this optimizer it is, from 0 on."""
        with self._lock:
            count = self._counts.get(optimizer, 0)
            self._counts[optimizer] = count + 1
            return count

    def _log_all(self, optimizer: Any, step: int) -> None:
        model = self._model()
        if model is None:
            return
        stepped = {id(each) for each in _parameters_of(optimizer)}
        scale = _scale_of(optimizer)
        for name, parameter in model.named_parameters():
            if id(parameter) not in stepped:
                continue
            gradient = parameter.grad
            if gradient is not None:
                self._log_one(f"{self._prefix}gradients/{name}", gradient, step, scale)
            self._log_one(f"{self._prefix}parameters/{name}", parameter, step)

    def _log_one(self, name: str, values: Any, step: int, scale: Any = None) -> None:
        """One that can't be read (a shard of several machines') costs the others nothing."""
        try:
            values = values.detach()
            if values.is_sparse:
                values = values.coalesce().values()
            if scale is not None:  # a copy: the optimizer gets what is there
                values = values.float() if values.element_size() < 4 else values
                values = values / scale.to(values.device)
            self._log(name, values, step)
        except Exception as error:
            self._tell(name, error)

    def _tell(self, what: str, error: Exception) -> None:
        if not self._told:
            _log.warning(
                "tracelet: watch: %s can't be logged: %r. The training goes on. This is said once "
                "for each call of watch.", what, error,
            )  # fmt: skip
        self._told.add(what)


class Watches:
    """Those of a run. Any thread."""

    def __init__(self) -> None:
        self._watches: list[ModelWatch] = []

    def add(self, watch: ModelWatch, model: torch.nn.Module) -> None:
        """In the place of one of the same model."""
        self.end(model)
        self._watches.append(watch)

    def end(self, model: torch.nn.Module | None) -> None:
        """Ends the watch of a model, or of all (None)."""
        for watch in list(self._watches):
            if model is None or watch.is_of(model):
                watch.remove()
                with contextlib.suppress(ValueError):  # another thread's end
                    self._watches.remove(watch)

    def __iter__(self) -> Iterator[ModelWatch]:
        return iter(list(self._watches))


def _parameters_of(optimizer: Any) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _scale_of(optimizer: Any) -> Any:
    """What the gradients are multiplied by, as a tensor; None where they are as they are. A
    GradScaler leaves it to an optimizer that can (fused ones) to unscale them within its step."""
    scale = getattr(optimizer, "grad_scale", None)
    torch = sys.modules["torch"]
    return scale if isinstance(scale, torch.Tensor) and scale.numel() == 1 else None


def _checked_model(model: torch.nn.Module) -> torch.nn.Module:
    torch = sys.modules.get("torch")  # who has a model has imported it
    if torch is None or not isinstance(model, torch.nn.Module):
        raise TypeError(f"watch: model must be a torch.nn.Module, not {type(model).__name__}")
    return model


def _checked_every(every: int) -> int:
    if isinstance(every, bool) or not hasattr(type(every), "__index__"):
        raise TypeError(f"watch: every must be an int, not {type(every).__name__}")
    if every.__index__() < 1:
        raise ValueError(f"watch: every must be 1 or more, not {every}")
    return int(every.__index__())


def _register(hook: Callable[[Any, Any, Any], None]) -> Any:
    """torch's handle of the hook, which removes it."""
    try:
        from torch.optim.optimizer import register_optimizer_step_pre_hook
    except ImportError as error:
        raise TraceletError("watch needs torch 2.0 or newer") from error
    return register_optimizer_step_pre_hook(hook)
