"""The git repository that the program lies in: commit, branch and remote, read from its files.

No process is started for them: a child of this process is one that the user's `os.wait()` returns,
and starting it may wait for another thread's fork. What needs one (the diff) is in git_diff.py.

Nothing in there is believed: each file is read to a bound, no pipe is waited for, and a repository
that is damaged gives nothing. Format: gitrepository-layout(5), git-config(1).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from tracelet.redact import bare_url

_MOST_SMALL_BYTES = 4 << 10
_MOST_CONFIG_BYTES = 1 << 20
_MOST_PACKED_BYTES = 64 << 20
_PIECE_BYTES = 1 << 20
_MOST_LINKS = 5
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF = re.compile(r"refs/[^\x00-\x20\x7f~^:?*\[\\]+")
_SECTION = re.compile(r'\[\s*([\w.-]+)\s*(?:"((?:[^"\\]|\\.)*)")?\s*\]')
# Neither is there on Windows, which has no pipes in folders.
_FLAGS: int = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def find_git_folder(folder: str) -> str | None:
    """Where the repository's own files are, looked for from there upward, as git does it."""
    if chosen := os.environ.get("GIT_DIR"):
        return chosen
    while not os.path.lexists(os.path.join(folder, ".git")):
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above
    place = os.path.join(folder, ".git")
    if os.path.isdir(place):
        return place
    # Of a worktree or a submodule: a file that says where they are.
    word, _, path = _small(place).partition(": ")
    return os.path.join(folder, path) if word == "gitdir" and path else None


def repository(folder: str) -> dict[str, Any]:
    """What is known of the repository: "git_commit", "git_branch", "git_remote". Empty where there
    is none, or where it is damaged. Never raises for what it finds."""
    try:
        own = find_git_folder(folder)
        return _read(own) if own else {}
    except (OSError, ValueError):
        return {}


def _read(own: str) -> dict[str, Any]:
    # Of a worktree: it has a HEAD of its own, and shares all else.
    path = _small(os.path.join(own, "commondir")) if _is_there(own, "commondir") else ""
    shared = os.path.join(own, path)
    head = _small(os.path.join(own, "HEAD"))
    if _COMMIT.fullmatch(head):
        found = {"git_commit": head, "git_branch": "(detached)"}
    else:
        ref = _ref(head)
        found = {"git_branch": ref[len("refs/heads/") :] if ref.startswith("refs/heads/") else ref}
        if commit := _commit_of(ref, own, shared):
            found["git_commit"] = commit
    if remote := _origin(shared):
        # A token may stand in the query, too.
        found["git_remote"] = re.split(r"[?#]", bare_url(remote))[0]
    return found


def _is_there(folder: str, name: str) -> bool:
    return os.path.lexists(os.path.join(folder, name))


def _ref(text: str) -> str:
    """The name behind "ref:". Raises ValueError unless it is one that stays in its folder."""
    word, _, name = text.partition(":")
    name = name.strip()
    if word != "ref" or not _REF.fullmatch(name) or any(p in ("", ".", "..") for p in _parts(name)):
        raise ValueError("no name of a ref")
    return name


def _parts(name: str) -> list[str]:
    return name.split("/")


def _commit_of(ref: str, own: str, shared: str) -> str:
    """ "" where there is no commit yet."""
    for _ in range(_MOST_LINKS):
        place = next(
            (each for each in (own, shared) if os.path.isfile(os.path.join(each, ref))), ""
        )
        if not place:
            return _packed(ref, os.path.join(shared, "packed-refs"))
        text = _small(os.path.join(place, ref))
        if _COMMIT.fullmatch(text):
            return text
        ref = _ref(text)
    return ""


def _packed(ref: str, path: str) -> str:
    """By pieces and without a loop over its lines: there may be a million of them."""
    if not os.path.lexists(path):
        return ""
    wanted, before = b" " + os.fsencode(ref) + b"\n", b"\n"
    for piece in _pieces(path, _MOST_PACKED_BYTES):
        text = before + piece
        if (at := text.find(wanted)) >= 0:
            commit = text[text.rfind(b"\n", 0, at) + 1 : at].decode("ascii", "replace")
            return commit if _COMMIT.fullmatch(commit) else ""
        before = text[-len(wanted) - 128 :]
    return ""


def _origin(shared: str) -> str:
    """The first URL of the remote "origin"; "" where there is none, or the file can't be read."""
    try:
        data = b"".join(_pieces(os.path.join(shared, "config"), _MOST_CONFIG_BYTES))
    except OSError:
        return ""
    is_origin = False
    for line in data.decode("utf-8", "replace").splitlines():
        text = line.strip()
        if match := _SECTION.match(text):
            section = (match[1].lower(), match[2])
            is_origin = section in (("remote", "origin"), ("remote.origin", None))
            text = text[match.end() :].strip()
        name, is_set, value = text.partition("=")
        if is_origin and is_set and name.strip().lower() == "url":
            return _unquoted(value.strip())
    return ""


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:].rpartition('"')[0])
    return re.split(r"\s+[#;]", value)[0]


def _small(path: str) -> str:
    """The one line of a small file. Raises OSError, ValueError."""
    data = b"".join(_pieces(path, _MOST_SMALL_BYTES))
    return os.fsdecode(data).rstrip("\r\n")


def _pieces(path: str, most_bytes: int) -> Iterator[bytes]:
    """A regular file's content, as far as `most_bytes`. Raises OSError; never waits for a pipe."""
    fd = os.open(path, _FLAGS)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no regular file")
        left_bytes = most_bytes
        while left_bytes > 0 and (piece := file.read(min(left_bytes, _PIECE_BYTES))):
            left_bytes -= len(piece)
            yield piece
