"""Parameters of a run: any mapping or object of fields, flat and plain."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

EMPTY_NAME = "(empty)"
"""Stands for a name that is empty or blank: a server refuses it, and all that came with it."""
_DEEPEST = 50
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LONGEST_ARRAY = 1_000
_PLAIN = (bool, int, float, str, type(None))

Path = tuple[Any, ...]


def flat_params(params: Any) -> dict[str, Any]:
    """Parameters by their flat names, "a/b", with values that any tracker shows as they are.

    Raises ValueError for two of one name, and for what holds itself.
    """
    flat: dict[str, Any] = {}
    for path, value in leaves(params):
        name = name_of(path)
        if name in flat:
            raise ValueError(
                f"log_params: two parameters have the name {name!r} (names are made by str() and "
                "joined by '/'); rename one"
            )
        flat[name] = plain(value)
    return flat


def check_params(params: Any) -> None:
    """Raises TypeError for what has no named parts."""
    if fields_of(params) is None:
        raise TypeError(
            "log_params: params must be a mapping, an argparse.Namespace, a dataclass or an "
            f"OmegaConf configuration, not {type(params).__name__}"
        )


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The innermost values, each with the names that lead to it.

    Raises ValueError where the nesting has no end.
    """
    fields = fields_of(value)
    if fields is None or (not fields and path):
        yield path, value
        return
    if len(path) >= _DEEPEST:
        raise ValueError(
            f"log_params: {name_of(path[:3])!r} is nested more than {_DEEPEST} levels deep: it "
            "holds itself, most likely"
        )
    for name, each in fields:
        if isinstance(each, _PLAIN):  # nearly all are
            yield (*path, name), each
        else:
            yield from leaves(each, (*path, name))


def name_of(path: Path) -> str:
    """The flat name: what a server refuses, alone or with all that it came with, is escaped."""
    return "/".join([_fit(str(name)) if str(name).strip() else EMPTY_NAME for name in path])


def _fit(text: str) -> str:
    """A text without NUL and lone surrogates, which stand for themselves as in Python's source."""
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def fields_of(value: Any) -> list[tuple[Any, Any]] | None:
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


def plain(value: Any, depth: int = 0) -> Any:
    """A value that a tracker shows as it is and can read back."""
    if isinstance(value, str):
        return _fit(value)
    if isinstance(value, _PLAIN):
        return value
    if depth >= _DEEPEST:
        return "..."
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return _fit(os.fsdecode(value))
    if type(value) in (list, tuple):
        return type(value)([plain(each, depth + 1) for each in value])
    if isinstance(value, (set, frozenset)):
        return sorted([plain(each, depth + 1) for each in value], key=str)
    if isinstance(value, np.ndarray) and value.size <= _LONGEST_ARRAY:
        return plain(value.tolist(), depth + 1)
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0):
        try:
            item = value.item()  # of a date or a complex number none that JSON knows
        except Exception:  # a tensor on the meta device has none
            return _text_of(value)
        return item if isinstance(item, _PLAIN) else _text_of(value)
    return _text_of(value)


def _text_of(value: Any) -> str:
    """What an object says of itself; never its address, which is another one in each run."""
    shape, kind = getattr(value, "shape", None), type(value).__qualname__
    if shape is not None and hasattr(value, "dtype"):  # a tensor's text may be long, or fail
        return f"{kind} of shape {tuple(shape)}, {value.dtype}"
    if isinstance(value, type) or callable(getattr(value, "__get__", None)):
        return str(getattr(value, "__qualname__", kind))  # a class, a function
    try:
        text = str(value)
    except Exception as error:
        return f"{kind} whose str() raises {type(error).__name__}"
    return _fit(_ADDRESS.sub("", text))
