"""The request events.add_batch, as both online sinks send it."""

from __future__ import annotations

import logging
from typing import Any

from tracelet.errors import SinkUnavailableError

_log = logging.getLogger("tracelet")

# Answers that may be a verdict on the data.
_VERDICTS = (400, 500)
TOO_LARGE = 413
UNAUTHORIZED = 401
TIMEOUT_S = (10.0, 120.0)
"""For a connection, and for the next bytes of an answer once the request is sent. A server that
takes a minute for each answer is slow, not away; a batch that is sent twice does no harm."""
REFUSED = "refused by clearml"
"""The reason under which points are set aside that the server would not take."""


class RefusedError(Exception):
    """The server read the request and did not take it."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status


class AddBatch:
    """The request events.add_batch: host, credentials and token are the SDK's, the waits are ours.

    The SDK's own request sleeps and retries inside the call, for minutes, and for ever after an
    answer that breaks off; the pipeline has its own backoff and deadline. Here a request is sent
    once, twice when the token was no longer good.
    """

    def __init__(self) -> None:
        self._session: Any = None

    def _connect(self) -> None:
        """With the first request, on its thread: the SDK's session logs in when it is made."""
        import requests
        from clearml.backend_api import Session
        from clearml.backend_api.services import events

        session = Session(http_retries_config={"total": 0})
        # For what the SDK itself sends by this session: the renewal of the token.
        session._session_timeout = session._session_initial_timeout = TIMEOUT_S
        self._request = events.AddBatchRequest
        self._http = requests.Session()
        sdks = getattr(session, "_Session__http_session", None)
        self._http.verify = getattr(sdks, "verify", True)
        self._session = session

    def __call__(self, body: bytes) -> int:
        """Sends lines of events; returns how many the server took.

        Raises RefusedError for an answer that may be a verdict on the data, SinkUnavailableError
        for any other failure.
        """
        try:
            if self._session is None:
                self._connect()
            answer = self._send(body)
            if answer is not None and answer.status_code == UNAUTHORIZED:
                self._session.refresh_token()
                answer = self._send(body)
        except Exception as error:
            # Connection refused or lost, no such host, time-outs, half an answer, no new token.
            raise SinkUnavailableError(f"ClearML can't be reached: {error}") from error
        if answer is None:
            raise SinkUnavailableError("ClearML's session is offline")
        if answer.status_code == 200:
            return self._taken(answer, body)
        words = _words(answer)
        if answer.status_code in (*_VERDICTS, TOO_LARGE):
            raise RefusedError(answer.status_code, words)
        raise SinkUnavailableError(
            f"ClearML answered {answer.status_code}: {words}", _retry_after_s(answer)
        )

    def _send(self, body: bytes) -> Any:
        session = self._session
        if session._offline_mode:
            return None
        headers = {"Content-Type": "application/json-lines"}
        headers.update(dict.fromkeys(session._WORKER_HEADER, session.worker))
        headers.update(dict.fromkeys(session._CLIENT_HEADER, session.client))
        return self._http.request(
            self._request._method,
            f"{session.host}/v{self._request._version}/events.add_batch",
            headers=session.add_auth_headers(headers),
            data=body,
            timeout=TIMEOUT_S,
        )

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


def _retry_after_s(answer: Any) -> float:
    """The header Retry-After in seconds; 0 without one, or with a date."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0
