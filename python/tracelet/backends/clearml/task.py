"""The ClearML task of a run: made or adopted, what is logged to it by hand, its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Description, Upload
from tracelet.backends.clearml.artifacts import ArtifactUpload
from tracelet.backends.clearml.child_task import SuspendedTask
from tracelet.backends.clearml.models import ModelMetadataUpload, ModelRegistry
from tracelet.backends.clearml.own_binding import OwnBinding
from tracelet.backends.clearml.parameters import Overrides, model_metadata
from tracelet.backends.clearml.start import (
    OfflineStandIn,
    abandon_task,
    end_with_process,
    let_process_end,
)
from tracelet.backends.clearml.task_edits import (
    Item,
    TaskEdits,
    described_tags,
    edit_lock,
    params_items,
    section_items,
    show_params,
)
from tracelet.errors import BackendError

_log = logging.getLogger("tracelet")

_LONGEST_REASON = 500


@dataclass
class ClearMLTask:
    """A ClearML task and what tracelet may do with it. The methods may be called by any thread."""

    task: Any
    is_owned: bool
    """Whether tracelet made the task: only then it closes it."""
    is_offline: bool
    parent: SuspendedTask | None = None
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

    @property
    def goal(self) -> Any:
        """Which task an offline session of it is imported into; None: a new one."""
        return self.stand_in

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

    def take_description(self, about: Description) -> Mapping[str, Any]:
        """Tags and notes of one call. Sends no request. Returns what is to be sent
        (`send_description`): offline, where they go to the session's file at once, nothing."""
        if not self.is_offline:
            return about
        if "tags" in about:
            self.task.set_tags(described_tags(self.task.get_tags(), about))
        if "notes" in about:
            self.task.set_comment(about["notes"])
        return {}

    def send_description(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        """Sends what `take_description` returned; as `send_params`."""
        with edit_lock(self.task):
            return self._params_edits.describe(about, getattr(self.task, "_data", None))

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
            use_threads(type(self.task), False)
            if self.parent is not None:
                self.parent.put_back()
                if self.own_binding is not None:
                    self.own_binding.put_back()
                if process_is_ending:
                    end_with_process(self.parent.task, self.failure)
            if self.stand_in is not None:
                self.stand_in.end()

    def leave(self) -> None:
        """Has the SDK forget a task that is ours and can't be closed now: the server is away. The
        next run would log to it; and the parent's bindings would."""
        if not self.is_owned or type(self.task).current_task() is not self.task:
            return
        abandon_task(type(self.task))
        use_threads(type(self.task), False)
        if self.parent is not None:
            self.parent.put_back()
            if self.own_binding is not None:
                self.own_binding.put_back()

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


def use_threads(task_class: Any, wanted: bool) -> None:
    """Lets the SDK report from threads of this process, or as it is set up to.

    By default it forks a reporter process on Linux, which costs seconds at the end and loses points
    with the process group. The supported way is the configuration file, which is the user's; that
    setting is read through this attribute of a base class.
    """
    if wanted:
        task_class._report_subprocess_enabled = False
    elif "_report_subprocess_enabled" in vars(task_class):
        del task_class._report_subprocess_enabled
