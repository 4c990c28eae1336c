"""Sends what a dead process' run has left, to each sink from its acknowledged position on.

The only part that knows both ends, the files and the sinks; `tracelet sync` is its face. It can be
interrupted at any instruction and called again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from tracelet import _core
from tracelet.backends import Backend, RunInfo, open_backend
from tracelet.backends.base import FileSink
from tracelet.errors import JournalError, TraceletError, UnknownBackendError
from tracelet.journal.drops import Drops
from tracelet.journal.names import read_names, stored_names
from tracelet.pipeline.lane import Lane
from tracelet.ranks.series import RankSeries
from tracelet.records import EVENT, RECORD_DTYPE, SKIPPED
from tracelet.recovery.noted import note_sent
from tracelet.recovery.of_ranks import begin_unled, series_of_ranks
from tracelet.recovery.payload_files import PAYLOADS, in_folder
from tracelet.recovery.rescue import recover_journal
from tracelet.recovery.result import Result, SinkResult
from tracelet.recovery.uploads import send_uploads
from tracelet.recovery.way import Acknowledge, Way
from tracelet.runs.deletion import Delivered, NothingLogged, SinkEnd
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


class RunGoneError(TraceletError):
    """The run's folder is gone: another process has sent it."""


def resend(
    run: StoredRun, on_progress: OnProgress = lambda *_: None, opened: Backend | None = None
) -> Result:
    """Delivers all it can. The run is removed once every sink has all of it, or kept as "finished"
    when a server refused points; else it stays as it is, and `Result.kept` says why. A backend that
    is `opened` is not opened again.

    Raises TraceletError when the run's process is alive, another one sends it, or it can't be read;
    RunGoneError.
    """
    lock = RunLock(os.path.join(run.path, _LOCK))
    try:
        is_locked = lock.acquire()
    except FileNotFoundError as error:
        raise RunGoneError(f"{run.run_id} is gone: another process has sent it") from error
    if not is_locked:
        doubt = RunLock.doubt(os.path.join(run.path, _LOCK))
        also = f": {doubt}" if doubt else ""
        raise TraceletError(f"{run.run_id} is being sent by another process{also}")
    try:
        if not os.path.exists(run.path):
            raise RunGoneError(f"{run.run_id} is gone: another process has sent it")
        run = StoredRun(run.path)  # as it is now: another process may just have been at it
        ring = _take(run)
        try:
            return _Resending(run, on_progress, opened).run()
        finally:
            if ring >= 0:
                os.close(ring)
    finally:
        lock.release()


def _take(run: StoredRun) -> int:
    """Takes the run's ring from what was forked from its process, once that is dead."""
    deadline_s = time.monotonic() + _DYING_TIMEOUT_S
    while run.is_alive or (taken := run.take_ring()) is None:
        if time.monotonic() >= deadline_s:
            pid = run.manifest.get("pid")
            users = [user for user in run.users_of_ring() if user != pid]
            also = f"; these log into it too: {users}" if users else ""
            also += f"; {doubt}" if (doubt := run.doubt) else ""
            raise TraceletError(
                f"{run.run_id}: its process (pid {pid} on {run.manifest.get('host')}), or a child "
                f"of it, is alive and sends its points itself{also}"
            )
        time.sleep(0.05)
    return taken


class _Resending:
    """One run, from its files to its sinks."""

    def __init__(self, run: StoredRun, on_progress: OnProgress, opened: Backend | None) -> None:
        self._run = run
        self._opened = opened
        self._on_progress = on_progress
        self._result = Result()
        self._options = run.options
        self._missing_before: Mapping[str, int] = dict(run.manifest.get("missing", {}))
        """Records that an earlier sync could not give a sink."""

    def run(self) -> Result:
        run, result = self._run, self._result
        sinks = run.manifest.get("sinks")
        if sinks is None:  # it died while it was starting: no call had returned
            accepted = _core.StoredRing.open(run.ring_path).head if run.has_ring else 0
            if not (accepted and run.manifest.get("is_of_ranks")):
                run.remove(NothingLogged(accepted))
                return result
        doubts = [problem] if (problem := run.ring_problem()) else []
        try:
            recovered = recover_journal(run)
            self._journal = recovered.journal
            self._names = stored_names(run.path)
            self._drops = Drops.read(run.path)
        except OSError as error:
            raise TraceletError(f"{run.run_id} can't be read: {error}") from error
        if sinks is None:
            begin_unled(run, self._scratch_ring())
            sinks = run.manifest["sinks"]
        result.dropped = recovered.dropped
        doubts += recovered.damages
        if cut_off := recovered.cut_off:
            result.notes.append(f"{cut_off} calls were cut off by the death of their process")
        damages = [damage for damage in self._journal.damages if not damage.is_torn_tail]
        result.notes += [str(damage) for damage in damages]
        end = max(int(run.manifest.get("end", 0)), self._journal.end)
        result.logged = None if doubts else end
        progress, note = self._open_progress(len(sinks), is_whole=not doubts)
        result.notes += [note] if note else []
        ends = []
        for backend in dict.fromkeys(sink["backend"] for sink in sinks):
            numbers = [n for n, sink in enumerate(sinks) if sink["backend"] == backend]
            ends += self._send_backend(backend, numbers, progress, end)
        self._journal.close()
        progress.close()
        proof = Delivered(end, ends, [*doubts, *result.failures.values()])
        result.kept = proof.objections()
        if not result.kept:
            why = note_sent(run, result.logged)
            result.kept = [why] if why else []
        if not result.kept:
            _finish(run, proof, result)
        return result

    def _open_progress(self, count: int, is_whole: bool) -> tuple[Progress, str]:
        """The sinks' positions. Where they are damaged all is given again from the first record
        that is here, which sinks must not mind. Raises TraceletError when that can't be told now:
        a file that can't be opened is no damage, nor is the first record known without the ring.
        """
        try:
            progress = Progress.open(self._run.path)
            if progress.count == count:
                return progress, ""
            progress.close()
            what = f"it has {progress.count} sinks, not {count}"
        except (FileNotFoundError, ValueError, TraceletError) as error:
            what = str(error)
        except OSError as error:
            raise TraceletError(f"{self._run.run_id} can't be read: {error}") from error
        if not is_whole and self._journal.next_position(0) is None:
            raise TraceletError(
                f"{self._run.run_id}: {self._run.ring_problem()}; nor is known how far each sink "
                f"had come ({what})"
            )
        first = self._journal.next_position(0) or 0
        made = Progress.create(self._run.path, [first] * count)
        return made, f"how far each sink had come is not known ({what}): all that is here is sent"

    def _send_backend(
        self, backend: str, numbers: Sequence[int], progress: Progress, end: int
    ) -> list[SinkEnd]:
        stored = self._run.manifest["sinks"]
        ways: list[Way] = []
        try:
            names = self._scratch_ring()
            reopened = self._reopen(backend)
            reopened.open_sinks(names)
            sinks = reopened.sinks
            ranks = series_of_ranks(self._run, self._journal, self._names, names)
            if [s.name for s in sinks] != [stored[n]["name"] for n in numbers]:
                raise TraceletError(
                    f"the backend {backend!r} has other sinks than when the run began"
                )
            for number, sink in zip(numbers, sinks):
                ways.append(self._send(sink, names, progress, number, end, ranks))
            self._send_uploads(reopened)
            if not any(way.failure for way in ways):
                for sink in sinks:
                    if isinstance(sink, FileSink):
                        sink.sync()  # before the journal, which has it too, is deleted
                        sink.settle()
                    sink.close(process_is_ending=False)
                reopened.close(process_is_ending=False)
        except Exception as error:  # of this backend alone: the others get what is theirs
            self._result.failures[backend] = f"{backend}: {error}"
        for number in numbers[len(ways) :]:
            name, position = stored[number]["name"], progress[number]
            left = max(0, end - position)
            self._result.sinks.append(SinkResult(name, before=position, left=left))
        ends = []
        for n, number in enumerate(numbers):
            name = stored[number]["name"]
            before = int(self._missing_before.get(name, 0))
            before += sum(dict(self._run.manifest.get("lost", {}).get(name, {})).values())
            if n < len(ways):
                way = ways[n]
                ends.append(
                    SinkEnd(name, way.lane.position, way.failed, before + way.missing - way.lost)
                )
            else:
                ends.append(SinkEnd(name, progress[number], missing=before))
        return ends

    def _send_uploads(self, backend: Backend) -> None:
        """What its verbs have left. What fails here keeps the run, and holds back nothing else."""
        calls = backend.send_unsent()
        done = send_uploads(backend, self._run.path)
        done.calls = calls
        self._result.uploads.append(done)
        for what, why in done.left.items():
            self._result.failures[what] = f"{backend.name}: {what} is not sent: {why}"

    def _reopen(self, backend: str) -> Backend:
        if self._opened is not None and self._opened.name == backend:
            return self._opened
        run = self._run
        state = run.manifest.get("reopen", {}).get(backend, {})
        try:
            is_other_boot = run.is_of_another_boot
            info = RunInfo(self._options, run.run_id, run.path, state, is_other_boot)
            return open_backend(backend, info)
        except UnknownBackendError as error:
            raise TraceletError(
                f"{error}, in a module that is imported first: --import MODULE"
            ) from error

    def _scratch_ring(self) -> _core.Ring:
        """A ring without a record whose tag table is that of the run: ids are given in order."""
        path = os.path.join(self._run.path, _SCRATCH_RING)
        if os.path.exists(path):
            os.unlink(path)
        ring = _core.Ring.create(path, _LEAST_SLOTS, 0.0)
        os.unlink(path)  # it stays mapped for as long as it is used
        for text in read_names(self._run.path)[1:]:
            ring.intern(text)
        return ring

    def _send(
        self,
        sink: Any,
        names: _core.Ring,
        progress: Progress,
        number: int,
        end: int,
        ranks: RankSeries | None,
    ) -> Way:
        start = acknowledged = progress[number]
        if isinstance(sink, FileSink) and not sink.is_certain:
            first = self._journal.next_position(0)
            start = min(start, first if first is not None else start)
        acknowledge = Acknowledge(progress, number)
        lane = Lane(sink, names, self._options.aggregate, start, acknowledge, ranks)
        acknowledge.way = way = Way(
            lane, start, acknowledged=acknowledged, checked_end=acknowledged
        )
        self._ship(way)
        if not way.failure and lane.position < end:  # behind the last block that can be read
            self._pass_over(way, end)
        if isinstance(sink, FileSink) and not way.failure:
            self._note_lost(way, sink.lost())
        if way.failure:
            self._result.failures[sink.name] = f"{sink.name}: {way.failure}"
        if way.gone:
            self._result.notes.append(
                f"files of large events are gone from {PAYLOADS}: {', '.join(sorted(way.gone)[:9])}"
            )
        set_aside, left = sum(lane.set_aside.values()), max(0, end - lane.position)
        done = (
            lane.delivered + set_aside + lane.not_finite + lane.folded + way.missing + way.dropped
        )
        before, done = start + way.passed - way.lost, done + way.passed - way.lost
        self._result.sinks.append(
            SinkResult(
                sink.name, before, lane.delivered, dict(lane.set_aside), dict(lane.failed),
                lane.not_finite, max(0, lane.position - start - done), lane.folded, way.missing,
                left, way.failure, way.dropped,
            )
        )  # fmt: skip
        return way

    def _pass_over(self, way: Way, position: int) -> None:
        """Goes on behind records that are nowhere: given up on purpose, or lost to damage."""
        way.passed += max(0, min(way.acknowledged, position) - way.lane.position)
        first = min(max(way.lane.position, way.acknowledged), position)
        dropped = self._drops.count_between(first, position)
        way.dropped += dropped
        self._note_missing(way, position - first - dropped)
        way.lane.acknowledge(position)

    def _note_missing(self, way: Way, count: int) -> None:
        """To be called before the sink's position passes them."""
        way.missing += count
        if count and not way.failed:  # else the noted position stays before them: met again
            noted, name = dict(self._run.manifest.get("missing", {})), way.lane.sink.name
            noted[name] = int(noted.get(name, 0)) + count
            self._run.update(missing=noted)  # first: who comes later can't know of them

    def _note_lost(self, way: Way, lost: Mapping[str, int]) -> None:
        """What the sink's own files have lost: written down before the sink forgets it."""
        way.lost = sum(lost.values())
        way.missing += way.lost
        for what, count in lost.items():
            self._result.notes.append(f"{what}: {count:,} points are nowhere else")
        if lost:
            noted = dict(self._run.manifest.get("lost", {}))
            noted[way.lane.sink.name] = {**noted.get(way.lane.sink.name, {}), **lost}
            self._run.update(lost=noted)

    def _checked(self, way: Way, records: Any, payloads: bytes) -> Any:
        """The records of a block that sinks may be given. Its checksum says that it is as it was
        written, and nothing of what was written then."""
        checked = _core.check_records(records, payloads, self._names)
        first = int(records["sequence"][0]) - 1
        already, way.checked_end = way.checked_end, max(way.checked_end, first + len(records))
        new_from = max(0, already - first)
        was_skipped = records["kind"] == SKIPPED
        # In the ring already, and told then: see `_without_payloads`.
        is_lost = was_skipped & ((records["flags"] & way.lane.kinds) != 0)
        self._note_missing(way, int(is_lost[new_from:].sum()))
        if checked is None:
            return records
        sound = np.frombuffer(checked[0], RECORD_DTYPE)
        is_bad = (sound["kind"] == SKIPPED) & ~was_skipped
        if new := int(is_bad[new_from:].sum()):
            why = ", ".join(f"{count:,} {reason}" for reason, count in checked[1].items())
            self._result.notes.append(f"of the records from {first} on are lost: {why}")
            self._note_missing(way, new)
        return sound

    def _ship(self, way: Way) -> None:
        """Delivers from the lane's position on; notes the reason why not all of it is delivered."""
        lane, options, journal = way.lane, self._options, self._journal
        limit = options.batch_max_points if lane.sink.is_remote else _LOCAL_BATCH_POINTS
        total = journal.count_from(lane.position)
        done = attempts = 0
        self._on_progress(lane.sink.name, 0, total)
        while (position := journal.next_position(lane.position)) is not None:
            if position > lane.position:
                self._pass_over(way, position)
            try:
                # A batch that failed is read again with as many records: its limits are the same.
                records, payloads = journal.read(position, limit, options.batch_max_bytes)
            except JournalError as error:
                self._result.notes.append(str(error))
                journal.drop_block_at(position)
                continue
            records = self._checked(way, records, payloads)
            records, payloads, gone = in_folder(records, payloads, self._run.path)
            kinds = _core.kinds_in(records)
            if lane.kinds & 1 << EVENT:
                way.gone.update(gone)
            if lane.deliver(records, payloads, position, len(records), kinds):
                done += len(records)
                attempts = 0
                self._on_progress(lane.sink.name, done, total)
                continue
            attempts += 1
            if attempts >= _ATTEMPTS:
                way.failure = f"{lane.last_failure}"
                return
            time.sleep(_FIRST_PAUSE_S * 2**attempts)
        while not lane.deliver_rest():
            attempts += 1
            if attempts >= _ATTEMPTS:
                way.failure = f"{lane.last_failure}"
                return
            time.sleep(_FIRST_PAUSE_S * 2**attempts)


def _finish(run: StoredRun, proof: Delivered, result: Result) -> None:
    left = os.path.join(run.path, ARTIFACTS)
    with contextlib.suppress(OSError):
        os.rmdir(left)  # unless there is something in it
    if os.path.isdir(left):
        result.notes.append(f"artifacts that were not uploaded are kept in {left}")
    if any(name.startswith("set_aside-") for name in os.listdir(run.path)):
        run.update(state="finished")
        for name in os.listdir(run.path):
            if name.startswith("journal-"):
                os.unlink(os.path.join(run.path, name))
        shutil.rmtree(os.path.join(run.path, PAYLOADS), ignore_errors=True)
    else:
        run.remove(proof)
