"""Has a run's small files reach the disk: names of series, parameters, notes, what was set aside.

They are written by calls of the user's and by sinks, who wait for no disk. Whoever writes one need
not say so: a file that is not as it was the last time is found here.
"""

from __future__ import annotations

import os
import stat

from tracelet.runs.whole_file import sync_file, sync_folder

_ENDINGS = (".json", ".jsonl")


class SmallFiles:
    """Those that lie in the run's folder itself. One thread."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._synced: dict[str, tuple[int, int, int]] = {}

    def sync(self) -> None:
        """Has them reach the disk as they were before this call. Raises OSError."""
        changed = {name: state for name, state in self._states() if self._synced.get(name) != state}
        for name in changed:
            sync_file(os.path.join(self._folder, name))
        if changed:
            sync_folder(self._folder)
        self._synced.update(changed)  # only now: what failed is tried again

    def _states(self) -> list[tuple[str, tuple[int, int, int]]]:
        """What is another one after each write: taken before the sync."""
        found: list[tuple[str, tuple[int, int, int]]] = []
        try:
            entries = os.scandir(self._folder)
        except FileNotFoundError:
            return found  # who misses the journal there tells of it
        with entries:
            for entry in entries:
                if not entry.name.endswith(_ENDINGS):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # replaced meanwhile
                if stat.S_ISREG(status.st_mode):
                    state = (status.st_ino, status.st_size, status.st_mtime_ns)
                    found.append((entry.name, state))
        return found
