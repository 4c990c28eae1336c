"""Patches torch's SummaryWriter at class level while a run is active, and restores it exactly."""

from __future__ import annotations

import functools
import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

from tracelet import _core
from tracelet.capture import histogram

_log = logging.getLogger("tracelet")

_native_methods: dict[type, dict[str, Any]] = {}
_writers: dict[int, weakref.ref[Any]] = {}


def _log_dir_of(writer: Any) -> str:
    """The log folder of a writer: a URL, or absolute, for the drainer opens it from elsewhere."""
    key = id(writer)

    def forget(_: weakref.ref[Any]) -> None:
        _writers.pop(key, None)
        _core.forget_writers()

    _writers[key] = weakref.ref(writer, forget)
    log_dir = str(writer.log_dir)
    return log_dir if "://" in log_dir else os.path.abspath(log_dir)


_core.set_writer_resolver(_log_dir_of)


def find_summary_writer() -> type | None:
    """torch's SummaryWriter, or None where torch or tensorboard is not installed.

    Imports torch. That it is imported before ClearML's Task.init matters: a background thread of
    the SDK imports and drops modules while it looks for requirements.
    """
    try:
        import torch
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    exchange_api = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # torch 2.10 and later
    if exchange_api is not None:
        _core.learn_torch(torch.Tensor, torch.nn.Parameter, exchange_api)
    return SummaryWriter  # type: ignore[no-any-return]


class SummaryWriterPatch:
    """Our methods in the place of a class' own: made, then undone once."""

    def __init__(self, cls: type, flush_event_files: Callable[[], None]) -> None:
        histogram.forget_told()
        self._cls = cls
        self._ours = dict(_native_methods_for(cls))
        for name in ("flush", "close"):
            self._ours[name] = _then(cls.__dict__[name], flush_event_files)
        self._originals = {name: cls.__dict__[name] for name in self._ours}
        for name, method in self._ours.items():
            setattr(cls, name, method)

    def undo(self) -> None:
        """Puts the original functions back, except where someone else has patched over ours."""
        for name, original in self._originals.items():
            if self._cls.__dict__.get(name) is self._ours[name]:
                setattr(self._cls, name, original)
            else:
                _log.warning(
                    "tracelet: %s.%s was replaced by another library and is left as it is",
                    self._cls.__name__,
                    name,
                )
        # Our methods refer to the run, and the run to this patch.
        self._ours.clear()
        self._originals.clear()


def _native_methods_for(cls: type) -> dict[str, Any]:
    if cls not in _native_methods:
        _native_methods[cls] = _core.make_methods(cls, dict(cls.__dict__))
    return _native_methods[cls]


def _then(original: Callable[..., Any], afterwards: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any) -> Any:
        result = original(self)
        afterwards()
        return result

    return method
