"""HTTP on loopback: requests in, replies out, connections that can be cut. Knows no ClearML."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    method: str
    path: str
    """With its query, still quoted."""
    headers: Message
    body: bytes


@dataclass
class Reply:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds to wait before sending."""
    cut: str = ""
    """"all": close the connection instead of sending; "half": after half of the body."""


Respond = Callable[[Request], Reply]


class LoopbackServer:
    """Serves `respond` on 127.0.0.1, a thread per connection.

    The port is picked at the first start and kept, so that a stopped server can come back.
    """

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._port = 0
        self._http: _HTTPServer | None = None
        self.errors: list[BaseException] = []
        """What failed inside the server itself: a test that finds something here found a bug."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        if self._http is None:
            self._http = _HTTPServer(self._port, self._respond, self.errors)
            self._port = self._http.server_address[1]
            self._http.start()

    def stop(self) -> None:
        """Stops listening and cuts the open connections."""
        if self._http is not None:
            self._http.stop()
            self._http = None


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, respond: Respond, errors: list[BaseException]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond
        self.errors = errors
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="clearml-test-server", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in list(self._connections):
            _hang_up(connection)

    def process_request(self, request, client_address):  # type: ignore[no-untyped-def]
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):  # type: ignore[no-untyped-def]
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_bind(self) -> None:
        # HTTPServer asks the resolver for the machine's name here, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HTTPServer

    def _serve(self) -> None:
        try:
            body = self._read_body()
            if body is None:
                self.close_connection = True
                return
            self._send(self.server.respond(Request(self.command, self.path, self.headers, body)))
        except OSError:
            self.close_connection = True
        except BaseException as error:
            self.server.errors.append(error)
            raise

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve  # noqa: N815

    def _read_body(self) -> bytes | None:
        """The whole body; None when the client went away before it was complete."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks()
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def _read_chunks(self) -> bytes | None:
        chunks = []
        while True:
            line = self.rfile.readline()
            if not line.endswith(b"\n"):
                return None
            size = int(line.split(b";")[0], 16)
            chunk = self.rfile.read(size)
            if len(chunk) < size:
                return None
            chunks.append(chunk)
            self.rfile.readline()
            if size == 0:
                return b"".join(chunks)

    def _send(self, reply: Reply) -> None:
        if reply.delay and self.server.stopping.wait(reply.delay):
            reply.cut = "all"
        body = reply.body
        headers = {
            "Content-Type": reply.content_type,
            "Content-Length": str(len(body)),
            "Server": "clearml",
            **reply.headers,
        }
        status = f"HTTP/1.1 {reply.status} {_reason(reply.status)}"
        head = "\r\n".join([status, *(f"{key}: {value}" for key, value in headers.items()), "", ""])
        if self.command == "HEAD":
            body = b""
        if reply.cut == "half":
            body = body[: len(body) // 2]
        if reply.cut != "all":
            # In one piece: two writes would wait for each other (Nagle and the delayed
            # acknowledgement), 40 ms a request.
            self.wfile.write(head.encode("latin-1") + body)
        if reply.cut:
            self.close_connection = True
            _hang_up(self.connection)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _hang_up(connection: socket.socket) -> None:
    # It may be closed already, which is all that is wanted.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
