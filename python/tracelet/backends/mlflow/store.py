"""What tracelet asks of MLflow: of a tracking server by requests of our own, or of its client.

The client's requests are tried again for minutes, with time-outs of minutes; here a request is one
attempt with a time-out, and waiting is the pipeline's.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

from tracelet.errors import (
    BackendError,
    ConfigurationError,
    SinkUnavailableError,
    TraceletError,
)
from tracelet.runs.ownership import is_own_file

_TIMEOUT_S = 20.0
_API = "/api/2.0/mlflow/"
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")
_MISSING = "RESOURCE_DOES_NOT_EXIST"


class RefusedError(TraceletError):
    """MLflow will not take this, now or later."""


@dataclass(frozen=True)
class RunState:
    run_id: str
    experiment_id: str
    artifact_uri: str
    status: str


class Store(Protocol):
    """Raises RefusedError, and SinkUnavailableError or what the database raises."""

    def experiment_id(self, name: str) -> str:
        """The experiment of that name, made if there is none."""

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> RunState: ...

    def run(self, run_id: str) -> RunState: ...

    def log_metrics(self, run_id: str, metrics: bytes) -> None:
        """`metrics`: the objects of `runs/log-batch`, divided by commas, at most 1,000."""

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """At most 100."""

    def set_tag(self, run_id: str, name: str, text: str) -> None: ...

    def delete_tag(self, run_id: str, name: str) -> None:
        """Raises RefusedError for one that is not there, too."""

    def update_run(self, run_id: str, status: str, end_ms: int | None) -> None: ...


def open_store(uri: str) -> Store:
    """Raises ConfigurationError for a store of files."""
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file"):
        raise ConfigurationError(
            f"mlflow: the tracking URI {without_secret(uri)!r} is a folder of files, where MLflow "
            "doubles what is sent again and newer versions refuse it. Use a database: unset "
            "MLFLOW_TRACKING_URI, or set it to 'sqlite:///mlflow.db'"
        )
    return HttpStore(uri) if scheme in ("http", "https") else LocalStore(uri)


def check_trusted(uri: str, configured: str, run_id: str) -> None:
    """A run's folder may be made up: it says neither where points are sent, with this user's
    credentials, nor which file is a database. What is configured here does, and a database of this
    user's own that has the run. Raises BackendError."""
    if uri.rstrip("/") == configured.rstrip("/"):
        return
    path = urlsplit(uri).path[1:] if urlsplit(uri).scheme == "sqlite" else ""
    if path and is_own_file(path) and _has_run(path, run_id):
        return
    shown = without_secret(uri)
    raise BackendError(
        f"mlflow: this run went to {shown}, which is not what is configured here "
        f"({without_secret(configured)}), and a run's file alone is not believed. If it is yours: "
        f"MLFLOW_TRACKING_URI={shown} tracelet sync ..."
    )


def _has_run(path: str, run_id: str) -> bool:
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=5)
        ) as database:
            found = database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    except sqlite3.Error:
        return False
    return found is not None


def without_secret(uri: str) -> str:
    """The URI without a user's name and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class HttpStore:
    """A tracking server. MLflow's own request, for its ways of authentication."""

    def __init__(self, uri: str) -> None:
        from mlflow.tracking._tracking_service.utils import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        self._request = http_request
        self._creds = get_default_host_creds(uri)

    def experiment_id(self, name: str) -> str:
        for _ in range(2):  # another process may make it between the two questions
            found = self._call("experiments/get-by-name", "GET", params={"experiment_name": name})
            if found is not None:
                return str(found["experiment"]["experiment_id"])
            try:
                made = self._call("experiments/create", json={"name": name})
                return str(made["experiment_id"])
            except RefusedError as error:
                refusal = error
        raise refusal

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> RunState:
        import time

        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": int(time.time() * 1000),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        return _run_state(self._call("runs/create", json=body)["run"]["info"])

    def run(self, run_id: str) -> RunState:
        found = self._call("runs/get", "GET", params={"run_id": run_id})
        if found is None:
            raise RefusedError(f"MLflow has no run {run_id!r}")
        return _run_state(found["run"]["info"])

    def log_metrics(self, run_id: str, metrics: bytes) -> None:
        head = b'{"run_id":' + json.dumps(run_id).encode() + b',"metrics":['
        self._call("runs/log-batch", data=head + metrics + b"]}")

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        items = [{"key": key, "value": value} for key, value in params.items()]
        self._call("runs/log-batch", json={"run_id": run_id, "params": items})

    def set_tag(self, run_id: str, name: str, text: str) -> None:
        self._call("runs/set-tag", json={"run_id": run_id, "key": name, "value": text})

    def delete_tag(self, run_id: str, name: str) -> None:
        self._call("runs/delete-tag", json={"run_id": run_id, "key": name})

    def update_run(self, run_id: str, status: str, end_ms: int | None) -> None:
        body: dict[str, Any] = {"run_id": run_id, "status": status}
        if end_ms is not None:
            body["end_time"] = end_ms
        self._call("runs/update", json=body)

    def _call(self, endpoint: str, method: str = "POST", **arguments: Any) -> Any:
        """The answer; None when what is asked for is not there."""
        headers = {"Content-Type": "application/json"} if "data" in arguments else None
        try:
            answer = self._request(
                self._creds, _API + endpoint, method, timeout=_TIMEOUT_S, max_retries=0,
                raise_on_status=False, extra_headers=headers, **arguments,
            )  # fmt: skip
        except Exception as error:
            raise SinkUnavailableError(f"MLflow can't be reached: {error!s:.300}") from error
        if answer.status_code == 200:
            return answer.json()
        words = f"{answer.status_code}: {answer.text:.300}"
        code = _error_code(answer.text)
        if method == "GET" and code == _MISSING:
            return None
        if code in _REFUSALS or (code == _MISSING and endpoint == "runs/delete-tag"):
            raise RefusedError(f"MLflow refused {endpoint}: {words}")
        after = answer.headers.get("Retry-After", "")
        raise SinkUnavailableError(
            f"MLflow did not take {endpoint}: {words}", float(after) if after.isdigit() else 0.0
        )


class LocalStore:
    """A database, through MLflow's own client: nothing is sent."""

    def __init__(self, uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(uri)

    def experiment_id(self, name: str) -> str:
        with _refusals("the experiment"):
            found = self._client.get_experiment_by_name(name)
            return str(found.experiment_id if found else self._client.create_experiment(name))

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> RunState:
        with _refusals("a new run", _MISSING):
            return self._state(
                self._client.create_run(experiment_id, tags=dict(tags), run_name=name)
            )

    def run(self, run_id: str) -> RunState:
        with _refusals(f"the run {run_id!r}", _MISSING):
            return self._state(self._client.get_run(run_id))

    def log_metrics(self, run_id: str, metrics: bytes) -> None:
        from mlflow.entities import Metric

        made = [Metric(**each) for each in json.loads(b"[" + metrics + b"]")]
        self._client.log_batch(run_id, metrics=made, synchronous=True)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        with _refusals("parameters"):
            made = [Param(key, value) for key, value in params.items()]
            self._client.log_batch(run_id, params=made, synchronous=True)

    def set_tag(self, run_id: str, name: str, text: str) -> None:
        with _refusals(f"the tag {name!r:.100}"):
            self._client.set_tag(run_id, name, text)

    def delete_tag(self, run_id: str, name: str) -> None:
        with _refusals(f"to delete the tag {name!r:.100}", _MISSING):
            self._client.delete_tag(run_id, name)

    def update_run(self, run_id: str, status: str, end_ms: int | None) -> None:
        if end_ms is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status=status, end_time=end_ms)

    def _state(self, run: Any) -> RunState:
        info = run.info
        return RunState(info.run_id, str(info.experiment_id), info.artifact_uri, info.status)


@contextlib.contextmanager
def _refusals(what: str, *more_codes: str) -> Iterator[None]:
    """The answers of MLflow's client that asking again won't change are a RefusedError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in (*_REFUSALS, *more_codes):
            raise
        raise RefusedError(f"MLflow refused {what}: {error.message:.300}") from error


def _run_state(info: Mapping[str, Any]) -> RunState:
    return RunState(
        str(info["run_id"]), str(info["experiment_id"]), str(info.get("artifact_uri", "")),
        str(info.get("status", "")),
    )  # fmt: skip


def _error_code(text: str) -> str:
    try:
        return str(json.loads(text).get("error_code", ""))
    except (ValueError, AttributeError):
        return ""
