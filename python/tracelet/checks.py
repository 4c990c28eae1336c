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
from tracelet.errors import ConfigurationError
from tracelet.options import Options
from tracelet.places import (
    LARGEST_SHARE,
    SHARED_MEMORY,
    free_shared_memory_bytes,
    network_file_system_of,
    ring_bytes_of,
    ring_folder,
)

_RING_BYTES = ring_bytes_of(Options.ring_slots, Options.payload_bytes)
_DISK_BYTES = 1 << 30
_OLDEST_CLEARML = (1, 15, 0)


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
        version = version_of(package)
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


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _clearml() -> Check:
    version = version_of("clearml")
    if version is None:
        return Check("clearml", True, "not installed; pip install 'tracelet[clearml]' to log there")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    is_ok = numbers >= _OLDEST_CLEARML
    return Check("clearml", is_ok, version, "" if is_ok else "pip install 'clearml>=1.15.0'")


def disks(runs_dir: str, ring_dir: str | None) -> Iterator[Check]:
    """The runs' folder and where rings go."""
    yield _writable("runs' folder", runs_dir, _DISK_BYTES, "TRACELET_DIR")
    kind = network_file_system_of(runs_dir)
    if kind:
        yield Check("runs' folder is local", False, f"it is on {kind}",
                    "TRACELET_DIR=/a/local/folder: locks and syncs are not sure there")  # fmt: skip
    if ring_dir:
        yield _writable("rings' folder", ring_dir, _RING_BYTES, "TRACELET_RING_DIR")
    yield _rings(runs_dir, ring_dir)


def _rings(runs_dir: str, ring_dir: str | None) -> Check:
    """Where a run of the default size has its ring: any place that is local is right."""
    try:
        folder = ring_folder(ring_dir, runs_dir, _RING_BYTES)
    except (OSError, ConfigurationError) as error:
        return Check("rings", False, str(error), "TRACELET_RING_DIR=/a/local/folder of yours")
    if kind := network_file_system_of(folder):
        return Check("rings", False, f"in {folder}, which is on {kind}",
                     "TRACELET_RING_DIR=/a/local/folder")  # fmt: skip
    if folder == ring_dir:
        return Check("rings", True, f"in {folder}")
    free_bytes = free_shared_memory_bytes()
    there = "there is none" if free_bytes is None else f"{in_bytes(free_bytes)} free"
    if folder == SHARED_MEMORY:
        return Check("rings", True, f"in shared memory ({SHARED_MEMORY}: {there})")
    needed = in_bytes(_RING_BYTES / LARGEST_SHARE)
    return Check(
        "rings", True,
        f"in {folder}: shared memory is left to others where less than {needed} of it is free "
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
    found = f"{folder}: {in_bytes(free_bytes)} free"
    return Check(name, is_ok, found, "" if is_ok else f"free {in_bytes(needed_bytes)}, or {fix}")


def _free_bytes(folder: str) -> int | None:
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        return None
    return shutil.disk_usage(folder).free


def unsent_runs(runs_dir: str) -> Check:
    from tracelet.runs.stored_run import scan_runs

    found, unreadable = scan_runs(runs_dir) if os.path.isdir(runs_dir) else ([], [])
    unsent = [run for run in found if run.state not in ("running", "finished")]
    if not unsent and not unreadable:
        return Check("unsent runs", True, "none")
    size_bytes = sum(run.size_bytes() for run in unsent)
    damaged = f", {len(unreadable)} of them can't be read" if unreadable else ""
    return Check("unsent runs", False,
                 f"{len(unsent) + len(unreadable)}, {in_bytes(size_bytes)}{damaged}",
                 "tracelet runs lists them, tracelet sync --all sends them")  # fmt: skip


def in_bytes(size_bytes: float) -> str:
    """For people."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
