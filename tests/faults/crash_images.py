"""What may be on a disk after a loss of power: made from the log of the fault library's recorder.

A file's content is certain as far as an fsync covers it; a name, as far as an fsync of its folder.
Of all later writes, creations, renames and removals any may be there or not. A mapped file holds
what any of its pages held at any time since.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_ENTRY = struct.Struct("<IIIIQQQ")
OPEN, WRITE, SYNC, TRUNCATE, ALLOCATE, MAP, RENAME, CREATE, UNLINK, MKDIR, MAPPED, RMDIR = range(12)


@dataclass
class Call:
    number: int
    kind: int
    path: str
    path2: str
    inode: int
    offset: int
    size: int
    data: bytes
    file: File | None = None


@dataclass
class File:
    changes: list[Call] = field(default_factory=list)
    syncs: list[int] = field(default_factory=list)


def read_log(path: Path) -> list[Call]:
    data = path.read_bytes()
    calls = []
    at = 0
    while at < len(data):
        kind, size1, size2, has_data, inode, offset, size = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        path1, path2 = (
            data[at : at + size1].decode(),
            data[at + size1 : at + size1 + size2].decode(),
        )
        at += size1 + size2
        held = data[at : at + size] if has_data else b""
        at += len(held)
        calls.append(Call(len(calls), kind, path1, path2, inode, offset, size, held))
    return calls


class Disk:
    """All that happened below a folder, as files and folders see it."""

    def __init__(self, root: str, calls: list[Call]) -> None:
        self.root = root
        self.count = len(calls)
        self._folders: dict[str, list[Call]] = {}  # changes of names, by folder
        self._folder_syncs: dict[str, list[int]] = {}
        open_files: dict[int, File] = {}
        named: dict[str, File] = {}
        folders = {root}
        for call in calls:
            if call.kind == CREATE:
                open_files[call.inode] = named[call.path] = call.file = File()
            if call.kind == MKDIR:
                # Not told by its inode's number: a removed file's is given to a new folder.
                folders.add(call.path)
            if call.kind == RENAME and call.path in named:
                call.file = named[call.path2] = named.pop(call.path)
            if call.kind in (CREATE, RENAME, UNLINK, MKDIR, RMDIR):
                folder = os.path.dirname(call.path2 or call.path)
                self._folders.setdefault(folder, []).append(call)
            elif call.kind == SYNC and call.path in folders:
                self._folder_syncs.setdefault(call.path, []).append(call.number)
            elif call.inode in open_files:
                file = open_files[call.inode]
                if call.kind == SYNC:
                    file.syncs.append(call.number)
                else:
                    file.changes.append(call)

    def image(self, until: int, rng: random.Random | None, into: Path) -> None:
        """What may be there when the power goes before call number `until`; without `rng` what is
        there for certain. Written to the folder `into`, which stands for the root."""
        self._make(self.root, until, rng, into)

    def _make(self, folder: str, until: int, rng: random.Random | None, into: Path) -> None:
        into.mkdir(parents=True, exist_ok=True)
        there: dict[str, File | None] = {}
        for call in self._kept(self._folders.get(folder, []), self._folder_syncs.get(folder, []),
                               until, rng):  # fmt: skip
            if call.kind == RENAME:
                if call.path in there and there[call.path] is call.file:
                    del there[call.path]
                there[call.path2] = call.file
            elif call.kind in (CREATE, MKDIR):
                there[call.path] = call.file
            else:
                there.pop(call.path, None)
        for path, file in there.items():
            target = into / os.path.basename(path)
            if file is None:
                self._make(path, until, rng, target)
            else:
                target.write_bytes(self._content(file, until, rng))

    def _content(self, file: File, until: int, rng: random.Random | None) -> bytes:
        content = bytearray()
        for call in self._kept(file.changes, file.syncs, until, rng):
            if call.kind == TRUNCATE:
                content = content[: call.size].ljust(call.size, b"\0")
            elif call.kind == ALLOCATE:
                content = content.ljust(call.offset + call.size, b"\0")
            else:
                data = call.data
                is_certain = any(call.number < each < until for each in file.syncs)
                if rng is not None and not is_certain and rng.random() < 0.2:
                    data = data[: rng.randrange(len(data) + 1)]  # torn
                content = content.ljust(call.offset, b"\0")
                content[call.offset : call.offset + len(data)] = data
        return bytes(content)

    @staticmethod
    def _kept(
        changes: list[Call], syncs: list[int], until: int, rng: random.Random | None
    ) -> Iterator[Call]:
        certain = max((each for each in syncs if each < until), default=-1)
        rate = rng.choice((0.0, 0.5, 0.9, 1.0)) if rng is not None else 0.0
        for call in changes:
            if call.number < until and (
                call.number < certain or (rng is not None and rng.random() < rate)
            ):
                yield call
