"""The ClearML task of a process that died, for `tracelet sync`: the same task, without its SDK.

Task.init would start another one, or hold this one's steps to be shifted; the SDK's Task waits for
a server that is away for minutes. What is needed is the task's id, an SDK session that does not
retry, and where its files go.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracelet import environment
from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Description, Upload
from tracelet.backends.clearml.api import RefusedError
from tracelet.backends.clearml.artifacts import ArtifactUpload
from tracelet.backends.clearml.models import import_destination
from tracelet.backends.clearml.parameters import SECTION, model_metadata
from tracelet.backends.clearml.sdk import load_task_class, startup_error
from tracelet.backends.clearml.session import (
    METRICS,
    TASK,
    SessionUsers,
    edit_task,
    events_in,
    mend_lines,
    read_task,
    zip_session,
)
from tracelet.backends.clearml.stored_models import OnlineModels, SessionModels
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.backends.clearml.task_edits import Item, TaskEdits, described_tags, section_items
from tracelet.errors import BackendError, ConfigurationError, SinkUnavailableError
from tracelet.runs.ownership import is_own_file, is_own_folder

_log = logging.getLogger("tracelet")

_SESSION_ID = re.compile(r"offline-[0-9a-f]{32}")  # the SDK's, and the folder's name
_UNFINISHED = ("created", "queued", "in_progress", "unknown")
_REASON = "the process ended without closing the task"


def reopen_state(task: ClearMLTask) -> dict[str, Any]:
    """What `ReopenedTask` needs. It goes to a file: URLs with a password in them are left out."""
    if isinstance(task, ReopenedTask):
        return task.state
    logger = task.task.get_logger()
    destination = str(logger.get_default_upload_destination())
    output_uri = task.task.output_uri
    return {
        "task": task.id,
        "is_owned": task.is_owned,
        "offline_folder": str(task.task.get_offline_mode_folder()) if task.is_offline else None,
        "files_at": None if "@" in destination else destination,
        "files_folder": str(task.task._get_output_destination_suffix("metrics")),
        "artifacts_folder": str(task.task._get_output_destination_suffix()),
        "output_uri": None if not output_uri or "@" in str(output_uri) else str(output_uri),
        "has_secret_uri": "@" in str(output_uri),
        "files_history": logger.get_default_debug_sample_history(),
    }


class StoredTask:
    """In the place of the SDK's Task: the methods that the sinks use, of a task known by its id."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.id = str(state["task"])
        self._state = state
        self.edits: TaskEdits | None = None  # of one that is online

    @property
    def output_uri(self) -> str | None:
        if self._state.get("has_secret_uri"):
            raise SinkUnavailableError("where the task's artifacts go is not known: its URL has a "
                                       "password in it")  # fmt: skip
        return self._state.get("output_uri")

    def get_offline_mode_folder(self) -> Path:
        return Path(self._state["offline_folder"])

    def get_output_log_web_page(self) -> str:
        return ""

    def get_logger(self) -> StoredTask:
        return self

    def get_default_upload_destination(self) -> str:
        if not self._state["files_at"]:
            raise SinkUnavailableError("where the task's files go is not known")
        return str(self._state["files_at"])

    def get_default_debug_sample_history(self) -> Any:
        return self._state["files_history"]

    def _get_output_destination_suffix(self, extra_path: str | None = None) -> str:
        if extra_path is not None:
            return str(self._state["files_folder"])
        # A run of a version before has the folder of its metrics alone.
        before = str(self._state["files_folder"]).rpartition("/metrics")[0]
        return str(self._state.get("artifacts_folder") or before)

    def _add_artifacts(self, artifacts: Sequence[Any]) -> Sequence[Any]:
        items = [each.to_dict() for each in artifacts]
        if self.edits is not None:
            self.edits.call("AddOrUpdateArtifactsRequest", artifacts=items, force=True)
            return artifacts

        def change(content: dict[str, Any]) -> None:
            execution = content.get("execution") or {}
            keys = {item["key"] for item in items}
            held = [each for each in execution.get("artifacts") or () if each["key"] not in keys]
            content["execution"] = {**execution, "artifacts": [*held, *items]}

        edit_task(self.get_offline_mode_folder(), change)
        return artifacts


class ReopenedTask(ClearMLTask):
    """A dead process' task. One thread."""

    def __init__(self, state: Mapping[str, Any], run_id: str = "") -> None:
        self._run_id = run_id
        self.state = dict(state)
        offline_folder = state["offline_folder"]
        super().__init__(StoredTask(state), bool(state["is_owned"]), offline_folder is not None)
        if offline_folder is not None:
            _check_session(str(offline_folder), str(state["task"]))
        if not self.is_offline and environment.clearml_offline():
            raise ConfigurationError(
                "this run was online, and ClearML is set to offline here: unset "
                "CLEARML_OFFLINE_MODE and call this again"
            )
        load_task_class()
        self._metadata: Mapping[str, Any] = {}
        self._stored_models: OnlineModels | SessionModels
        if self.is_offline:
            folder = self.task.get_offline_mode_folder()
            destination = import_destination(self.task.output_uri)
            self._stored_models = SessionModels(folder, destination)
        else:
            self._params_edits = self._edits = self.task.edits = connected_edits(self.id)
            self._stored_models = OnlineModels(self._edits)

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return ArtifactUpload(self.task, self._stored_models, artifact, artifact.model)

    def prepare_model(self, model: Model) -> Upload:
        assert model.file is not None
        return ArtifactUpload(self.task, self._stored_models, model.file, model, is_artifact=False)

    def finish_models(self, logged: Mapping[str, Any]) -> None:
        """Gives the models the metadata among the parameters of the dead process, as they are sent.
        To be called when they are registered."""
        if self.is_offline:
            general = read_task(self.task.get_offline_mode_folder()).get("hyperparams") or {}
            logged = general.get(SECTION) or {}
        values = {name: _value_of(item) for name, item in logged.items()}
        self._stored_models.apply(model_metadata(values))

    def send_params(self, items: Mapping[str, Item]) -> Mapping[str, str]:
        return self._edits.set_params(list(items.values()))

    def take_description(self, about: Description) -> Mapping[str, Any]:
        if not self.is_offline:
            return about

        def change(content: dict[str, Any]) -> None:
            if "tags" in about:
                content["tags"] = described_tags(content.get("tags"), about)
            if "notes" in about:
                content["comment"] = about["notes"]

        edit_task(self.task.get_offline_mode_folder(), change)
        return {}

    def send_description(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        return self._edits.describe(about, None)

    def update_params(self, values: Mapping[str, Any]) -> None:
        if self.is_offline:
            self.edit_session("hyperparams", section_items(values))
        elif refused := self._edits.set_params(section_items(values)):
            raise BackendError(f"ClearML did not take the parameters {refused!s:.300}")

    def set_configuration(self, name: str, text: str) -> None:
        if self.is_offline:
            self.edit_session("configuration", [{"name": name, "value": text}])
        else:
            self._edits.set_configuration(name, text)

    def edit_session(self, field: str, items: Sequence[Item]) -> None:
        """Puts parameters or configurations into the session's task.json. Raises OSError."""

        def change(content: dict[str, Any]) -> None:
            held = content.get(field) or {}
            for item in items:
                section = held.setdefault(item["section"], {}) if "section" in item else held
                section[item["name"]] = dict(item)
            content[field] = held

        edit_task(self.task.get_offline_mode_folder(), change)

    def close(self, process_is_ending: bool) -> None:
        """Ends the task as its process would have: an offline session is zipped, unless other
        processes are still at it, a task that the server still thinks is running is stopped, with
        a message."""
        if self.is_offline:
            self._close_session()
        elif self.is_owned:
            self._stop()

    def _close_session(self) -> None:
        folder = self.task.get_offline_mode_folder()
        users = SessionUsers(folder)
        users.was_sent(self._run_id)
        is_shared = users.others_live(self._run_id)
        mend_lines(folder / METRICS, is_settled=not is_shared)
        if not is_shared or os.path.exists(f"{folder}.zip"):
            zip_session(folder)

    def _stop(self) -> None:
        """Raises SinkUnavailableError unless the server says that it is done."""
        try:
            if self._edits.task().get("status") in _UNFINISHED:
                now = time.strftime("%Y-%m-%d %H:%M")
                message = f"{_REASON}; tracelet sync sent its points at {now}"
                self._edits.call(
                    "StoppedRequest", force=True, status_reason=_REASON, status_message=message
                )
        except RefusedError as error:
            raise SinkUnavailableError(f"ClearML did not end the task: {error}") from error


def _value_of(item: Mapping[str, Any]) -> Any:
    """A parameter's value in its type, as the server has them."""
    make = {"float": float, "int": int}.get(str(item.get("type")), str)
    value = item.get("value")
    if item.get("type") == "bool":
        return str(value) == "True"
    try:
        return make(str(value))
    except ValueError:
        return str(value)


def _check_session(folder: str, task_id: str) -> None:
    """Files are appended to in there, and another replaced beside it, because a file says so: it
    must be what the SDK makes for that task, this user's own, and no link. Raises BackendError."""
    if not os.path.lexists(folder):
        raise BackendError(f"the offline session {folder} is gone")
    in_it = [os.path.join(folder, name) for name in (METRICS, TASK)]
    is_session = (
        _SESSION_ID.fullmatch(task_id) is not None
        and os.path.basename(folder) == task_id
        and is_own_folder(folder)
        and is_own_file(in_it[-1])
        and all(is_own_file(path) for path in in_it if os.path.lexists(path))
    )
    if not is_session:
        raise BackendError(
            f"{folder} is not the folder of this user's offline session {task_id}; it is left alone"
        )


def connected_edits(task_id: str) -> TaskEdits:
    """Raises BackendError when the server is away, CredentialsError."""
    edits = TaskEdits(task_id)
    try:
        edits.connect()
    except Exception as error:
        raise startup_error(error) from error
    return edits


def events_behind(path: str, size_bytes: int, prefix: bytes, wanted: set[str]) -> set[str]:
    """Those of the events `wanted` (see `event_key`) that whole lines of the session's metrics file
    have behind `size_bytes`, in lines that begin with `prefix`.

    The file is read only: other processes of the session may be appending to it, and a line there
    may be any one's. Raises OSError.
    """
    return {key for key in _keys_behind(path, size_bytes, prefix) if key in wanted}


def all_events_behind(path: str, size_bytes: int, prefix: bytes) -> Counter[int]:
    """How often each event is there, by the hash of its `event_key`. Raises OSError."""
    return Counter(hash(key) for key in _keys_behind(path, size_bytes, prefix))


def _keys_behind(path: str, size_bytes: int, prefix: bytes) -> Iterator[str]:
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        file.seek(size_bytes)
        for line in file:
            # Without its end it is torn: who appends next makes blanks of it.
            found = events_in(line) if line.endswith(b"\n") else None
            if found and line[found[0] :].lstrip(b" ").startswith(prefix):
                yield from map(event_key, found[1])


def event_key(event: Any) -> str:
    """What makes two events of a session the same one."""
    return json.dumps(event, sort_keys=True)
