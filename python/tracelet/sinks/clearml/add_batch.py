"""The request events.add_batch, as both online sinks send it."""

from __future__ import annotations

import logging
from typing import Any

from tracelet.errors import SinkUnavailableError

_log = logging.getLogger("tracelet")

# Answers that may be a verdict on the data.
_VERDICTS = (400, 500)
TOO_LARGE = 413
REFUSED = "refused by clearml"
"""The reason under which points are set aside that the server would not take."""


class RefusedError(Exception):
    """The server read the request and did not take it."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status


class AddBatch:
    """The request events.add_batch, by an SDK session of its own that does not retry by itself.

    The SDK's common session sleeps and retries inside the call, for minutes; the pipeline has its
    own backoff and deadline. Credentials, token renewal and hosts are the SDK's.
    """

    def __init__(self) -> None:
        from clearml.backend_api import Session
        from clearml.backend_api.services import events

        self._session = Session(http_retries_config={"total": 0})
        self._request = events.AddBatchRequest

    def __call__(self, body: bytes) -> int:
        """Sends lines of events; returns how many the server took.

        Raises RefusedError for an answer that may be a verdict on the data, SinkUnavailableError
        for any other failure.
        """
        try:
            answer = self._session.send_request(
                service="events",
                action="add_batch",
                version=self._request._version,
                method=self._request._method,
                headers={"Content-Type": "application/json-lines"},
                data=body,
            )
        except Exception as error:
            # Connection refused or lost, time-outs, 429, 502, 503: the SDK raises what requests
            # does, and its own kinds.
            raise SinkUnavailableError(f"ClearML can't be reached: {error}") from error
        if answer is None:
            raise SinkUnavailableError("ClearML's session is offline")
        if answer.status_code == 200:
            return self._taken(answer, body)
        words = _words(answer)
        if answer.status_code in (*_VERDICTS, TOO_LARGE):
            raise RefusedError(answer.status_code, words)
        raise SinkUnavailableError(f"ClearML answered {answer.status_code}: {words}")

    def _taken(self, answer: Any, body: bytes) -> int:
        try:
            data = answer.json()["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise SinkUnavailableError(f"ClearML's answer can't be read: {error}") from error
        sent = body.count(b"\n") + 1
        errors: int | None = data.get("errors")
        if errors:
            _log.warning(
                "tracelet: ClearML did not take %d points of a batch: %.300s",
                errors, data.get("errors_info"),
            )  # fmt: skip
        return sent - min(errors or 0, sent)


def _words(answer: Any) -> str:
    """The server's own words, in short."""
    try:
        meta = answer.json()["meta"]
        return f"{meta.get('result_msg')} (subcode {meta.get('result_subcode')})"[:500]
    except (ValueError, KeyError, TypeError):
        return str(answer.text)[:500]
