"""Which process a run belongs to, and whether it still lives: a pid alone may be another's by now.

Read from Linux' /proc; elsewhere the pid has to do.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

# Without /proc, or where it is closed to this process. No descriptor left is neither.
_NOT_TOLD = (FileNotFoundError, NotADirectoryError, PermissionError)


def process_identity() -> dict[str, Any]:
    """What tells this process from all others: pid, start (of boot and process), host and boot; and
    where its pid means anything."""
    pid = os.getpid()
    return {
        "pid": pid,
        "process_start": start_of(pid),
        "host": socket.gethostname(),
        "boot": boot_id(),
        "pid_namespace": _pid_namespace(),
    }


def _pid_namespace() -> str | None:
    """Containers on one host may have the host's name all of them, and each has its own pids. None
    without /proc."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def boot_id() -> str | None:
    """The id of this start of the machine: shared memory lasts as long. None without /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except _NOT_TOLD:
        return None


def is_alive(identity: Mapping[str, Any]) -> bool | None:
    """Whether the process lives; None when that can't be seen from this host."""
    if identity.get("host") != socket.gethostname():
        return None
    if identity.get("pid_namespace") not in (None, _pid_namespace()):
        try:
            if identity.get("boot") == boot_id():  # else its start tells that it is dead
                return None
        except OSError:
            return None  # no descriptor to look with
    pid = identity.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return None  # 0 and less are groups of processes to os.kill
    start = identity.get("process_start")
    if start is not None and os.path.isdir("/proc/self"):
        try:
            return bool(start_of(pid) == start)
        except OSError:
            return None  # no descriptor to look with
    if os.name == "nt":
        return None  # there os.kill(pid, 0) is Ctrl-C, or the end of the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:
        return False
    return True


def start_of(pid: int) -> str | None:
    """The boot's id and the process' start in clock ticks since; None for a dead one (a zombie
    is one) or without /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything; state is the field after it, the third.
            fields = file.read().rpartition(b")")[2].split()
    except (*_NOT_TOLD, ProcessLookupError):
        return None
    boot = boot_id()
    return None if fields[0] in (b"Z", b"X") or not boot else f"{boot}/{int(fields[19])}"


def processes_that_map(path: str) -> list[int]:
    """Pids of this user's processes that have the file mapped, this one left out."""
    found = []
    needle = os.fsencode(path) + b"\n"
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/maps", "rb") as file:
                    if any(line.endswith(needle) for line in file):
                        found.append(int(entry))
            except OSError:
                continue
    return found
