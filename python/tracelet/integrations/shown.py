"""What a framework's logger shows of parameters: by flat names, without secrets."""

from __future__ import annotations

from collections.abc import MutableSequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, Callable

from tracelet.backends.params import Path, fields_of, leaves, name_of, plain
from tracelet.redact import redacted


def shown_params(
    params: Any, guarded: Callable[[], AbstractContextManager[None]]
) -> dict[str, Any]:
    """Each parameter's own errors are for `guarded`, and cost it alone."""
    shown: dict[str, Any] = {}
    for key, value in _parts_of(params) or ():
        with guarded():
            for path, each in leaves(_shown(value, (key,), ()), (key,)):
                shown[name_of(path)] = redacted(name_of(path), plain(each))
    return shown


def _shown(value: Any, path: Path, around: tuple[int, ...]) -> Any:
    """Mappings, lists and plain values without secrets: what an object says of itself may have
    some. `around` are the ids of those that hold it. Raises ValueError for what holds itself."""
    if id(value) in around:
        raise ValueError(f"log_params: {name_of(path[:3])!r} holds itself")
    inside = (*around, id(value))
    parts = _parts_of(value)
    if parts is not None:
        return {key: _shown(each, (*path, key), inside) for key, each in parts}
    if isinstance(value, (MutableSequence, tuple)) and not isinstance(value, bytearray):
        kind = tuple if isinstance(value, tuple) else list
        # Numbers as they are: there may be millions. By its name the whole list is looked at.
        shown = kind(
            each if type(each) in (int, float) else _shown(each, path, inside) for each in value
        )
        return redacted(name_of(path), shown)
    if isinstance(value, (set, frozenset)):
        return sorted((_shown(each, path, inside) for each in value), key=str)
    return redacted(name_of(path), plain(value))


def _parts_of(value: Any) -> list[tuple[Any, Any]] | None:
    """The named parts, also of what `log_params` shows by its text; None for what has none."""
    fields = fields_of(value)
    if fields is not None:
        return fields
    if isinstance(value, SimpleNamespace):
        return list(vars(value).items())
    kind = type(value)
    names: Any = None
    if isinstance(value, tuple):
        names = getattr(kind, "_fields", None)  # a namedtuple's
    elif hasattr(kind, "__attrs_attrs__"):
        names = [each.name for each in kind.__attrs_attrs__]
    elif hasattr(kind, "__pydantic_fields__"):
        names = list(kind.__pydantic_fields__)
    return None if names is None else [(name, getattr(value, name)) for name in names]
