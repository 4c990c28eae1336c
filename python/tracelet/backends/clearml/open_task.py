"""Opens a run's ClearML task: a new one, the current one, a child of it, or an offline session."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tracelet import environment
from tracelet.backends.clearml.child_task import SuspendedTask
from tracelet.backends.clearml.own_binding import OwnBinding
from tracelet.backends.clearml.sdk import load_task_class, startup_error
from tracelet.backends.clearml.sdk_mends import mend_offline_models
from tracelet.backends.clearml.session_task import SessionGoal, SessionTask
from tracelet.backends.clearml.start import (
    OfflineStandIn,
    ServerAwayError,
    StartDeadline,
    abandon_task,
    api_host,
    go_online,
)
from tracelet.backends.clearml.task import ClearMLTask, use_threads
from tracelet.backends.clearml.task_names import check_new_names, task_name_of
from tracelet.errors import BackendError, ConfigurationError, CredentialsError, TraceletError
from tracelet.options import Options

_log = logging.getLogger("tracelet")

_KNOWN_S = 0.1  # for what needs no request


def open_task(options: Options, run_id: str = "") -> ClearMLTask:
    """The current task if there is one, else a new one by `Task.init`.

    With the option `child_task`, a current task of another name gets a child, which is current
    until it is closed. A new task is one of an offline session when the server is away, unless the
    option `on_unreachable` says "raise". Raises CredentialsError, ConfigurationError, BackendError.
    """
    Task = load_task_class()  # noqa: N806
    current = _current_task(Task)
    deadline = StartDeadline(options.start_timeout_s)
    try:
        with deadline:
            if current is not None and options.child_task and task_name_of(options) != current.name:
                return _open_child(Task, current, options)
            if current is not None:
                adopted = _as_run_task(current, options, is_owned=False)
                return replace(adopted, own_binding=OwnBinding())
            if not environment.clearml_offline():
                go_online(Task)
            return _as_run_task(_init_task(Task, options), options, is_owned=True)
    except ServerAwayError as error:
        why = f"ClearML's server {api_host()} is away ({error})"
        if options.on_unreachable == "raise":
            raise BackendError(f"{why}, for {options.start_timeout_s:g} s") from None
    except Exception as error:
        raise error if isinstance(error, TraceletError) else startup_error(error) from error
    # Offline mode is the SDK's as a whole: not for a part of what is online already. Under an agent
    # there is none.
    if current is not None:
        return _open_session(options, run_id, why, deadline, parent=current)
    if _is_remote():
        abandon_task(Task)
        return _open_session(options, run_id, why, deadline, task_id=_remote_task_id())
    return _open_offline(Task, options, why, deadline)


def _current_task(task_class: Any) -> Any:
    """The current task. In a process that one with a task has started (a rank, a subprocess) the
    SDK attaches to that one's here, and would fork its reporter, which a killed process leaves
    behind: its run then counted as alive for as long as that lived."""
    if getattr(task_class, "_Task__main_task", None) is not None:
        return task_class.current_task()
    use_threads(task_class, True)
    task = None
    try:
        task = task_class.current_task()
    finally:
        if task is None:
            use_threads(task_class, False)
    return task


def _open_offline(
    task_class: Any, options: Options, why: str, deadline: StartDeadline
) -> ClearMLTask:
    abandon_task(task_class)
    creation = deadline.creation
    stand_in = OfflineStandIn(
        task_class, deadline.made_task_id, creation.token if creation.is_unsure else None
    )
    try:
        mend_offline_models()
        task = _init_task(task_class, options)
    except BaseException:
        stand_in.end()
        raise
    _tell_of_offline(why, task.get_offline_mode_folder())
    return replace(_as_run_task(task, options, is_owned=True), stand_in=stand_in)


def _open_session(
    options: Options,
    run_id: str,
    why: str,
    deadline: StartDeadline,
    parent: Any = None,
    task_id: str | None = None,
) -> ClearMLTask:
    task_id = task_id or deadline.made_task_id
    creation = deadline.creation
    if parent is not None and options.project == Options.project:
        options = replace(options, project=_project_of(parent) or options.project)
    goal = SessionGoal(
        task_id,
        creation.token if creation.is_unsure else None,
        parent.id if parent is not None else None,
    )
    task = SessionTask(options, run_id, goal, OwnBinding() if parent is not None else None)
    _tell_of_offline(why, task.task.get_offline_mode_folder())
    return task


def _tell_of_offline(why: str, folder: Any) -> None:
    _log.warning(
        "tracelet: %s: this run goes on offline, until its end. It is kept in %s. `tracelet sync` "
        "sends it when the server is back.", why, folder,
    )  # fmt: skip


def _project_of(task: Any) -> str | None:
    """A task's project, when the SDK knows it already."""
    try:
        with StartDeadline(_KNOWN_S):
            return str(task.get_project_name() or "") or None
    except (Exception, ServerAwayError):
        return None


def _open_child(task_class: Any, current: Any, options: Options) -> ClearMLTask:
    if options.project == Options.project:
        options = replace(options, project=current.get_project_name())
    # First: what is taken out with the task, and put back before this is, is then that it is off.
    own_binding = OwnBinding()
    try:
        parent = SuspendedTask(current)
    except BaseException:
        own_binding.put_back()
        raise
    try:
        task = _init_task(task_class, options)
        parent.adopt(task, options.comment)
    except BaseException as error:
        use_threads(task_class, False)
        if isinstance(error, ServerAwayError):
            abandon_task(task_class)
        parent.put_back()
        own_binding.put_back()
        raise
    child = _as_run_task(task, options, is_owned=True)
    return replace(child, parent=parent, own_binding=own_binding)


def _as_run_task(task: Any, options: Options, is_owned: bool) -> ClearMLTask:
    is_offline = bool(type(task).is_offline())
    return ClearMLTask(
        task,
        is_owned,
        is_offline,
        output_uri=options.output_uri,
        is_remote=not is_offline and _is_remote(),
    )


def _init_task(task_class: Any, options: Options) -> Any:
    check_new_names(options)
    with _random_seed(task_class, options.random_seed):
        use_threads(task_class, True)
        try:
            _check_task_exists(task_class, options)
            task = task_class.init(**_init_arguments(options, bool(task_class.is_offline())))
        except BaseException as error:
            use_threads(task_class, False)
            if isinstance(error, TraceletError) or not isinstance(error, Exception):
                raise
            failure = startup_error(error)
            # The SDK's own words on missing credentials say no more, in 45 lines.
            raise failure from (None if isinstance(failure, CredentialsError) else error)
    if not isinstance(task, task_class):
        raise BackendError(
            "ClearML gives this process no task of its own, because a process that has one started "
            "it (CLEARML_PROC_MASTER_ID is set). Log from that process, or unset the variable."
        )
    _set_up(task, options)
    return task


def _init_arguments(options: Options, is_offline: bool) -> dict[str, Any]:
    return {
        "project_name": options.project,
        "task_name": task_name_of(options),
        "task_type": options.task_type,
        "tags": list(options.tags) if options.tags else None,
        "output_uri": options.output_uri,
        "auto_connect_frameworks": _without_tensorboard(options.auto_connect_frameworks),
        "auto_connect_arg_parser": options.auto_connect_arg_parser,
        "auto_resource_monitoring": options.auto_resource_monitoring,
        "auto_connect_streams": options.auto_connect_streams,
        **_resume_arguments(options, is_offline),
    }


def _resume_arguments(options: Options, is_offline: bool) -> dict[str, Any]:
    """0 for the SDK's iteration offset, whichever task is to go on.

    Its True shifts what it reports by the last iteration, and finds no task at all unless
    reuse_last_task_id is true too.
    """
    wanted = options.continue_last_task
    if wanted is False:
        return {"continue_last_task": False, "reuse_last_task_id": options.reuse_last_task_id}
    if is_offline:
        _log.warning(
            "tracelet: continue_last_task has no effect offline: the session is one of its own, "
            "which `tracelet sync` adds to that task once the server is there"
        )
        return {"continue_last_task": False, "reuse_last_task_id": False}
    reuse: bool | str = wanted if isinstance(wanted, str) else options.reuse_last_task_id or True
    return {"continue_last_task": 0, "reuse_last_task_id": reuse}


def _check_task_exists(task_class: Any, options: Options) -> None:
    """Task.init makes a new task in the place of one to go on with that is not there."""
    wanted = options.continue_last_task
    if not isinstance(wanted, str) or task_class.is_offline() or _is_remote():
        return
    try:
        task_class.get_task(task_id=wanted)
    except ValueError as error:
        raise ConfigurationError(
            f"continue_last_task={wanted!r}: there is no such task on this ClearML server"
        ) from error


def _set_up(task: Any, options: Options) -> None:
    """What Task.init has no argument for."""
    # Under an agent Task.init shifts too, when the task has been run before.
    if task.get_initial_iteration():
        task.set_initial_iteration(0)
    if options.comment is not None:
        task.set_comment(options.comment)
    if isinstance(options.docker, str):
        task.set_base_docker(docker_image=options.docker)
    elif options.docker is not None:
        docker = options.docker
        task.set_base_docker(
            docker_image=docker["image"],
            docker_arguments=docker.get("arguments"),
            docker_setup_bash_script=docker.get("setup_bash_script"),
        )


def _remote_task_id() -> str:
    from clearml.config import get_remote_task_id

    return str(get_remote_task_id())


def _is_remote() -> bool:
    from clearml.config import running_remotely

    return bool(running_remotely())


@contextlib.contextmanager
def _random_seed(task_class: Any, seed: bool | int) -> Iterator[None]:
    """The seed that Task.init takes, for as long as that lasts."""
    if seed is True:
        yield
        return
    before = task_class.get_random_seed(task_class)  # a method of tasks that reads the class
    task_class.set_random_seed(None if seed is False else seed)
    try:
        yield
    finally:
        task_class.set_random_seed(before)


def _without_tensorboard(frameworks: Any) -> Any:
    """The user's setting with the TensorBoard binding off: the events come from tracelet."""
    if isinstance(frameworks, Mapping):
        return {**frameworks, "tensorboard": False} if frameworks else False
    return {"tensorboard": False} if frameworks else False
