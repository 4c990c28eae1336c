"""What `tracelet doctor` finds out about this machine, one line each."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from tracelet._version import __version__
from tracelet.options import Options
from tracelet.runs.run_folder import (
    LARGEST_SHARE,
    SHARED_MEMORY,
    free_shared_memory_bytes,
    has_room_for_ring,
    ring_bytes_of,
)

_RING_BYTES = ring_bytes_of(Options.ring_slots, Options.payload_bytes)
_DISK_BYTES = 1 << 30
_OLDEST_CLEARML = (1, 15, 0)
# Where a rename, a lock or a mapping does not do what it does on a local disk.
_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "ceph", "9p",
                         "fuse.sshfs", "beegfs", "afs"}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what it is like, and how it is put right."""

    name: str
    is_ok: bool
    found: str
    fix: str = ""


def installation() -> Iterator[Check]:
    yield Check("tracelet", True, f"{__version__} on Python {platform.python_version()}")
    yield _native_core()
    for package, needed_for in (
        ("torch", "SummaryWriter of torch.utils.tensorboard"),
        ("tensorboard", "SummaryWriter, log_image, log_text, log_figure and log_table"),
    ):
        version = _version_of(package)
        found = version or f"not installed; needed for {needed_for}"
        yield Check(package, True, found)
    yield _clearml()


def _native_core() -> Check:
    from tracelet import _core

    with tempfile.TemporaryDirectory(prefix="tracelet-doctor-") as folder:
        try:
            ring = _core.Ring.create(os.path.join(folder, "ring"), 16, 1.0, 1 << 16)
            del ring
        except Exception as error:
            return Check("native core", False, f"a ring can't be made: {error}",
                         "python -m tracelet.selftest says more; reinstall tracelet")  # fmt: skip
    return Check("native core", True, "makes a ring")


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _clearml() -> Check:
    version = _version_of("clearml")
    if version is None:
        return Check("clearml", False, "not installed", "pip install 'tracelet[clearml]'")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    is_ok = numbers >= _OLDEST_CLEARML
    return Check("clearml", is_ok, version, "" if is_ok else "pip install 'clearml>=1.15.0'")


def disks(runs_dir: str, ring_dir: str | None) -> Iterator[Check]:
    """The runs' folder and where rings go."""
    yield _writable("runs' folder", runs_dir, _DISK_BYTES, "TRACELET_DIR")
    kind = _file_system_of(runs_dir)
    if kind in _NETWORK_FILE_SYSTEMS:
        yield Check("runs' folder is local", False, f"it is on {kind}",
                    "TRACELET_DIR=/a/local/folder: locks and syncs are not sure there")  # fmt: skip
    if ring_dir:
        yield _writable("rings' folder", ring_dir, _RING_BYTES, "TRACELET_RING_DIR")
        return
    yield _rings(runs_dir)


def _rings(runs_dir: str) -> Check:
    """Where a run of the default size has its ring. Either place is right."""
    free_bytes = free_shared_memory_bytes()
    there = "there is none" if free_bytes is None else f"{_size(free_bytes)} free"
    if has_room_for_ring(_RING_BYTES):
        return Check("rings", True, f"in shared memory ({SHARED_MEMORY}: {there})")
    needed = _size(_RING_BYTES / LARGEST_SHARE)
    return Check(
        "rings", True,
        f"in {runs_dir}: shared memory is left to others where less than {needed} of it is free "
        f"({SHARED_MEMORY}: {there}); docker run --shm-size, or TRACELET_RING_DIR, changes it",
    )  # fmt: skip


def _writable(name: str, folder: str, needed_bytes: int, variable: str) -> Check:
    fix = f"{variable}=/a/folder/of/yours chooses another place"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(name, False, f"{folder}: {error.strerror or error}", fix)
    free_bytes = _free_bytes(folder) or 0
    is_ok = free_bytes >= needed_bytes
    found = f"{folder}: {_size(free_bytes)} free"
    return Check(name, is_ok, found, "" if is_ok else f"free {_size(needed_bytes)}, or {fix}")


def _free_bytes(folder: str) -> int | None:
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        return None
    return shutil.disk_usage(folder).free


def _file_system_of(folder: str) -> str:
    """The type of the file system a folder is on; empty where the system does not say."""
    best, kind = "", ""
    try:
        with open("/proc/mounts", encoding="utf-8") as mounts:
            for line in mounts:
                _, point, found, *_ = line.split()
                path = os.path.realpath(folder)
                is_above = path == point or path.startswith(point.rstrip("/") + "/")
                if is_above and len(point) >= len(best):
                    best, kind = point, found
    except OSError:
        return ""
    return kind


def unsent_runs(runs_dir: str) -> Check:
    from tracelet.runs.stored_run import scan_runs

    found, unreadable = scan_runs(runs_dir) if os.path.isdir(runs_dir) else ([], [])
    unsent = [run for run in found if run.state not in ("running", "finished")]
    if not unsent and not unreadable:
        return Check("unsent runs", True, "none")
    size_bytes = sum(run.size_bytes() for run in unsent)
    damaged = f", {len(unreadable)} of them can't be read" if unreadable else ""
    return Check("unsent runs", False,
                 f"{len(unsent) + len(unreadable)}, {_size(size_bytes)}{damaged}",
                 "tracelet runs lists them, tracelet sync --all sends them")  # fmt: skip


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
