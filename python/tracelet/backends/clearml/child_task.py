"""A task of its own for a block of code inside another task.

The SDK has one current task in a process, and `Task.init` refuses a second one. `Task.create` makes
one, but its bindings (`torch.save`, matplotlib, console, argparse) go on reporting to the current
task. So the current task is suspended: what the SDK keeps of it in class attributes is taken out,
`Task.init` makes the child as if it were the first, and after the child's `close` everything is put
back. All private names of the SDK that this needs are in this file;
`tests/integration/test_clearml_child_tasks.py` fails when one of them changes.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import signal
import sys
from typing import Any

from tracelet.errors import BackendError


class SuspendedTask:
    """The task that was current, and what the SDK had bound to it.

    One thread at a time; `put_back` once, when the child is closed. Until then the task's own
    threads go on: its reporter, its monitor, its uploads.
    """

    def __init__(self, task: Any) -> None:
        """Sets `task` aside: after this the SDK knows of no current task, and of no agent.

        Raises BackendError, with everything as it was, for an SDK that keeps this elsewhere.
        """
        from clearml.backend_interface.model import Model
        from clearml.config import get_remote_task_id
        from clearml.config.defs import PROC_MASTER_ID_ENV_VAR

        self.task = task
        self._remote_task_id = get_remote_task_id()
        self._process_master = PROC_MASTER_ID_ENV_VAR.get()
        hooks = task._Task__exit_hook
        self._covered_handlers = dict(hooks._org_handlers) if hooks is not None else {}
        self._streams = [(stream, stream._log) for stream in _captured_streams()]
        self._attributes: list[tuple[Any, str, Any]] = []
        cleared: list[tuple[Any, str, Any]] = [
            (type(task), "_Task__main_task", None),
            (type(task), "_Task__forked_proc_main_pid", None),
            # By file name: a step's model.pth would else be a new version of the last step's.
            (Model, "_local_model_to_id_uri", {}),
            # Closing the current task terminates them, and with them what is on its way.
            *((owner, name, None) for owner, name in _upload_pools()),
        ]
        for owner, name, _ in cleared:
            self._keep(owner, name)
        self._keep(logging.Handler, "format")
        for binding in _bindings():
            self._keep(binding, "_current_task")
        for owner, name, value in cleared:
            setattr(owner, name, value)
        _set_remote_task_id(None)

    def _keep(self, owner: Any, name: str) -> None:
        if name not in vars(owner):
            raise BackendError(
                f"this version of clearml has no {owner.__name__}.{name}, which a task inside a "
                "task needs; without child_task the run logs to the current task"
            )
        self._attributes.append((owner, name, vars(owner)[name]))

    def adopt(self, child: Any, comment: str | None) -> None:
        """Makes the new current task, which has this comment, a child of this one."""
        # The child's Task.init has taken this one off the exit hooks, where it is still needed.
        atexit.register(self.task._at_exit)
        if child.is_offline():
            # The server refuses a task whose parent it does not know, as it would at the import.
            step = f"Step of {self.task.name} ({self.task.id})"
            child.set_comment(f"{comment}\n{step}" if comment else step)
        else:
            child.set_parent(self.task.id)

    def put_back(self) -> None:
        """Makes the task current again, with all its bindings."""
        from clearml.config.defs import PROC_MASTER_ID_ENV_VAR

        _set_remote_task_id(self._remote_task_id)
        PROC_MASTER_ID_ENV_VAR.set(self._process_master or "")
        for owner, name, value in self._attributes:
            setattr(owner, name, value)
        for stream, logger in self._streams:
            stream.connect(logger)
        # Not taken off the hooks of the end first: it may be now, and what is registered then is
        # never called. The SDK lets only the first of two calls pass.
        task = self.task
        task._Task__register_at_exit(task._at_exit)
        if task._Task__exit_hook is not None:
            self._put_back_handlers(task._Task__exit_hook)

    def _put_back_handlers(self, hooks: Any) -> None:
        """The SDK's handlers of signals and of uncaught exceptions, for the task.

        Closed on another thread than the main one, the child could not take the signals' handlers
        away; registered anew, each would be what it covers, and call itself for ever.
        """
        hooks._org_handlers = self._covered_handlers
        for number, covered in self._covered_handlers.items():
            if signal.getsignal(number) == covered:
                with contextlib.suppress(ValueError):  # not the main thread
                    signal.signal(number, hooks.signal_handler)
        if hooks._orig_exc_handler is None:
            hooks._orig_exc_handler = sys.excepthook
            sys.excepthook = hooks.exc_handler


def _bindings() -> list[Any]:
    """The SDK's bindings to other packages. Each has the task that it reports to."""
    return [
        value
        for name, module in list(sys.modules.items())
        if name.startswith("clearml.binding.")
        for value in list(vars(module).values())
        if isinstance(value, type) and value.__module__ == name and "_current_task" in vars(value)
    ]


def _upload_pools() -> list[tuple[Any, str]]:
    from clearml.backend_interface.metrics.interface import Metrics
    from clearml.storage import helper

    storage = getattr(helper, "_StorageHelper", helper.StorageHelper)
    return [(Metrics, "_upload_pool"), (Metrics, "_file_upload_pool"), (storage, "_upload_pool")]


def _captured_streams() -> list[Any]:
    """The stand-ins for stdout and stderr that copy what is printed to a task's console."""
    from clearml.backend_interface.logger import StdStreamPatch

    streams = (StdStreamPatch._stdout_proxy, StdStreamPatch._stderr_proxy)
    return [stream for stream in streams if stream is not None]


def _set_remote_task_id(task_id: str | None) -> None:
    """The task that an agent has given to this process, None outside of one.

    Where there is one, `Task.init` would return it instead of making a task.
    """
    from clearml.config.remote import override_current_task_id

    override_current_task_id(task_id)
