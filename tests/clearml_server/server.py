"""The server as a whole: routing, authentication, faults, schemas, and what tests ask it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .auth import Auth, expired
from .endpoints import Endpoints
from .errors import ApiError, ServerCrashError, invalid
from .event_store import LOG, EventStore, Scalars
from .events import Batch
from .faults import Fault, FaultMode, FaultPlan
from .files import FileStore
from .http_server import LoopbackServer, Reply, Request
from .json_lines import malformed, parse_lines
from .registry import Record, Registry, new_id
from .schemas import EventSchema, request_validator, violation

_ENDPOINT = re.compile(r"/?(?:v(\d+\.?\d+)/)?([a-zA-Z_]\w+)\.([a-zA-Z_]\w+)/?\Z")
_JSON_LINES = "application/json-lines"


@dataclass(frozen=True)
class SchemaViolation:
    """A request body, or a line of a batch, that clearml's own schema doesn't allow."""

    endpoint: str
    version: str | None
    message: str
    body: Any


@dataclass(frozen=True)
class RequestRecord:
    """One request that came in, in the order of the answers."""

    endpoint: str
    version: str | None
    status: int | None
    """None where no whole answer was sent."""
    size_bytes: int
    events: int
    """Lines of a batch, well formed or not."""
    fault: FaultMode | None
    subcode: int
    time: float = field(default_factory=time.time)


class ClearMLServer:
    """A ClearML API server and file server on loopback, for the unmodified SDK.

    Use it as a context manager, or `start` and `stop` it: it keeps its ports and everything
    stored, so a stop followed by a start is an outage.
    """

    def __init__(self, *, seed: int = 0, token_lifetime: float = 30 * 86400.0) -> None:
        self.faults = FaultPlan(seed)
        self.file_faults = FaultPlan(seed)
        """Of uploads; their "endpoint" is the file's own name."""
        self.refuses: Callable[[dict[str, Any]], bool] = lambda event: False
        """Events for which a batch is answered 400 as a whole, whatever the reason may be."""
        self.auth = Auth(token_lifetime)
        self.schema_violations: list[SchemaViolation] = []
        self.request_log: list[RequestRecord] = []
        self.unknown_endpoints: list[str] = []
        """Endpoints that were asked for and that this server doesn't have (answered 404)."""
        self._lock = threading.RLock()
        self._registry = Registry()
        self._store = EventStore()
        self._endpoints = Endpoints(self._registry, self._store)
        self._event_schemas: dict[str | None, EventSchema] = {}
        self._files = FileStore(self.file_faults)
        self._api_server = LoopbackServer(self._respond)
        self._file_server = LoopbackServer(self._files.respond)

    def start(self) -> ClearMLServer:
        self._file_server.start()
        self._api_server.start()
        return self

    def stop(self) -> None:
        self._api_server.stop()
        self.stop_files()

    def stop_files(self) -> None:
        """Stops the file server alone; `start` brings it back."""
        self._file_server.stop()

    def __enter__(self) -> ClearMLServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return self._api_server.url

    @property
    def files_url(self) -> str:
        return self._file_server.url

    def environment(self) -> dict[str, str]:
        """The variables that point a ClearML SDK at this server, for a subprocess."""
        return {
            "CLEARML_API_HOST": self.url,
            "CLEARML_WEB_HOST": self.url,
            "CLEARML_FILES_HOST": self.files_url,
            "CLEARML_API_ACCESS_KEY": self.auth.access_key,
            "CLEARML_API_SECRET_KEY": self.auth.secret_key,
        }

    @property
    def internal_errors(self) -> list[BaseException]:
        """What went wrong inside this server: bugs of its own."""
        return [*self._api_server.errors, *self._file_server.errors]

    # What arrived. The records are the live ones, meant for reading; the rest are copies.

    @property
    def projects(self) -> Mapping[str, Record]:
        return self._registry.projects

    @property
    def tasks(self) -> Mapping[str, Record]:
        return self._registry.tasks

    @property
    def models(self) -> Mapping[str, Record]:
        return self._registry.models

    @property
    def files(self) -> Mapping[str, bytes]:
        """Uploaded files by their path on the file server."""
        return self._files.files

    @property
    def upload_count(self) -> int:
        """Uploads, also those that replaced a file or failed."""
        return self._files.upload_count

    @property
    def write_count(self) -> int:
        """Events written, including those that overwrote one: more than are stored means resent."""
        return self._store.write_count

    def stored_count(self, task_id: str | None = None) -> int:
        with self._lock:
            return self._store.stored_count(task_id)

    def scalars(self, task_id: str) -> Scalars:
        """{(metric, variant): {iter: value}}"""
        with self._lock:
            return self._store.scalars(task_id)

    def timestamps(self, task_id: str) -> Scalars:
        """{(metric, variant): {iter: timestamp}}"""
        with self._lock:
            return self._store.timestamps(task_id)

    def events(self, task_id: str, type: str | None = None) -> list[dict[str, Any]]:
        with self._lock:
            return self._store.events(task_id, type)

    def logs(self, task_id: str) -> list[dict[str, Any]]:
        """The console events, in the order in which they were stored."""
        return self.events(task_id, LOG)

    def add_task(self, name: str = "test task", **fields: Any) -> str:
        """Makes a task without a request and returns its id."""
        with self._lock:
            identifier: str = self._registry.add_task({"name": name, **fields})["id"]
            return identifier

    def forget(self, task_id: str) -> None:
        """Deletes a task with its events, and the log of requests: for tests with very many."""
        with self._lock:
            self._endpoints.delete_task({"task": task_id})
            self.request_log.clear()

    def _respond(self, request: Request) -> Reply:
        url = urlsplit(request.path)
        match = _ENDPOINT.match(url.path)
        version = match.group(1) if match else None
        name = f"{match.group(2)}.{match.group(3)}" if match else url.path
        fault = self.faults.choose(name)
        if request.headers.get("Content-Encoding"):
            reply, subcode = _unsupported_encoding(request), 0
        else:
            reply, subcode = self._answer(request, name, version, dict(parse_qsl(url.query)), fault)
        if fault is not None:
            _spoil(reply, fault)
        self.request_log.append(
            RequestRecord(
                endpoint=name,
                version=version,
                status=None if reply.cut else reply.status,
                size_bytes=len(request.body),
                events=len(request.body.splitlines()) if name == "events.add_batch" else 0,
                fault=fault.mode if fault else None,
                subcode=subcode,
            )
        )
        return reply

    def _answer(
        self,
        request: Request,
        name: str,
        version: str | None,
        query: dict[str, str],
        fault: Fault | None,
    ) -> tuple[Reply, int]:
        """The reply, unspoilt, and its subcode."""
        mode = fault.mode if fault else None
        if mode in (FaultMode.TOO_LARGE, FaultMode.BAD_GATEWAY, FaultMode.UNAVAILABLE):
            return _proxy_page(int(mode.value)), 0
        if mode is FaultMode.CLOSE_BEFORE:
            return Reply(0), 0
        status, subcode, message = 200, 0, "OK"
        data = "{}"
        try:
            authorization = request.headers.get("Authorization", "")
            if name == "auth.login":
                if mode is not None:
                    _raise_fault(mode)
                expiration = query.get("expiration_sec")
                login = self.auth.login(authorization, float(expiration) if expiration else None)
                data = json.dumps(login)
            else:
                token = self.auth.check(authorization)
                if mode is FaultMode.EXPIRED_TOKEN:
                    self.auth.expire(token)
                if mode is not None:
                    _raise_fault(mode)
                data = self._call(request, name, version, query)
        except ApiError as error:
            status, subcode, message = error.status, error.subcode, error.message
        except ServerCrashError:
            return Reply(0, cut="all"), 0
        meta = {
            "id": new_id(),
            "trx": new_id(),
            "endpoint": {
                "name": name,
                "requested_version": version or "1.0",
                "actual_version": version or "1.0",
            },
            "result_code": status,
            "result_subcode": subcode,
            "result_msg": message,
            "error_stack": None,
            "error_data": {},
        }
        return Reply(status, f'{{"meta": {json.dumps(meta)}, "data": {data}}}'.encode()), subcode

    def _call(self, request: Request, name: str, version: str | None, query: dict[str, str]) -> str:
        """The endpoint's data as JSON."""
        worker = request.headers.get("X-ClearML-Worker", "<unknown>")
        if name == "events.add_batch":
            return json.dumps(self._add_batch(request, version, worker))
        body = {**_json_object(request.body), **query}
        service, _, action = name.partition(".")
        validator = request_validator(service, action, version)
        message = violation(validator, body) if validator else None
        if message is not None:
            self.schema_violations.append(SchemaViolation(name, version, message, body))
            raise ApiError(400, 12, f"Validation error: {message}")
        # The SDK sends its own HTTP method along in every body.
        body.pop("method", None)
        if name == "events.add":
            return json.dumps(self._add(name, version, [body], worker, dates=False))
        with self._lock:
            answer = self._endpoints.answer(name, body)
            if answer is None:
                self.unknown_endpoints.append(name)
                message = f"Unable to find endpoint for name {name} and version {version}"
                raise ApiError(404, 0, message)
            return json.dumps(answer)

    def _add_batch(self, request: Request, version: str | None, worker: str) -> dict[str, Any]:
        lines = request.headers.get("Content-Type") == _JSON_LINES
        if lines:
            events = parse_lines(request.body)
        else:
            # Any other content type is read as one JSON object, which counts as a batch of one.
            body = _json_object(request.body)
            events = [body] if body else []
        if not events:
            raise ApiError(400, 17, "Batch request contains no items")
        return self._add("events.add_batch", version, events, worker, dates=lines)

    def _add(
        self,
        name: str,
        version: str | None,
        events: list[dict[str, Any]],
        worker: str,
        *,
        dates: bool,
    ) -> dict[str, Any]:
        """Stores events. The real server has no schema for a batch: a violation is only noted."""

        def report(message: str, event: dict[str, Any]) -> None:
            self.schema_violations.append(SchemaViolation(name, version, message, event))

        if any(map(self.refuses, events)):
            raise invalid("this event")
        if version not in self._event_schemas:
            self._event_schemas[version] = EventSchema(version)
        batch = Batch(self._registry, self._store, worker)
        batch.prepare(self._event_schemas[version].check(events, report), dates=dates)
        with self._lock:
            return batch.commit()


def _json_object(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        value = json.loads(body)
    except ValueError as error:
        raise malformed() from error
    if not isinstance(value, dict):
        raise ApiError(500, 0, "Data should be a dict")
    return value


def _raise_fault(mode: FaultMode) -> None:
    if mode is FaultMode.BAD_REQUEST:
        raise ApiError(400, 0, "Injected fault")
    if mode is FaultMode.EXPIRED_TOKEN:
        raise expired()
    if mode is FaultMode.TOO_MANY_REQUESTS:
        raise ApiError(429, 0, "Too many requests")
    if mode is FaultMode.SERVER_ERROR:
        raise ApiError(500, 0, "Injected fault")


def _spoil(reply: Reply, fault: Fault) -> None:
    if fault.mode is FaultMode.TOO_MANY_REQUESTS:
        reply.headers["Retry-After"] = str(fault.retry_after)
    elif fault.mode in (FaultMode.CLOSE_BEFORE, FaultMode.CLOSE_AFTER):
        reply.cut = "all"
    elif fault.mode is FaultMode.HALF_ANSWER:
        reply.cut = "half"
    elif fault.mode is FaultMode.SLOW:
        reply.delay = fault.delay


def _unsupported_encoding(request: Request) -> Reply:
    encoding = request.headers["Content-Encoding"]
    text = f"Content encoding is not supported ({encoding})"
    return Reply(415, text.encode(), "text/html; charset=utf-8")


def _proxy_page(status: int) -> Reply:
    """What nginx in front of the API server says: a client that expects JSON gets none."""
    return Reply(status, f"<html><body><h1>{status}</h1>nginx</body></html>".encode(), "text/html")
