"""``events.add_batch``: what the server makes of a batch of events, rule by rule.

The rules are those of ``add_events`` of API server 2.0.0 as it was seen to answer, and, for what
Elasticsearch refuses by itself, of its mappings. A batch is prepared as a whole before any of it
is stored, because an exception on one event loses them all.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import time as time_of_day
from typing import Any

from .errors import ApiError, ServerCrashError, index_failure, invalid
from .event_store import LOG, SCALAR, Document, EventStore, SeriesKey, as_stored
from .iso_dates import decode_all
from .json_lines import malformed
from .last_metrics import Summary, merge
from .registry import Registry

EVENT_TYPES = frozenset({SCALAR, LOG, "training_stats_vector", "training_debug_image", "plot"})
CHUNK = 500
"""Documents per bulk request to Elasticsearch."""
MAX_LONG = 2**63 - 1
MIN_LONG = -(2**63)
BEYOND_FLOAT32 = 3.4028235677973366e38
"""The smallest double that rounds to a float32 infinity; values are mapped as float32."""
MAX_KEYWORD_BYTES = 32766
"""The longest term Lucene indexes; names are mapped as keywords."""
IGNORED_FOR_LAST_ITERATION = frozenset({":monitor:machine", ":monitor:gpu"})
"""``services.events.ignore_iteration.metrics``"""

_ID_FIELDS = ("task", "iter", "metric", "variant", "key")
_BAD_ITERATION = f"Iteration number should not exceed {MAX_LONG}"


class _Metric:
    """What a batch says of one (task, metric, event type)."""

    __slots__ = ("last_iteration", "last_timestamp")

    def __init__(self) -> None:
        self.last_iteration: int | None = None
        self.last_timestamp: Any = None

    def see(self, iteration: int | None, timestamp: Any) -> None:
        # The server compares like this, so a metric that mixes numbers with strings fails here.
        if self.last_timestamp is None or self.last_timestamp < timestamp:
            self.last_timestamp = timestamp
        if iteration is not None and (
            self.last_iteration is None or self.last_iteration < iteration
        ):
            self.last_iteration = iteration


class Batch:
    """One request's events on their way into the store."""

    def __init__(self, registry: Registry, store: EventStore, worker: str) -> None:
        self._registry = registry
        self._store = store
        self._worker = worker
        self._documents: list[tuple[bytes, Document]] = []
        self._errors: Counter[str] = Counter()
        self._refused: list[int] = []
        self._unserialisable: int | None = None
        self._owners: dict[tuple[str, bool], bool] = {}
        self._metrics: dict[tuple[str, str, str], _Metric] = {}
        self._summaries: dict[tuple[str, str, str], Summary] = {}
        self._series: dict[SeriesKey, tuple[SeriesKey, _Metric, Summary]] = {}

    def prepare(self, events: Iterable[tuple[dict[str, Any], bool]], *, dates: bool) -> None:
        """Takes the events, each with whether it is plain (see `schemas.EventSchema`).

        `dates`: strings that look like dates become dates, as they do in JSON lines.
        """
        try:
            for event, plain in events:
                if not (plain and self._take_plain(event)):
                    self._take(event, dates, plain)
        except (ApiError, ServerCrashError):
            raise
        except Exception as error:
            # The server turns any exception into a 500; the whole batch is lost.
            raise ApiError(500, 0, str(error)) from error

    def commit(self) -> dict[str, Any]:
        """Stores what can be stored and returns the answer's data."""
        documents = self._documents
        if self._unserialisable is not None:
            # The bulk helper encodes an event before it sends the chunk in front of it.
            sent = max(0, self._unserialisable - 1) // CHUNK * CHUNK
            self._store.write(documents[:sent])
            raise ApiError(500, 100, "General data error: unable to serialize to JSON")
        if self._refused:
            end = (self._refused[0] // CHUNK + 1) * CHUNK
            refused = {position for position in self._refused if position < end}
            chunks = enumerate(documents[:end])
            self._store.write(item for position, item in chunks if position not in refused)
            raise index_failure(len(refused))
        self._store.write(documents)
        self._update_tasks()
        if self._errors[_BAD_ITERATION]:
            raise index_failure(self._errors[_BAD_ITERATION])
        errors = +self._errors
        if not documents:
            details = ", ".join(f"{reason}={n}" for reason, n in errors.items())
            raise ApiError(400, 131, f"Events not added: {details}")
        return {
            "added": len(documents),
            "errors": sum(errors.values()),
            "errors_info": dict(errors),
        }

    def _take_plain(self, event: dict[str, Any]) -> bool:
        """The short way for a scalar of a series that this batch has seen already.

        False where anything but its numbers needs a look; then nothing has been done.
        """
        task, metric, variant = event["task"], event["metric"], event["variant"]
        known = self._series.get((task, metric, variant, event.get("worker", self._worker)))
        iteration, value = event["iter"], event["value"]
        if (
            known is None
            or not MIN_LONG <= iteration <= MAX_LONG
            or not -BEYOND_FLOAT32 < value < BEYOND_FLOAT32
            or event.get("model_event")
        ):
            return False
        series, of_metric, summary = known
        timestamp = event["timestamp"]
        of_metric.see(iteration, timestamp)
        summary.add(iteration, timestamp, value)
        identifier = hashlib.md5(f"{task}-{iteration}-{metric}-{variant}".encode()).digest()
        self._documents.append((identifier, (series, iteration, value, timestamp)))
        return True

    def _take(self, event: dict[str, Any], dates: bool, plain: bool) -> None:
        """The long way, for every other event."""
        try:
            event = decode_all(event) if dates else dict(event)
        except ValueError as error:
            raise malformed() from error
        allow_locked = self._check_owner(event)
        problem = self._problem(event, allow_locked)
        if problem is not None:
            self._errors[problem] += 1
            return
        for old, new in (("ts", "timestamp"), ("values", "value")):
            if old in event:
                event[new] = event.pop(old)
        event.setdefault("timestamp", int(time.time() * 1000))
        event.setdefault("worker", self._worker)
        if event.get("iter") is not None:
            event["iter"] = int(event["iter"])
            if not MIN_LONG <= event["iter"] <= MAX_LONG:
                self._errors[_BAD_ITERATION] += 1
                return
        event["metric"] = _name(event, "metric")
        event["variant"] = _name(event, "variant")
        if event["type"] == "plot":
            _plot_length(event)
        self._note(event, plain)
        self._check_indexable(event)
        self._documents.append((self._identifier(event), as_stored(event)))

    def _check_owner(self, event: dict[str, Any]) -> bool:
        """Settles whether the event is a model's or a task's; returns its `allow_locked`."""
        event["model_event"] = bool(event.get("model_event"))
        if event["model_event"] and event.get("model") is not None:
            event["task"] = event.pop("model")
        owner = event.get("task")
        allow_locked = bool(event.pop("allow_locked", False))
        if owner:
            if self._owners.setdefault((owner, event["model_event"]), allow_locked) != allow_locked:
                raise invalid(f"Inconsistent allow_locked setting in the passed events for {owner}")
            if (owner, not event["model_event"]) in self._owners:
                raise invalid("Inconsistent model_event setting in the passed events")
        return allow_locked

    def _problem(self, event: dict[str, Any], allow_locked: bool) -> str | None:
        """Why the event alone is left out; None when it isn't."""
        if event.get("type") is None:
            return "Event must have a 'type' field"
        event["type"] = event["type"].replace(" ", "_")
        if event["type"] not in EVENT_TYPES:
            return f"Invalid event type {event['type']}"
        if event["model_event"] and event["type"] == LOG:
            return "Task log events are not supported for models"
        owner = event.get("task")
        if owner is None:
            return "Event must have a 'task' field"
        if not self._registry.accepts_events(
            owner, model=event["model_event"], allow_locked=allow_locked
        ):
            return f"Invalid {'model' if event['model_event'] else 'task'} id {owner}"
        return None

    def _note(self, event: dict[str, Any], plain: bool) -> None:
        """Brings the summaries of the event's metric and series up to date."""
        if event["model_event"]:
            return
        task, metric, variant = event["task"], event["metric"], event["variant"]
        of_metric = self._metrics.setdefault((task, metric, event["type"]), _Metric())
        of_metric.see(event.get("iter"), event["timestamp"])
        if event["type"] != SCALAR or event.get("value") is None:
            return
        sample = event.get("iter", 0), event["timestamp"], event["value"]
        summary = self._summaries.get((task, metric, variant))
        if summary is None:
            summary = self._summaries[task, metric, variant] = Summary(*sample)
        else:
            summary.add(*sample)
        worker = event["worker"]
        if plain and isinstance(worker, str) and not _too_long(event):
            series = task, metric, variant, worker
            self._series[series] = series, of_metric, summary

    def _check_indexable(self, event: dict[str, Any]) -> None:
        """Notes an event that would not get into the index (E: read from its mappings)."""
        position = len(self._documents)
        value = event.get("value")
        if self._unserialisable is None and _any(event, _is_time_of_day):
            self._unserialisable = position
        elif (
            _any(event, _is_not_finite)
            or isinstance(value, bool)
            or (isinstance(value, (int, float)) and abs(value) >= BEYOND_FLOAT32)
            or not _is_timestamp(event["timestamp"])
            or _too_long(event)
        ):
            self._refused.append(position)

    def _identifier(self, event: dict[str, Any]) -> bytes:
        if event["type"] == LOG:
            return self._store.new_log_id()
        fields = (str(event[field]) for field in _ID_FIELDS if field in event)
        return hashlib.md5("-".join(fields).encode()).digest()

    def _update_tasks(self) -> None:
        for (task, metric, _), of_metric in self._metrics.items():
            if of_metric.last_iteration is not None and metric not in IGNORED_FOR_LAST_ITERATION:
                known = self._registry.tasks[task]
                known["last_iteration"] = max(known["last_iteration"], of_metric.last_iteration)
        series: dict[str, list[tuple[str, str, Summary]]] = {}
        for (task, metric, variant), summary in self._summaries.items():
            series.setdefault(task, []).append((metric, variant, summary))
        for task, of_task in series.items():
            merge(self._registry.tasks[task]["last_metrics"], of_task)


def _name(event: dict[str, Any], field: str) -> str:
    """A metric or variant. The server fails on one that is no string, a decoded date included.

    (Read from its source, for other types than scalars it fails on a metric only, and late. That
    is not worth relying on: here every type fails early.)
    """
    name = event.get(field) or ""
    if not isinstance(name, str):
        raise TypeError(f"{field} is no string but {type(name).__name__}")
    return name


def _plot_length(event: dict[str, Any]) -> None:
    plot = event.get("plot_str") or ""
    if not isinstance(plot, str):
        raise TypeError(f"object of type '{type(plot).__name__}' has no len()")


def _too_long(event: dict[str, Any]) -> bool:
    return any(
        len(event[name].encode("utf-8")) > MAX_KEYWORD_BYTES for name in ("metric", "variant")
    )


def _is_time_of_day(value: Any) -> bool:
    """A bare time, which elasticsearch-py's encoder can't write, unlike a date."""
    return isinstance(value, time_of_day)


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_timestamp(value: Any) -> bool:
    """Whether it fits a date field: epoch milliseconds or an ISO date (approximately)."""
    if isinstance(value, str):
        return value.lstrip("-").isdigit()
    return not isinstance(value, (bool, list, dict))


def _any(value: Any, test: Callable[[Any], bool]) -> bool:
    if isinstance(value, dict):
        return any(_any(item, test) for item in value.values())
    if isinstance(value, list):
        return any(_any(item, test) for item in value)
    return test(value)
