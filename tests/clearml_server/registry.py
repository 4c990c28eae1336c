"""Projects, tasks and models: a stand-in for MongoDB, as plain dicts in the wire's own form."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timezone
from typing import Any

from .errors import ApiError, unknown_id

Record = dict[str, Any]

LOCKED_STATUSES = frozenset({"publishing", "published"})
MIN_NAME_LENGTH = 3


class Registry:
    """The records by id. Locked by its owner."""

    def __init__(self) -> None:
        self.projects: dict[str, Record] = {}
        self.tasks: dict[str, Record] = {}
        self.models: dict[str, Record] = {}

    def add_project(self, fields: Record) -> Record:
        check_name(fields)
        project = {"id": new_id(), "tags": [], "system_tags": [], "created": now(), **fields}
        return self.projects.setdefault(project["id"], project)

    def add_task(self, fields: Record) -> Record:
        check_name(fields)
        task: Record = {
            "id": new_id(),
            "type": "training",
            "status": "created",
            "user": "test-user",
            "company": "test-company",
            "created": now(),
            "last_update": now(),
            "tags": [],
            "system_tags": [],
            "script": {},
            "execution": {"artifacts": []},
            # OutputModel can't be made on a task without it.
            "output": {"destination": None, "model": ""},
            "models": {"input": [], "output": []},
            "hyperparams": {},
            "configuration": {},
            "runtime": {},
            "last_iteration": 0,
            "last_metrics": {},
        }
        update(task, fields)
        return self.tasks.setdefault(task["id"], task)

    def add_model(self, fields: Record) -> Record:
        check_name(fields)
        model = {
            "id": new_id(),
            "user": "test-user",
            "company": "test-company",
            "created": now(),
            "framework": None,
            "ready": False,
            "tags": [],
            "system_tags": [],
            "labels": {},
            "design": {},
            "metadata": {},
            **fields,
        }
        return self.models.setdefault(model["id"], model)

    def project(self, identifier: str) -> Record:
        return _get(self.projects, "project", identifier)

    def task(self, identifier: str) -> Record:
        return _get(self.tasks, "task", identifier)

    def model(self, identifier: str) -> Record:
        return _get(self.models, "model", identifier)

    def accepts_events(self, identifier: Any, *, model: bool, allow_locked: bool) -> bool:
        """Whether events may be added: not to what is published, unless they say so."""
        record = (self.models if model else self.tasks).get(identifier)
        if record is None:
            return False
        locked = record["ready"] if model else record["status"] in LOCKED_STATUSES
        return allow_locked or not locked


def check_name(fields: Record) -> None:
    name = fields.get("name")
    if isinstance(name, str) and len(name.strip()) < MIN_NAME_LENGTH:
        raise ApiError(400, 800, "Data validation error: name=String value is too short")


def update(record: Record, fields: Record) -> None:
    """Sets `fields`. Embedded documents are merged one level deep, everything else replaced."""
    check_name(fields)
    for key, value in fields.items():
        if key == "output_dest":
            record["output"]["destination"] = value
        elif key in ("execution", "script", "output", "models") and isinstance(value, dict):
            record[key] = {**(record.get(key) or {}), **value}
        else:
            record[key] = value
    record["last_update"] = record["last_change"] = now()


def find(records: dict[str, Record], query: Record) -> list[Record]:
    """The records that fit a ``get_all`` query, as far as the SDK uses it; newest first."""
    found = [record for record in records.values() if _fits(record, query)]
    found.reverse()
    for field in reversed(query.get("order_by") or ()):
        if field.lstrip("-").startswith("last_metrics."):
            found = _by_last_metric(found, field)
    size = query.get("page_size")
    if not size:
        return found
    start = (query.get("page") or 0) * size
    return found[start : start + size]


def _by_last_metric(records: list[Record], field: str) -> list[Record]:
    """By a scalar's summary, as the UI's tables and the SDK's optimizers ask; last without one."""
    *_, metric, variant, summary = field.lstrip("-").split(".")
    falling = field.startswith("-")

    def key(record: Record) -> float:
        value = record.get("last_metrics", {}).get(metric, {}).get(variant, {}).get(summary)
        if value is None:
            return float("inf")
        return -value if falling else value

    return sorted(records, key=key)


def _fits(record: Record, query: Record) -> bool:
    name = query.get("name")
    if name is not None and not re.search(name, record.get("name") or ""):
        return False
    for key in ("id", "project", "type", "status", "task", "user", "parent", "uri"):
        wanted = query.get(key)
        if wanted and record.get(key) not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    for key in ("tags", "system_tags"):
        has = set(record.get(key) or ())
        tags = [tag for tag in query.get(key) or () if not tag.startswith("__$")]
        # "-tag" excludes; of the other tags one is enough.
        if any(tag[1:] in has for tag in tags if tag.startswith("-")):
            return False
        wanted = {tag for tag in tags if not tag.startswith("-")}
        if wanted and not wanted & has:
            return False
    return True


def _get(records: dict[str, Record], kind: str, identifier: str) -> Record:
    record = records.get(identifier)
    if record is None:
        raise unknown_id(kind, identifier)
    return record


def new_id() -> str:
    return uuid.uuid4().hex


def now() -> str:
    return datetime.now(timezone.utc).isoformat()
