"""A run's folder as other processes see it: what is in it, and whether it may be touched."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.journal.journal import Journal
from tracelet.runs.process_identity import is_alive, processes_that_map
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import MANIFEST, RUN_LOCK, remove_run, write_manifest
from tracelet.runs.run_lock import RunLock


class StoredRun:
    """One run on disk. Raises TraceletError for a folder that is none."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.run_id = os.path.basename(os.path.normpath(path))
        try:
            with open(os.path.join(path, MANIFEST), encoding="utf-8") as file:
                manifest = json.load(file)
            self.manifest: dict[str, Any] = dict(manifest)
            self.ring_path = str(manifest["ring"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TraceletError(f"{path} is not the folder of a run: {error!r}") from error

    @property
    def is_alive(self) -> bool:
        """Whether its process, or a child forked from it, may still log into it."""
        held = RunLock.is_held(os.path.join(self.path, RUN_LOCK))
        if held is None:
            held = is_alive(self.manifest) is not False
        return held

    @property
    def state(self) -> str:
        """One of "running", "unsent" (has, or may have, points that some backend lacks) and
        "finished" (delivered; what a server refused is kept)."""
        if self.manifest.get("state") == "finished":
            return "finished"
        return "running" if self.is_alive else "unsent"

    @property
    def project(self) -> str:
        return str(self.manifest.get("project", ""))

    @property
    def exp_name(self) -> str:
        return str(self.manifest.get("exp_name", ""))

    def pending(self) -> int | None:
        """Points that some sink has yet to take; None when that can't be told."""
        if self.manifest.get("state") == "finished" or "sinks" not in self.manifest:
            return 0
        try:
            progress = Progress.open(self.path)
            position = min(progress[number] for number in range(progress.count))
            progress.close()
            if os.path.exists(self.ring_path):
                return max(0, _core.Ring.open(self.ring_path).head - position)
            return Journal.recover(self.path).count_from(position)
        except (OSError, RuntimeError, TraceletError):
            return None

    def update(self, **changes: Any) -> None:
        """Writes the manifest anew, whole or not at all."""
        self.manifest.update(changes)
        write_manifest(self.path, self.manifest)

    def remove(self) -> None:
        """Deletes all there is of it, its ring's file included."""
        remove_run(self.path, self.ring_path)

    def users_of_ring(self) -> list[int]:
        """Pids of processes that have the ring mapped, where that can be seen."""
        return processes_that_map(self.ring_path) if os.path.exists(self.ring_path) else []

    def size_bytes(self) -> int:
        """What its files take on disk and in shared memory."""
        total = _allocated_bytes(self.ring_path)
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = os.path.join(folder, name)
                total += _allocated_bytes(path) if path != self.ring_path else 0
        return total

    def age_s(self) -> float:
        """Seconds since its manifest was last written: its start, or its end."""
        return max(0.0, time.time() - os.stat(os.path.join(self.path, MANIFEST)).st_mtime)


def find_runs(runs_dir: str, most: int | None = None) -> list[StoredRun]:
    """The runs of a folder, oldest first, the newest `most` of them; what is no run is left out."""
    runs = []
    for name in sorted(_names_in(runs_dir))[-most if most else None :]:
        path = os.path.join(runs_dir, name)
        if os.path.exists(os.path.join(path, MANIFEST)):
            try:
                runs.append(StoredRun(path))
            except TraceletError:
                continue
    return runs


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _allocated_bytes(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0
