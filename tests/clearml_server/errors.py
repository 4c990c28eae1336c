"""The exceptions of the server: an answer that isn't 200, and no answer at all."""

from __future__ import annotations


class ApiError(Exception):
    """Answered as `status` with the envelope's `subcode` and message.

    Codes are those of the API server's ``apierrors/errors.conf``.
    """

    def __init__(self, status: int, subcode: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.subcode = subcode
        self.message = message


class ServerCrashError(Exception):
    """The real server's process would die on this request: its connection is cut."""


def invalid(message: str) -> ApiError:
    return ApiError(400, 12, f"Validation error ({message})")


def unknown_id(kind: str, identifier: object) -> ApiError:
    subcode = {"task": 101, "model": 201, "project": 401}[kind]
    return ApiError(400, subcode, f"Invalid {kind} id: id={identifier}")


def index_failure(count: int) -> ApiError:
    """What the server makes of a BulkIndexError; it doesn't say which documents failed."""
    return ApiError(500, 100, f"General data error: err={count} document(s) failed to index.")
