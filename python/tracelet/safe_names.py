"""Names that people give, as names of files and folders: the one place where that is decided."""

from __future__ import annotations

import hashlib
import os
import re

LONGEST_FILE_NAME_BYTES = 200
"""Of 255 that file systems take; the rest is for what is put before and behind."""
_DIGEST_CHARACTERS = 8
# What separates folders, and what Windows refuses.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*\ud800-\udfff]')


def file_name(name: str) -> str:
    """`name` as that of one file or folder within another: never a path, never its parent.

    What can't be in a file's name becomes "_". A long one is shortened, with a digest, so that two
    stay two.
    """
    safe = _UNSAFE.sub("_", name).strip()
    if not safe.strip("."):
        safe = "_" * max(1, len(safe))
    safe = safe.rstrip(". ")
    return within_bytes(safe, LONGEST_FILE_NAME_BYTES)


def relative_path(name: str, filename: str, reserved: str = "") -> str:
    """Where an artifact goes, always below a folder: its name, with the end that its file has.
    Never `reserved`."""
    parts = name.replace("\\", "/").split("/")
    parts = [file_name(part) for part in parts if part not in ("", ".", "..")] or ["artifact"]
    if parts == [reserved]:
        parts = [f"artifact-{reserved}"]
    end = os.path.splitext(filename)[1]
    if not parts[-1].endswith(end):
        parts[-1] += end
    return os.path.join(*parts)


def within_bytes(text: str, longest: int) -> str:
    """`text` in at most `longest` bytes of UTF-8: its beginning and a digest of all of it."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= longest:
        return text
    head = data[: longest - _DIGEST_CHARACTERS - 1].decode("utf-8", "ignore").rstrip(". ")
    return f"{head}-{_digest(text)}"


def shortened(text: str, longest: int) -> str:
    """`text` in at most `longest` characters: its beginning and a digest of all of it."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - _DIGEST_CHARACTERS - 1].rstrip()}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
