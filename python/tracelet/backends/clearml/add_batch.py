"""The request events.add_batch, as both online sinks send it."""

from __future__ import annotations

import json

from tracelet.backends.clearml.api import TOO_LARGE, Answer, Api, RefusedError
from tracelet.errors import SinkUnavailableError

__all__ = ["REFUSED", "TOO_LARGE", "AddBatch", "RefusedError"]

REFUSED = "refused by clearml"
"""The reason under which points are set aside that the server would not take."""


class AddBatch:
    """Sends lines of events. One thread at a time."""

    def __init__(self) -> None:
        self.api = Api()

    def __call__(self, body: bytes) -> int:
        """Returns how many of the events the server took.

        Raises RefusedError for an answer that may be a verdict on the data, SinkUnavailableError
        for any other failure.
        """
        answer = self.api.send("events", "AddBatchRequest", body, "application/json-lines")
        return _taken(answer, body)


def _taken(answer: Answer, body: bytes) -> int:
    """How many events the server says that it has: all of them. An answer 200 alone proves nothing:
    it may be a proxy's.

    Raises RefusedError when it has not all of them, so that the culprit is looked for and kept.
    """
    sent = body.count(b"\n") + 1
    try:
        data = json.loads(answer.body)["data"]
        added, errors = data["added"], data.get("errors") or 0
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SinkUnavailableError(f"ClearML's answer can't be read: {error!r}") from error
    if added != sent or errors:
        words = f"{sent} events sent, {added!r:.30} added, {errors!r:.30} errors"
        raise RefusedError(answer.status, f"{words}: {data.get('errors_info')!s:.300}")
    return sent
