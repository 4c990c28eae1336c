"""The ClearML task of a run: made or adopted, what is logged to it by hand, its end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracelet import environment
from tracelet.errors import BackendError, ConfigurationError, CredentialsError
from tracelet.options import Options

# The server refuses shorter names, spaces apart (code 800).
_SHORTEST_NAME = 3


@dataclass
class ClearMLTask:
    """A ClearML task and what tracelet may do with it. The methods may be called by any thread."""

    task: Any
    is_owned: bool
    """Whether tracelet made the task: only then it closes it."""
    is_offline: bool

    @property
    def id(self) -> str:
        return str(self.task.id)

    @property
    def url(self) -> str:
        """Where the task is to be seen: its page, or the folder of the offline session."""
        if self.is_offline:
            return str(self.task.get_offline_mode_folder())
        return str(self.task.get_output_log_web_page() or "")

    def note_iteration(self, iteration: int) -> None:
        """Tells the SDK how far training is, for `Task.get_last_iteration` and its monitors.

        Points that don't pass through its Reporter are unknown to it; there is no public way.
        """
        reporter = getattr(self.task, "_reporter", None)
        if reporter is not None and hasattr(reporter, "_max_iteration"):
            reporter._max_iteration = max(reporter._max_iteration, iteration)

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.task.connect(dict(params))

    def update_params(self, values: Mapping[str, Any]) -> None:
        """Sets parameters by "section/name". Raises BackendError when the server has not got them.

        The SDK only logs that.
        """
        self.task.update_parameters(dict(values))
        self.task.reload()
        missing = set(values) - set(self.task.get_parameters())
        if missing:
            raise BackendError(f"ClearML did not take the parameters {sorted(missing)}")

    def set_configuration(self, name: str, text: str) -> None:
        """Sets a configuration object. Raises BackendError when the server has not got it."""
        self.task.set_configuration_object(name, config_text=text)
        self.task.reload()
        if self.task.get_configuration_object(name) != text:
            raise BackendError(f"ClearML did not take the configuration object {name!r}")

    def log_artifact(self, name: str, artifact: Any) -> None:
        self.task.upload_artifact(name=name, artifact_object=artifact)

    def close(self, process_is_ending: bool) -> None:
        """Ends a task that is ours.

        At the end of the process the SDK's own exit hooks do it, which know whether the run failed.
        """
        if self.is_owned and not process_is_ending:
            self.task.close()
            _use_threads(type(self.task), False)


def open_task(options: Options) -> ClearMLTask:
    """The current task if there is one, else a new one by `Task.init`.

    Raises CredentialsError, ConfigurationError, BackendError.
    """
    try:
        from clearml import Task
    except ImportError as error:
        raise BackendError(
            "the backend 'clearml' needs the package clearml: pip install 'tracelet[clearml]'"
        ) from error

    current = Task.current_task()
    if current is not None:
        return ClearMLTask(current, is_owned=False, is_offline=bool(Task.is_offline()))
    # The SDK reads CLEARML_OFFLINE_MODE when it is imported; the user may have set it since.
    if environment.clearml_offline() != bool(Task.is_offline()):
        Task.set_offline(environment.clearml_offline())
    task = _init_task(Task, options)
    return ClearMLTask(task, is_owned=True, is_offline=bool(Task.is_offline()))


def _init_task(task_class: Any, options: Options) -> Any:
    task_name = options.task_name or options.exp_name
    for argument, name in (("project", options.project), ("exp_name", task_name)):
        if len(name.replace(" ", "")) < _SHORTEST_NAME:
            raise ConfigurationError(
                f"{argument}={name!r} is too short for ClearML: {_SHORTEST_NAME} characters or more"
            )
    arguments: dict[str, Any] = {
        "project_name": options.project,
        "task_name": task_name,
        "task_type": options.task_type,
        "tags": list(options.tags) if options.tags else None,
        "output_uri": options.output_uri,
        "auto_connect_frameworks": _without_tensorboard(options.auto_connect_frameworks),
        "auto_connect_arg_parser": options.auto_connect_arg_parser,
        "auto_resource_monitoring": options.auto_resource_monitoring,
        "auto_connect_streams": options.auto_connect_streams,
        "continue_last_task": options.continue_last_task,
        "reuse_last_task_id": options.reuse_last_task_id,
    }
    _use_threads(task_class, True)
    try:
        task = task_class.init(**arguments)
    except Exception as error:
        _use_threads(task_class, False)
        if type(error).__name__ == "MissingConfigError" or "credentials" in str(error).lower():
            raise CredentialsError(
                "ClearML has no credentials here. Run `clearml-init`, or set CLEARML_API_HOST, "
                "CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or work without a server: "
                "CLEARML_OFFLINE_MODE=1"
            ) from error
        raise BackendError(f"ClearML could not start the task: {error}") from error
    if not isinstance(task, task_class):
        raise BackendError(
            "ClearML gives this process no task of its own, because a process that has one started "
            "it (CLEARML_PROC_MASTER_ID is set). Log from that process, or unset the variable."
        )
    return task


def _use_threads(task_class: Any, wanted: bool) -> None:
    """Lets the SDK report from threads of this process, or as it is set up to.

    By default it forks a reporter process on Linux, which costs seconds at the end and loses points
    with the process group. The supported way is the configuration file, which is the user's; that
    setting is read through this attribute of a base class.
    """
    if wanted:
        task_class._report_subprocess_enabled = False
    elif "_report_subprocess_enabled" in vars(task_class):
        del task_class._report_subprocess_enabled


def _without_tensorboard(frameworks: Any) -> Any:
    """The user's setting with the TensorBoard binding off: the events come from tracelet."""
    if isinstance(frameworks, Mapping):
        return {**frameworks, "tensorboard": False} if frameworks else False
    return {"tensorboard": False} if frameworks else False


def artifact_name(artifact: Any, artifact_path: str | None) -> str:
    """The name an artifact gets: a folder ("models/") is put before the file's own name.

    Raises FileNotFoundError for a path that isn't there.
    """
    path = os.fspath(artifact) if isinstance(artifact, (str, os.PathLike)) else None
    if path is not None and not os.path.exists(path):
        raise FileNotFoundError(f"log_artifact: there is no file or folder {path!r}")
    base = os.path.basename(os.path.normpath(path)) if path is not None else ""
    if artifact_path and not artifact_path.endswith("/"):
        return artifact_path
    name = f"{artifact_path or ''}{base}"
    if not base:
        raise ValueError("log_artifact: an object needs a name: artifact_path='results.csv'")
    return name
