"""A run's folder as other processes see it: what is in it, and whether it may be touched.

Nothing in it is believed before it was looked at: see `ownership`.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from tracelet import _core
from tracelet.errors import TraceletError
from tracelet.journal.journal import Journal
from tracelet.options import Options, from_environment
from tracelet.places import SHARED_MEMORY, locks_of_one_machine
from tracelet.runs.deletion import REMOVED_PREFIX, Reason, delete_run
from tracelet.runs.manifest import FORMAT, decoded
from tracelet.runs.ownership import check_own_folder, is_own_file, read_own
from tracelet.runs.process_identity import boot_id, is_alive, processes_that_map
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import (
    ARTIFACTS,
    MANIFEST,
    RUN_LOCK,
    ring_name,
    write_manifest,
)
from tracelet.runs.run_lock import RunLock, take_from_users

_MOST_MANIFEST_BYTES = 16 << 20
_RUN_ID = re.compile(r"[\w.-]{1,200}")
_OF_A_RUN = ("journal-", "names.bin", "payloads", "progress.bin", "set_aside-", "tracelet-")
"""How the names of files begin that a run without a manifest may still have points in."""


class UnreadableRunError(TraceletError):
    """A folder that is, or was, a run's, and can't be read: it is kept as it is."""


class NewerFormatError(UnreadableRunError):
    """A run of a later version: that one sends it."""


class StoredRun:
    """One run on disk. Raises UnreadableRunError for a folder that is none, or not this user's."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.run_id = os.path.basename(self.path)
        try:
            check_own_folder(self.path, apart_from=(ARTIFACTS,))
            data = read_own(os.path.join(self.path, MANIFEST), _MOST_MANIFEST_BYTES)
            self.manifest: dict[str, Any] = _checked(decoded(data))
            if self.manifest["run"] != self.run_id:  # sent twice, were it a copy
                raise ValueError(
                    f"it is a copy of the run {self.manifest['run']}, or was given another name: "
                    "with its own name it is sent"
                )
        except NewerFormatError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError, TraceletError) as error:
            raise UnreadableRunError(f"{self.path} can't be read as a run: {error}") from error
        name = ring_name(str(self.manifest["run"]))
        self._ring_places = [
            os.path.join(folder, name)
            for folder in dict.fromkeys(
                (os.path.dirname(str(self.manifest["ring"])), self.path, _ring_dir(), SHARED_MEMORY)
            )
            if folder
        ]
        self.ring_path = self._find_ring()  # raises UnreadableRunError

    def _find_ring(self) -> str:
        """Where its ring is, or else where it was: what the manifest says is taken for a folder
        only, and a file there for the ring only when it has the ring's name and id."""
        for place in self._ring_places:
            if is_own_file(place) and self._is_its_ring(place):
                return place
        return self._ring_places[0]

    def _is_its_ring(self, path: str) -> bool:
        wanted = self.manifest.get("ring_id")
        try:
            found = _core.StoredRing.id_of(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            # No descriptor left, an error of the device: it is there, and must not be taken for
            # one that is lost.
            raise UnreadableRunError(f"its ring can't be opened now: {error}") from error
        except RuntimeError:
            return True  # damaged: it has the name, and is not opened without a word
        return not wanted or found == wanted

    @property
    def has_ring(self) -> bool:
        return is_own_file(self.ring_path) and self._is_its_ring(self.ring_path)

    def ring_problem(self) -> str:
        """Why its ring, which holds points, is not here; "" when it is, or none is needed."""
        if self.has_ring or self.manifest.get("ring_is_drained") or "sinks" not in self.manifest:
            return ""
        if self.manifest["format"] == 1 and self.manifest.get("state") in ("unsent", "finished"):
            return ""  # that version removed it when it ended, and did not say so
        where = f"its ring {self.ring_path} is not here, so the points in it are not"
        if self.is_of_another_host:
            return f"{where}: {self.other_boot}, where `tracelet sync` may find it"
        if self.is_of_another_boot:
            return f"{where}: {self.other_boot}, and its shared memory is empty"
        looked = ", ".join(os.path.dirname(place) for place in self._ring_places)
        return f"{where} (looked in {looked}; TRACELET_RING_DIR names another folder)"

    @property
    def is_of_another_boot(self) -> bool:
        """Whether the machine was started anew since, or it ran on another one: what was not synced
        to the disk may be lost, in any part."""
        boot = self.manifest.get("boot")
        return boot is not None and boot != boot_id()

    @property
    def is_of_another_host(self) -> bool:
        return bool(self.manifest.get("host") != socket.gethostname())

    @property
    def other_boot(self) -> str:
        """In words, of one for which `is_of_another_boot` holds."""
        if self.is_of_another_host:
            return f"it ran on {self.manifest.get('host')}"
        return "the machine was started anew since"

    @property
    def is_alive(self) -> bool:
        """Whether its process lives, or a child forked from it that has logged into it. Raises
        UnreadableRunError when that can't be told."""
        held = RunLock.is_held(os.path.join(self.path, RUN_LOCK))
        if held is None:
            held = is_alive(self.manifest) is not False
        if held or self._is_beyond_its_lock:
            return True
        taken = self.take_ring()
        if taken is not None and taken >= 0:
            os.close(taken)
        return taken is None

    @property
    def doubt(self) -> str:
        """Why it may count as alive though nobody here can tell; "" where that is known."""
        lock = os.path.join(self.path, RUN_LOCK)
        if self._is_beyond_its_lock:
            return (
                f"it ran on {self.manifest.get('host')}, and a lock that is held there is not seen "
                f"here ({locks_of_one_machine(self.path)}): whether it lives can't be told. "
                f"`tracelet sync` there sends it; if it has ended, remove {lock} to send it here"
            )
        return RunLock.doubt(lock)

    @property
    def _is_beyond_its_lock(self) -> bool:
        """Whether it is of another machine that holds its lock where nobody here can see that. One
        that came to its end says so itself."""
        return (
            self.manifest.get("state") in ("starting", "running")
            and self.is_of_another_host
            and self.is_of_another_boot
            and os.path.exists(os.path.join(self.path, RUN_LOCK))
            and bool(locks_of_one_machine(self.path))
        )

    def take_ring(self) -> int | None:
        """See `take_from_users`. While it is taken no forked child can begin to log. Raises
        UnreadableRunError."""
        try:
            return take_from_users(self.ring_path)
        except OSError as error:
            raise UnreadableRunError(
                f"{self.run_id}: its ring {self.ring_path} can't be opened now: {error}"
            ) from error

    @property
    def state(self) -> str:
        """One of "running", "unsent" (has, or may have, points that some backend lacks) and
        "finished" (delivered; what a server refused is kept).

        One of which it can't be told is "unsent", which deletes nothing: who sends it hears why it
        can't be, and the runs beside it are listed and sent.
        """
        if self.is_finished:
            return "finished"
        try:
            return "running" if self.is_alive else "unsent"
        except UnreadableRunError:
            return "unsent"

    @property
    def shown_state(self) -> str:
        """`state` for people: one that died and has nothing to send is "killed", not "unsent"."""
        state = self.state
        has_died = state == "unsent" and self.manifest.get("state") == "running"
        if has_died and self.pending() == 0:
            with contextlib.suppress(OSError, TraceletError):  # then nobody knows
                return "unsent" if self.may_lack or self.has_unsent_calls() else "killed"
        return state

    @property
    def may_lack(self) -> bool:
        """Whether a server may lack what every sink has taken: see `Backend.reopen_state`."""
        states = dict(self.manifest.get("reopen", {})).values()
        return any(isinstance(each, Mapping) and each.get("may_lack") is True for each in states)

    def has_unsent_calls(self) -> bool:
        """Whether it has artifacts, models or parameters that its backends may lack."""
        names = os.listdir(self.path)
        if ARTIFACTS in names and os.listdir(os.path.join(self.path, ARTIFACTS)):
            return True
        for name in names:
            if name.endswith(("_params.jsonl", "_description.jsonl")):
                lines = read_own(os.path.join(self.path, name), _MOST_MANIFEST_BYTES).splitlines()
                # A call's line has the call; the line [number] says that all up to it are sent.
                if lines and b"{" in lines[-1]:
                    return True
        return False

    @property
    def is_finished(self) -> bool:
        """Whether it says so and there is nothing else: killed while it said it, its files are
        there yet, and are looked at once more."""
        if self.manifest.get("state") != "finished" or self.has_ring:
            return False
        return not any(name.startswith("journal-") for name in os.listdir(self.path))

    @property
    def project(self) -> str:
        return str(self.manifest.get("project", ""))

    @property
    def options(self) -> Options:
        """The options that the run has, as far as the manifest keeps them. Of what another version
        has kept too, what this one does not know is left out."""
        known = {each.name for each in fields(Options)}
        kept = self.manifest.get("options", {})
        values = {name: value for name, value in kept.items() if name in known}
        values["backend"] = tuple(values.get("backend", ()))
        return Options(**values)

    @property
    def exp_name(self) -> str:
        return str(self.manifest.get("exp_name", ""))

    def pending(self) -> int | None:
        """Records that the sink that lags most has yet to take; None when that can't be told."""
        if self.is_finished or "sinks" not in self.manifest:
            return 0
        if self.ring_problem():
            return None
        try:
            progress = Progress.open(self.path)
            position = min((progress[number] for number in range(progress.count)), default=0)
            progress.close()
            if self.has_ring:
                end = _core.StoredRing.open(self.ring_path).head
            else:
                end = int(self.manifest.get("end", 0)) or Journal.recover(self.path).end
            return max(0, end - position)
        except (OSError, RuntimeError, TraceletError):
            return None

    def update(self, **changes: Any) -> None:
        """Writes the manifest anew, whole or not at all."""
        self.manifest.update(changes)
        write_manifest(self.path, self.manifest)

    def remove(self, reason: Reason) -> None:
        """Deletes all there is of it. Raises NotDeliveredError when the reason does not hold."""
        delete_run(self.path, self.ring_path if self.has_ring else None, reason)

    def users_of_ring(self) -> list[int]:
        """Pids of processes that have the ring mapped, where that can be seen."""
        return processes_that_map(self.ring_path) if os.path.exists(self.ring_path) else []

    def size_bytes(self) -> int:
        """What its files take on disk and in shared memory."""
        inside = self.ring_path.startswith(self.path + os.sep)
        return folder_size_bytes(self.path) + (0 if inside else _allocated_bytes(self.ring_path))

    def age_s(self) -> float:
        """Seconds since its manifest was last written: its start, or its end."""
        return max(0.0, time.time() - os.stat(os.path.join(self.path, MANIFEST)).st_mtime)


def _checked(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with what is used of it in the types it must have. Raises ValueError, KeyError,
    TypeError, and NewerFormatError for one that this version does not know."""
    if manifest["format"] > FORMAT:
        raise NewerFormatError(
            f"{manifest.get('run')} was written by tracelet {manifest.get('tracelet')} (format "
            f"{manifest['format']}, this one reads up to {FORMAT}): sync it with that version or a "
            "later one"
        )
    if not isinstance(manifest["run"], str) or not _RUN_ID.fullmatch(manifest["run"]):
        raise ValueError("its manifest names no run")
    if not isinstance(manifest["ring"], str):
        raise ValueError("its manifest names no ring")
    for name in ("options", "reopen", "missing", "lost", "dropped"):
        if not isinstance(manifest.get(name, {}), Mapping):
            raise ValueError(f"its manifest's {name!r} is no table")
    for sink in manifest.get("sinks", ()):
        if not isinstance(sink["name"], str) or not isinstance(sink["backend"], str):
            raise ValueError("its manifest names no sinks")
    return manifest


def _ring_dir() -> str:
    return str(from_environment("ring_dir") or "")


@dataclass(frozen=True)
class UnreadableRun:
    """A folder among the runs that may hold points and can't be read: kept, and told of."""

    path: str
    problem: str

    @property
    def run_id(self) -> str:
        return os.path.basename(self.path)


def find_runs(runs_dir: str, most: int | None = None) -> list[StoredRun]:
    """The runs of a folder that can be read, oldest first, the newest `most` of them."""
    return scan_runs(runs_dir, most)[0]


def scan_runs(
    runs_dir: str,
    most: int | None = None,
    known: Callable[[str], StoredRun | None] = lambda path: None,
) -> tuple[list[StoredRun], list[UnreadableRun]]:
    """The runs of a folder, oldest first, the newest `most` of them, and what can't be read. Those
    that are `known`, by their paths, are not read once more."""
    runs, unreadable = [], []
    for name in sorted(_names_in(runs_dir))[-most if most else None :]:
        path = os.path.join(runs_dir, name)
        if (run := known(path)) is not None:
            runs.append(run)
            continue
        if name.startswith(REMOVED_PREFIX) or not _may_be_a_run(path):
            continue
        try:
            runs.append(StoredRun(path))
        except TraceletError as error:
            unreadable.append(UnreadableRun(path, str(error)))
    return runs, unreadable


def _may_be_a_run(path: str) -> bool:
    """Whether a folder has a manifest, or files that have points in them, as after a loss of power.
    One that can't be looked into counts."""
    try:
        names = os.listdir(path)
    except (NotADirectoryError, FileNotFoundError):
        return False
    except OSError:
        return True
    return MANIFEST in names or any(name.startswith(_OF_A_RUN) for name in names)


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def folder_size_bytes(path: str) -> int:
    """What the files of a folder take on disk."""
    return sum(
        _allocated_bytes(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )


def _allocated_bytes(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0
