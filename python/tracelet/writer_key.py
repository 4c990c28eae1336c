"""What the tag table has for a SummaryWriter: `cpp/tracelet/record.h`, kSuffixMark."""

from __future__ import annotations

import os

_MARK = "\0"

_rank: int | None = None
"""Of this process among those that log into one run; None for the one whose folders are as the
user named them. Set when a run begins or ends, read by any thread."""


def set_rank(rank: int | None) -> None:
    """Has what this process' writers log go to a folder of that rank's own."""
    global _rank
    _rank = rank


def writer_key(log_dir: str, filename_suffix: str = "") -> str:
    """What the tag table has for a writer: its folder and, after a NUL, its file name's suffix.

    The folder is absolute, for the drainer opens it from elsewhere, or a URL.
    """
    folder = log_dir if "://" in log_dir else os.path.abspath(log_dir)
    return f"{folder}{_MARK}{filename_suffix}" if filename_suffix else folder


def own_writer_key(log_dir: str, filename_suffix: str = "") -> str:
    """The same for a writer of this process: one of a rank has the rank behind a second NUL."""
    return key_of_rank(writer_key(log_dir, filename_suffix), _rank)


def key_of_rank(key: str, rank: int | None) -> str:
    """A writer's key, or "" for what has no folder, as that rank's; None: of no rank."""
    if rank is None:
        return key
    folder, suffix = split_writer_key(key)
    if folder and "://" not in folder:
        folder = os.path.join(folder, f"rank-{rank}")
    return f"{folder}{_MARK}{suffix}{_MARK}{rank}"


def split_writer_key(key: str) -> tuple[str, str]:
    """(log folder, filename suffix)."""
    folder, _, rest = key.partition(_MARK)
    return folder, rest.partition(_MARK)[0]


def rank_of_key(key: str) -> int | None:
    """The rank whose writer it is; None for the one without a mark."""
    parts = key.split(_MARK)
    return int(parts[2]) if len(parts) == 3 and parts[2].isdecimal() else None


def key_without_rank(key: str) -> str:
    """The key that a writer of a rank would have in a process that is alone."""
    rank = rank_of_key(key)
    if rank is None:
        return key
    folder, suffix = split_writer_key(key)
    own = f"{os.sep}rank-{rank}"
    # Not always its end: add_scalars has folders below it.
    at = -1 if "://" in folder else folder.rfind(own)
    folder = folder[:at] + folder[at + len(own) :] if at >= 0 else folder
    return f"{folder}{_MARK}{suffix}" if suffix else folder
