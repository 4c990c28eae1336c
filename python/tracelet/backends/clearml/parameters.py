"""Parameters of a task: any mapping or object of fields, flat, typed, and back when overridden."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_log = logging.getLogger("tracelet")

_LONGEST_ARRAY = 1_000
_PLAIN = (bool, int, float, str, type(None))
_MODEL_PREFIXES = ("model.", "model/")

Path = tuple[Any, ...]


def connect(task: Any, params: Any) -> dict[str, Any]:
    """Connects `params` as Task.connect does; returns them flat, "a/b" to value.

    `params` is a mapping, an argparse.Namespace, a dataclass' instance or an OmegaConf
    configuration, nested as it may be. Where an agent runs the task, what was set there wins, is
    of the type it has here, and is written back into `params`. Raises TypeError for another thing.
    """
    found = dict(_leaves(params, ()))
    flat = {"/".join(map(str, path)): _plain(value) for path, value in found.items()}
    connected = task.connect(dict(flat))
    for path, value in found.items():
        name = "/".join(map(str, path))
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


def check_params(params: Any) -> None:
    """Raises TypeError for what `connect` can't take."""
    if _fields_of(params) is None:
        raise TypeError(
            "log_params: params must be a mapping, an argparse.Namespace, a dataclass or an "
            f"OmegaConf configuration, not {type(params).__name__}"
        )


def _fields_of(value: Any) -> list[tuple[Any, Any]] | None:
    """The named parts of a value; None for one without."""
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is not None and isinstance(value, omegaconf.DictConfig):
        container = omegaconf.OmegaConf.to_container(value, resolve=True)
        return list(container.items())
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, argparse.Namespace):
        return list(vars(value).items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    fields = _fields_of(value)
    if fields is None or (not fields and path):
        yield path, value
        return
    for name, each in fields:
        yield from _leaves(each, (*path, name))


def _plain(value: Any) -> Any:
    """A value that ClearML shows as it is and can read back."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value), key=str)
    if isinstance(value, np.ndarray) and value.size <= _LONGEST_ARRAY:
        return value.tolist()
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0):
        return value.item()
    return str(value)


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
            "/".join(map(str, path)), error,
        )  # fmt: skip
