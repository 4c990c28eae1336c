"""The file server: takes multipart uploads and gives the files back. Kept in memory."""

from __future__ import annotations

import json
import re
from email.message import Message
from urllib.parse import unquote, urlsplit

from .faults import FaultMode, FaultPlan
from .http_server import Reply, Request

_TAKES_EFFECT = (FaultMode.SLOW, FaultMode.CLOSE_AFTER, FaultMode.HALF_ANSWER)
_FIELD_NAME = re.compile(rb'\bname="((?:[^"\\]|\\.)*)"')


class FileStore:
    """The files by path. As on ClearML's own server the name of a form field is the path.

    Uploads go wrong as `faults` says; there the "endpoint" is a file's own name, without folders.
    """

    def __init__(self, faults: FaultPlan) -> None:
        self.files: dict[str, bytes] = {}
        self.upload_count = 0
        self._faults = faults

    def respond(self, request: Request) -> Reply:
        path = unquote(urlsplit(request.path).path).lstrip("/")
        if request.method == "POST":
            return self._upload(_parse_multipart(request.headers, request.body))
        if request.method == "DELETE":
            found = self.files.pop(path, None) is not None
            return Reply(200, json.dumps(path).encode()) if found else _missing(path)
        if not path:
            return Reply(200, b"OK", "text/html")
        content = self.files.get(path)
        if content is None:
            return _missing(path)
        return Reply(200, content, "application/octet-stream")

    def _upload(self, uploaded: dict[str, bytes]) -> Reply:
        self.upload_count += 1
        names = [path.rpartition("/")[2] for path in uploaded]
        fault = self._faults.choose(names[0]) if names else None
        reply = Reply(200, json.dumps(list(uploaded)).encode(), "text/html")
        if fault is None or fault.mode in _TAKES_EFFECT:
            self.files.update(uploaded)
        if fault is not None:
            if fault.mode.value.isdigit():
                reply = Reply(int(fault.mode.value), b"Injected fault", "text/html")
            elif fault.mode is FaultMode.SLOW:
                reply.delay = fault.delay
            else:
                reply.cut = "half" if fault.mode is FaultMode.HALF_ANSWER else "all"
        return reply


def _missing(path: str) -> Reply:
    return Reply(404, f"File {path} not found".encode(), "text/html")


def _parse_multipart(headers: Message, body: bytes) -> dict[str, bytes]:
    boundary = headers.get_param("boundary")
    if headers.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        return {}
    delimiter = b"\r\n--" + boundary.encode()
    files = {}
    # The first delimiter opens the body, without the line end that goes with the others.
    for part in (b"\r\n" + body).split(delimiter)[1:]:
        head, separator, content = part.partition(b"\r\n\r\n")
        name = _FIELD_NAME.search(head)
        if separator and name:
            files[unquote(name.group(1).decode()).lstrip("/")] = content
    return files
