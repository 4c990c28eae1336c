"""Names for trackers whose series have one name: tags, told apart where two writers share one."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any, Callable

import numpy as np

from tracelet.backends.base import Batch
from tracelet.backends.kept import KeptLines
from tracelet.fork import renew_at_fork


class FlatNames:
    """Gives each (log folder, tag) a name that no other one has, and remembers it for `sync`.

    Any thread. The names depend on the order in which series first appear.
    """

    def __init__(self, lines: KeptLines, clean: Callable[[str], str]) -> None:
        """`clean` gives a name the form that the tracker takes, the same one each time."""
        self._lines = lines
        self.renew_in_child()
        renew_at_fork(self)
        self._clean = clean
        self._names: dict[tuple[str, str], str] = {}
        self._owners: dict[str, tuple[str, str]] = {}
        for log_dir, tag, name in lines.read(str, str, str):
            self._names[log_dir, tag] = name
            self._owners[name] = (log_dir, tag)

    def renew_in_child(self) -> None:
        self._lock = threading.Lock()

    def name(self, log_dir: str, tag: str) -> str:
        """`log_dir` is empty for points without a SummaryWriter."""
        with self._lock:
            return self._name(log_dir, tag)

    def _name(self, log_dir: str, tag: str) -> str:
        series = (log_dir, tag)
        if (known := self._names.get(series)) is not None:
            return known
        folder = os.path.basename(log_dir.rstrip("/"))
        digest = hashlib.sha256(f"{log_dir}\0{tag}".encode(errors="replace")).hexdigest()[:16]
        for candidate in (tag, f"{folder}/{tag}" if folder else tag, f"{tag} {digest}"):
            name = self._clean(candidate)
            if name not in self._owners:
                break
        self._names[series] = name
        self._owners[name] = series
        self._lines.append(log_dir, tag, name)
        return name

    def close(self) -> None:
        self._lines.close()


class SeriesNames:
    """The names of one sink's series, by the ids of their records: a look-up a point. One thread at
    a time."""

    def __init__(self, names: FlatNames) -> None:
        self._names = names
        self._by_ids: dict[int, str] = {}  # writer's id << 32 | tag's id

    def of(self, batch: Batch, records: np.ndarray[Any, Any]) -> list[str]:
        """Of each of these records of the batch."""
        ids = (records["writer_id"].astype(np.uint64) << np.uint64(32)) | records["tag_id"]
        each_id = ids.tolist()
        try:
            return [self._by_ids[each] for each in each_id]
        except KeyError:
            for each in dict.fromkeys(each_id):
                if each not in self._by_ids:
                    log_dir, tag = batch.log_dir(each >> 32), batch.tag(each & 0xFFFFFFFF)
                    self._by_ids[each] = self._names.name(log_dir, tag)
            return [self._by_ids[each] for each in each_id]

    def close(self) -> None:
        self._names.close()
