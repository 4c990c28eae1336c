"""Parameters of a task, and back into what was given when an agent's task overrides them."""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tracelet.backends.params import Path, leaves, name_of, plain

_log = logging.getLogger("tracelet")

SECTION = "General"
"""Of the parameters that are given by hand, as Task.connect names it."""
_MODEL_PREFIXES = ("model.", "model/")


class Overrides:
    """What is set on the task that an agent runs, as it was when the run started: it wins over what
    the program gives. No request is sent."""

    def __init__(self, task: Any) -> None:
        self._parameters = dict(task.get_parameters() or {})
        self._properties = task._get_task_property("hyperparams", raise_on_error=False)
        self.log = task.log

    # What the SDK's own reading of parameters asks a task for.

    def get_parameters(self) -> dict[str, Any]:
        return self._parameters

    def _get_task_property(self, name: str, raise_on_error: bool) -> Any:
        return self._properties

    def set_parameter(self, name: str, value: Any) -> None:
        """Of one that the task does not have: it is sent like all others."""

    def apply(self, params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Writes the values of the task into `params`, in the types they have there.

        `params` is a mapping, an argparse.Namespace, a dataclass' instance or an OmegaConf
        configuration, nested as it may be. Returns all of them as they are then, flat, "a/b" to
        value, and those that the task does not have.
        """
        from clearml.backend_interface.task.args import _Arguments

        found = dict(leaves(params))
        flat = {name_of(path): plain(value) for path, value in found.items()}
        known = dict(_Arguments(self).copy_to_dict(dict(flat), prefix=SECTION))
        for path, value in found.items():
            name = name_of(path)
            new = known.get(name, flat[name])
            if new != flat[name] and not (new != new and flat[name] != flat[name]):
                flat[name] = new
                _set(params, path, _as_before(value, new))
        missing = {n: each for n, each in flat.items() if f"{SECTION}/{n}" not in self._parameters}
        return flat, missing


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
