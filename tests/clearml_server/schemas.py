"""The request schemas that the installed clearml package ships, read without importing it.

Importing clearml freezes its environment in the importing process (``Session`` reads it at class
level), and this server runs inside the tests' own process. So the schema of an endpoint is cut
out of the text of ``clearml/backend_api/services/vX_Y/<service>.py``, where each request class
carries it as a literal.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

from .event_store import SCALAR

Version = tuple[int, ...]
Shape = tuple[tuple[str, ...], tuple[type, ...]]


@cache
def request_validator(service: str, action: str, version: str | None) -> Validator | None:
    """A validator of the bodies of `service`.`action`; None where clearml ships no schema.

    As the SDK does, it takes the newest version that isn't newer than the one asked for.
    """
    # A line of a batch has the schema of the single event: AddBatchRequest only wraps AddRequest.
    if (service, action) == ("events", "add_batch"):
        action = "add"
    folder = _services_folder(version)
    module = folder / f"{service}.py"
    schema = _schema_of(module.read_text("utf-8"), action) if module.is_file() else None
    return None if schema is None else validator_for(schema)(schema)


def violation(validator: Validator, body: Any) -> str | None:
    """What is wrong with `body`, in one line; None when it fits."""
    error = next(validator.iter_errors(body), None)
    if error is None:
        return None
    where = "/".join(map(str, error.absolute_path)) or "body"
    return f"{where}: {error.message}"[:500]


def _schema_of(source: str, action: str) -> dict[str, Any] | None:
    request_class = re.search(
        r"^class \w+Request\((?:(?!^class ).)*?"
        rf'^    _action = "{re.escape(action)}"$.*?(?=^class |\Z)',
        source,
        re.MULTILINE | re.DOTALL,
    )
    if request_class is None:
        return None
    for statement in ast.parse(request_class.group()).body[0].body:  # type: ignore[attr-defined]
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_schema":
            schema: dict[str, Any] = ast.literal_eval(statement.value)
            return schema
    return None


@cache
def _services_folder(version: str | None) -> Path:
    package = find_spec("clearml")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the ClearML test server needs clearml for its request schemas")
    services = Path(package.submodule_search_locations[0], "backend_api", "services")
    shipped = {
        _version(folder.name[1:].replace("_", ".")): folder for folder in services.glob("v*_*")
    }
    wanted = _version(version) if version else max(shipped)
    return shipped[max((v for v in shipped if v <= wanted), default=min(shipped))]


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


class EventSchema:
    """The schema of one event, for batches of very many.

    A validator takes about 0.1 ms an event, so it looks at the first events of every batch and at
    every event that is not plain. An event is plain when it is a scalar whose shape, that is its
    keys and the types of their values, the validator has passed before. For these events that is
    equivalent: the schema of a scalar demands nothing beyond a JSON type for each key and the
    constant `type`, which is compared for every event, and the one type that depends on a number's
    value (an integral float is an "integer") is not among those of a plain event.
    """

    FIRST_EVENTS = 3

    def __init__(self, version: str | None) -> None:
        validator = request_validator("events", "add_batch", version)
        if validator is None:
            raise LookupError("clearml ships no schema for events.add")
        self._validator = validator
        self._plain_shapes: set[Shape] = set()

    def check(
        self, events: Iterable[dict[str, Any]], report: Callable[[str, dict[str, Any]], None]
    ) -> Iterator[tuple[dict[str, Any], bool]]:
        """The events, each with whether it is plain; a violation is handed to `report`."""
        plain_shapes = self._plain_shapes
        for position, event in enumerate(events):
            shape = (tuple(event), tuple(map(type, event.values())))
            known = shape in plain_shapes and event["type"] == SCALAR
            if not known or position < self.FIRST_EVENTS:
                message = violation(self._validator, event)
                if message is not None:
                    report(message, event)
                elif event.get("type") == SCALAR and _is_plain(event):
                    plain_shapes.add(shape)
                    known = True
            yield event, known


_PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "type": (str,),
    "task": (str,),
    "metric": (str,),
    "variant": (str,),
    "iter": (int,),
    "value": (int, float),
    "timestamp": (int,),
    "worker": (str,),
    # What the SDK sends beside them.
    "method": (str,),
    "model_event": (bool,),
}
_PLAIN_REQUIRED = frozenset({"type", "task", "metric", "variant", "iter", "value", "timestamp"})


def _is_plain(event: dict[str, Any]) -> bool:
    return event.keys() >= _PLAIN_REQUIRED and all(
        type(value) in _PLAIN_TYPES.get(key, ()) for key, value in event.items()
    )
