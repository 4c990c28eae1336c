"""Logging inside `torch.compile`: the methods keep their bodies, and the compiler is told of others
to trace in their place (compiled_calls.py). So a call outside of compiled code costs what it did.

Nothing of torch is imported for it: it is done once its compiler has been imported. What this torch
does not offer is left out: then a call is a graph break, as it is without tracelet.
"""

from __future__ import annotations

import logging
import sys
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any

from tracelet.capture.import_hook import ImportHook

_log = logging.getLogger("tracelet")

_COMPILER, _WRITER = "torch._dynamo", "torch.utils.tensorboard.writer"
_OF_WRITERS = ("add_scalar", "add_scalars", "add_histogram", "add_histogram_raw")
_OF_HANDLES = ("log_metric", "log", "log_histogram")

_handles: list[type] = []
_natives: dict[type, Mapping[str, Any]] = {}  # the native methods of each class of writers
_lock = threading.RLock()  # of what the compiler is told; an import may be within it
_is_told: set[int] = set()  # the native methods by id: they live for ever


def watch_for_compiler(handle: type) -> None:
    """For the import of tracelet: `handle` is the class of the handles of its runs."""
    _handles.append(handle)
    for name in (_COMPILER, _WRITER):
        ImportHook(name, before=lambda module: None, after=_on_import)


def know_natives(cls: type, methods: Mapping[str, Any]) -> None:
    """The native methods of a class of writers, the same in each run of the process."""
    _natives[cls] = methods
    tell_compiler()


def _on_import(module: types.ModuleType) -> None:
    tell_compiler()


def tell_compiler() -> None:
    """Has it trace our bodies, as far as it, and the classes, are there. Raises nothing."""
    if getattr(sys.modules.get(_COMPILER), "substitute_in_graph", None) is None:
        return  # not imported, or not yet whole
    try:
        with _lock:
            _tell()
    except Exception as error:  # another torch: a call is a graph break there
        _log.debug("tracelet: logging inside of torch.compile is not taken over: %r", error)


def _tell() -> None:
    from tracelet.capture import compiled_calls

    writer = getattr(sys.modules.get(_WRITER), "SummaryWriter", None)
    classes = writer.__mro__ if isinstance(writer, type) else ()
    writers = {*_natives, *(each for each in classes if set(_OF_WRITERS) <= vars(each).keys())}
    for cls, names in (
        *((handle, _OF_HANDLES) for handle in _handles),
        *((cls, _OF_WRITERS) for cls in writers),
    ):
        if compiled_calls.TARGET not in vars(cls):
            setattr(cls, compiled_calls.TARGET, compiled_calls.TargetAttribute())
        for name in names:
            _tell_of(vars(cls).get(name), getattr(compiled_calls, name))
    for methods in _natives.values():
        for name, native in methods.items():
            _tell_of(native, getattr(compiled_calls, name))


def _tell_of(method: Any, traced: Callable[..., None]) -> None:
    if type(method) is types.FunctionType:
        method._torchdynamo_inline = traced  # type: ignore[attr-defined]
    elif type(method) is types.MethodDescriptorType and id(method) not in _is_told:
        import torch

        torch.compiler.substitute_in_graph(method, skip_signature_check=True)(traced)
        _is_told.add(id(method))
