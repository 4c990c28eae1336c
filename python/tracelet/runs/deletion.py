"""The one place where a run is deleted, and what must be shown before it is.

Nothing of a run is deleted before every sink has said that it has all of it: the reason is an
argument, and `delete_run` looks at it again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from tracelet.errors import TraceletError

REMOVED_PREFIX = ".removed-"
"""Begins the name of a folder that is being deleted: it is no run any more."""


@dataclass(frozen=True)
class SinkEnd:
    """How far a sink has come with a run's records."""

    name: str
    position: int
    failed: int = 0
    """Points before `position` that it lacks for reasons of its own: a folder that can't be
    written, a file that is not there."""
    missing: int = 0
    """Records before `position` that nobody could give it: damaged, or not where they should be."""


@dataclass(frozen=True)
class Delivered:
    """Every sink has what was logged, or refused it by its nature (a name, a NaN)."""

    end: int
    """The position after the last point."""
    sinks: Sequence[SinkEnd]
    doubts: Sequence[str] = ()
    """What else speaks against it, in words: a ring that was not found."""

    def objections(self) -> list[str]:
        """Why it does not hold; empty when it does."""
        found = list(self.doubts)
        for sink in self.sinks:
            if sink.position < self.end:
                found.append(f"{sink.name} lacks {self.end - sink.position:,} records")
            if sink.failed:
                found.append(f"{sink.name} could not take {sink.failed:,} points")
            if sink.missing:
                found.append(f"{sink.missing:,} records for {sink.name} are lost to damage")
        return found


@dataclass(frozen=True)
class NothingLogged:
    """It ended before a call could log: no point was accepted."""

    accepted: int

    def objections(self) -> list[str]:
        return [f"{self.accepted:,} points were logged"] if self.accepted else []


@dataclass(frozen=True)
class UsersWish:
    """The user named this run, or what is left of one, and said that it may go."""

    def objections(self) -> list[str]:
        return []


Reason = Union[Delivered, NothingLogged, UsersWish]


class NotDeliveredError(TraceletError):
    """A run was to be deleted that somebody still needs."""


def delete_run(folder: str, ring_path: str | None, reason: Reason) -> None:
    """Deletes all there is of a run, its ring's file included.

    One that is killed here leaves a folder of another name (`REMOVED_PREFIX`), which is no run, or
    a run of which all is sent. Raises NotDeliveredError when the reason does not hold, OSError when
    it can't be done now; the run is as it was then.
    """
    if objections := reason.objections():
        raise NotDeliveredError(f"{folder} is kept: {'; '.join(objections)}")
    parent, name = os.path.split(os.path.abspath(folder))
    doomed = os.path.join(parent, f"{REMOVED_PREFIX}{name}")
    # At once, or not at all, so that no half of a run is ever taken for a whole one: its ring gone,
    # and the folder there, was a run whose points could not be found.
    if os.path.isdir(folder) and os.path.isdir(doomed):  # of an import that was made again
        shutil.rmtree(doomed, ignore_errors=True)
    try:
        os.rename(folder, doomed)
        folder = doomed
    except FileNotFoundError:
        folder = doomed  # removed by somebody, or half removed by a stop that was interrupted here
    except OSError:
        if os.name != "nt":  # which renames no folder in which a file is open
            raise
    if ring_path is not None:
        with contextlib.suppress(OSError):
            os.unlink(ring_path)
    shutil.rmtree(folder, ignore_errors=True)
