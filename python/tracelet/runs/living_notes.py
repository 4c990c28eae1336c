"""Parameters and tags of a run that goes on, in its folder, where they are found when it dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tracelet.runs.history import DAMAGE, checked_params, checked_tags
from tracelet.runs.manifest import decoded, encoded
from tracelet.runs.ownership import read_own

NOTES = "notes.json"
_MOST_BYTES = 4 << 20


def keep_notes(run_path: str, params: Mapping[str, Any], tags: Sequence[str]) -> None:
    """Writes them in the place of those that are there. Raises OSError.

    Not synced: a call of the user's waits for no disk. A file that a loss of power has left half
    written is not believed, by its checksum.
    """
    path = os.path.join(run_path, NOTES)
    data = encoded({"params": dict(params), "tags": list(tags)})
    if len(data) > _MOST_BYTES:
        return
    new_path = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new_path)
    fd = os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with open(fd, "wb") as file:
        file.write(data)
    os.replace(new_path, path)


def kept_notes(run_path: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Parameters and tags; none where there are none, or they can't be read."""
    try:
        content = decoded(read_own(os.path.join(run_path, NOTES), _MOST_BYTES))
        return checked_params(content["params"]), checked_tags(content["tags"])
    except DAMAGE:
        return {}, ()
