"""What `events.add_batch` makes of what a server, or a proxy, says: a 200 proves nothing."""

from __future__ import annotations

import json
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("clearml")

from tracelet.backends.clearml import api as module
from tracelet.backends.clearml.add_batch import AddBatch, RefusedError
from tracelet.errors import SinkUnavailableError

LINES = b'{"a": 1}\n{"a": 2}\n{"a": 3}'


@pytest.fixture
def server():
    """Answers by `answer(handler)`; `seen` has the method, path and headers of each request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):  # with a body, as the SDK calls it
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            made.seen.append((self.command, self.path, dict(self.headers)))
            made.answer(self)

        do_POST = do_GET  # noqa: N815

        def say(self, status, content, **headers):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.seen = []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def post(server, monkeypatch):
    """An AddBatch that is logged in at that server."""
    session = types.SimpleNamespace(
        _offline_mode=False, host=f"http://127.0.0.1:{server.server_port}",
        _WORKER_HEADER=("X-Worker",), _CLIENT_HEADER=("X-Client",), worker="w", client="c",
        add_auth_headers=lambda headers: headers, refresh_token=lambda: None,
    )  # fmt: skip
    monkeypatch.setattr("clearml.backend_api.Session", lambda **_: session)
    return AddBatch()


def test_all_that_was_added_is_taken(server, post):
    server.answer = lambda handler: handler.say(200, {"data": {"added": 3, "errors": 0}})
    assert post(LINES) == 3


@pytest.mark.parametrize(
    "data",
    [{"added": 0}, {"added": 2, "errors": 1}, {"added": 4}, {"added": 3, "errors": -1},
     {"added": "3"}, {"added": 3, "errors": 3}],
)  # fmt: skip
def test_what_was_not_added_is_not_taken(server, post, data):
    server.answer = lambda handler: handler.say(200, {"data": data})
    with pytest.raises(RefusedError):
        post(LINES)


@pytest.mark.parametrize("body", [b"", b"<html>welcome</html>", b"[]", b'{"data": []}', b'{"a":1}'])
def test_an_answer_without_a_number_is_none(server, post, body):
    server.answer = lambda handler: handler.say(200, body)
    with pytest.raises(SinkUnavailableError, match="can't be read"):
        post(LINES)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server, post, status):
    """A 302 turned the POST into a GET: 2,500 points were gone."""

    def answer(handler):
        if len(server.seen) == 1:
            handler.say(status, b"", Location="/elsewhere")
        else:
            handler.say(200, {"data": {"added": 3}})

    server.answer = answer
    with pytest.raises(SinkUnavailableError, match="redirects to /elsewhere"):
        post(LINES)
    assert len(server.seen) == 1


def test_an_answer_without_an_end_is_left(server, post):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            is_cut.set()

    is_cut = threading.Event()
    server.answer = answer
    with pytest.raises(SinkUnavailableError, match="no end"):
        post(LINES)
    assert is_cut.wait(30)


def test_an_answer_that_drips_is_left_at_the_deadline(server, post, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", (0.1, 0.4))

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            while not is_over.wait(0.05):
                handler.wfile.write(b"1\r\n \r\n")
        except OSError:
            pass

    is_over = threading.Event()
    server.answer = answer
    try:
        with pytest.raises(SinkUnavailableError, match="no end"):
            post(LINES)
    finally:
        is_over.set()


def test_cookies_do_not_pile_up(server, post):
    def answer(handler):
        name = f"c{len(server.seen)}"
        handler.say(200, {"data": {"added": 3}}, Set_Cookie=f"{name}={'x' * 3000}")

    server.answer = answer
    for _ in range(5):
        assert post(LINES) == 3
    assert not any("Cookie" in headers for _, _, headers in server.seen)
