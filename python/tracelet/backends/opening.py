"""How a tracker's backend is opened: with its package, as a new run or one that is gone on with."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from tracelet.backends.base import Backend, RunInfo
from tracelet.errors import BackendError


class Kind(Protocol):
    """A backend's class."""

    def opened(self, info: RunInfo) -> Backend:
        """A new run, or the one that is active or that the options name. Raises BackendError."""

    def reopened(self, info: RunInfo) -> Backend:
        """The run of `info.reopen`, which is gone on with. Raises BackendError."""


def import_package(name: str) -> Any:
    """The tracker's own package. Raises BackendError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(
            f"backend {name!r} needs the package {name}: pip install 'tracelet[{name}]'"
        ) from error


def open_or_reopen(kind: Kind, info: RunInfo) -> Backend:
    """Raises BackendError."""
    return kind.opened(info) if info.reopen is None else kind.reopened(info)
