"""Parameters of a run: any mapping or object of fields, flat and plain."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_LONGEST_ARRAY = 1_000
_PLAIN = (bool, int, float, str, type(None))

Path = tuple[Any, ...]


def flat_params(params: Any) -> dict[str, Any]:
    """Parameters by their flat names, "a/b", with values that any tracker shows as they are."""
    return {name_of(path): plain(value) for path, value in leaves(params)}


def check_params(params: Any) -> None:
    """Raises TypeError for what has no named parts."""
    if _fields_of(params) is None:
        raise TypeError(
            "log_params: params must be a mapping, an argparse.Namespace, a dataclass or an "
            f"OmegaConf configuration, not {type(params).__name__}"
        )


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The innermost values, each with the names that lead to it."""
    fields = _fields_of(value)
    if fields is None or (not fields and path):
        yield path, value
        return
    for name, each in fields:
        yield from leaves(each, (*path, name))


def name_of(path: Path) -> str:
    return "/".join(map(str, path))


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


def plain(value: Any) -> Any:
    """A value that a tracker shows as it is and can read back."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value), key=str)
    if isinstance(value, np.ndarray) and value.size <= _LONGEST_ARRAY:
        return value.tolist()
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0):
        return value.item()
    return str(value)
