"""What the tag table has for a SummaryWriter: `cpp/tracelet/record.h`, kSuffixMark."""

from __future__ import annotations

import os

_SUFFIX_MARK = "\0"


def writer_key(log_dir: str, filename_suffix: str = "") -> str:
    """What the tag table has for a writer: its folder and, after a NUL, its file name's suffix.

    The folder is absolute, for the drainer opens it from elsewhere, or a URL.
    """
    folder = log_dir if "://" in log_dir else os.path.abspath(log_dir)
    return f"{folder}{_SUFFIX_MARK}{filename_suffix}" if filename_suffix else folder


def split_writer_key(key: str) -> tuple[str, str]:
    """(log folder, filename suffix)."""
    folder, _, suffix = key.partition(_SUFFIX_MARK)
    return folder, suffix
