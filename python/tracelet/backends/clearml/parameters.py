"""Parameters of a task: connected, and back into what was given when overridden."""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tracelet.backends.params import Path, leaves, name_of, plain

_log = logging.getLogger("tracelet")

_MODEL_PREFIXES = ("model.", "model/")


def connect(task: Any, params: Any) -> dict[str, Any]:
    """Connects `params` as Task.connect does; returns them flat, "a/b" to value.

    `params` is a mapping, an argparse.Namespace, a dataclass' instance or an OmegaConf
    configuration, nested as it may be. Where an agent runs the task, what was set there wins, is
    of the type it has here, and is written back into `params`. Raises TypeError for another thing.
    """
    found = dict(leaves(params))
    flat = {name_of(path): plain(value) for path, value in found.items()}
    connected = task.connect(dict(flat))
    for path, value in found.items():
        name = name_of(path)
        new = connected.get(name, flat[name])
        if new != flat[name] and not (new != new and flat[name] != flat[name]):
            flat[name] = new
            _set(params, path, _as_before(value, new))
    return flat


def model_metadata(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Of parameters like "model.accuracy", what is metadata of the run's models: "accuracy"."""
    return {
        name[len(prefix) :]: value
        for name, value in flat.items()
        for prefix in _MODEL_PREFIXES
        if name.startswith(prefix) and len(name) > len(prefix)
    }


def _as_before(before: Any, new: Any) -> Any:
    """An overridden value in the type that the program gave."""
    try:
        if isinstance(before, enum.Enum):
            return type(before)[str(new)]
        if isinstance(before, (os.PathLike, np.generic)):
            return type(before)(new)  # type: ignore[call-arg]
    except (KeyError, TypeError, ValueError) as error:
        _log.warning("tracelet: the overridden parameter %r is left as text: %r", new, error)
    return new


def _set(holder: Any, path: Path, value: Any) -> None:
    for name in path[:-1]:
        holder = holder[name] if not hasattr(holder, "__dict__") or isinstance(
            holder, Mapping) else getattr(holder, name)  # fmt: skip
    try:
        if isinstance(holder, Mapping):
            holder[path[-1]] = value  # type: ignore[index]
        else:
            setattr(holder, path[-1], value)
    except Exception as error:  # a frozen dataclass, a read-only mapping
        _log.warning(
            "tracelet: log_params: %s is overridden on ClearML, but can't be set here: %s",
            name_of(path), error,
        )  # fmt: skip
