"""Changes of a task by requests of ours: what the SDK's own would wait for without an end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tracelet.backends.clearml.api import Api, RefusedError
from tracelet.backends.clearml.parameters import SECTION
from tracelet.errors import SinkUnavailableError

TIMEOUT_S = (10.0, 30.0)
_MOST_ANSWER_BYTES = 64 << 20  # a task with its configurations and parameters
_MOST_ITEMS = 5_000  # a request: about 1 MB
_LOCK_S = 5.0
_MOST_SHOWN = 10_000  # some 10 us each
_MOST_REFUSED = 20  # one by one; where there are more, what they come with is at fault
_EDITABLE = ("created", "in_progress")

Item = Mapping[str, Any]


def params_items(params: Mapping[str, Any]) -> dict[str, Item]:
    """Parameters, by name, as the SDK's Task.connect sends them."""
    from clearml.utilities.proxy_object import get_basic_type

    return {
        name: {
            "section": SECTION,
            "name": name,
            "value": _text(value),
            "type": None if value is None else str(get_basic_type(value)),
        }
        for name, value in params.items()
    }


def show_params(task: Any, items: Mapping[str, Item]) -> None:
    """Puts parameters that are on their way where the SDK's Task.get_parameters reads them, as
    Task.connect does."""
    from clearml.backend_api.services import tasks

    data = getattr(task, "_data", None)
    if data is None or len(items) > _MOST_SHOWN:
        return
    held = dict(data.hyperparams or {})
    shown = {name: tasks.ParamsItem(**item) for name, item in items.items()}
    held[SECTION] = {**(held.get(SECTION) or {}), **shown}
    data.hyperparams = held


@contextlib.contextmanager
def edit_lock(task: Any) -> Iterator[None]:
    """The SDK's lock of a task. During an outage its own threads hold it while they repeat a
    request, for minutes. Raises SinkUnavailableError then, or what the lock raises."""
    lock = task._edit_lock
    if lock.acquire(timeout=_LOCK_S) is False:
        raise SinkUnavailableError("ClearML's SDK is changing the task, and waits for the server")
    try:
        yield
    finally:
        lock.release()


def section_items(values: Mapping[str, Any]) -> list[Item]:
    """Parameters by "section/name"."""
    parts = ((key.partition("/"), value) for key, value in values.items())
    return [
        {"section": section, "name": name, "value": _text(value)}
        for (section, _, name), value in parts
    ]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (tuple, list, dict)):
        try:
            return json.dumps(value)
        except (TypeError, ValueError):
            return str(value)
    return str(value)


def described_tags(held: Iterable[str] | None, about: Mapping[str, Any]) -> list[str]:
    """The tags of a task that has `held`: what others gave it stays."""
    ours = [*about["tags"], *about.get("gone", ())]
    return [*(tag for tag in held or () if tag not in ours), *about["tags"]]


class TaskEdits:
    """Of one task. One thread at a time. The methods raise SinkUnavailableError for what may go
    well later."""

    def __init__(self, task_id: str, api: Api | None = None) -> None:
        self._task_id = task_id
        self._api = api or Api(TIMEOUT_S, _MOST_ANSWER_BYTES)

    def connect(self) -> None:
        """Logs in, as the first request else does. Raises what the SDK raises, or TimeoutError."""
        self._api.connect()

    def call(self, request: str, **body: Any) -> Any:
        """A request of the SDK's `tasks` about this task. Raises RefusedError, too."""
        return self._api.call("tasks", request, task=self._task_id, **body)

    def call_models(self, request: str, **body: Any) -> Any:
        """A request of the SDK's `models`. Raises RefusedError, too."""
        return self._api.call("models", request, **body)

    def set_params(self, items: Sequence[Item]) -> dict[str, str]:
        """Sets parameters, leaving the others as they are; returns those that were refused, with
        the server's words."""
        refused: dict[str, str] = {}
        for start in range(0, len(items), _MOST_ITEMS):
            self._set_params(items[start : start + _MOST_ITEMS], refused)
        return refused

    def _set_params(self, items: Sequence[Item], refused: dict[str, str]) -> None:
        """By halves when they are refused together."""
        try:
            self._edit_params(items)
        except RefusedError as error:
            if error.status >= 500:  # sick: that is no verdict
                raise SinkUnavailableError(f"ClearML did not take parameters: {error}") from error
            if len(items) == 1 or len(refused) >= _MOST_REFUSED:
                refused.update({str(item["name"]): str(error) for item in items})
                return
            half = len(items) // 2
            self._set_params(items[:half], refused)
            self._set_params(items[half:], refused)

    def _edit_params(self, items: Sequence[Item]) -> None:
        try:
            self.call("EditHyperParamsRequest", hyperparams=list(items), force=True)
        except RefusedError:
            # The server lets them be added to while a task is a draft or runs, by this request.
            task = self.task()
            if task.get("status") in _EDITABLE:
                raise
            held = task.get("hyperparams") or {}
            for item in items:
                held.setdefault(item["section"], {})[item["name"]] = dict(item)
            self.call("EditRequest", hyperparams=held, force=True)

    def describe(self, about: Mapping[str, Any], shown: Any) -> dict[str, str]:
        """Sets tags and the comment, as `Description` has them; `shown` is where the SDK has them,
        or None. Returns what was refused, with the server's words."""
        changes: dict[str, Any] = {}
        if "tags" in about:
            changes["tags"] = described_tags(self.task().get("tags"), about)
        if "notes" in about:
            changes["comment"] = about["notes"]
        refused: dict[str, str] = {}
        for name, value in changes.items():
            try:
                self.call("EditRequest", force=True, **{name: value})
            except RefusedError as error:
                if error.status >= 500:  # sick: that is no verdict
                    raise SinkUnavailableError(f"ClearML did not take {name}: {error}") from error
                refused[name] = str(error)
            else:
                if shown is not None:
                    setattr(shown, name, value)
        return refused

    def set_configuration(self, name: str, text: str) -> None:
        """Sets a configuration object. Raises RefusedError, too."""
        item = {"name": name, "value": text}
        try:
            self.call("EditConfigurationRequest", configuration=[item], force=True)
        except RefusedError:
            task = self.task()
            if task.get("status") in _EDITABLE:
                raise
            held = {**(task.get("configuration") or {}), name: item}
            self.call("EditRequest", configuration=held, force=True)

    def task(self) -> Any:
        """The task as the server has it."""
        return self.call("GetByIdRequest")["task"]
