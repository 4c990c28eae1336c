"""Whether ClearML's SDK is set up here, told without importing it."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

from tracelet import environment

_KEYS = ("CLEARML_API_ACCESS_KEY", "TRAINS_API_ACCESS_KEY", "CLEARML_AUTH_TOKEN")


def is_installed() -> bool:
    try:
        return importlib.util.find_spec("clearml") is not None
    except ValueError:  # a stand-in of somebody's tests
        return False


def is_set_up() -> bool:
    """Whether there are credentials, as the SDK finds them, or no server is meant."""
    if environment.clearml_offline() or any(os.environ.get(name) for name in _KEYS):
        return True
    path = environment.clearml_config_file()
    return (path is not None and os.path.isfile(path)) or _is_set_up_by_program()


def _is_set_up_by_program() -> bool:
    """By Task.set_credentials, Task.set_offline or Task.init."""
    modules: dict[str, Any] = dict(sys.modules)
    session = modules.get("clearml.backend_api.session.session")
    task = modules.get("clearml.task")
    if session is None or task is None or not hasattr(task, "Task"):  # or half imported
        return False
    made = session.Session
    # Not current_task(): in a child of a process with a task that makes one, and may wait.
    has_task = getattr(task.Task, "_Task__main_task", None) is not None
    return bool(made.default_key or task.Task.is_offline() or has_task)
