"""Events that torch or tensorboardX built as protobufs, on their way into the ring."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable
from typing import Any

from tracelet import _core
from tracelet.backends.handle_folder import HandleFolder
from tracelet.runs.private_file import private

_log = logging.getLogger("tracelet")


class EventCapture:
    """Pushes events for one run. Thread-safe.

    An event that holds one scalar or one histogram becomes such a record. One that is larger than
    `largest_bytes` is written to a file in `folder` first: the payload arena is not for those.
    """

    def __init__(
        self,
        folder: str,
        largest_bytes: int,
        make_event_file: Callable[[str, str], str],
        handle: HandleFolder | None = None,
    ) -> None:
        self.make_event_file = make_event_file
        """Makes the file of a new writer: (log folder, file name's suffix) to its path, or "" where
        the run has none. Raises OSError."""
        self.handle = handle
        """Is told of the writers that log to the run."""
        self._folder = folder
        self._largest_bytes = largest_bytes
        self._numbers = itertools.count()
        # Another process may have had this one's pid, before an exec or long ago.
        self._token = os.urandom(4).hex()
        self._has_warned = False

    def push(self, writer: str, event: Any) -> bool:
        """False when no run is active. `writer` is a `writer_key`."""
        values = event.summary.value
        if len(values) == 1 and not values[0].HasField("metadata") and not values[0].node_name:
            kind = values[0].WhichOneof("value")
            if kind == "simple_value":
                return _core.push_scalar(
                    writer, values[0].tag, values[0].simple_value, event.step, event.wall_time
                )
            if kind == "histo" and self._is_histogram(event, values[0].histo):
                return _push_histogram(writer, event, values[0].tag, values[0].histo)
        tag = values[0].tag if values else ""
        payload = event.SerializeToString()
        if len(payload) <= self._largest_bytes:
            pushed = _core.push_event(writer, tag, payload, event.step, event.wall_time, False)
            return pushed is not None
        return self._push_large(writer, tag, payload, event)

    def push_into(self, ring: _core.Ring, writer: str, event: Any) -> None:
        """Pushes an event as it is, into the ring of a run that need not be the active one."""
        values = event.summary.value
        tag = values[0].tag if values else ""
        payload = event.SerializeToString()

        def push(content: bytes, is_path: bool) -> bool:
            return _core.push_event_into(
                ring, writer, tag, content, event.step, event.wall_time, is_path
            )

        if len(payload) <= self._largest_bytes:
            push(payload, False)
        elif (path := self._keep(payload)) is None:
            ring.count_event_without_room()
        elif not push(os.fsencode(path), True):
            _remove(path)

    def _is_histogram(self, event: Any, histo: Any) -> bool:
        """Whether a record can hold it: a protobuf may have more limits than counts, say."""
        is_even = len(histo.bucket_limit) == len(histo.bucket)
        return is_even and event.ByteSize() <= self._largest_bytes

    def _push_large(self, writer: str, tag: str, payload: bytes, event: Any) -> bool:
        path = self._keep(payload)
        if path is None:
            return _core.count_event_without_room()
        pushed = _core.push_event(writer, tag, os.fsencode(path), event.step, event.wall_time, True)
        if not pushed:
            _remove(path)
        return pushed is not None

    def _keep(self, payload: bytes) -> str | None:
        """The path of a new file that holds it; None, with a warning, when there is no room."""
        name = f"event-{os.getpid()}-{self._token}-{next(self._numbers)}.pb"
        path = os.path.join(self._folder, name)
        try:
            self._write(path, payload)
        except OSError as error:
            self._warn(len(payload), error)
            return None
        return path

    def _write(self, path: str, payload: bytes) -> None:
        # Not the folders above it: a run that has ended is not to have a folder again.
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, mode=0o700)
        try:
            with open(path, "xb", opener=private) as file:
                file.write(payload)
        except FileExistsError:
            raise  # not this one's
        except OSError:
            _remove(path)  # the part that found room
            raise

    def _warn(self, payload_bytes: int, error: OSError) -> None:
        if not self._has_warned:
            _log.warning(
                "tracelet: an event of %d bytes can't be kept for the sinks (%s) and is dropped; "
                "stats counts it, and further ones without a line. TRACELET_DIR chooses another "
                "place for a run's files.", payload_bytes, error,
            )  # fmt: skip
        self._has_warned = True


def _push_histogram(writer: str, event: Any, tag: str, histo: Any) -> bool:
    return _core.push_histogram(
        writer, tag, histo.min, histo.max, histo.num, histo.sum, histo.sum_squares,
        list(histo.bucket_limit), list(histo.bucket), event.step, event.wall_time,
    )  # fmt: skip


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
