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
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelet import environment
from tracelet.backends.clearml.sdk import load_task_class, startup_error
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.errors import BackendError, ConfigurationError, SinkUnavailableError
from tracelet.runs.ownership import is_own_file, is_own_folder

_log = logging.getLogger("tracelet")

METRICS = "metrics.jsonl"
_TASK = "task.json"
_SESSION_ID = re.compile(r"offline-[0-9a-f]{32}")  # the SDK's, and the folder's name
_UNFINISHED = ("created", "queued", "in_progress", "unknown")
_REASON = "the process ended without closing the task"


def reopen_state(task: ClearMLTask) -> dict[str, Any]:
    """What `ReopenedTask` needs. It goes to a file: URLs with a password in them are left out."""
    logger = task.task.get_logger()
    destination = str(logger.get_default_upload_destination())
    return {
        "task": task.id,
        "is_owned": task.is_owned,
        "offline_folder": str(task.task.get_offline_mode_folder()) if task.is_offline else None,
        "files_at": None if "@" in destination else destination,
        "files_folder": str(task.task._get_output_destination_suffix("metrics")),
        "files_history": logger.get_default_debug_sample_history(),
    }


class StoredTask:
    """In the place of the SDK's Task: the methods that the sinks use, of a task known by its id."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.id = str(state["task"])
        self._state = state

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

    def _get_output_destination_suffix(self, extra_path: str) -> str:
        return str(self._state["files_folder"])


class ReopenedTask(ClearMLTask):
    """A dead process' task. One thread."""

    def __init__(self, state: Mapping[str, Any]) -> None:
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
        self._session = None if self.is_offline else _session()

    def update_params(self, values: Mapping[str, Any]) -> None:
        params = [
            {"section": section, "name": name, "value": str(value)}
            for (section, _, name), value in (
                (key.partition("/"), value) for key, value in values.items()
            )
        ]
        if self.is_offline:
            self._edit_session("hyperparams", params)
        else:
            self._call("edit_hyper_params", hyperparams=params)

    def set_configuration(self, name: str, text: str) -> None:
        item = {"name": name, "value": text}
        if self.is_offline:
            self._edit_session("configuration", [item])
        else:
            self._call("edit_configuration", configuration=[item])

    def _edit_session(self, field: str, items: list[dict[str, str]]) -> None:
        path = self.task.get_offline_mode_folder() / _TASK
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        held = content.setdefault(field, None) or {}
        for item in items:
            section = held.setdefault(item["section"], {}) if "section" in item else held
            section[item["name"]] = item
        content[field] = held
        new = path.with_suffix(".new")
        new.write_text(json.dumps(content), encoding="utf-8")
        os.replace(new, path)

    def close(self, process_is_ending: bool) -> None:
        """Ends the task as its process would have: an offline session is zipped, a task that the
        server still thinks is running is stopped, with a message."""
        if self.is_offline:
            _zip(self.task.get_offline_mode_folder())
        elif self.is_owned:
            self._stop()

    def _stop(self) -> None:
        task = self._call("get_by_id")["task"]
        if task.get("status") in _UNFINISHED:
            now = time.strftime("%Y-%m-%d %H:%M")
            message = f"{_REASON}; tracelet sync sent its points at {now}"
            self._call("stopped", force=True, status_reason=_REASON, status_message=message)

    def _call(self, action: str, **body: Any) -> Any:
        """Raises SinkUnavailableError unless the server says that it is done."""
        assert self._session is not None
        try:
            answer = self._session.send_request(
                service="tasks", action=action, json={"task": self.id, **body}
            )
        except Exception as error:
            raise SinkUnavailableError(f"ClearML can't be reached: {error}") from error
        if answer is None or answer.status_code != 200:
            words = "" if answer is None else answer.text[:300]
            raise SinkUnavailableError(f"ClearML did not take tasks.{action}: {words}")
        return answer.json()["data"]


def _check_session(folder: str, task_id: str) -> None:
    """Files are appended to in there, and another replaced beside it, because a file says so: it
    must be what the SDK makes for that task, this user's own, and no link. Raises BackendError."""
    if not os.path.lexists(folder):
        raise BackendError(f"the offline session {folder} is gone")
    in_it = [os.path.join(folder, name) for name in (METRICS, _TASK)]
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


def _session() -> Any:
    from clearml.backend_api import Session

    try:
        return Session(http_retries_config={"total": 0})
    except Exception as error:
        raise startup_error(error) from error


def _zip(folder: Path) -> None:
    """As the SDK's Task does it when it is closed; whole, or as it was before."""
    new = f"{folder}.zip.{os.getpid()}.new"
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for path in folder.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    os.replace(new, f"{folder}.zip")
    _log.info("tracelet: the offline session is in %s.zip", folder)


def events_behind(path: str, size_bytes: int, prefix: bytes, wanted: set[str]) -> set[str]:
    """Those of the events `wanted` (see `event_key`) that whole lines of the session's metrics file
    have behind `size_bytes`, in lines that begin with `prefix`.

    The file is read only: other processes of the session may be appending to it, and a line there
    may be any one's. Raises OSError.
    """
    found: set[str] = set()
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return found
    with file:
        file.seek(size_bytes)
        for line in file:
            if line.startswith(prefix) and line.endswith(b"\n"):
                try:
                    events = json.loads(line)
                except ValueError:  # torn by a death, and gone on with by another writer
                    continue
                found.update(key for event in events if (key := event_key(event)) in wanted)
    return found


def event_key(event: Any) -> str:
    """What makes two events of a session the same one."""
    return json.dumps(event, sort_keys=True)
