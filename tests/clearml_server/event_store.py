"""The stored events: a stand-in for Elasticsearch that keeps only what tests ask about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from itertools import count
from typing import Any, Union

SCALAR = "training_stats_scalar"
LOG = "log"

SeriesKey = tuple[str, str, str, str]
"""(task, metric, variant, worker)"""
Point = tuple[SeriesKey, Union[int, None], Any, Any]
"""A scalar event: (series, iter, value, timestamp). Its series is shared by all its points, which
keeps a million of them small; keys beyond these are not stored."""
Document = Union[Point, dict[str, Any]]

Scalars = dict[tuple[str, str], dict[Union[int, None], Any]]
"""{(metric, variant): {iter: value}}"""


class EventStore:
    """Documents by id; a document with a known id replaces the old one. Locked by its owner."""

    def __init__(self) -> None:
        self._documents: dict[bytes, Document] = {}
        self._log_ids = count()
        self.write_count = 0
        """Documents written, also those that replaced another."""

    def write(self, documents: Iterable[tuple[bytes, Document]]) -> None:
        before = self.write_count
        for identifier, document in documents:
            self._documents[identifier] = document
            before += 1
        self.write_count = before

    def new_log_id(self) -> bytes:
        """Console lines get an id of their own each time: sent twice, they are stored twice."""
        return b"log-%d" % next(self._log_ids)

    def delete(self, task: str) -> None:
        kept = {key: doc for key, doc in self._documents.items() if _task_of(doc) != task}
        self._documents = kept

    def stored_count(self, task: str | None = None) -> int:
        if task is None:
            return len(self._documents)
        return sum(_task_of(document) == task for document in self._documents.values())

    def scalars(self, task: str) -> Scalars:
        return self._by_series(task, 2)

    def timestamps(self, task: str) -> Scalars:
        return self._by_series(task, 3)

    def events(self, task: str, type: str | None = None) -> list[dict[str, Any]]:
        """The task's documents in the order of their first writing."""
        return list(self._events(task, type))

    def _events(self, task: str, type: str | None) -> Iterator[dict[str, Any]]:
        for document in self._documents.values():
            if _task_of(document) == task:
                event = _as_event(document)
                if type is None or event["type"] == type:
                    yield event

    def _by_series(self, task: str, column: int) -> Scalars:
        series: Scalars = {}
        for document in self._documents.values():
            if isinstance(document, tuple) and document[0][0] == task:
                points = series.setdefault(document[0][1:3], {})
                points[document[1]] = document[column]
        return series


def as_stored(event: dict[str, Any]) -> Document:
    """The document kept for an accepted event. Dates go to Elasticsearch as ISO strings."""
    if event["type"] == SCALAR and not event["model_event"]:
        series = (event["task"], event["metric"], event["variant"], _plain(event["worker"]))
        return series, event.get("iter"), event.get("value"), _plain(event["timestamp"])
    document: dict[str, Any] = _plain(event)
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _task_of(document: Document) -> str:
    return document[0][0] if isinstance(document, tuple) else document["task"]


def _as_event(document: Document) -> dict[str, Any]:
    if isinstance(document, dict):
        return dict(document)
    (task, metric, variant, worker), iteration, value, timestamp = document
    return {
        "type": SCALAR,
        "task": task,
        "metric": metric,
        "variant": variant,
        "iter": iteration,
        "value": value,
        "timestamp": timestamp,
        "worker": worker,
    }
