"""Parameters as Aim's tree has them: "a/b" is b below a."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str, ...]

_LEAST, _MOST = -(1 << 63), 1 << 63


class ParamTree:
    """Where each parameter goes. Aim can't read a run any more in which a name has both a value and
    names below it: of two such the later one keeps its flat name."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        """`whole`: what the run has already."""
        self._leaves = set(_leaves(whole))
        self._folders = {path[:end] for path in self._leaves for end in range(1, len(path))}

    def place(self, name: str) -> Path:
        """The path of a parameter, the same one each time."""
        parts = tuple(name.split("/"))
        for path in (parts, (name,), (f"{name} ",)):
            folders = {path[:end] for end in range(1, len(path))}
            if all(path) and path not in self._folders and not folders & self._leaves:
                break
        self._leaves.add(path)
        self._folders |= folders
        return path


def _leaves(value: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    for name, each in value.items():
        here = (*path, str(name))
        if isinstance(each, Mapping) and each:
            yield from _leaves(each, here)
        else:
            yield here


def storable(value: Any) -> Any:
    """A value that Aim's store takes: integers have 64 bits there, a larger one is a text."""
    if isinstance(value, int) and not _LEAST <= value < _MOST:
        return str(value)
    if isinstance(value, (list, tuple)):
        return [storable(each) for each in value]
    return value
