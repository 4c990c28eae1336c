"""The folder of a run: a readable manifest, the ring's file or where it is, the journal."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracelet._version import __version__
from tracelet.errors import ConfigurationError
from tracelet.fork import renew_at_fork
from tracelet.options import Options
from tracelet.places import ring_bytes_of, ring_folder
from tracelet.redact import without_user
from tracelet.runs.deletion import Reason, delete_run
from tracelet.runs.manifest import FORMAT, encoded
from tracelet.runs.process_identity import process_identity
from tracelet.runs.run_lock import RunLock
from tracelet.runs.whole_file import sync_folder, write_whole

if TYPE_CHECKING:
    from tracelet.backends.base import Backend

MANIFEST = "manifest.json"
RUN_LOCK = "run.lock"
"""Held by the run's process. What is forked from it holds the ring's file, once it logs."""

ARTIFACTS = "set_aside-artifacts"
"""The folder of what is to be uploaded, and of what could not be."""

# What the sinks need when they are opened again, and what a process needs that attaches to the run
# (pipeline/attached_run). Not all: some may hold a secret (a URL with a password in it).
_KEPT_OPTIONS = (
    "exp_name", "project", "backend", "log_dir", "tensorboard", "batch_max_points",
    "batch_max_bytes", "aggregate", "task_name", "payload_bytes", "full_ring_timeout_s",
    "histogram_threads", "ranks",
)  # fmt: skip


_LOOKED_AT_S = 0.2  # who asks whether the run is led holds its lock for a moment


class RunFolder:
    """Made when a run starts, readable by its owner alone; removed when all was delivered."""

    def __init__(self, options: Options) -> None:
        """Makes nothing yet: who interrupts a start knows which folder is to be removed."""
        self.run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(4).hex()}"
        self.path = os.path.join(options.runs_dir, self.run_id)
        self.is_made = False
        self._options = options
        self._lock = RunLock(os.path.join(self.path, RUN_LOCK))
        self._ring_hold: int | None = None

    def make(self) -> None:
        """Raises ConfigurationError or OSError, and leaves nothing behind then."""
        try:
            os.makedirs(self._options.runs_dir, mode=0o700, exist_ok=True)
            os.mkdir(self.path, mode=0o700)
        except OSError as error:
            raise ConfigurationError(
                f"the run's folder can't be made: {error}; TRACELET_DIR chooses another place"
            ) from error
        renew_at_fork(self)
        try:
            # First, so that no one sees a run whose lock is still to be had.
            self._fill(self._options)
            self.is_made = True
        except BaseException:  # no descriptor, no space
            self.leave()
            _remove_start(self.path)
            raise

    def adopt(self, path: str, manifest: dict[str, Any], ring_path: str) -> bool:
        """Goes on with a run that another process has begun and does not lead now. False when
        somebody leads it. Raises OSError."""
        lock = RunLock(os.path.join(path, RUN_LOCK))
        if not lock.acquire(_LOOKED_AT_S):
            return False
        self.path, self.run_id = path, os.path.basename(path)
        self.payloads_path = os.path.join(path, "payloads")
        self.artifacts_path = os.path.join(path, ARTIFACTS)
        self.ring_path, self._manifest, self._lock = ring_path, manifest, lock
        self.is_made = True
        return True

    def leave_to_others(self) -> None:
        """Another process of the job goes on with the run: this one leads it no more."""
        self._lock.release()

    def remove_start(self) -> None:
        """Removes what a start has made that failed before anybody could log."""
        self.leave()
        remove_ring(self.ring_path)
        for name in os.listdir(self.path):
            if name.endswith(".lock"):
                os.unlink(os.path.join(self.path, name))
        _remove_start(self.path)

    def _fill(self, options: Options) -> None:
        self._lock.acquire()
        ring_bytes = ring_bytes_of(options.ring_slots, options.payload_bytes)
        ring_dir = ring_folder(options.ring_dir, self.path, ring_bytes)
        self.ring_path = os.path.join(ring_dir, ring_name(self.run_id))
        self.payloads_path = os.path.join(self.path, "payloads")
        # What is to be uploaded lies where what could not be does: a run that was killed leaves it
        # to its user, and what sends its points does not remove it.
        self.artifacts_path = os.path.join(self.path, ARTIFACTS)
        self._manifest = first_manifest(self.run_id, options, self.ring_path)
        self.update()
        # The folder's own name, too, and that of the folder around it: without them a loss of power
        # takes all that is synced inside. A file system that can't is none to refuse a run for.
        with contextlib.suppress(OSError):
            runs_dir = os.path.dirname(os.path.abspath(self.path))
            sync_folder(runs_dir)
            sync_folder(os.path.dirname(runs_dir))

    @property
    def manifest(self) -> Mapping[str, Any]:
        """As it was written last."""
        return self._manifest

    def update(self, **changes: Any) -> None:
        """Writes the manifest anew, whole or not at all."""
        self._manifest.update(changes)
        write_manifest(self.path, self._manifest)

    @property
    def has_set_aside(self) -> bool:
        """Whether a sink keeps points here that its server would not take (`set_aside-*`)."""
        return any(name.startswith("set_aside-") for name in os.listdir(self.path))

    def leave(self) -> None:
        """Says that nothing in this process will write here again."""
        self._lock.release()
        hold, self._ring_hold = self._ring_hold, None
        if hold is not None:
            os.close(hold)

    def renew_in_child(self) -> None:
        """A forked child that logs has a hold of its own (`LoggedRun` in the core)."""
        if self._ring_hold is not None:
            with contextlib.suppress(OSError):
                os.close(self._ring_hold)
            self._ring_hold = None

    def hold_ring(self) -> None:
        """Marks the ring's file as one in use, by a lock that the kernel keeps as long as this
        process lives: other pid namespaces that share the folder see it,
        too. Without it `tracelet clean` could take it for an orphan."""
        renew_at_fork(self)
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            self._ring_hold = os.open(self.ring_path, os.O_RDONLY)
            fcntl.flock(self._ring_hold, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def remove(self, reason: Reason) -> None:
        """Deletes the run. Raises NotDeliveredError when the reason does not hold, OSError."""
        try:
            delete_run(self.path, self.ring_path, reason)
        finally:
            self.leave()

    def remove_payloads(self) -> None:
        shutil.rmtree(self.payloads_path, ignore_errors=True)

    def remove_artifacts_folder(self) -> None:
        """Unless there is something in it."""
        with contextlib.suppress(OSError):
            os.rmdir(self.artifacts_path)

    def remove_ring(self, end: int) -> None:
        """Once its `end` records lie in the journal, on disk, or with every sink. The manifest says
        so first: who finds no ring afterwards knows that nothing is missing."""
        self.update(ring_is_drained=True, end=end)
        remove_ring(self.ring_path)


def _remove_start(path: str) -> None:
    """Removes what a start that failed has made of its folder. By their names: to list a folder
    takes a descriptor, for want of which it may have failed."""
    for name in (f"{MANIFEST}.new", MANIFEST, f"{RUN_LOCK}.claim", RUN_LOCK):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(path, name))
    with contextlib.suppress(OSError):
        os.rmdir(path)


def ring_name(run_id: str) -> str:
    return f"tracelet-{run_id}.ring"


def first_manifest(run_id: str, options: Options, ring_path: str) -> dict[str, Any]:
    """What is known of a run before its backends are opened."""
    return {
        "format": FORMAT,
        "run": run_id,
        "project": options.project,
        "exp_name": options.exp_name,
        "started_s": time.time(),
        "options": {name: getattr(options, name) for name in _KEPT_OPTIONS},
        "tracelet": __version__,
        "python": platform.python_version(),
        **process_identity(),
        "ring": ring_path,
        "state": "starting",
    }


def write_manifest(folder: str, manifest: Mapping[str, Any]) -> None:
    """Writes a run's manifest, whole or not at all. Raises OSError."""
    write_whole(os.path.join(folder, MANIFEST), encoded(manifest))


def remove_ring(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def manifest_of(backends: Sequence[Backend]) -> dict[str, Any]:
    """What the manifest says of the backends and of their sinks, by their numbers (`progress`)."""
    return {
        "task": next((each.id for each in backends if each.id is not None), None),
        "sinks": [
            {"name": sink.name, "backend": backend.name}
            for backend in backends
            for sink in backend.sinks
        ],
        "reopen": {each.name: dict(each.reopen_state) for each in backends if each.reopen_state},
        "ids": {each.name: each.id for each in backends if each.id is not None},
        "urls": {each.name: without_user(each.url) for each in backends if each.url},
    }
