"""ClearML's SDK, made ready: what it is told before a task is made, and what its errors mean.

It reads some of its environment when it is imported, and some variables and a file that people use
it does not read at all; here it is brought up to what holds now, whenever it was imported.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

from tracelet import environment
from tracelet.backends.clearml.sdk_mends import mend_sdk
from tracelet.backends.opening import import_package
from tracelet.capture.arguments import take_parsed_arguments
from tracelet.errors import BackendError, CredentialsError


def load_task_class() -> Any:
    """clearml's Task, with configuration, log level, time-outs and offline mode as they are now.

    Sends no request. So it does not end offline mode, which connects the SDK's sessions: that is
    `start.go_online`.
    Raises BackendError without the package, ConfigurationError for a variable.
    """
    timeout_s = environment.clearml_files_timeout_s()
    is_new_file = environment.use_clearml_config_file() and "clearml" in sys.modules
    import_package("clearml")
    from clearml import Task

    _hand_over_arguments()
    if is_new_file:
        _read_configuration_again()
    if level := environment.clearml_log_level():
        _set_log_level(level)
    if timeout_s is not None:
        _set_files_timeout(timeout_s)
    # A task that goes on decides this itself.
    if environment.clearml_offline() and not Task.is_offline() and not _has_task(Task):
        Task.set_offline(True)
    mend_sdk()
    return Task


def wait_for_repository_scan(timeout_s: float = 10.0) -> None:
    """Lets the thread finish that Task.init starts to look through the program's imports.

    It imports packages of its own accord: torch imported at the same time fails now and then with
    "cannot import name ... from partially initialized module".
    """
    from clearml import Task

    scan = getattr(getattr(Task, "_Task__main_task", None), "_detect_repo_async_thread", None)
    if isinstance(scan, threading.Thread):
        scan.join(timeout_s)


def _has_task(task_class: Any) -> bool:
    return task_class.current_task() is not None


def _hand_over_arguments() -> None:
    """Gives the SDK the command lines that were parsed before it was imported.

    Task.init takes them from there, as it does those it has seen itself: to the task, or under an
    agent, from it into the caller's namespace.
    """
    from clearml.binding.args import PatchArgumentParser

    for parser, namespace in take_parsed_arguments():
        PatchArgumentParser._add_last_arg_parser(parser)
        PatchArgumentParser._add_last_parsed_args(parser, namespace)


def _read_configuration_again() -> None:
    from clearml import config

    loaded = config.ConfigWrapper._config
    if loaded is not None:
        loaded.reload()
        config.ConfigSDKWrapper.clear_config_impl()


def _set_log_level(level: str) -> None:
    number = logging.getLevelName(level) if not level.isdigit() else int(level)
    if isinstance(number, int):
        logging.getLogger("clearml").setLevel(number)


def _set_files_timeout(timeout_s: float) -> None:
    """Of the HTTP uploads and downloads of this process, the SDK's own included.

    It is a class attribute of the driver, which the setting `sdk.http.timeout.total` fills on first
    use; the driver gives a large file longer, by its size at 50 KB/s.
    """
    from clearml.storage import helper

    driver = getattr(helper, "_HttpDriver", None)
    if driver is None or not hasattr(driver, "timeout_total"):
        logging.getLogger("tracelet").warning(
            "tracelet: CLEARML_FILES_SERVER_TIMEOUT has no effect with this version of clearml; "
            "set sdk.http.timeout.total in clearml.conf"
        )
        return
    driver.timeout_total = max(1, round(timeout_s))


def startup_error(error: Exception) -> Exception:
    """What Task.init's exception means to whoever called start_logging."""
    kind, words = type(error).__name__, str(error)
    where = environment.clearml_config_file()
    fix = (
        "Run `clearml-init`, or set CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and "
        "CLEARML_API_SECRET_KEY, or work without a server: CLEARML_OFFLINE_MODE=1, or "
        'backend="tensorboard" for event files alone'
    )
    if kind == "MissingConfigError":
        return CredentialsError(f"ClearML has no credentials here. {fix}")
    if kind == "LoginError" and ("401" in words or "403" in words):
        return CredentialsError(
            f"ClearML's server does not know these credentials ({words.strip()}): "
            f"CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or {where or 'clearml.conf'}. "
            f"{fix}"
        )
    if "credentials" in words.lower():
        return CredentialsError(f"ClearML: {words.strip()}. {fix}")
    return BackendError(f"ClearML could not start the task: {words}")
