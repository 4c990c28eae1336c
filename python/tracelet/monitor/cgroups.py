"""What a container may use: its memory and its share of the CPUs, by cgroups of version 1 or 2.

A container sees its host's memory and CPUs everywhere else. A limit may be set at each level above
a process; the lowest counts, and what is used is read where that is set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

_MOST_BYTES = 1 << 20
_ESCAPE = re.compile(r"\\(\d{3})")


@dataclass(frozen=True)
class Limit:
    """One limit, and how much of it is used. `used` raises OSError or ValueError."""

    most: float
    """Bytes, or CPUs."""
    used: Callable[[], float]
    """Bytes; or seconds of CPU time so far."""


def memory_limit(root: str = "/") -> Limit | None:
    """None: there is none, or it can't be read. `root`: where /proc and /sys lie, for tests."""
    limits = []
    for folder, is_second in _folders(root, "memory"):
        name = "memory.max" if is_second else "memory.limit_in_bytes"
        most = _number(os.path.join(folder, name))
        if most is not None and most < 1 << 60:
            limits.append(Limit(most, _MemoryUse(folder, is_second)))
    return min(limits, key=lambda limit: limit.most, default=None)


def cpu_limit(root: str = "/") -> Limit | None:
    """As `memory_limit`."""
    limits = []
    for folder, is_second in _folders(root, "cpu"):
        most = _quota(folder, is_second)
        use = folder if is_second else _other_folder(root, folder, "cpuacct")
        if most is not None and use is not None:
            limits.append(Limit(most, _CpuUse(use, is_second)))
    return min(limits, key=lambda limit: limit.most, default=None)


@dataclass(frozen=True)
class _MemoryUse:
    folder: str
    is_second: bool

    def __call__(self) -> float:
        """Without what the kernel would drop first: files that were read once."""
        current = "memory.current" if self.is_second else "memory.usage_in_bytes"
        cached = "inactive_file" if self.is_second else "total_inactive_file"
        used = float(_read(os.path.join(self.folder, current)))
        return max(0.0, used - _entry(os.path.join(self.folder, "memory.stat"), cached))


@dataclass(frozen=True)
class _CpuUse:
    folder: str
    is_second: bool

    def __call__(self) -> float:
        if self.is_second:
            return _entry(os.path.join(self.folder, "cpu.stat"), "usage_usec") / 1e6
        return float(_read(os.path.join(self.folder, "cpuacct.usage"))) / 1e9


def _quota(folder: str, is_second: bool) -> float | None:
    """In CPUs; None: all of them."""
    try:
        if is_second:
            quota, period = _read(os.path.join(folder, "cpu.max")).split()
        else:
            quota = _read(os.path.join(folder, "cpu.cfs_quota_us"))
            period = _read(os.path.join(folder, "cpu.cfs_period_us"))
        cpus = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", or there is none
        return None
    return cpus if cpus > 0 else None


def _folders(root: str, controller: str) -> Iterator[tuple[str, bool]]:
    """Those of this process and of all above it, and whether they are of version 2."""
    for mount_point, mount_root, kind, controllers in _mounts(root):
        is_second = kind == "cgroup2"
        if not is_second and controller not in controllers:
            continue
        own = _own_path(root, "" if is_second else controller)
        if own is None:
            continue
        # The mount shows what is below its root; what lies elsewhere is not to be seen.
        below = own[len(mount_root) :] if _is_below(own, mount_root) else "/"
        folder = mount_point + (below.rstrip("/") if below.startswith("/") else f"/{below}")
        folder = folder.rstrip("/")
        while len(folder) >= len(mount_point):
            yield folder, is_second
            folder = os.path.dirname(folder)


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")


def _other_folder(root: str, folder: str, controller: str) -> str | None:
    """The folder of version 1 where another controller has the same group: mostly the same one."""
    if os.path.exists(os.path.join(folder, "cpuacct.usage")):
        return folder
    return next((each for each, is_second in _folders(root, controller) if not is_second), None)


def _mounts(root: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Mount point, root within the hierarchy, type and controllers of each cgroup file system."""
    try:
        lines = _read(os.path.join(root, "proc/self/mountinfo")).splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        words, what = before.split(" "), after.split(" ")
        if len(words) > 4 and len(what) > 2 and what[0] in ("cgroup", "cgroup2"):
            point = os.path.join(root, _unescaped(words[4]).lstrip("/"))
            yield point.rstrip("/"), _unescaped(words[3]), what[0], what[2].split(",")


def _own_path(root: str, controller: str) -> str | None:
    try:
        lines = _read(os.path.join(root, "proc/self/cgroup")).splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (controller and controller in controllers.split(",")) or (
            not controller and number == "0" and not controllers
        ):
            return path
    return None


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def _entry(path: str, name: str) -> float:
    """A line "NAME NUMBER" of a file. Raises OSError, ValueError."""
    for line in _read(path).splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise ValueError(f"{path} has no {name}")


def _number(path: str) -> float | None:
    try:
        return float(_read(path))
    except (OSError, ValueError):  # "max"
        return None


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read(_MOST_BYTES).strip()
