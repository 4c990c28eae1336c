"""What a dead process' event files hold: looked at before a run is gone on with.

The ledger (`event_files.bin`) says of each file how far it is acknowledged. While the machine is up
that is true at whatever instruction the process died, and what is behind it is cut off. It is
not believed when it is damaged, when the file is shorter, and after a loss of power, which may keep
the ledger and lose the file's end. Then all records that there still are come again, and those that
the files have, by their bytes, are left out; after a loss of power from where the other ledger
(`event_files_synced.bin`) says that the file was on the disk. No whole event is ever cut off.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from tracelet import _core
from tracelet.runs.ledgers import EVENT_FILES, recover_ledger, settle_ledger
from tracelet.runs.ownership import NotOwnError, is_own_file, open_own

LEDGER = EVENT_FILES
SYNCED = "event_files_synced.bin"

_log = logging.getLogger("tracelet")

# What the ledger says is not obeyed before it was seen that the file is one of ours: else a ledger
# that somebody made up, or a damaged one, would cut any file of the user's.
_OUR_NAME = re.compile(r"events\.out\.tfevents\.\d+\..*\.\d+\.tracelet\d+.*", re.DOTALL)


class Entry(NamedTuple):
    """Of a ledger: see _core.FileLedger.entries."""

    writer_id: int
    path: str
    size_bytes: int
    sequence: int
    points: int
    is_certain: bool
    place: int


_NOTHING = Entry(0, "", 0, 0, 0, True, 0)


@dataclass
class Before:
    """What a process that died has written for a writer."""

    sequence: int = 0
    """Its files have all records up to this one."""
    newest_s: float = 0.0
    """Of its files' names; TensorBoard follows the last one, by name."""
    is_certain: bool = True
    had: int = 0
    """Points in those of its files that may lack some, when they were acknowledged."""
    found: int = 0
    problems: list[str] = field(default_factory=list)
    ends: list[tuple[Entry, int, int]] = field(default_factory=list)
    """Of such files: where they cease to be whole, and the points up to there."""


class RecoveredFiles:
    """The event files of a dead process' run."""

    def __init__(self, run_dir: str, is_other_boot: bool) -> None:
        self._run_dir = run_dir
        self._is_other_boot = is_other_boot
        self.ledger, self._is_damaged = recover_ledger(os.path.join(run_dir, LEDGER))
        self._entries = [Entry(*row) for row in self.ledger.entries()]
        if self._is_damaged:
            _log.warning(
                "tracelet: %s is damaged, so it is not known which points the event files have. "
                "All points of the run are compared with them.", os.path.join(run_dir, LEDGER),
            )  # fmt: skip
        # Without an entry it may be as new, or have lost all: what is in the files tells.
        self._is_damaged |= not self._entries
        self.synced = _core.FileLedger.recover(os.path.join(run_dir, SYNCED))
        self._synced = {(e.writer_id, e.path): e for e in map(Entry._make, self.synced.entries())}
        self.before: dict[int, Before] = {}
        self._looked_for: set[int] = set()

    @property
    def is_certain(self) -> bool:
        return not self._is_damaged and all(each.is_certain for each in self.before.values())

    def take_up(self, files: _core.EventFileSet) -> None:
        """Cuts back, or reads, the files. Raises OSError, NotOwnError."""
        by_writer: dict[int, list[Entry]] = defaultdict(list)
        for entry in self._entries:
            by_writer[entry.writer_id].append(entry)
        for writer_id, entries in by_writer.items():
            before = self.before.setdefault(writer_id, Before())
            for entry in entries:
                self._take_up_file(entry, before, files)
                parts = os.path.basename(entry.path).split(".")
                if len(parts) > 3 and parts[3].isdigit():
                    before.newest_s = max(before.newest_s, float(parts[3]))

    def _take_up_file(self, entry: Entry, before: Before, files: _core.EventFileSet) -> None:
        size_now = _size_of(entry.path)
        is_exact = (
            not self._is_other_boot
            and entry.is_certain
            and entry.size_bytes != _core.UNKNOWN_SIZE
            and (size_now or 0) >= entry.size_bytes
        )
        if not is_exact:
            self._hold(entry, size_now, before, files)
            return
        _cut_back(entry.path, entry.size_bytes)
        if before.is_certain:
            before.sequence = max(before.sequence, entry.sequence)
        elif entry.size_bytes:  # it may have what an older file of the writer's lacks
            files.hold(entry.writer_id, entry.path)

    def _hold(
        self, entry: Entry, size_now: int | None, before: Before, files: _core.EventFileSet
    ) -> None:
        """For a file that may lack what is acknowledged, or have more."""
        synced = self._synced.get((entry.writer_id, entry.path), _NOTHING)
        sure = synced if self._is_other_boot else entry
        if sure.size_bytes > (size_now or 0) or entry.size_bytes == _core.UNKNOWN_SIZE:
            sure = _NOTHING
        is_empty = not max(entry.size_bytes, synced.size_bytes)
        if is_empty and size_now is None:
            return  # it was never made
        if before.is_certain:
            before.sequence = max(before.sequence, sure.sequence)
        before.is_certain = False
        until = max(entry.sequence, synced.sequence)
        end, count = files.hold(entry.writer_id, entry.path, sure.size_bytes, until)
        before.had += max(entry.points, synced.points)
        before.found += sure.points + count
        before.ends.append((entry, end, sure.points + count))
        before.problems += self._problem(entry, size_now, end)

    def _problem(self, entry: Entry, size_now: int | None, end: int) -> list[str]:
        if size_now is None:
            return [f"{entry.path} is gone"]
        if entry.size_bytes == _core.UNKNOWN_SIZE or not entry.is_certain:
            return [f"what was acknowledged of {entry.path} is damaged"]
        if end < entry.size_bytes:
            return [f"{entry.path} is whole up to byte {end:,} of {entry.size_bytes:,}"]
        return []

    def take_up_others(self, writer_id: int, folder: str, files: _core.EventFileSet) -> None:
        """Where the ledger lacks files: what those of the folder have is not written again."""
        if not self._is_damaged or writer_id in self._looked_for:
            return
        self._looked_for.add(writer_id)
        before = self.before.setdefault(writer_id, Before())
        before.is_certain = False
        known = {entry.path for entry in self._entries}
        for path in _ours_in(folder, _oldest_s(self._run_dir)):
            if path not in known:
                files.hold(writer_id, path)

    def lost(self, files: _core.EventFileSet) -> dict[str, int]:
        """Points that were in the files and are nowhere now, by what is the matter."""
        found: dict[str, int] = {}
        for writer_id, before in self.before.items():
            if before.is_certain:
                continue
            count = before.had - before.found - files.restored(writer_id)
            if count > 0:
                found["; ".join(before.problems) or "lost with the power"] = count
        return found

    def settle(self) -> None:
        """Writes down what the files have now, and takes what is torn off them. Raises OSError."""
        for entry in self._entries:  # the dead process may not have: soon they are nowhere else
            _sync(entry.path)
        for before in self.before.values():
            for entry, end, count in before.ends:
                _cut_back(entry.path, end, only_torn=True)
                self.ledger.acknowledge(entry.place, end, entry.sequence, count)
                synced = self._synced.get((entry.writer_id, entry.path))
                place = synced.place if synced else self.synced.add(entry.writer_id, entry.path)
                self.synced.acknowledge(place, end, entry.sequence, count)
        settle_ledger(os.path.join(self._run_dir, LEDGER))


def _size_of(path: str) -> int | None:
    """None when there is no such file. Raises NotOwnError for what is no event file of ours."""
    if not _OUR_NAME.fullmatch(os.path.basename(path)):
        raise NotOwnError(f"the ledger of event files names {path!r}, which is none; it stays")
    try:
        fd = open_own(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        _check_is_event_file(fd, path)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _cut_back(path: str, size_bytes: int, only_torn: bool = False) -> None:
    """What is behind is written to a new file; with `only_torn` nothing whole may be there."""
    try:
        fd = open_own(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if os.fstat(fd).st_size <= size_bytes:
            return
        if only_torn and (size_bytes == 0 or _has_events_behind(path, size_bytes)):
            return  # TensorBoard reads up to the damage; nothing whole is destroyed
        if size_bytes == 0:
            os.unlink(path)
        else:
            os.ftruncate(fd, size_bytes)
    finally:
        os.close(fd)


def _sync(path: str) -> None:
    try:
        fd = open_own(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _has_events_behind(path: str, position: int) -> bool:
    reader = _core.EventReader()
    reader.read_file(os.fsencode(path), position)
    return bool(reader.tags())


def _check_is_event_file(fd: int, path: str) -> None:
    """Raises NotOwnError unless it begins as such a file does: a length and its checksum. One that
    begins with zeros may be what a loss of power left of it."""
    with open(fd, "rb", closefd=False) as file:
        head = file.read(12)
    crc = int.from_bytes(head[8:], "little")
    if len(head) == 12 and any(head) and crc != _masked_crc(head[:8]):
        raise NotOwnError(f"{path} is named as an event file and is none; it stays as it is")


def _ours_in(folder: str, oldest_s: float) -> list[str]:
    """This user's own event files of a folder that were written since."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = [os.path.join(folder, name) for name in names if _OUR_NAME.fullmatch(name)]
    return [path for path in paths if is_own_file(path) and os.stat(path).st_mtime >= oldest_s]


def _oldest_s(run_dir: str) -> float:
    """When the run began, or before that."""
    times = [os.stat(os.path.join(run_dir, name)).st_mtime for name in os.listdir(run_dir)]
    return min(times, default=0.0) - 2.0


def _masked_crc(data: bytes) -> int:
    """As TFRecord has it."""
    crc = _core.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
