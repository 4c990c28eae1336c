"""The names ClearML takes for a task and its project. Without the SDK: it is imported later."""

from __future__ import annotations

import sys

from tracelet.errors import ConfigurationError
from tracelet.option_kinds import describe_text
from tracelet.options import Options

# The server refuses shorter names, spaces apart (code 800).
SHORTEST_NAME = 3


def task_name_of(options: Options) -> str:
    return options.task_name or options.exp_name


def check_task_names(options: Options) -> None:
    """Raises ConfigurationError for names the server would refuse, where a task is to be made."""
    if not _has_current_task():  # it has names of its own, or gives its project to a child
        check_new_names(options)


def check_new_names(options: Options) -> None:
    for argument, name in (("project", options.project), ("exp_name", task_name_of(options))):
        if len(name.replace(" ", "")) < SHORTEST_NAME:
            raise ConfigurationError(
                f"{argument}={describe_text(name)} is too short for ClearML: {SHORTEST_NAME} "
                "characters or more"
            )


def _has_current_task() -> bool:
    sdk = sys.modules.get("clearml")
    task_class = getattr(sdk, "Task", None)  # None while the SDK is being imported
    return task_class is not None and task_class.current_task() is not None
