"""What a run says at its start, a line each: unsent runs, a folder on a network file system."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Sequence

from tracelet.errors import TraceletError
from tracelet.places import network_file_system_of
from tracelet.runs.stored_run import StoredRun, find_runs

_log = logging.getLogger("tracelet")

LARGE_BYTES = 10 << 30
_MOST_ENTRIES = 800  # looked at for their sizes, which takes 8 ms; a journal of 10 GiB has 640
_MOST_RUNS = 200  # looked at: a start must not wait for a folder of thousands


def tell_of_unsent_runs(runs_dir: str, project: str, own_run_id: str) -> None:
    """One line when runs of the project were killed, or left points, and no process sends them."""
    try:
        runs = find_runs(runs_dir, most=_MOST_RUNS)
        unsent = [
            run
            for run in runs
            if run.run_id != own_run_id and run.project == project and run.state == "unsent"
        ]
    except (OSError, TraceletError) as error:
        _log.debug("tracelet: %s can't be looked at: %s", runs_dir, error)
        return
    _tell_of_size(runs_dir, [run for run in runs if run.run_id != own_run_id])
    if not unsent:
        return
    which = f"tracelet sync {unsent[0].run_id}" if len(unsent) == 1 else "tracelet sync --all"
    _log.warning(
        "tracelet: %d earlier run%s of %r may have points that were not sent. This sends them: %s",
        len(unsent), "s"[: len(unsent) != 1], project, which,
    )  # fmt: skip


def _tell_of_size(runs_dir: str, runs: Sequence[StoredRun]) -> None:
    """One line when those that were not sent take much of the disk together."""
    sizes = _sizes_bytes(runs)
    if sum(sizes) <= LARGE_BYTES:  # their states need not be looked at
        return
    unsent_bytes = sum(size for run, size in zip(runs, sizes) if run.state == "unsent")
    if unsent_bytes > LARGE_BYTES:
        _log.warning(
            "tracelet: runs that were not sent take %.1f GiB in %s. `tracelet sync --all` sends "
            "them, `tracelet clean RUN` removes one.", unsent_bytes / 2**30, runs_dir,
        )  # fmt: skip


def _sizes_bytes(runs: Sequence[StoredRun]) -> list[int]:
    """What the runs' files take on disk, as far as a bounded number of entries tells."""
    sizes = []
    left = _MOST_ENTRIES
    for run in runs:
        size_bytes = 0
        folders = [run.path]
        while folders and left > 0:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in itertools.islice(entries, left):
                    left -= 1
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    size_bytes += getattr(status, "st_blocks", status.st_size // 512) * 512
        sizes.append(size_bytes)
    return sizes


def tell_of_network_file_system(folder: str) -> None:
    """One line when the folder is on one; nothing where that can't be told."""
    if kind := network_file_system_of(folder):
        _log.warning(
            "tracelet: the run's folder %s is on a network file system (%s). What is logged "
            "survives a crash of the process, but maybe not one of the machine. Set TRACELET_DIR "
            "to a folder on a local disk.", folder, kind,
        )  # fmt: skip
