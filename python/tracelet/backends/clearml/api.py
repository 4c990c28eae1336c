"""Requests to ClearML's API server: host, credentials and token are the SDK's, the waits are ours.

The SDK's own request sleeps and retries inside the call, for minutes, and for ever after an answer
that breaks off; the pipeline has its own backoff and deadline. Here a request is sent once, twice
when the token was no longer good.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NoReturn

from tracelet.backends.clearml.start import in_time
from tracelet.errors import SinkUnavailableError

# Answers that may be a verdict on the data.
_VERDICTS = (400, 500)
_MOST_ANSWER_BYTES = 1 << 20
TOO_LARGE = 413
_UNAUTHORIZED = 401
TIMEOUT_S = (10.0, 120.0)
"""For a connection, and for the next bytes of an answer once the request is sent. A server that
takes a minute for each answer is slow, not away; a batch that is sent twice does no harm."""

_JSON = "application/json"


class RefusedError(Exception):
    """The server read the request and did not take it."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Api:
    """One connection to the server. One thread at a time."""

    def __init__(
        self,
        timeout_s: tuple[float, float] | None = None,
        most_answer_bytes: int = _MOST_ANSWER_BYTES,
    ) -> None:
        self._timeout_s = timeout_s
        self._most_answer_bytes = most_answer_bytes
        self._session: Any = None

    def call(self, service: str, request: str, **body: Any) -> Any:
        """The data of the answer to a request of the SDK's services: its class' name there.

        Raises RefusedError for an answer that may be a verdict on what was sent,
        SinkUnavailableError for any other failure.
        """
        answer = self.send(service, request, json.dumps(body).encode(), _JSON)
        try:
            return json.loads(answer.body)["data"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SinkUnavailableError(f"ClearML's answer can't be read: {error!r}") from error

    def send(self, service: str, request: str, body: bytes, content_type: str) -> Answer:
        """The answer 200 to a request. Raises as `call`."""
        timeout_s = self._timeout_s or TIMEOUT_S
        try:
            if self._session is None:
                self.connect()
            if self._session._offline_mode:
                raise SinkUnavailableError("ClearML's session is offline")
            # Not before there is a session: which version it is depends on the server's.
            made = getattr(getattr(self._services, service), request)
            answer = self._send(made, body, content_type, timeout_s)
            if answer.status == _UNAUTHORIZED:
                in_time(self._session.refresh_token, sum(timeout_s))
                answer = self._send(made, body, content_type, timeout_s)
        except SinkUnavailableError:
            raise
        except Exception as error:
            # Connection refused or lost, no such host, time-outs, half an answer, no new token.
            why = "no answer" if isinstance(error, TimeoutError) else error
            raise SinkUnavailableError(f"ClearML can't be reached: {why}") from error
        if answer.status != 200:
            _raise(answer)
        return answer

    def connect(self) -> None:
        """Logs in; with the first request, else, on its thread: the SDK's session does it when it
        is made. Raises what that raises, or TimeoutError."""
        in_time(self._connect, sum(self._timeout_s or TIMEOUT_S))

    def _connect(self) -> None:
        import requests
        from clearml.backend_api import Session, services

        self._services = services
        session = Session(http_retries_config={"total": 0})
        # For what the SDK itself sends by this session: the renewal of the token.
        session._session_timeout = session._session_initial_timeout = self._timeout_s or TIMEOUT_S
        self._http = requests.Session()
        sdks = getattr(session, "_Session__http_session", None)
        # Each answer could leave more of them, until the server refuses requests of that length.
        self._http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._http.verify = getattr(sdks, "verify", True)
        self._session = session

    def _send(
        self, request: Any, body: bytes, content_type: str, timeout_s: tuple[float, float]
    ) -> Answer:
        session = self._session
        headers = {"Content-Type": content_type}
        headers.update(dict.fromkeys(session._WORKER_HEADER, session.worker))
        headers.update(dict.fromkeys(session._CLIENT_HEADER, session.client))
        headers["Accept-Encoding"] = "identity"
        deadline_s = time.monotonic() + sum(timeout_s)
        answer = self._http.request(
            request._method,
            f"{session.host}/v{request._version}/{request._service}.{request._action}",
            headers=session.add_auth_headers(headers),
            data=body,
            timeout=timeout_s,
            allow_redirects=False,
            stream=True,
        )
        with answer:
            content = self._read(answer, deadline_s)
            return Answer(answer.status_code, answer.headers, content)

    def _read(self, answer: Any, deadline_s: float) -> bytes:
        """The body: an answer without an end would fill the memory, or hold the lane for ever."""
        content = bytearray()
        for piece in answer.iter_content(1 << 16):
            content += piece
            if len(content) > self._most_answer_bytes or time.monotonic() > deadline_s:
                raise SinkUnavailableError(f"its answer has no end ({len(content):,} bytes so far)")
        return bytes(content)


def _raise(answer: Answer) -> NoReturn:
    words = _words(answer)
    if answer.status in (*_VERDICTS, TOO_LARGE):
        raise RefusedError(answer.status, words)
    if 300 <= answer.status < 400:  # followed, a POST would become a GET without what is sent
        words = f"it redirects to {str(answer.headers.get('Location'))[:200]}; {words}"
    raise SinkUnavailableError(f"ClearML answered {answer.status}: {words}", _retry_after_s(answer))


def _words(answer: Answer) -> str:
    """The server's own words, in short."""
    try:
        meta = json.loads(answer.body)["meta"]
        return f"{meta.get('result_msg')} (subcode {meta.get('result_subcode')})"[:500]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return answer.body[:500].decode(errors="replace")


def _retry_after_s(answer: Answer) -> float:
    """The header Retry-After in seconds; 0 without one, or with a date."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0
