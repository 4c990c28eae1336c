"""The line that a run says at its start, where it goes, and the one at its end, what arrived.

On stderr, plain, and not by `logging`, whose INFO nobody sees. A line that can't be written is
left out: it costs no run anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from tracelet.backends import Backend
from tracelet.option_kinds import describe_text
from tracelet.options import Options
from tracelet.ranks.job import rank_here
from tracelet.redact import without_user
from tracelet.stats import Stats

_log = logging.getLogger("tracelet")

_MOST_REASONS = 3
_STDERR = 2


@dataclass
class RunLines:
    """Of one run: says nothing where the option `quiet` is set, nor on a rank that does not lead,
    nor twice."""

    options: Options
    run_id: str
    _start_s: float = field(default_factory=time.monotonic)
    _has_begun: bool = False

    def begin(self, backends: Sequence[Backend]) -> None:
        """Says where the run goes."""
        if self.options.quiet:
            return
        self._has_begun = rank_here() == 0
        if self._has_begun:
            places = ", ".join(_with_place(each.name, _place(each, False)) for each in backends)
            project = describe_text(self.options.project)
            say(f"tracelet: run {self._name} of project {project} goes to {places}")

    def places_of(self, backends: Sequence[Backend]) -> Mapping[str, tuple[str, Sequence[str]]]:
        """By backend: where the run is to be seen there, and its sinks; before they are closed."""
        if not self._has_begun:
            return {}
        return {
            each.name: (_place(each, True), [sink.name for sink in each.sinks]) for each in backends
        }

    def end(self, places: Mapping[str, tuple[str, Sequence[str]]], stats: Stats) -> None:
        """Says what arrived."""
        if not self._has_begun:
            return
        self._has_begun = False
        seconds = time.monotonic() - self._start_s
        said = [
            _with_place(f"{_count(points, 'point')} to {name}", place)
            for name, (place, sinks) in places.items()
            if (points := sum(stats.delivered.get(sink, 0) for sink in sinks))
            or name in self.options.backend
        ]
        if stats.system_points:
            said.append(f"{stats.system_points:,} of them are system metrics")
        if name_count := stats.artifacts.get("uploaded", 0):
            said.append(f"{_count(name_count, 'artifact')} uploaded")
        rest = _rest(stats, self.run_id)
        say(f"tracelet: run {self._name} has ended after {seconds:.1f} s: {', '.join(said)}{rest}")

    @property
    def _name(self) -> str:
        return describe_text(self.options.task_name or self.options.exp_name)


def _place(backend: Backend, has_ended: bool) -> str:
    try:
        return without_user(backend.place(has_ended))
    except Exception as error:  # of a user's own backend: the run is not to end for a word
        _log.debug("tracelet: where %r is can't be told: %r", backend.name, error)
        return ""


def _with_place(what: str, place: str) -> str:
    return f"{what} ({place})" if place else what


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s'[: number != 1]}"


def _rest(stats: Stats, run_id: str) -> str:
    """What did not arrive, and what sends it."""
    said = ""
    dropped = sorted(stats.dropped.items(), key=lambda each: -each[1])
    if dropped:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in dropped[:_MOST_REASONS])
        said += f"; {_count(sum(stats.dropped.values()), 'point')} dropped ({reasons})"
    if stats.not_taken:
        said += f"; {_count(sum(stats.not_taken.values()), 'call')} not taken (stats.not_taken)"
    kept = [_count(stats.pending, "point")] if stats.pending else []
    kept += [_count(stats.unsent_calls, "call")] if stats.unsent_calls else []
    if kept:
        said += f"; {' and '.join(kept)} kept, to send them: tracelet sync {run_id}"
    return said


def say(line: str) -> None:
    """Writes a line to stderr, as far as that can be done now and without waiting.

    Past the stream's buffer where what stands behind it is the process' own stderr: what it can't
    write now would stay there, and the failing flush at the end of the process would change its
    exit code. A signal may have interrupted somebody who holds the buffer's lock, too. An SDK's own
    object in the place of `sys.stderr`, as ClearML sets one, changes nothing of that: its `write`
    ends in the same pipe. No stream is written to whose descriptor is not ready.
    """
    stream = sys.stderr
    with contextlib.suppress(Exception):
        if stream is None:
            return
        fd = _descriptor(stream)
        if fd is not None and not _is_ready(fd):
            return
        if fd == _STDERR:
            encoding = getattr(stream, "encoding", None) or "utf-8"
            os.write(fd, f"{line}\n".encode(encoding, "backslashreplace"))
        else:
            stream.write(f"{line}\n")
            stream.flush()


def _descriptor(stream: IO[str]) -> int | None:
    """None: it has none, as one in memory."""
    try:
        return stream.fileno()
    except (AttributeError, OSError):
        return None


def _is_ready(fd: int) -> bool:
    """Whether a line can be written: into a pipe that is full it would wait for ever."""
    if not hasattr(select, "poll"):
        return True
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    return bool(ready.poll(0))
