"""The sinks, by the name that `backend=` takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tracelet.backends.base import Backend, Batch, Delivery, RunInfo, Sink, SinkFactory
from tracelet.backends.plain import PlainBackend
from tracelet.errors import OptionTypeError, UnknownBackendError
from tracelet.option_kinds import describe, describe_text, nearest
from tracelet.options import OPTION_NAMES, Options

__all__ = [
    "EVENT_FILES", "Backend", "Batch", "Delivery", "RunInfo", "Sink", "SinkFactory",
    "check_backends", "open_backend",
    "register_sink",
]  # fmt: skip


def _clearml(info: RunInfo) -> Backend:
    from tracelet.backends.clearml import open_clearml

    return open_clearml(info)


def _tensorboard(info: RunInfo) -> Backend:
    from tracelet.backends.tensorboard.backend import TensorBoardBackend

    return TensorBoardBackend(info)


def _mlflow(info: RunInfo) -> Backend:
    from tracelet.backends.mlflow import open_mlflow

    return open_mlflow(info)


def _trackio(info: RunInfo) -> Backend:
    from tracelet.backends.trackio import open_trackio

    return open_trackio(info)


def _aim(info: RunInfo) -> Backend:
    from tracelet.backends.aim import open_aim

    return open_aim(info)


def _wandb(info: RunInfo) -> Backend:
    from tracelet.backends.wandb import open_wandb

    return open_wandb(info)


EVENT_FILES = "tensorboard"
"""The backend that every run has: it writes the SummaryWriters' files."""
_OWN: dict[str, SinkFactory] = {
    "clearml": _clearml, EVENT_FILES: _tensorboard, "mlflow": _mlflow, "trackio": _trackio,
    "wandb": _wandb, "aim": _aim,
}  # fmt: skip
_factories = dict(_OWN)


def register_sink(name: str, factory: SinkFactory) -> None:
    """Makes a sink of your own known under `name`, for `start_logging(backend=[..., name])`.

    `factory` is called with a RunInfo when a run starts and returns an object with the attributes
    and methods of `tracelet.Sink`, or a `tracelet.Backend`, which takes parameters, artifacts and
    models, too. Registering a name again replaces it for later runs; the names of tracelet's own
    backends and of options are taken (ValueError). A list of sinks gives each a lane of its own:
    what is slow in one does not hold back the others.
    """
    if not isinstance(name, str) or not name.strip() or "," in name:
        raise OptionTypeError(
            f"name must be a str, not blank and without a comma, not {describe(name)}"
        )
    if name in _OWN or name in OPTION_NAMES:
        raise ValueError(f"the sink name {name!r} is taken: by a backend or an option of tracelet")
    if not callable(factory):
        raise TypeError(f"factory must be callable, not {describe(factory)}")
    _factories[name] = factory


def before_torch_is_imported() -> None:
    """Waits, some seconds at most, for what a backend does that disturbs a large import."""
    if "clearml" in sys.modules and "torch" not in sys.modules:
        from tracelet.backends.clearml.sdk import wait_for_repository_scan

        wait_for_repository_scan()


def covered_by_sdk(handler: Any) -> dict[int, Any] | None:
    """What a signal handler of some tracker's SDK covers, by signal, which may be changed there;
    None for a handler that is no SDK's."""
    from tracelet.backends.clearml import signals

    return signals.covered_by_sdk(handler)


def check_backends(options: Options) -> None:
    """Raises what is known to be wrong with the backends before anything is made for them."""
    for name in options.backend:
        if name == "clearml":
            from tracelet.backends.clearml.task_names import check_task_names

            check_task_names(options)
        else:
            _factory(name)


def open_backend(name: str, info: RunInfo) -> Backend:
    """A new run of the tracker `name`, or with `info.reopen` one that a dead process began.

    Raises UnknownBackendError for an unknown name, and what the factory raises.
    """
    made = _factory(name)(info)
    if isinstance(made, Backend):
        return made
    return PlainBackend(name, made if isinstance(made, Sequence) else [made])


def _factory(name: str) -> SinkFactory:
    try:
        return _factories[name]
    except KeyError:
        known = sorted(_factories)
        near = nearest(name.lower(), known)
        hint = f"did you mean {near!r}? " if near else ""
        raise UnknownBackendError(
            f"backend {describe_text(name)} is not known; {hint}known: {', '.join(known)}; add "
            "your own by tracelet.register_sink"
        ) from None
