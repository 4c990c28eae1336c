"""The file server: takes multipart uploads and gives the files back. Kept in memory."""

from __future__ import annotations

import json
import re
from email.message import Message
from urllib.parse import unquote, urlsplit

from .http_server import Reply, Request

_FIELD_NAME = re.compile(rb'\bname="((?:[^"\\]|\\.)*)"')


class FileStore:
    """The files by path. As on ClearML's own server the name of a form field is the path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def respond(self, request: Request) -> Reply:
        path = unquote(urlsplit(request.path).path).lstrip("/")
        if request.method == "POST":
            uploaded = _parse_multipart(request.headers, request.body)
            self.files.update(uploaded)
            return Reply(200, json.dumps(list(uploaded)).encode(), "text/html")
        if request.method == "DELETE":
            found = self.files.pop(path, None) is not None
            return Reply(200, json.dumps(path).encode()) if found else _missing(path)
        if not path:
            return Reply(200, b"OK", "text/html")
        content = self.files.get(path)
        if content is None:
            return _missing(path)
        return Reply(200, content, "application/octet-stream")


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
