"""The parts of a batch's events: what can't be read for good is told from what may pass.

As the event files' writer tells it (cpp/tracelet/event_file.cpp, event_file_set.cpp): a point is in
every backend, or in none.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

from tracelet.backends import parts
from tracelet.backends.base import Batch

_LASTING = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES,
    errno.EPERM, getattr(errno, "ENODATA", errno.ENOENT),
}  # fmt: skip
"""Errors that say something of the file itself: it is gone."""
_MOST_TRIES = 5


class UnreadableError(Exception):
    """An event that can't be read, now or later; it is counted as `UNREADABLE`."""


class PartsReader:
    """Of one sink, by one thread at a time."""

    def __init__(self) -> None:
        self._tries: Counter[int] = Counter()  # by sequence, of those that failed

    def read(self, batch: Batch, record: Any) -> list[parts.Part]:
        """Raises UnreadableError; and what may pass, such as OSError for too many open files: the
        sink lets it through, and the batch comes again. An event is not lost to that."""
        sequence = int(record["sequence"])
        try:
            found = parts.parts_of(_event_of(batch, record))
        except (OSError, MemoryError) as error:
            # A device that always fails at a file must not hold back all that comes after it.
            may_last = isinstance(error, MemoryError) or error.errno == errno.EIO
            self._tries[sequence] += may_last
            if self._tries[sequence] >= _MOST_TRIES:
                raise UnreadableError(str(error) or type(error).__name__) from error
            raise
        except UnreadableError:
            raise
        except Exception as error:  # what is in the event does not change
            raise UnreadableError(repr(error)) from error
        self._tries.pop(sequence, None)
        return found


def _event_of(batch: Batch, record: Any) -> bytes:
    try:
        return batch.event(record)
    except OSError as error:
        if error.errno in _LASTING:
            raise UnreadableError(str(error)) from error
        raise
