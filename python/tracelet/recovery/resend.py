"""Sends what a dead process' run has left, to each sink from its acknowledged position on.

The only part that knows both ends, the files and the sinks; `tracelet sync` is its face. It can be
interrupted at any instruction and called again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from tracelet import _core
from tracelet.backends import Backend, RunInfo, open_backend
from tracelet.errors import JournalError, TraceletError, UnknownBackendError
from tracelet.journal.journal import Journal
from tracelet.journal.names import read_names
from tracelet.options import Options
from tracelet.pipeline.lane import Lane
from tracelet.recovery.rescue import recover_journal
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import ARTIFACTS
from tracelet.runs.run_lock import RunLock
from tracelet.runs.stored_run import StoredRun

_LOCK = "sync.lock"
_SCRATCH_RING = "names.ring"
_LEAST_SLOTS = 16
_LOCAL_BATCH_POINTS = 65_536
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2
_DYING_TIMEOUT_S = 2.0  # a killed process' children may outlive it for a moment

OnProgress = Callable[[str, int, int], None]
"""Told of a sink's name, how many records it has now, of how many."""


@dataclass
class Result:
    """What became of a run's points."""

    delivered: dict[str, int] = field(default_factory=dict)
    """Points by sink, sent now."""
    failures: dict[str, str] = field(default_factory=dict)
    """Sinks that lack points still, with the reason."""
    lost: int = 0
    """Records that damage took: no sink that lacked them gets them."""
    notes: list[str] = field(default_factory=list)


def resend(run: StoredRun, on_progress: OnProgress = lambda *_: None) -> Result:
    """Delivers all it can. Without failures the run's folder is removed, or kept as "finished" when
    a server refused points.

    Raises TraceletError when the run's process is alive, another one sends it, or it can't be read.
    """
    lock = RunLock(os.path.join(run.path, _LOCK))
    if not lock.acquire():
        raise TraceletError(f"{run.run_id} is being sent by another process")
    try:
        _wait_until_dead(run)
        result = _resend(run, on_progress)
    finally:
        lock.release()
    return result


def _wait_until_dead(run: StoredRun) -> None:
    deadline_s = time.monotonic() + _DYING_TIMEOUT_S
    while run.is_alive or run.users_of_ring():
        if time.monotonic() >= deadline_s:
            pid = run.manifest.get("pid")
            users = [user for user in run.users_of_ring() if user != pid]
            also = f"; these log into it too: {users}" if users else ""
            raise TraceletError(
                f"{run.run_id}: its process (pid {pid} on {run.manifest.get('host')}), or a child "
                f"of it, is alive and sends its points itself{also}"
            )
        time.sleep(0.05)


def _resend(run: StoredRun, on_progress: OnProgress) -> Result:
    result = Result()
    sinks = run.manifest.get("sinks")
    if sinks is None:  # it died while it was starting: no call had returned
        run.remove()
        return result
    try:
        journal, missing = recover_journal(run.path, run.ring_path)
    except OSError as error:
        raise TraceletError(f"{run.run_id} can't be read: {error}") from error
    if missing:
        result.notes.append(f"{missing} calls were cut off by the death of their process")
    result.notes += [str(d) for d in journal.damages if not d.is_torn_tail]
    progress = Progress.open(run.path)
    for backend in dict.fromkeys(sink["backend"] for sink in sinks):
        numbers = [n for n, sink in enumerate(sinks) if sink["backend"] == backend]
        try:
            _send_backend(run, backend, numbers, journal, progress, result, on_progress)
        except Exception as error:
            result.failures[backend] = f"{error}"
    journal.close()
    progress.close()
    if not result.failures:
        _finish(run, result)
    return result


def _send_backend(
    run: StoredRun,
    backend: str,
    numbers: Sequence[int],
    journal: Journal,
    progress: Progress,
    result: Result,
    on_progress: OnProgress,
) -> None:
    options = options_of(run.manifest)
    names = _scratch_ring(run)
    reopened = _reopen(run, backend, options)
    reopened.open_sinks(names)
    sinks = reopened.sinks
    if [s.name for s in sinks] != [run.manifest["sinks"][n]["name"] for n in numbers]:
        raise TraceletError(f"the backend {backend!r} has other sinks than when the run began")
    failed = False
    for number, sink in zip(numbers, sinks):
        lane = Lane(
            sink, names, options.aggregate, progress[number], _acknowledger(progress, number)
        )
        failure = _ship(lane, journal, options, result, on_progress)
        result.delivered[sink.name] = lane.delivered
        if failure:
            result.failures[sink.name] = failure
            failed = True
    if not failed:
        for sink in sinks:
            sink.close(process_is_ending=False)
        reopened.close(process_is_ending=False)


def _acknowledger(progress: Progress, number: int) -> Callable[[int], None]:
    return lambda position: progress.__setitem__(number, position)


def _reopen(run: StoredRun, backend: str, options: Options) -> Backend:
    state = run.manifest.get("reopen", {}).get(backend, {})
    try:
        return open_backend(backend, RunInfo(options, run.run_id, run.path, reopen=state))
    except UnknownBackendError as error:
        raise TraceletError(
            f"{error}, in a module that is imported first: --import MODULE"
        ) from error


def _ship(
    lane: Lane, journal: Journal, options: Options, result: Result, on_progress: OnProgress
) -> str:
    """Delivers from the lane's position on; the reason why not all of it is delivered, or ""."""
    limit = options.batch_max_points if lane.sink.is_remote else _LOCAL_BATCH_POINTS
    total = journal.count_from(lane.position)
    done = attempts = 0
    on_progress(lane.sink.name, 0, total)
    while (position := journal.next_position(lane.position)) is not None:
        if position > lane.position:
            result.lost += position - lane.position
        try:
            count = max(limit, lane.retry_count)
            records, payloads = journal.read(position, count, options.batch_max_bytes)
        except JournalError as error:
            result.notes.append(str(error))
            journal.drop_block_at(position)
            continue
        kinds = _core.kinds_in(records)
        if lane.deliver(records, payloads, position, len(records), kinds):
            done += len(records)
            attempts = 0
            on_progress(lane.sink.name, done, total)
            continue
        attempts += 1
        if attempts >= _ATTEMPTS:
            return f"{lane.last_failure}"
        time.sleep(_FIRST_PAUSE_S * 2**attempts)
    while not lane.deliver_rest():
        attempts += 1
        if attempts >= _ATTEMPTS:
            return f"{lane.last_failure}"
        time.sleep(_FIRST_PAUSE_S * 2**attempts)
    return ""


def _scratch_ring(run: StoredRun) -> _core.Ring:
    """A ring without a record whose tag table is that of the run: ids are given in order."""
    path = os.path.join(run.path, _SCRATCH_RING)
    if os.path.exists(path):
        os.unlink(path)
    ring = _core.Ring.create(path, _LEAST_SLOTS, 0.0)
    os.unlink(path)  # it stays mapped for as long as it is used
    for text in read_names(run.path)[1:]:
        ring.intern(text)
    return ring


def options_of(manifest: Mapping[str, Any]) -> Options:
    """The options that the run's sinks had, as far as the manifest keeps them."""
    kept = dict(manifest.get("options", {}))
    kept["backend"] = tuple(kept.get("backend", ()))
    return Options(**kept)


def _finish(run: StoredRun, result: Result) -> None:
    left = os.path.join(run.path, ARTIFACTS)
    if os.path.isdir(left) and os.listdir(left):
        result.notes.append(f"artifacts that were not uploaded are kept in {left}")
    if any(name.startswith("set_aside-") for name in os.listdir(run.path)):
        run.update(state="finished")
        for name in os.listdir(run.path):
            if name.startswith("journal-"):
                os.unlink(os.path.join(run.path, name))
        shutil.rmtree(os.path.join(run.path, "payloads"), ignore_errors=True)
    else:
        run.remove()
