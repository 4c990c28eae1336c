"""Parameters and tags of a run that goes on, and what it runs in: in its folder, where they are
found when it dies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tracelet.runs.history import DAMAGE, bounded_environment, checked_params, checked_tags
from tracelet.runs.manifest import decoded, encoded
from tracelet.runs.ownership import read_own
from tracelet.runs.whole_file import write_whole

NOTES = "notes.json"
ENVIRONMENT = "environment.json"
_MOST_BYTES = 4 << 20


def keep_notes(run_path: str, params: Mapping[str, Any], tags: Sequence[str]) -> None:
    """Writes them in the place of those that are there. Raises OSError.

    Not synced here: a call of the user's waits for no disk, and `SmallFiles` has it reach the disk
    soon. A file that a loss of power has left half written is not believed, by its checksum.
    """
    data = encoded({"params": dict(params), "tags": list(tags)})
    if len(data) <= _MOST_BYTES:
        write_whole(os.path.join(run_path, NOTES), data, is_synced=False)


def keep_environment(run_path: str, environment: Mapping[str, Any]) -> None:
    """As `keep_notes`, in a file of its own: it does not change with each parameter."""
    data = encoded({"environment": bounded_environment(environment)})
    write_whole(os.path.join(run_path, ENVIRONMENT), data, is_synced=False)


def kept_environment(run_path: str) -> Mapping[str, Any]:
    """Empty where there is none, or it can't be read."""
    try:
        content = decoded(read_own(os.path.join(run_path, ENVIRONMENT), _MOST_BYTES))
        return checked_params(content["environment"])
    except DAMAGE:
        return {}


def kept_notes(run_path: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Parameters and tags; none where there are none, or they can't be read."""
    try:
        content = decoded(read_own(os.path.join(run_path, NOTES), _MOST_BYTES))
        return checked_params(content["params"]), checked_tags(content["tags"])
    except DAMAGE:
        return {}, ()
