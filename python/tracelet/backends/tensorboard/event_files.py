"""TensorBoard event files, one for each log folder, written by the native encoder."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tracelet import _core
from tracelet.backends.base import UNREADABLE, Batch, Delivery, FileSink
from tracelet.backends.tensorboard.paths import LASTING, EventFilePaths
from tracelet.backends.tensorboard.recovered import LEDGER, SYNCED, Before, RecoveredFiles
from tracelet.records import EVENT, HISTOGRAM, SCALAR
from tracelet.writer_key import writer_key

_log = logging.getLogger("tracelet")

_NOT_OPENED = "event file can't be opened"


class TensorBoardSink(FileSink):
    """Writes the points of each SummaryWriter into a file of its log folder. One thread.

    Reopened after the death of another process it writes to new files of the same folders, exactly
    what the others lack: see `recovered`.
    """

    name = "tensorboard"
    is_remote = False
    takes_every_point = True
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM, EVENT)

    def __init__(
        self, ring: _core.Ring, run_dir: str, is_reopened: bool = False, is_other_boot: bool = False
    ) -> None:
        self._recovered: RecoveredFiles | None = None
        if is_reopened:
            self._recovered = RecoveredFiles(run_dir, is_other_boot)
            ledger, self._synced = self._recovered.ledger, self._recovered.synced
        else:
            ledger = _core.FileLedger.create(os.path.join(run_dir, LEDGER))
            self._synced = _core.FileLedger.create(os.path.join(run_dir, SYNCED))
        self._files = _core.EventFileSet(ring, ledger)
        self._before: dict[int, Before] = {}
        if self._recovered is not None:
            self._recovered.take_up(self._files)
            self._before = self._recovered.before
            self.is_certain = self._recovered.is_certain
        self.paths = EventFilePaths()
        self._opened: dict[int, str] = {}  # by writer id
        self._generations: dict[int, int] = {}  # of `paths`, when it was opened
        self._failed: dict[int, str] = {}  # tried again it is the same file, which may be there
        self.files: set[str] = set()
        """Of all writers, those from before a renewal, too."""
        # Writers that no file can be opened for, with the reason under which points are counted.
        self._without_file: dict[int, str] = {}

    def write(self, batch: Batch) -> Delivery:
        failure = None
        for writer_id in self._without_right_file(batch):
            try:
                self._open(writer_id, batch)
            except OSError as error:
                failure = error
        delivered, unreadable = self._files.write(batch.buffer, batch.payloads)
        if failure is not None:
            raise failure  # once the others' points are written: they may lie on other disks
        set_aside = Counter({UNREADABLE: unreadable} if unreadable else {})
        failed: Counter[str] = Counter()
        if self._without_file:
            writers, counts = np.unique(batch.records["writer_id"], return_counts=True)
            for writer_id, count in zip(writers.tolist(), counts.tolist()):
                if writer_id in self._without_file:
                    reason = self._without_file[writer_id]
                    (failed if reason == _NOT_OPENED else set_aside)[reason] += count
        # Without a log folder: logged by the handle, for the other backends.
        aside = sum(set_aside.values()) + sum(failed.values())
        not_meant = len(batch) - delivered - aside
        return Delivery(delivered, set_aside=set_aside, failed=failed, not_meant=not_meant)

    def _without_right_file(self, batch: Batch) -> Sequence[int]:
        unopened = self._files.unopened_writers(batch.buffer)
        generation = self.paths.generation
        if generation == 0:  # as ever, but for runs with others inside them
            return unopened
        known = np.unique(batch.records["writer_id"]).tolist()
        old = {each for each in known if self._generations.get(each, generation) < generation}
        return [*unopened, *(old - set(unopened))]

    def _open(self, writer_id: int, batch: Batch) -> None:
        """Raises OSError for what may pass, such as a full disk: the points are given again."""
        folder = batch.log_dir(writer_id)
        if not folder:  # of a rank's handle: as one without a writer, for the other backends
            return
        if "://" in folder:
            self._leave_out(
                writer_id, "log folder is a URL",
                f"event files are written to local folders only, not to {folder}; its points go to "
                "the other backends and are counted in stats. With tensorboard='passthrough' torch "
                "writes them",
            )  # fmt: skip
            return
        generation = self.paths.generation  # before the path: renewed meanwhile it is opened again
        if self._recovered is not None and writer_id not in self._opened:
            self._recovered.take_up_others(writer_id, folder, self._files)
        before = self._before.get(writer_id, Before())
        now_s = max(time.time(), before.newest_s + 1)
        if writer_id not in self._failed:
            key = writer_key(folder, batch.filename_suffix(writer_id))
            self._failed[writer_id] = self.paths.next(key, self._opened.get(writer_id), now_s)
        path = self._failed[writer_id]
        try:
            os.makedirs(folder, exist_ok=True)
            self._files.open(writer_id, path, now_s, before.sequence)
        except OSError as error:
            if error.errno not in LASTING:
                raise
            self._leave_out(
                writer_id, _NOT_OPENED,
                f"there is no event file in {folder:.300} ({error!s:.300}); its points go to the "
                "other backends and are counted in stats",
            )  # fmt: skip
        else:
            self._opened[writer_id] = path
            self.files.add(path)
            del self._failed[writer_id]
            self._generations[writer_id] = generation
            self._without_file.pop(writer_id, None)

    def _leave_out(self, writer_id: int, reason: str, words: str) -> None:
        if writer_id not in self._without_file:
            _log.warning("tracelet: %s.", words)
        self._without_file[writer_id] = reason
        self._files.leave_out(writer_id)  # no point is counted here and written, too

    def sync(self) -> None:
        self._files.sync(self._synced)

    def lost(self) -> Mapping[str, int]:
        return self._recovered.lost(self._files) if self._recovered is not None else {}

    def settle(self) -> None:
        if self._recovered is not None:
            self._recovered.settle()
            self.is_certain = True

    def close(self, process_is_ending: bool) -> None:
        self._files.close()
