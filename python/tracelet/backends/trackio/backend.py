"""A run in trackio, as the pipeline knows it."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping
from typing import Any

from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Backend, Description, Identity, Later, RunInfo, Upload
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.kept_params import KeptParams
from tracelet.backends.trackio.media import TrackioMediaSink
from tracelet.backends.trackio.sink import TrackioSink
from tracelet.backends.trackio.store import Store
from tracelet.backends.trackio.uploads import ArtifactUpload
from tracelet.errors import BackendError, SinkUnavailableError

_NAMES = "trackio_names.jsonl"
_PARAMS = "trackio_params.jsonl"
_RESERVED = frozenset(("project", "run", "timestamp", "step", "time", "metrics"))


class TrackioBackend(Backend):
    """One run: scalars in a lane, histograms and events in another."""

    name = "trackio"
    identity = Identity.IN_ORDER  # the database says how far its rows go

    kept_params: KeptParams

    def __init__(self, project: str, run_name: str, run_id: str, info: RunInfo) -> None:
        self._store = Store(project, run_name, run_id, ids=info.run_id)
        self._active: Any = None  # the run of trackio's own that is logged to
        self.id = run_id
        self.url = _folder()
        self.reopen_state = {
            "project": project, "run_name": run_name, "run_id": run_id, "folder": _folder(),
        }  # fmt: skip
        self.kept_params = KeptParams(
            self.name, KeptLines(info.run_dir, _PARAMS), self._send_params
        )
        # One for both: a summary may have scalars, too.
        names = FlatNames(KeptLines(info.run_dir, _NAMES), clean_name)
        self.sinks = [
            TrackioSink(self._store, names),
            TrackioMediaSink(self._store, names, self._store.merge_config),
        ]

    @classmethod
    def opened(cls, info: RunInfo) -> TrackioBackend:
        """The run that is active, or a new one."""
        from trackio import context_vars
        from trackio.sqlite_storage import SQLiteStorage

        active = context_vars.current_run.get()
        if active is not None:
            made = cls(str(active.project), str(active.name), str(active.id), info)
            made._active = active
            return made
        options = info.options
        try:
            SQLiteStorage.validate_project_name(options.project)
        except ValueError as error:
            raise BackendError(f"trackio: {error}") from error
        made = cls(options.project, options.task_name or options.exp_name, uuid.uuid4().hex, info)
        about: dict[str, Any] = {}
        if options.tags:
            about["tags"] = list(options.tags)
        if options.comment is not None:
            about["comment"] = options.comment
        try:
            made._store.merge_config(about)
        except SinkUnavailableError as error:
            raise BackendError(str(error)) from error
        return made

    @classmethod
    def reopened(cls, info: RunInfo) -> TrackioBackend:
        kept = info.reopen
        assert kept is not None
        if kept["folder"] != _folder():
            raise BackendError(
                f"trackio: the run is in {kept['folder']}, and trackio's folder is {_folder()} "
                f"here: set TRACKIO_DIR={kept['folder']}"
            )
        return cls(str(kept["project"]), str(kept["run_name"]), str(kept["run_id"]), info)

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        self.kept_params.add(params, later)

    def describe(self, about: Description, later: Later) -> None:
        config: dict[str, Any] = {}  # as `opened` has them
        if "tags" in about:
            config["tags"] = about["tags"]
        if "notes" in about:
            config["comment"] = about["notes"]
        self.kept_params.add(config, later)

    def _send_params(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        self._store.merge_config(params)
        if self._active is not None:  # whose own log replaces the config by what it has
            with contextlib.suppress(AttributeError, TypeError):
                self._active.config.update(params)
        return {}

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return ArtifactUpload(artifact, self._store)

    def prepare_model(self, model: Model) -> Upload:
        assert model.file is not None
        return ArtifactUpload(model.file, self._store, model)

    def close(self, process_is_ending: bool) -> None:
        self.close_kept()
        self.sinks = ()  # they have the ring, and this is in a cycle with the parameters


def clean_name(name: str) -> str:
    """A name as trackio takes it: UTF-8, and none of its own (`trackio.utils.RESERVED_KEYS`)."""
    name = name.encode("utf-8", "replace").decode()
    return f"__{name}" if name in _RESERVED or name.startswith("__") else name


def _folder() -> str:
    from trackio.utils import TRACKIO_DIR

    return str(os.path.abspath(TRACKIO_DIR))
