"""A run on ClearML, as the pipeline knows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelet import environment
from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Backend, Description, Identity, Later, RunInfo, Upload
from tracelet.backends.clearml.import_session import note_session
from tracelet.backends.clearml.media import ClearMLMediaSink
from tracelet.backends.clearml.names import TaskNames
from tracelet.backends.clearml.offline import OfflineClearMLSink
from tracelet.backends.clearml.online import OnlineClearMLSink
from tracelet.backends.clearml.reopen import ReopenedTask, reopen_state
from tracelet.backends.clearml.session import SessionUsers
from tracelet.backends.clearml.task import ClearMLTask
from tracelet.backends.clearml.task_names import SHORTEST_NAME
from tracelet.backends.kept import NAMES, KeptLines
from tracelet.backends.kept_params import KeptParams
from tracelet.places import shown_path

_PARAMS = "clearml_params.jsonl"
_DESCRIPTION = "clearml_description.jsonl"


class ClearMLBackend(Backend):
    """One task, its scalars and histograms in a lane, all other events in another."""

    name = "clearml"
    identity = Identity.BY_COORDINATE  # md5 of task, iteration, metric and variant

    kept_params: KeptParams
    kept_description: KeptParams

    def __init__(self, task: ClearMLTask, info: RunInfo) -> None:
        self.task = task
        self.id = task.id
        self.url = task.url
        self.reopen_state = info.reopen or reopen_state(task)
        self._run_id = info.run_id
        self.samples_system = bool(info.options.auto_resource_monitoring)
        self.captures_console = bool(info.options.auto_connect_streams)
        self._session: SessionUsers | None = None
        if task.is_offline and info.reopen is None:
            note_session(task.task, info, task.goal)
            self._session = SessionUsers(Path(task.task.get_offline_mode_folder()))
        self.kept_params = KeptParams(self.name, KeptLines(info.run_dir, _PARAMS), task.send_params)
        lines = KeptLines(info.run_dir, _DESCRIPTION)
        self.kept_description = KeptParams(self.name, lines, task.send_description, "description")
        names = TaskNames.kept_in(KeptLines(info.run_dir, NAMES))
        series = OfflineClearMLSink if task.is_offline else OnlineClearMLSink
        self.sinks = [series(task, info, names), ClearMLMediaSink(task, info, names)]

    def place(self, has_ended: bool) -> str:
        if not self.task.is_offline:
            return str(self.url or "")
        if self.url is None:
            return f"its server is away; later: tracelet sync {self._run_id}"
        folder = shown_path(self.url)
        if not has_ended:
            return f"offline session in {folder}"
        online = "CLEARML_OFFLINE_MODE=0 " if environment.clearml_offline() else ""
        return f"offline session in {folder}; to send it: {online}tracelet sync {self._run_id}"

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        self.kept_params.add(self.task.take_params(params, given), later)
        last = self.task.last_upload
        if last is not None:
            later.at_end(last)

    def describe(self, about: Description, later: Later) -> None:
        self.kept_description.add(self.task.take_description(about), later)

    def check_model_name(self, name: str) -> None:
        if len(name.replace(" ", "")) < SHORTEST_NAME:
            raise ValueError(
                f"log_model: name={name!r} is too short for ClearML: {SHORTEST_NAME} characters or "
                "more"
            )

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return self.task.prepare_artifact(artifact)

    def prepare_model(self, model: Model) -> Upload:
        return self.task.prepare_model(model)

    def note_failure(self, failure: BaseException) -> None:
        self.task.note_failure(failure)

    def give_back(self) -> None:
        self.task.give_back()

    def close(self, process_is_ending: bool) -> None:
        self.close_kept()
        if isinstance(self.task, ReopenedTask):
            self.task.finish_models(self.kept_params.logged)
        self.task.close(process_is_ending)
        if self._session is not None:
            self._session.end(self._run_id)

    def leave(self, process_is_ending: bool) -> None:
        if not process_is_ending:
            self.task.leave()

    def let_process_end(self) -> None:
        self.task.let_process_end()
