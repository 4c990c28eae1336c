"""The sinks, by the name that `backend=` takes."""

from __future__ import annotations

from typing import Callable

from tracelet.errors import ConfigurationError
from tracelet.sinks.base import Batch, Delivery, RunInfo, Sink, SinkFactory

__all__ = ["Batch", "Delivery", "RunInfo", "Sink", "SinkFactory", "make_sink", "register_sink"]


def _clearml(info: RunInfo) -> Sink:
    from tracelet.sinks.clearml import open_clearml_sink

    return open_clearml_sink(info)


_factories: dict[str, SinkFactory] = {"clearml": _clearml}


def register_sink(name: str, factory: Callable[[RunInfo], Sink]) -> None:
    """Makes a sink of your own known under `name`, for `start_logging(backend=[..., name])`.

    `factory` is called with a RunInfo when a run starts and returns an object with the attributes
    and methods of `tracelet.Sink`. Registering a name again replaces it for later runs; the names
    "clearml" and "tensorboard" are taken (ValueError).
    """
    if name in ("clearml", "tensorboard"):
        raise ValueError(f"the sink name {name!r} is taken by tracelet's own")
    if not callable(factory):
        raise TypeError(f"factory must be callable, not {factory!r}")
    _factories[name] = factory


def make_sink(name: str, info: RunInfo) -> Sink:
    """A new sink. Raises ConfigurationError for an unknown name, and what the factory raises."""
    try:
        factory = _factories[name]
    except KeyError:
        known = ", ".join(sorted([*_factories, "tensorboard"]))
        raise ConfigurationError(
            f"backend {name!r} is not known; known: {known}; add your own by tracelet.register_sink"
        ) from None
    return factory(info)
