"""The SDK's storage drivers, without its retries: the pipeline has its own backoff."""

from __future__ import annotations

import io
import re
import sys
import time
from typing import Any

from tracelet.errors import SinkUnavailableError

# A file server or a proxy in front of it that says this means the file, and will say it again.
_VERDICTS = (400, 411, 413, 414, 415, 422)
# The SDK has the status in its message only: "Failed uploading object NAME to URL (413): WORDS", in
# old versions without the URL.
_STATUS = re.compile(r"^Failed uploading object .* \((\d{3})\):")

_FIRST_PROGRESS_S = 2.0
_PROGRESS_INTERVAL_S = 5.0


def open_storage(destination: str) -> Any:
    """A StorageHelper for a destination: a URL of any kind that the SDK knows, or a folder's.

    Its `upload_from_stream(..., retries=1)` raises what the driver raises, after one attempt.
    """
    from clearml.storage.helper import StorageHelper

    # One retry of a connection is the least it takes (0 means 15, and their pauses sum up to
    # minutes). Not the cached helper of this thread's id, which may be another thread's of old.
    options = {"retries": 1, "__force_create": True}
    storage = StorageHelper.get(destination, **options)
    if storage is None:
        raise SinkUnavailableError(f"ClearML's SDK can't store files at {destination}")
    return storage


def is_verdict(error: Exception) -> bool:
    """Whether an upload failed for good, because of the file."""
    status = _STATUS.match(str(error))
    return status is not None and int(status.group(1)) in _VERDICTS


class ProgressFile(io.FileIO):
    """A file that tells on stderr how far it is read, when that takes a while."""

    def __init__(self, path: str, name: str, size_bytes: int) -> None:
        super().__init__(path, "rb")
        self._what = name
        self._size_bytes = size_bytes
        self._start_s = time.monotonic()
        self._next_s = self._start_s + _FIRST_PROGRESS_S

    def read(self, size: Any = -1) -> bytes:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _PROGRESS_INTERVAL_S
            done_bytes = self.tell()
            rate = done_bytes / (now_s - self._start_s) / 1e6
            print(
                f"tracelet: uploading {self._what}: {done_bytes / 1e6:.0f} of "
                f"{self._size_bytes / 1e6:.0f} MB ({rate:.1f} MB/s)",
                file=sys.stderr,
                flush=True,
            )
        return super().read(size) or b""
