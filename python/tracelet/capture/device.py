"""What a device computes for a record that is in the ring already.

A call starts the work and its copy into pinned memory, and returns without waiting. Its record is
pushed with a ticket; the drainer completes it before any sink sees it.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Union

from tracelet import _core

_log = logging.getLogger("tracelet")

_POLL_S = 0.0005
_LONGEST_WAIT_S = 30.0

Completed = Union[float, "tuple[bytes, int]"]
"""A scalar's value; a histogram's payload and how many of its values are not finite."""


@dataclass
class _Parked:
    """Work under way on a device."""

    result: Any  # a tensor on the CPU, good after `event`
    event: Any
    finish: Callable[[Any], Completed]


_parked: dict[int, _Parked] = {}
_tickets = itertools.count(1)
_lock = threading.Lock()  # of _parked


# Whether the drainer that asks for what is parked is this process': a ticket means nothing to
# another's.
_is_drained_here = True


def set_drained_here(is_here: bool) -> None:
    global _is_drained_here
    _is_drained_here = is_here


def is_drained_here() -> bool:
    """Otherwise what a device holds is read by the call, which waits for it."""
    return _is_drained_here


def _renew_in_child() -> None:
    """The parent's other threads are not here to let go of it, and their tickets are theirs."""
    global _lock
    _lock = threading.Lock()
    _parked.clear()
    set_drained_here(False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


def park(result: Any, finish: Callable[[Any], Completed]) -> int:
    """A ticket for `finish` of a tensor on a device, once the tensor is on the CPU. Waits for
    nothing: what is queued on the device's current stream so far is what the tensor will hold."""
    on_cpu, event = _copy_to_host(result)
    ticket = next(_tickets)
    with _lock:
        _parked[ticket] = _Parked(on_cpu, event, finish)
    return ticket


def _copy_to_host(result: Any) -> tuple[Any, Any]:
    if result.device.type != "cuda":
        return result, None
    torch = sys.modules["torch"]
    on_cpu = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
    on_cpu.copy_(result, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(result.device))
    return on_cpu, event


def forget(ticket: int) -> None:
    """The record of a ticket could not be pushed: nobody will ask for it."""
    with _lock:
        _parked.pop(ticket, None)


def complete(ticket: int) -> Completed | None:
    """What was computed under a ticket; waits up to half a minute.

    None when the device isn't done by then, or failed.
    """
    with _lock:
        parked = _parked.pop(ticket, None)
    if parked is None:
        return None
    try:
        if not _wait(parked.event):
            _log.warning("tracelet: a device did not finish a value in %g s", _LONGEST_WAIT_S)
            return None
        return parked.finish(parked.result.cpu())
    except RuntimeError as error:  # what CUDA raises
        _log.warning("tracelet: a value could not be read from its device: %.300s", error)
        return None


def _wait(event: Any) -> bool:
    deadline_s = time.monotonic() + _LONGEST_WAIT_S
    while event is not None and not event.query():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def park_scalar(tensor: Any) -> int | None:
    """A ticket for a tensor with one element; None for what is to be read at once."""
    torch = sys.modules["torch"]
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
        return None
    if not _is_drained_here:
        return None
    # A copy in any case: what is done to the tensor afterwards is not to be seen.
    value = tensor.detach().reshape(()).to(torch.float64, copy=True)
    return park(value, float)


_core.set_parking(park_scalar, forget)
