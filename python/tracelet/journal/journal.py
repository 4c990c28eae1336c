"""Records on disk that some sink has not acknowledged yet: append, read from a position, release.

What its files hold is in `journal_format`; where it lies, in `journal_index`; the strings behind
the records' ids are in `journal_names`. Written by the drainer alone; read by the shippers, which
see a block once `append` has returned; synced to disk by a thread of its own (`journal_sync`), so
that no disk is waited for while the ring fills.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracelet import _core
from tracelet.errors import JournalError, TraceletError
from tracelet.fork import renew_at_fork
from tracelet.journal.drops import DropNotes
from tracelet.journal.format import (
    Block,
    Damage,
    Records,
    block_header,
    file_header,
    read_blocks,
    scan_segment,
    segment_paths,
)
from tracelet.journal.index import JournalIndex
from tracelet.journal.names import (
    O_BINARY,
    NamesFile,
    NameSource,
    stored_names,
    write_all,
)
from tracelet.records import RECORD_DTYPE
from tracelet.runs.whole_file import sync_folder

_log = logging.getLogger("tracelet")

_BLOCK_RECORDS = 8192
_BLOCK_PAYLOAD_BYTES = 4 << 20
_SEGMENT_BYTES = 16 << 20


class Journal:
    """A run's journal. `append` is for one thread; `sync` for one thread; the rest for any.

    `names` is where the strings behind the records' ids are; without it they are not kept.
    """

    def __init__(self, folder: str, names: NameSource | None = None) -> None:
        self._folder = folder
        self._names = names
        self._names_file = NamesFile(folder)
        self._drop_notes = DropNotes(folder)
        self.renew_in_child()
        renew_at_fork(self)
        self._index = JournalIndex()  # guarded by the lock
        self._segments: set[str] = set()  # guarded by the lock; files that may be deleted one day
        self._retired_fds: list[int] = []  # guarded by the lock; written, to be synced and closed
        self._folder_changed = False
        self._fd: int | None = None
        self._path = ""
        self._size_bytes = 0
        self._passed_over = 0  # guarded by the lock; the end of what was not taken, see pass_over
        self.segment_bytes = _SEGMENT_BYTES
        """Once a segment has so many bytes, the next one is begun."""
        self.damages: list[Damage] = []
        """What `recover` found that can't be trusted."""

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()

    @classmethod
    def recover(cls, folder: str, names: NameSource | None = None) -> Journal:
        """The journal that a process left behind, to be read and gone on with.

        Blocks are taken by their positions, whatever file they lie in and however often; what is
        damaged is left out and listed in `damages`. Raises OSError.
        """
        journal = cls(folder, names)
        journal._names_file = NamesFile(folder, stored_names(folder))
        found: list[Block] = []
        for path in segment_paths(folder):
            blocks, damages = scan_segment(path)
            journal._segments.add(path)
            found += blocks
            journal.damages += damages
        # Of those that begin together the longest first; one within those before it adds nothing.
        for block in sorted(found, key=lambda block: (block.first, -block.end)):
            if block.count and block.end > journal._index.end:
                journal._index.add(block)
        return journal

    @property
    def end(self) -> int:
        """The position after the last record that it holds or has passed over; 0 without any."""
        with self._lock:
            return max(self._index.end, self._passed_over)

    @property
    def size_bytes(self) -> int:
        """What its records and payloads take on disk. Any thread."""
        with self._lock:
            return self._index.size_bytes

    def pass_over(self, first: int, end: int) -> None:
        """Goes on at `end` without the records from `first` on, which are given up on purpose; for
        the thread that appends."""
        self._note_drop(first, end)
        with self._lock:
            self._passed_over = max(self._passed_over, end)

    def _note_drop(self, first: int, end: int) -> None:
        """First of all, so that no gap is there without its note, but for a note that fails."""
        try:
            self._drop_notes.note(first, end)
        except (OSError, TraceletError) as error:
            _log.debug("tracelet: the drop of %d records can't be noted: %s", end - first, error)

    def drop_oldest_segment(self) -> None:
        """Deletes the oldest segment, acknowledged or not; for the thread that appends."""
        with self._lock:
            path = next((span.path for span in self._index), None)
        if path is None:
            return
        if path == self._path:
            self._retire_segment()
            self._path = ""
        with self._lock:
            spans = [span for span in self._index if span.path == path]
        for span in spans:
            self._note_drop(span.first, span.end)
        with self._lock:
            self._passed_over = max(self._passed_over, spans[-1].end)
            self._index.drop_file(path)
            self._segments.discard(path)
        _remove(path)

    def count_from(self, position: int) -> int:
        """How many records it holds from `position` on."""
        count = 0
        with self._lock:
            for span in self._index.from_position(position):
                count += span.end - max(span.first, position)
                position = span.end
        return count

    def next_position(self, position: int) -> int | None:
        """The first position from `position` on that it holds; None when there is none."""
        with self._lock:
            span = next(self._index.from_position(position), None)
        return max(position, span.first) if span else None

    def append(self, records: Records, payloads: Any = None) -> None:
        """Appends records, which follow one another without a gap, with their payloads.

        Records that the journal holds already are passed over: a call that failed may be repeated,
        with more records behind the same ones. Raises OSError when they can't be written; what was
        whole before then stays.
        """
        records = records[self._held_of(records) :]
        if len(records) and self._names is not None:
            self._names_file.update(self._names)  # first: what a record refers to is there
        while len(records):
            block = records[:_BLOCK_RECORDS]
            gathered = _core.gather_block(block, payloads, _BLOCK_PAYLOAD_BYTES)
            if gathered is None:
                self._append_block(block, b"")
            else:
                block = np.frombuffer(gathered[0], dtype=RECORD_DTYPE)
                self._append_block(block, gathered[1])
            records = records[len(block) :]

    def _held_of(self, records: Records) -> int:
        """How many of the records, from the first on, the journal holds."""
        end = self.end
        return max(0, end - (int(records["sequence"][0]) - 1)) if end and len(records) else 0

    def _append_block(self, records: Records, payloads: bytes) -> None:
        first = int(records["sequence"][0]) - 1
        # A segment that somebody has removed is written for nobody.
        is_gone = self._fd is not None and os.fstat(self._fd).st_nlink == 0
        if self._fd is None or self._size_bytes >= self.segment_bytes or is_gone:
            self._open_segment(first)
        assert self._fd is not None
        header = block_header(records, payloads, first)
        try:
            write_all(self._fd, header, records.view(np.uint8), payloads)
        except OSError:
            try:
                os.ftruncate(self._fd, self._size_bytes)
                os.lseek(self._fd, self._size_bytes, os.SEEK_SET)
            except OSError:
                # The torn block stays this segment's end, where a reader leaves it out.
                self._retire_segment()
            raise
        block = Block(first, len(records), self._path, self._size_bytes, len(payloads))
        self._size_bytes += block.size_bytes
        with self._lock:
            self._index.add(block)

    def _open_segment(self, first: int) -> None:
        self._retire_segment()
        path = os.path.join(self._folder, f"journal-{first:020d}.bin")
        number = 0
        while True:
            try:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)  # it may have been removed
                # Exclusively: what a process that died left under this name stays.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_BINARY
                self._fd = os.open(path, flags, 0o600)
                break
            except FileExistsError:
                number += 1
                path = os.path.join(self._folder, f"journal-{first:020d}-{number}.bin")
        self._path = path
        with self._lock:
            self._segments.add(path)
        self._folder_changed = True
        header = file_header()
        try:
            write_all(self._fd, header)
        except OSError:
            self._discard_segment()  # or each attempt on a full disk would leave a file
            raise
        self._size_bytes = len(header)

    def _discard_segment(self) -> None:
        """Deletes the segment that is being written, which holds nothing that is wanted."""
        path, self._path = self._path, ""
        self._retire_segment()
        with self._lock:
            self._segments.discard(path)
        _remove(path)

    def make_room(self, position: int) -> None:
        """Releases what is before `position`, the segment that is being written too where nothing
        else is in it; for the thread that appends. Its space is free after the next sync.
        """
        self.release(position)
        has_records = self._size_bytes > len(file_header())
        if self._fd is not None and has_records and self.size_bytes == 0:
            self._discard_segment()

    @property
    def has_retired_files(self) -> bool:
        """Whether the next sync closes files; those deleted take space until then."""
        with self._lock:
            return bool(self._retired_fds)

    def _retire_segment(self) -> None:
        if self._fd is not None:
            with self._lock:
                self._retired_fds.append(self._fd)
                self._fd = None

    def read(self, position: int, limit: int, limit_bytes: int) -> tuple[Records, bytes]:
        """The records from `position` on, and their payloads; none when it doesn't hold that one.

        At most `limit`, and no further block once the payloads are `limit_bytes` or more: what is
        read from a position begins with the same bytes whenever it is read. It ends before a
        damaged block. Read-only. Raises JournalError when the first one is damaged, OSError.
        """
        parts: list[Records] = []
        payloads: list[bytes] = []
        payload_bytes = 0
        try:
            for records, its_payloads in self._blocks_from(position):
                records = records[:limit]
                if payload_bytes and its_payloads:
                    records = records.copy()
                    records["payload_offset"] += np.uint64(payload_bytes)
                parts.append(records)
                payloads.append(its_payloads)
                payload_bytes += len(its_payloads)
                limit -= len(records)
                if limit <= 0 or payload_bytes >= limit_bytes:
                    break
        except JournalError:
            if not parts:
                raise
        if len(parts) == 1:
            return parts[0], payloads[0]
        records = np.concatenate(parts) if parts else np.empty(0, dtype=RECORD_DTYPE)
        records.flags.writeable = False
        return records, b"".join(payloads)

    def _blocks_from(self, position: int) -> Iterator[tuple[Records, bytes]]:
        """The records that follow from `position` on, a block each, as long as there is no gap."""
        while True:
            with self._lock:
                span = self._index.at(position)
            if span is None:
                return
            for first, records, payloads in read_blocks(
                span.path, span.offset_bytes, span.size_bytes, position
            ):
                yield records[position - first :], payloads
                position = first + len(records)

    def drop_block_at(self, position: int) -> None:
        """Forgets the block that has `position`: it can't be read any more."""
        with self._lock:
            span = self._index.at(position)
        if span is None:
            return
        end_bytes = span.offset_bytes + span.size_bytes
        kept = [
            block
            for block in scan_segment(span.path)[0]
            if span.offset_bytes <= block.offset_bytes < end_bytes
            and not block.first <= position < block.end
        ]
        with self._lock:
            self._index.replace(span, kept)

    def drop_file_at(self, position: int) -> None:
        """Forgets what is in the file that has `position`: somebody has removed it."""
        with self._lock:
            span = self._index.at(position)
            if span is not None:
                last = max(other.end for other in self._index if other.path == span.path)
                self._passed_over = max(self._passed_over, last)
                self._index.drop_file(span.path)
                self._segments.discard(span.path)

    def release(self, position: int) -> None:
        """Forgets the records before `position`, and deletes files that hold no others."""
        with self._lock:
            if not self._index.release(position):
                return
            paths = self._segments - {span.path for span in self._index} - {self._path}
            self._segments -= paths
        for path in paths:
            _remove(path)

    def sync(self) -> None:
        """Has what was appended before this call reach the disk. Raises OSError."""
        with self._lock:
            retired, self._retired_fds = self._retired_fds, []
            current = self._fd
        fds = [fd for fd in (self._names_file.fileno, *retired, current) if fd is not None]
        try:
            for fd in fds:
                _sync_file(fd)
                if fd in retired:
                    retired.remove(fd)
                    os.close(fd)
            if self._folder_changed:
                self._folder_changed = False
                try:
                    sync_folder(self._folder)
                except BaseException:
                    self._folder_changed = True
                    raise
        finally:
            with self._lock:
                self._retired_fds[:0] = retired  # those that failed: the next sync has them again

    def close(self) -> None:
        """Closes its files; `sync` first for what shall outlast a loss of power."""
        self._retire_segment()
        self._names_file.close()
        self._drop_notes.close()
        self._names = None  # it keeps the ring mapped, and a run may keep its journal
        with self._lock:
            retired, self._retired_fds = self._retired_fds, []
        for fd in retired:
            os.close(fd)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


_sync_file = getattr(os, "fdatasync", os.fsync)
