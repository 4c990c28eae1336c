"""TensorBoard event files, one for each log folder, written by the native encoder."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracelet import _core
from tracelet.backends.base import UNREADABLE, Batch, Delivery
from tracelet.backends.tensorboard.paths import LASTING, EventFilePaths
from tracelet.records import EVENT, HISTOGRAM, SCALAR
from tracelet.runs.ownership import NotOwnError, open_own
from tracelet.writer_key import writer_key

LEDGER = "event_files.bin"

_log = logging.getLogger("tracelet")

_NOT_OPENED = "event file can't be opened"


@dataclass(frozen=True)
class _Before:
    """What a process that died has written for a writer."""

    sequence: int = 0
    newest_s: float = 0.0  # of its files' names; TensorBoard follows the last one, by name


def _cut_back(ledger: _core.FileLedger) -> dict[int, _Before]:
    """Cuts the event files of a dead process back to what is acknowledged: the rest is written to
    new files. What each writer has, by its id. Raises OSError, NotOwnError."""
    before: dict[int, _Before] = {}
    for writer_id, path, size_bytes, sequence, _ in ledger.entries():
        _cut_back_file(path, size_bytes)
        last = before.get(writer_id, _Before())
        seconds = os.path.basename(path).split(".")[3]
        newest_s = max(last.newest_s, float(seconds) if seconds.isdigit() else 0.0)
        before[writer_id] = _Before(max(last.sequence, sequence), newest_s)
    return before


# What the ledger says is not obeyed before it was seen that the file is one of ours: else a ledger
# that somebody made up, or a damaged one, would cut any file of the user's.
_OUR_NAME = re.compile(r"events\.out\.tfevents\.\d+\..*\.\d+\.tracelet\d+.*", re.DOTALL)


def _cut_back_file(path: str, size_bytes: int) -> None:
    if size_bytes == _core.UNKNOWN_SIZE:  # better twice on TensorBoard than not at all
        _log.warning(
            "tracelet: what of %s was acknowledged is lost (event_files.bin is damaged); the file "
            "is left as it is, and its points are written to a new one.", path,
        )  # fmt: skip
        return
    if not _OUR_NAME.fullmatch(os.path.basename(path)):
        raise NotOwnError(f"the ledger of event files names {path!r}, which is none; it stays")
    try:
        fd = open_own(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        _tell_of_shortness(path, size_bytes)
        return
    try:
        size_now = os.fstat(fd).st_size
        if size_now < size_bytes:
            _tell_of_shortness(path, size_bytes - size_now)
        elif size_now > size_bytes:
            _check_is_event_file(fd, path)
            if size_bytes == 0:
                os.unlink(path)
            else:
                os.ftruncate(fd, size_bytes)
    finally:
        os.close(fd)


def _tell_of_shortness(path: str, missing_bytes: int) -> None:
    if missing_bytes:
        _log.warning(
            "tracelet: %s is %d bytes shorter than when it was written; they can't be restored.",
            path, missing_bytes,
        )  # fmt: skip


def _check_is_event_file(fd: int, path: str) -> None:
    """Raises NotOwnError unless it begins as such a file does: a length and its checksum."""
    with open(fd, "rb", closefd=False) as file:
        head = file.read(12)
    crc = _core.crc32c(head[:8])
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if len(head) == 12 and int.from_bytes(head[8:], "little") != masked:
        raise NotOwnError(f"{path} is named as an event file and is none; it stays as it is")


class TensorBoardSink:
    """Writes the points of each SummaryWriter into a file of its log folder. One thread.

    Reopened after the death of another process it writes to new files of the same folders, exactly
    what the others lack.
    """

    name = "tensorboard"
    is_remote = False
    takes_every_point = True
    record_kinds: Sequence[int] = (SCALAR, HISTOGRAM, EVENT)

    def __init__(self, ring: _core.Ring, run_dir: str, is_reopened: bool = False) -> None:
        ledger_path = os.path.join(run_dir, LEDGER)
        self._before: dict[int, _Before] = {}
        if is_reopened and os.path.exists(ledger_path):
            ledger = _core.FileLedger.open(ledger_path)
            self._before = _cut_back(ledger)
        else:
            ledger = _core.FileLedger.create(ledger_path)
        self._files = _core.EventFileSet(ring, ledger)
        self.paths = EventFilePaths()
        self._opened: dict[int, str] = {}  # by writer id
        self._generations: dict[int, int] = {}  # of `paths`, when it was opened
        self._failed: dict[int, str] = {}  # tried again it is the same file, which may be there
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
        if "://" in folder:
            self._leave_out(
                writer_id, "log folder is a URL",
                f"event files are written to local folders only, not to {folder}; its points go to "
                "the other backends and are counted in stats. With tensorboard='passthrough' torch "
                "writes them",
            )  # fmt: skip
            return
        generation = self.paths.generation  # before the path: renewed meanwhile it is opened again
        before = self._before.get(writer_id, _Before())
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
            self._opened[writer_id] = self._failed.pop(writer_id)
            self._generations[writer_id] = generation
            self._without_file.pop(writer_id, None)

    def _leave_out(self, writer_id: int, reason: str, words: str) -> None:
        if writer_id not in self._without_file:
            _log.warning("tracelet: %s.", words)
        self._without_file[writer_id] = reason

    def close(self, process_is_ending: bool) -> None:
        self._files.close()
