"""The sinks, by the name that `backend=` takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tracelet.backends.base import Batch, Delivery, RunInfo, Sink, SinkFactory
from tracelet.errors import UnknownBackendError

__all__ = ["Batch", "Delivery", "RunInfo", "Sink", "SinkFactory", "make_sinks", "register_sink"]


def _clearml(info: RunInfo) -> Sequence[Sink]:
    from tracelet.backends.clearml import open_clearml_sinks

    return open_clearml_sinks(info)


_factories: dict[str, SinkFactory] = {"clearml": _clearml}


def register_sink(name: str, factory: SinkFactory) -> None:
    """Makes a sink of your own known under `name`, for `start_logging(backend=[..., name])`.

    `factory` is called with a RunInfo when a run starts and returns an object with the attributes
    and methods of `tracelet.Sink`. Registering a name again replaces it for later runs; the names
    "clearml" and "tensorboard" are taken (ValueError). A list of such objects gives each a lane of
    its own: what is slow in one does not hold back the others.
    """
    if name in ("clearml", "tensorboard"):
        raise ValueError(f"the sink name {name!r} is taken by tracelet's own")
    if not callable(factory):
        raise TypeError(f"factory must be callable, not {factory!r}")
    _factories[name] = factory


def before_torch_is_imported() -> None:
    """Waits, some seconds at most, for what a backend does that disturbs a large import."""
    if "clearml" in sys.modules and "torch" not in sys.modules:
        from tracelet.backends.clearml.sdk import wait_for_repository_scan

        wait_for_repository_scan()


def make_sinks(name: str, info: RunInfo) -> list[Sink]:
    """The new sinks of a backend, one for each lane it needs.

    Raises ConfigurationError for an unknown name, and what the factory raises.
    """
    try:
        factory = _factories[name]
    except KeyError:
        known = ", ".join(sorted([*_factories, "tensorboard"]))
        raise UnknownBackendError(
            f"backend {name!r} is not known; known: {known}; add your own by tracelet.register_sink"
        ) from None
    made = factory(info)
    return list(made) if isinstance(made, Sequence) else [made]
