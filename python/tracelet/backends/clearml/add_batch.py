"""The request events.add_batch, as both online sinks send it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

from tracelet.errors import SinkUnavailableError

# Answers that may be a verdict on the data.
_VERDICTS = (400, 500)
_MOST_ANSWER_BYTES = 1 << 20
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


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


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
        # Each answer could leave more of them, until the server refuses requests of that length.
        self._http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
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
            if answer is not None and answer.status == UNAUTHORIZED:
                self._session.refresh_token()
                answer = self._send(body)
        except Exception as error:
            # Connection refused or lost, no such host, time-outs, half an answer, no new token.
            raise SinkUnavailableError(f"ClearML can't be reached: {error}") from error
        if answer is None:
            raise SinkUnavailableError("ClearML's session is offline")
        if answer.status == 200:
            return _taken(answer, body)
        words = _words(answer)
        if answer.status in (*_VERDICTS, TOO_LARGE):
            raise RefusedError(answer.status, words)
        if 300 <= answer.status < 400:  # followed, a POST would become a GET without the points
            words = f"it redirects to {str(answer.headers.get('Location'))[:200]}; {words}"
        raise SinkUnavailableError(
            f"ClearML answered {answer.status}: {words}", _retry_after_s(answer)
        )

    def _send(self, body: bytes) -> _Answer | None:
        session = self._session
        if session._offline_mode:
            return None
        headers = {"Content-Type": "application/json-lines"}
        headers.update(dict.fromkeys(session._WORKER_HEADER, session.worker))
        headers.update(dict.fromkeys(session._CLIENT_HEADER, session.client))
        headers["Accept-Encoding"] = "identity"
        deadline_s = time.monotonic() + sum(TIMEOUT_S)
        answer = self._http.request(
            self._request._method,
            f"{session.host}/v{self._request._version}/events.add_batch",
            headers=session.add_auth_headers(headers),
            data=body,
            timeout=TIMEOUT_S,
            allow_redirects=False,
            stream=True,
        )
        with answer:
            return _Answer(answer.status_code, answer.headers, _read(answer, deadline_s))


def _read(answer: Any, deadline_s: float) -> bytes:
    """The body: an answer without an end would fill the memory, or hold the lane for ever."""
    content = bytearray()
    for piece in answer.iter_content(1 << 16):
        content += piece
        if len(content) > _MOST_ANSWER_BYTES or time.monotonic() > deadline_s:
            raise SinkUnavailableError(f"its answer has no end ({len(content):,} bytes so far)")
    return bytes(content)


def _taken(answer: _Answer, body: bytes) -> int:
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


def _words(answer: _Answer) -> str:
    """The server's own words, in short."""
    try:
        meta = json.loads(answer.body)["meta"]
        return f"{meta.get('result_msg')} (subcode {meta.get('result_subcode')})"[:500]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return answer.body[:500].decode(errors="replace")


def _retry_after_s(answer: _Answer) -> float:
    """The header Retry-After in seconds; 0 without one, or with a date."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0
