"""A run on MLflow, as the pipeline knows it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from typing import Any

from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.base import Backend, Description, Identity, Later, RunInfo, Upload
from tracelet.backends.ending import status_of, uncaught
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.kept_params import KeptParams
from tracelet.backends.mlflow.media import MLflowMediaSink, put_into
from tracelet.backends.mlflow.names import clean_name
from tracelet.backends.mlflow.sink import MLflowSink
from tracelet.backends.mlflow.store import (
    HttpStore,
    RefusedError,
    RunState,
    Store,
    check_trusted,
    open_store,
    without_secret,
)
from tracelet.backends.mlflow.uploads import (
    NOTES,
    ArtifactUpload,
    environment_tags,
    send_description,
    send_params,
    texts_of,
)
from tracelet.errors import BackendError, ConfigurationError, SinkUnavailableError
from tracelet.options import Options

_OPTIONS = ("tracking_uri", "experiment", "run_id")
_NAMES = "mlflow_names.jsonl"
_PARAMS = "mlflow_params.jsonl"
_DESCRIPTION = "mlflow_description.jsonl"


class MLflowBackend(Backend):
    """One run: scalars in a lane, histograms and events in another."""

    name = "mlflow"
    identity = Identity.SAME_BYTES  # a metric is (key, time in ms, step, value)

    kept_params: KeptParams
    kept_description: KeptParams

    def __init__(
        self, store: Store, uri: str, state: RunState, is_owned: bool, info: RunInfo
    ) -> None:
        self._store = store
        self._uri = uri
        self._state = state
        self._is_owned = is_owned
        self._is_reopened = info.reopen is not None
        self._failure: BaseException | None = None
        self.kept_params = KeptParams(
            self.name, KeptLines(info.run_dir, _PARAMS), self._send_params
        )
        self.kept_description = KeptParams(
            self.name, KeptLines(info.run_dir, _DESCRIPTION), self._send_description, "description"
        )
        self.id = state.run_id
        self.url = _url(store, uri, state)
        self.reopen_state = {
            # With a password in it, it must not be kept: the environment has it then.
            "tracking_uri": uri if without_secret(uri) == uri else None,
            "run_id": state.run_id,
            "experiment_id": state.experiment_id,
            "is_owned": is_owned,
        }
        # One for both: a summary may have scalars, too.
        names = FlatNames(KeptLines(info.run_dir, _NAMES), clean_name)
        put = put_into(self._repository)
        self.sinks = [
            MLflowSink(store, state.run_id, names),
            MLflowMediaSink(store, state.run_id, info.run_id, names, put, self._send_media_params),
        ]

    @classmethod
    def opened(cls, info: RunInfo) -> MLflowBackend:
        """The run that is active, the one that MLFLOW_RUN_ID or the options name, or a new one."""
        import mlflow

        options = _own_options(info.options)
        uri = str(options.get("tracking_uri") or mlflow.get_tracking_uri())
        store = open_store(uri)
        try:
            active = mlflow.active_run()
            if active is not None:
                return cls(store, uri, store.run(active.info.run_id), False, info)
            run_id = options.get("run_id") or os.environ.get("MLFLOW_RUN_ID")
            if run_id:
                state = store.run(str(run_id))
                store.update_run(state.run_id, "RUNNING", None)
            else:
                state = _create_run(store, info.options, options)
            return cls(store, uri, state, True, info)
        except (SinkUnavailableError, RefusedError) as error:
            raise BackendError(f"mlflow at {without_secret(uri)}: {error}") from error

    @classmethod
    def reopened(cls, info: RunInfo) -> MLflowBackend:
        import mlflow

        assert info.reopen is not None
        kept = info.reopen
        configured = str(mlflow.get_tracking_uri())
        uri = str(kept["tracking_uri"] or configured)
        run_id = str(kept["run_id"])
        check_trusted(uri, configured, run_id)
        store = open_store(uri)
        try:  # where its artifacts go is the tracker's to say, not a file's
            state = store.run(run_id)
        except (SinkUnavailableError, RefusedError) as error:
            raise BackendError(f"mlflow at {without_secret(uri)}: {error}") from error
        return cls(store, uri, state, bool(kept["is_owned"]), info)

    @functools.cached_property
    def _artifacts(self) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self._state.artifact_uri, tracking_uri=self._uri)

    def _repository(self) -> Any:
        return self._artifacts

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        self.kept_params.add(texts_of(params), later)

    def describe(self, about: Description, later: Later) -> None:
        self.kept_description.add(about, later)

    def note_environment(self, environment: Mapping[str, Any], later: Later) -> None:
        self.kept_description.add({"environment": environment_tags(environment)}, later)

    def _send_description(self, about: Mapping[str, Any]) -> Mapping[str, str]:
        return send_description(self._store, self._state.run_id, about)

    def _send_params(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        return send_params(self._store, self._state.run_id, params)

    def _send_media_params(self, params: Mapping[str, Any]) -> None:
        refused = self._send_params(texts_of(params))
        if refused:
            raise RefusedError("; ".join(f"{name}: {why}" for name, why in refused.items()))

    def prepare_artifact(self, artifact: Artifact) -> Upload:
        return ArtifactUpload(artifact, self._repository)

    def prepare_model(self, model: Model) -> Upload:
        assert model.file is not None
        return ArtifactUpload(model.file, self._repository, model)

    def note_failure(self, failure: BaseException) -> None:
        self._failure = failure

    def close(self, process_is_ending: bool) -> None:
        self.close_kept()
        self.sinks = ()  # they have the ring, and this is in a cycle with the parameters
        if not self._is_owned:
            return
        end_ms = int(time.time() * 1000)
        if not self._is_reopened:
            status = status_of(self._failure or (uncaught() if process_is_ending else None)).upper()
            self._store.update_run(self._state.run_id, status, end_ms)
        elif self._store.run(self._state.run_id).status == "RUNNING":
            self._store.update_run(self._state.run_id, "KILLED", end_ms)


def _own_options(options: Options) -> Mapping[str, Any]:
    own = options.mlflow or {}
    for key in own:
        if key not in _OPTIONS:
            raise ConfigurationError(
                f"config['mlflow'] has no option {key!r}; known: {', '.join(_OPTIONS)}"
            )
    return own


def _create_run(store: Store, options: Options, own: Mapping[str, Any]) -> RunState:
    from mlflow.tracking.context.registry import resolve_tags

    experiment = own.get("experiment")
    if not experiment and options.project == Options.project:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment_id = None
    if not experiment and options.project == Options.project:
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
    experiment_id = experiment_id or store.experiment_id(str(experiment or options.project))
    tags = {str(key): str(value) for key, value in resolve_tags().items()}
    tags.update({clean_name(tag): "" for tag in options.tags or ()})
    if options.comment is not None:
        tags[NOTES] = options.comment
    return store.create_run(experiment_id, options.task_name or options.exp_name, tags)


def _url(store: Store, uri: str, state: RunState) -> str:
    if not isinstance(store, HttpStore):
        return without_secret(uri)
    base = without_secret(uri).rstrip("/")
    return f"{base}/#/experiments/{state.experiment_id}/runs/{state.run_id}"
