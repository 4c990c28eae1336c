"""ClearML's own TensorBoard binding of a task that the user made: off while a run logs to it.

A task of ours is made without it. The binding stands in FileWriter.add_event of torch and of
tensorboardX, and whatever passes there would arrive twice. What TensorFlow's own writers log does
not come to a run: that part of the binding (PatchTensorFlowEager) stays on.
"""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger("tracelet")


class OwnBinding:
    """The binding of the task that is current, switched off until `put_back`.

    Runs inside runs each have one; it is on again when the last of them has ended, in whichever
    order they do. Made and put back under the lock of start and stop.
    """

    _holders: list[OwnBinding] = []  # noqa: RUF012  of all runs
    _kept: Any = None
    """The task that it reported to when it was switched off; None: to none."""

    def __init__(self) -> None:
        binding = _switch()
        if binding is None:
            return
        if not OwnBinding._holders:
            OwnBinding._kept = binding._current_task
        OwnBinding._holders.append(self)
        binding._current_task = None

    def put_back(self) -> None:
        """Switches it on again, if it was and its task still goes on. May be called again."""
        if self not in OwnBinding._holders:
            return
        OwnBinding._holders.remove(self)
        if OwnBinding._holders:
            return
        task, OwnBinding._kept = OwnBinding._kept, None
        binding = _switch()
        # Not of a task that the user has closed meanwhile, and not over one that has taken its
        # place.
        if binding is None or task is None or type(task).current_task() is not task:
            return
        if binding._current_task is None:
            binding._current_task = task


def _switch() -> Any:
    """The class whose `_current_task` says to whom the binding reports; None: there is none."""
    try:
        from clearml.binding.frameworks.tensorflow_bind import PatchSummaryToEventTransformer
    except ImportError:
        PatchSummaryToEventTransformer = None  # noqa: N806
    if not hasattr(PatchSummaryToEventTransformer, "_current_task"):
        _log.warning(
            "tracelet: ClearML's TensorBoard binding can't be switched off in this version of "
            "clearml: images and text may arrive twice, unless the task is made with "
            'auto_connect_frameworks={"tensorboard": False}'
        )
        return None
    return PatchSummaryToEventTransformer
