"""The ClearML task of a run: made or adopted, what is logged to it by hand, its end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tracelet import environment
from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Upload
from tracelet.backends.clearml.artifacts import ArtifactUpload
from tracelet.backends.clearml.child_task import SetAsideTask
from tracelet.backends.clearml.models import ModelMetadataUpload, ModelRegistry
from tracelet.backends.clearml.own_binding import OwnBinding
from tracelet.backends.clearml.parameters import Overrides, model_metadata
from tracelet.backends.clearml.sdk import load_task_class, startup_error
from tracelet.backends.clearml.sdk_mends import mend_offline_models
from tracelet.backends.clearml.start import (
    OfflineStandIn,
    ServerAwayError,
    StartDeadline,
    abandon_task,
    api_host,
    end_with_process,
    go_online,
    let_process_end,
)
from tracelet.backends.clearml.task_edits import (
    Item,
    TaskEdits,
    edit_lock,
    params_items,
    section_items,
    show_params,
)
from tracelet.backends.clearml.task_names import check_new_names, task_name_of
from tracelet.errors import BackendError, ConfigurationError, TraceletError
from tracelet.options import Options

_log = logging.getLogger("tracelet")

_LONGEST_REASON = 500


@dataclass
class ClearMLTask:
    """A ClearML task and what tracelet may do with it. The methods may be called by any thread."""

    task: Any
    is_owned: bool
    """Whether tracelet made the task: only then it closes it."""
    is_offline: bool
    parent: SetAsideTask | None = None
    """The task that was current before; it is again when this one is closed."""
    failure: BaseException | None = None
    """What ended the run's block, if it did not end well."""
    output_uri: str | bool | None = None
    is_remote: bool = False
    """Whether an agent gave it to this process: what was set on it wins."""
    stand_in: OfflineStandIn | None = None
    """That the run is offline because the server was away when it started."""
    own_binding: OwnBinding | None = None
    """Of a task that is not ours, or of the one around it: off until then."""

    def __post_init__(self) -> None:
        self._models = ModelRegistry(self.task, self.is_offline, self.output_uri)
        self._overrides = Overrides(self.task) if self.is_remote else None
        self._edits = TaskEdits(self.id)  # of the media's lane
        self._params_edits = TaskEdits(self.id)  # of the queue of calls

    @property
    def id(self) -> str:
        return str(self.task.id)

    @property
    def url(self) -> str | None:
        """Where the task is to be seen: its page, or the folder of the offline session. None where
        there would be a page, were the server not away."""
        if self.stand_in is not None:
            return None
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

    def take_params(self, flat: Mapping[str, Any], given: Any) -> Mapping[str, Any]:
        """Parameters of one call: under an agent, what is set on the task is written back into what
        was `given`. Sends no request. Returns those that are to be sent (`send_params`): offline,
        where they go to the session's file at once, none."""
        if self._overrides is not None:
            flat, missing = self._overrides.apply(given)
        elif self.is_offline:
            self.task.connect(dict(flat))
            missing = {}
        else:
            missing = dict(flat)
        self._models.add_metadata(model_metadata(flat))
        items = params_items(missing)
        if items:
            show_params(self.task, items)
        return items

    @property
    def last_upload(self) -> Upload | None:
        """What is to be sent at the run's end because of its parameters."""
        return ModelMetadataUpload(self._models) if self._models.has_metadata else None

    def send_params(self, items: Mapping[str, Item]) -> Mapping[str, str]:
        """Sends what `take_params` returned; returns those that were refused, with the reason.

        Raises SinkUnavailableError. One thread at a time.
        """
        # The SDK reads all parameters, changes some and writes all, under this lock.
        with edit_lock(self.task):
            return self._params_edits.set_params(list(items.values()))

    def update_params(self, values: Mapping[str, Any]) -> None:
        """Sets parameters by "section/name". Raises what speaks against it. One thread."""
        if self.is_offline:
            self.task.update_parameters(dict(values))
            return
        with edit_lock(self.task):
            refused = self._edits.set_params(section_items(values))
        if refused:
            raise BackendError(f"ClearML did not take the parameters {refused!s:.300}")

    def set_configuration(self, name: str, text: str) -> None:
        """Sets a configuration object. Raises as `update_params`."""
        if self.is_offline:
            self.task.set_configuration_object(name, config_text=text)
            return
        with edit_lock(self.task):
            self._edits.set_configuration(name, text)

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        """An artifact's upload; a weights file's is a model, too."""
        return ArtifactUpload(self.task, self._models, artifact, artifact.model)

    def prepare_model(self, model: Model) -> Upload:
        """A model's upload: of a weights file."""
        assert model.file is not None
        return ArtifactUpload(self.task, self._models, model.file, model, is_artifact=False)

    def give_back(self) -> None:
        """Has ClearML's own binding report to a task of the user's again."""
        if self.own_binding is not None and self.parent is None:
            self.own_binding.put_back()

    def close(self, process_is_ending: bool) -> None:
        """Ends a task that is ours.

        At the end of the process the SDK's own exit hook does it, which knows whether the run
        failed, and which waits for the server as long as it may take: so it is called here, where
        the pipeline keeps the time, for the user's task as well. It knows one task, so a child is
        closed here before it.
        """
        self._models.finish()
        if process_is_ending and self.parent is None:
            end_with_process(self.task, self.failure)
        if not self.is_owned or (process_is_ending and self.parent is None):
            return
        try:
            self.task.close()
            self._mark_failure()
        finally:
            _use_threads(type(self.task), False)
            if self.parent is not None:
                self.parent.put_back()
                if self.own_binding is not None:
                    self.own_binding.put_back()
                if process_is_ending:
                    end_with_process(self.parent.task, self.failure)
            if self.stand_in is not None:
                self.stand_in.end()

    def let_process_end(self) -> None:
        """Takes the SDK's hooks off the end of the process: they join threads without a time-out,
        which wait for a server that is away (a process was there for 11 minutes)."""
        let_process_end(self.task)
        if self.parent is not None:
            let_process_end(self.parent.task)

    def note_failure(self, failure: BaseException) -> None:
        """Says that the run did not end well: its task will be "failed", or "stopped" by hand."""
        self.failure = failure

    def _mark_failure(self) -> None:
        """After the task is closed, which makes it "completed". Offline there is no such state."""
        failure = self.failure
        if self.is_offline or failure is None:
            return
        if isinstance(failure, SystemExit) and not failure.code:
            return
        reason = f"{type(failure).__name__}: {failure}"[:_LONGEST_REASON]
        if isinstance(failure, KeyboardInterrupt):
            self.task.stopped(force=True, status_reason=reason)
        else:
            self.task.mark_failed(force=True, status_reason=reason)


def open_task(options: Options) -> ClearMLTask:
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
        # Offline mode is the SDK's as a whole: not for a part of what is online already. Under an
        # agent there is none.
        if options.on_unreachable == "raise" or current is not None or _is_remote():
            raise BackendError(f"{why}, for {options.start_timeout_s:g} s") from None
    except Exception as error:
        raise error if isinstance(error, TraceletError) else startup_error(error) from error
    return _open_offline(Task, options, why, deadline)


def _current_task(task_class: Any) -> Any:
    """The current task. In a process that one with a task has started (a rank, a subprocess) the
    SDK attaches to that one's here, and would fork its reporter, which a killed process leaves
    behind: its run then counted as alive for as long as that lived."""
    if getattr(task_class, "_Task__main_task", None) is not None:
        return task_class.current_task()
    _use_threads(task_class, True)
    task = None
    try:
        task = task_class.current_task()
    finally:
        if task is None:
            _use_threads(task_class, False)
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
    folder = task.get_offline_mode_folder()
    _log.warning(
        "tracelet: %s: this run goes on offline, to its end, in %s. `tracelet sync` sends it once "
        "the server is back.", why, folder,
    )  # fmt: skip
    return replace(_as_run_task(task, options, is_owned=True), stand_in=stand_in)


def _open_child(task_class: Any, current: Any, options: Options) -> ClearMLTask:
    if options.project == Options.project:
        options = replace(options, project=current.get_project_name())
    # First: what is set aside with the task, and put back before this is, is then that it is off.
    own_binding = OwnBinding()
    try:
        parent = SetAsideTask(current)
    except BaseException:
        own_binding.put_back()
        raise
    try:
        task = _init_task(task_class, options)
        parent.adopt(task, options.comment)
    except BaseException:
        _use_threads(task_class, False)
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
        _use_threads(task_class, True)
        try:
            _check_task_exists(task_class, options)
            task = task_class.init(**_init_arguments(options, bool(task_class.is_offline())))
        except BaseException as error:
            _use_threads(task_class, False)
            if isinstance(error, TraceletError) or not isinstance(error, Exception):
                raise
            raise startup_error(error) from error
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
