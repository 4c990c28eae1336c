"""The end of a run, once its threads were told to stop: its backends, then its folder."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Callable

from tracelet.journal.journal import Journal
from tracelet.pipeline.live import Live
from tracelet.runs.deletion import Delivered, SinkEnd
from tracelet.runs.run_folder import RunFolder
from tracelet.stats import Stats

_log = logging.getLogger("tracelet")

SYNC_TIMEOUT_S = 1.0
_SHORTEST_CLOSE_S = 0.05  # also when the deadline has passed


def close_backends(
    live: Live, timeout_s: float, process_is_ending: bool, is_last: bool = True
) -> None:
    """Closes the sinks that no thread is busy with, and the backends behind them; where the process
    is not the last of its job, those are left open in their trackers.

    One that hangs (an SDK that waits for a server) is left behind after the time-out.
    """
    closes: list[tuple[str, Callable[[bool], None]]] = []
    for backend in live.backends:
        idle = [sink for sink in backend.sinks if not live.is_busy(sink)]
        closes += [(sink.name, sink.close) for sink in idle]
        if is_last and (not backend.sinks or backend.sinks[0] in idle):
            closes.append((backend.name, backend.close))
        else:
            closes.append((backend.name, backend.leave))

    def close_all() -> None:
        for name, close in closes:
            try:
                close(process_is_ending)
            except Exception as error:
                _log.warning("tracelet: closing %r failed: %s", name, error)
        closes.clear()

    for backend in live.backends:
        with contextlib.suppress(Exception):  # of a user's own backend: the others are to end
            backend.begin_end()
    live.closer.work_on(close_all)
    live.closer.join(max(timeout_s, _SHORTEST_CLOSE_S))
    if process_is_ending:
        for backend in live.backends:
            backend.let_process_end()
    if live.closer.is_alive():
        _log.warning(
            "tracelet: a backend did not finish within its time and is left to end on its own "
            "(option %s)", "exit_timeout_s" if process_is_ending else "stop_timeout_s",
        )  # fmt: skip


def finish_folder(
    live: Live,
    folder: RunFolder,
    journal: Journal,
    stats: Callable[[], Stats],
    is_delivered: bool,
    note: Callable[[Stats, bool], None],
) -> None:
    """Removes a run's folder when all that was logged is delivered, else leaves it for `tracelet
    sync`; `note` notes the run in the history, and whether it is delivered, while the folder is
    there."""
    live.disk_sync.stop(SYNC_TIMEOUT_S)
    # What a sink could not take while the run lived was counted and told then.
    ends = [SinkEnd(lane.sink.name, lane.position) for lane in live.lanes]
    proof = Delivered(live.ring.head, ends)
    now = stats()
    if not is_delivered or proof.objections() or now.unsent_calls:
        _leave_folder(live, folder, journal, now)
        note(now, False)
        return
    if os.path.isdir(folder.path):  # not noted yet: a stop that was interrupted is called again
        note(now, True)
    journal.close()
    folder.remove_artifacts_folder()
    # A stop that was interrupted (Ctrl-C) while it removed the folder is called again.
    if os.path.isdir(folder.path) and folder.has_set_aside:
        folder.remove_ring(proof.end)
        folder.remove_payloads()
        folder.update(state="finished")
        folder.leave()
    else:
        folder.remove(proof)


def leave_folder(live: Live, folder: RunFolder, journal: Journal) -> None:
    """Leaves the run to the other ranks of its job, which go on with it."""
    live.disk_sync.stop(SYNC_TIMEOUT_S)
    for shipper in live.drainer.shippers.values():
        shipper.abandon()
    try:
        journal.sync()
        journal.close()
    except OSError as error:
        _log.warning("tracelet: the journal can't be synced to disk: %s", error)
    if not live.drainer.is_alive():
        folder.leave()


def _leave_folder(live: Live, folder: RunFolder, journal: Journal, stats: Stats) -> None:
    """Leaves what is not delivered to `tracelet sync`."""
    calls = stats.unsent_calls
    also = f" and {calls} calls (log_params, set_tags, set_notes)" if calls else ""
    _log.warning(
        "tracelet: %d points%s are not delivered yet. They are kept in %s; this sends them:\n"
        "    tracelet sync %s",
        stats.pending, also, folder.path, folder.run_id,
    )  # fmt: skip
    folder.update(state="unsent")  # once it is told: the disk, or want of descriptors, may refuse
    if live.drainer.is_alive():
        return  # a sink hangs in it: the rest stays in the ring
    # Whatever some sink lacks is in the journal.
    try:
        journal.sync()
    except OSError as error:
        _log.warning("tracelet: the journal can't be synced to disk: %s", error)
    folder.remove_ring(live.ring.head)
    # One that hangs in a backend may yet deliver what it has at hand: so long none else sends.
    for shipper in live.drainer.shippers.values():
        shipper.abandon()

    def leave() -> None:
        for shipper in live.drainer.shippers.values():
            if shipper.ident is not None:
                shipper.join()
        folder.leave()

    # The process that ends, where no thread can be started any more, leaves the folder anyway.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=leave, name="tracelet-leave", daemon=True).start()
