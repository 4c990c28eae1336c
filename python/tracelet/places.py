"""Where a run's folder and its ring may lie: which disks are there, and which of them are local."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile

from tracelet.errors import ConfigurationError

SHARED_MEMORY = "/dev/shm"
LARGEST_SHARE = 0.02
"""A ring lies in shared memory where it takes no more of what is free there: a container has 64 MB
of it by default, and what a DataLoader's workers send goes through it."""

RUNS_DIR = "~/.tracelet/runs"
_HISTORY = "history"
_SLOT_BYTES = 64
# The one list: where a rename, a lock, a sync or a mapping does not do what it does on a local
# disk; a page of a mapped file that can't be fetched ends the process. A file system in user space
# ("fuse.sshfs", "fuse.gcsfuse" ...) counts as one whatever its name, as its server may be anywhere
# and may end; but not those that are known to be over local disks alone: a rootless container's
# root is such a one, and would be warned of at each start.
_NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "ceph", "9p", "beegfs", "afs",
     "panfs", "wekafs", "orangefs", "pvfs2", "gfs2", "ocfs2", "glusterfs", "fuse")
)  # fmt: skip
_LOCAL_IN_USER_SPACE = frozenset(
    ("fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs-3g", "fuse.gocryptfs", "fuse.lxcfs")
)
# As they are mounted unless the administrator says otherwise, which no mount's options tell.
_LOCKS_OF_ONE_MACHINE = frozenset(("9p", "afs", "beegfs", "orangefs", "pvfs2"))
_SHARED_LOCKS_IN_USER_SPACE = frozenset(("fuse.glusterfs", "fuse.ceph-fuse", "fuse.ceph"))
_log = logging.getLogger("tracelet")
_warned: set[str] = set()  # of this process


def warn_once(text: str) -> None:
    """One warning a process for each text."""
    if text not in _warned:
        _warned.add(text)
        _log.warning("tracelet: %s", text)


def default_runs_dir() -> str:
    """Where the runs' folders are unless the user says so: at home, or among the temporary files of
    this user where there is no home, or one that can't be written (a container, a batch node),
    which is told once. Raises ConfigurationError when neither is to be had."""
    home = os.path.expanduser(RUNS_DIR)
    if _can_be_used(home):
        return home
    instead = os.path.join(own_temporary_folder(), "runs")
    warn_once(
        f"{home} can't be written: the runs' folders are in {instead}, which may not outlive this "
        "machine's next start (TRACELET_DIR chooses another place)"
    )
    return instead


def _can_be_used(runs_dir: str) -> bool:
    """Whether the runs' folder is there, or can be made in a home folder that is there."""
    if not os.path.isabs(runs_dir):
        return False  # nobody knows where home is: "~" stayed as it was
    folder = runs_dir
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    home_is_there = os.path.isdir(os.path.expanduser("~"))
    return home_is_there and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def shown_path(path: str) -> str:
    """A path for people: from the working folder where it lies below that."""
    with contextlib.suppress(OSError, ValueError):  # the folder is gone; another drive
        relative = os.path.relpath(path)
        if not relative.startswith(os.pardir):
            return relative
    return path


def default_history_dir(runs_dir: str) -> str:
    """Where the records of runs that have ended are unless the user says so: beside the runs'
    folder that nobody chose, and inside of one that was chosen."""
    runs_dir = os.path.abspath(runs_dir)
    if runs_dir in (os.path.expanduser(RUNS_DIR), os.path.join(temporary_folder(), "runs")):
        return os.path.join(os.path.dirname(runs_dir), _HISTORY)
    return os.path.join(runs_dir, _HISTORY)


def temporary_folder() -> str:
    """The path of this user's folder among the temporary ones, whether it is there or not."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return os.path.join(tempfile.gettempdir(), f"tracelet-{user}")


def own_temporary_folder() -> str:
    """A folder among the temporary ones that is this user's alone, by a name that is known: others
    may write there too, so one that another user made is not taken. Raises ConfigurationError."""
    folder = temporary_folder()
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.lstat(folder)
    except OSError as error:
        raise ConfigurationError(
            f"there is no folder for the runs: {error}; TRACELET_DIR chooses one"
        ) from error
    is_own = not hasattr(os, "getuid") or (
        status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
    if not stat.S_ISDIR(status.st_mode) or not is_own:
        raise ConfigurationError(
            f"{folder} is not this user's alone; TRACELET_DIR chooses another folder for the runs"
        )
    return folder


def ring_folder(wanted: str | None, run_folder: str, ring_bytes: int) -> str:
    """Where a run has its ring: in the folder that was asked for, in shared memory where that is
    plentiful, else in the run's own folder. Never on a network file system: then it is among the
    temporary files of this user, and that is told once. Raises OSError, ConfigurationError."""
    if wanted is None and has_room_for_ring(ring_bytes):
        return SHARED_MEMORY
    if wanted is not None:
        os.makedirs(wanted, mode=0o700, exist_ok=True)
    folder = wanted or run_folder
    kind = network_file_system_of(folder)
    if not kind:
        return folder
    instead = own_temporary_folder()
    if network_file_system_of(instead):
        warn_once(
            f"the ring is in {folder}, which is on {kind}, as every folder that is known is: a "
            "trouble of that server may end the process; TRACELET_RING_DIR chooses a local folder"
        )
        return folder
    there = folder if wanted else os.path.dirname(folder)
    warn_once(f"{there} is on {kind}: rings are in {instead} (TRACELET_RING_DIR changes it)")
    return instead


def ring_bytes_of(ring_slots: int, payload_bytes: int) -> int:
    """What a ring's file takes, the strings of tags apart."""
    return ring_slots * _SLOT_BYTES + payload_bytes


def has_room_for_ring(ring_bytes: int) -> bool:
    """Whether shared memory is so plentiful that a ring in it is nobody's loss."""
    free_bytes = free_shared_memory_bytes()
    return free_bytes is not None and ring_bytes <= LARGEST_SHARE * free_bytes


def free_shared_memory_bytes() -> int | None:
    """None where there is none that may be written."""
    folder = SHARED_MEMORY
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK) and hasattr(os, "statvfs")):
        return None
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def network_file_system_of(folder: str) -> str:
    """The type of the network file system a folder is on; empty where it is on none."""
    kind = file_system_of(folder)
    is_one = kind.partition(".")[0] in _NETWORK_FILE_SYSTEMS and kind not in _LOCAL_IN_USER_SPACE
    return kind if is_one else ""


def locks_of_one_machine(folder: str) -> str:
    """The type of the file system a folder is on, where other machines may have it too and see no
    flock that is held on this one; empty where they do, or can't have it."""
    kind, options = _mount_of(folder)
    options_are = set(options.split(","))
    is_local = bool(options_are & {"nolock", "local_lock=all", "local_lock=flock", "localflock"})
    if kind.startswith("fuse"):
        is_local = kind not in _SHARED_LOCKS_IN_USER_SPACE
    is_network = bool(network_file_system_of(folder))
    return kind if is_network and (is_local or kind in _LOCKS_OF_ONE_MACHINE) else ""


def file_system_of(folder: str) -> str:
    """The type of the file system a folder is on; empty where the system does not say."""
    return _mount_of(folder)[0]


def _mount_of(folder: str) -> tuple[str, str]:
    """The type and the options of the mount that a folder is on."""
    path = os.path.realpath(folder)
    best, kind, options = "", "", ""
    try:
        # By the kernel, in the order of mounting: spaces in names are written as \040.
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            lines = mounts.readlines()
    except OSError:
        return "", ""
    for line in lines:
        _, point, found, with_options, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):
            best, kind, options = point, found, with_options
    return kind, options
