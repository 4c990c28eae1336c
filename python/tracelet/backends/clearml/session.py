"""An offline session that several processes write to: ranks, subprocesses, `tracelet sync`.

Each appends whole lines to its metrics file, which nobody cuts or replaces. Its `task.json` each
process of the SDK writes whole, from what it has in memory: here it is merged with what others have
written since. Which processes there are is noted in the session's folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

from tracelet.fork import renew_at_fork
from tracelet.places import warn_once
from tracelet.runs.ownership import NotOwnError, is_own_file
from tracelet.runs.private_file import private
from tracelet.runs.process_identity import is_alive, process_identity
from tracelet.runs.run_lock import RunLock
from tracelet.runs.whole_file import write_whole

_log = logging.getLogger("tracelet")

METRICS = "metrics.jsonl"
TASK = "task.json"
_LOCK = "tracelet-task.lock"
_LOCK_S = 2.0
_PAUSE_S = 0.01
_READ_ATTEMPTS = 20
_MOST_STARTS = 32
_USER = "tracelet-{}.json"
_NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Alone among the processes that change the session's task. One that holds this and is stopped
    costs the others a moment, no more: an edit may be lost then, and nothing hangs."""
    with contextlib.ExitStack() as held:
        try:
            import fcntl

            fd = os.open(folder, os.O_RDONLY)
            held.callback(os.close, fd)
            deadline_s = time.monotonic() + _LOCK_S
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline_s:
                        _log.debug("tracelet: %s is locked by another process", folder)
                        break
                    time.sleep(_PAUSE_S)
        except (ImportError, OSError) as error:  # Windows; a file system without locks
            if getattr(error, "errno", None) in _NO_FLOCK:
                _claim(folder, error, held)
            else:
                _log.debug("tracelet: %s can't be locked: %s", folder, error)
        yield


def _claim(folder: str | os.PathLike[str], error: Exception, held: contextlib.ExitStack) -> None:
    """Holds the claim of a lock's file, as on NFS without lockd, where the folder can't be locked.
    An edit takes milliseconds: who has it for so long and can't be looked at has died."""
    lock = RunLock(str(Path(folder) / _LOCK))
    try:
        if lock.acquire(_LOCK_S) or lock.seize():
            held.callback(lock.release)
        else:
            _log.debug("tracelet: %s is locked by another process", folder)
    except (OSError, NotOwnError) as refused:
        warn_once(
            f"{folder} can't be locked ({error}), nor can a file be made there ({refused}): where "
            "several processes change its task at once, an edit may be lost"
        )


def read_task(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What the session's task.json holds; {} when there is none, or it can't be read."""
    try:
        content = json.loads((Path(folder) / TASK).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_task(folder: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Whole, or not at all. Raises OSError."""
    path = str(Path(folder) / TASK)
    own = f"{path}.{os.getpid()}-{threading.get_ident()}.new"
    write_whole(path, json.dumps(content, sort_keys=True).encode(), 0o666, own)


def edit_task(folder: str | os.PathLike[str], change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the session's task as it is now, beside living processes. Raises OSError."""
    with _editing.lock, locked(folder):
        content = _task_as_it_is(folder)
        change(content)
        write_task(folder, content)


def _task_as_it_is(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """{} for one that is not there yet. One that can't be read, or is damaged, is an OSError: what
    would be written in its place would lack all else that it had."""
    path = Path(folder) / TASK
    for attempt in range(_READ_ATTEMPTS):
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            if attempt + 1 == _READ_ATTEMPTS:
                raise OSError(f"{path} is damaged, and is left as it is: {error}") from error
            time.sleep(_PAUSE_S)  # the SDK of another process may be writing it
            continue
        if isinstance(content, dict):
            return content
        break
    raise OSError(f"{path} is no task of ClearML's, and is left as it is")


class _Editing:
    """The threads of this process, one by one, also where the file system has no locks."""

    def __init__(self) -> None:
        self.renew_in_child()
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        self.lock = threading.RLock()


_editing = _Editing()


def merged(base: Any, mine: Any, theirs: Any) -> Any:
    """`theirs` with what `mine` changed of `base`."""
    if mine in (base, theirs):
        return theirs
    if theirs == base:
        return mine
    if isinstance(mine, dict) and isinstance(theirs, dict):
        before = base if isinstance(base, dict) else {}
        result = {}
        for key in {**theirs, **mine}:
            if key in mine and key in theirs:
                result[key] = merged(before.get(key), mine[key], theirs[key])
            else:  # the other one has removed it, or never had it
                value = mine.get(key, theirs.get(key))
                if key not in before or value != before[key]:
                    result[key] = value
        return result
    if isinstance(mine, list) and isinstance(theirs, list):
        held = base if isinstance(base, list) else []
        parts = [{_name_of(each): each for each in part} for part in (held, mine, theirs)]
        return list(merged(*parts).values())
    return mine


def _name_of(item: Any) -> str:
    """What makes two entries of a list the same one: an artifact's key, a model's id, a tag."""
    if isinstance(item, dict):
        name = [item[key] for key in ("key", "mode", "id") if key in item]
        if name:
            return json.dumps(name)
    return json.dumps(item, sort_keys=True)


def mend_lines(path: str | os.PathLike[str], is_settled: bool) -> None:
    """Makes lines that a death has torn empty lists, and whole ones of what stands behind a torn
    piece: at one that it can't read the SDK's import sends the line before it again, or ends.

    In its place, byte for byte: other processes may be appending. The last line, when it has no
    end, only if `is_settled`, that is nobody does. Raises OSError.
    """
    try:
        file = open(path, "r+b", buffering=1 << 20)  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        start = 0
        repairs: list[tuple[int, bytes]] = []
        for line in file:
            repair = _repair_of(line)
            if not line.endswith(b"\n") and not is_settled:
                repair = None
            if repair is not None:
                repairs.append((start, repair))
            start += len(line)
        for offset, repair in repairs:
            file.seek(offset)
            file.write(repair)


def _repair_of(line: bytes) -> bytes | None:
    """What is to be written over a line's beginning, or over all of it; None for a whole one."""
    end = b"" if line.endswith(b"\n") else b"\n"
    text = line.rstrip(b"\n")
    if (found := events_in(text)) is not None:
        start, _ = found
        if start == 0:
            return line + end if end else None
        return b" " * start + (text[start:] + end if end else b"")
    if len(text) == 1:
        return b"[]\n" if end else None  # no room for a list: the SDK passes over it
    return b"[]".ljust(len(text)) + end if text else None


def events_in(line: bytes) -> tuple[int, list[Any]] | None:
    """The list of events that a line ends with, and where in it that begins: not at 0 behind a
    piece of another line, which a death has torn or which never reached the disk. Or None.

    Who mends a line and who looks for what is there ask this alone: were a line read in two ways,
    its events would be written a second time, and the mended line bring back the first ones.
    """
    if (events := _parsed(line)) is not None:
        return 0, events
    start = len(line)
    for _ in range(_MOST_STARTS):
        start = line.rfind(b'[{"', 0, start)
        if start <= 0:
            break
        if (events := _parsed(line[start:])) is not None:
            return start, events
    return None


def _parsed(text: bytes) -> list[Any] | None:
    try:
        events = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return events if isinstance(events, list) else None


def zip_session(folder: Path) -> None:
    """As the SDK's Task does it when it is closed; whole, or as it was before. Raises OSError."""
    new = f"{folder}.zip.{os.getpid()}.new"
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for path in folder.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    os.replace(new, f"{folder}.zip")
    _log.info("tracelet: the offline session is in %s.zip", folder)


def _has_all(archive: Path, folder: Path) -> bool:
    """Whether a session's zip has its metrics and its task as they are now. By what is in it: a
    clock may be set back, and a file's time has steps of milliseconds. Raises OSError."""
    try:
        with zipfile.ZipFile(archive) as held:
            kept = {each.filename: (each.file_size, each.CRC) for each in held.infolist()}
    except zipfile.BadZipFile:
        return False
    for name in (METRICS, TASK):
        path = folder / name
        if path.exists():
            size_bytes, crc = kept.get(name, (-1, 0))
            if size_bytes != path.stat().st_size or crc != _crc_of(path):
                return False
    return True


def _crc_of(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


class SessionUsers:
    """The runs that write, or wrote, to a session, each with the process that it is of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, run_id: str) -> None:
        """Raises OSError."""
        self._write(run_id, {"run": run_id, **process_identity()})

    def end(self, run_id: str) -> None:
        """This run writes no more. Where the SDK has zipped the session before that, or the process
        is dead that would have, it is zipped now."""
        try:
            self._end(run_id)
        except OSError as error:
            _log.debug("tracelet: %s: %s", self.folder, error)

    def was_sent(self, run_id: str) -> None:
        """Its process is dead, and what it left is here. On another host, which shares the folder,
        nobody could tell that it is dead. Raises OSError."""
        self._write(run_id, {"run": run_id, "ended": True, "died": True})

    def _end(self, run_id: str) -> None:
        self._write(run_id, {"run": run_id, **process_identity(), "ended": True})
        archive = Path(f"{self.folder}.zip")
        if not archive.exists():
            is_late = not self.others_live(run_id) and any(map(_has_died, self.all()))
        else:
            is_late = not _has_all(archive, self.folder)
        if is_late:
            zip_session(self.folder)

    def all(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.folder.glob(_USER.format("*"))):
            if not is_own_file(str(path)):
                continue
            with contextlib.suppress(OSError, ValueError):
                user = json.loads(path.read_text("utf-8"))
                if isinstance(user, dict) and isinstance(user.get("run"), str):
                    found.append(user)
        return found

    def others_live(self, run_id: str) -> bool:
        """Whether another run may be writing yet."""
        return any(
            each["run"] != run_id and not each.get("ended") and is_alive(each) is not False
            for each in self.all()
        )

    def _write(self, run_id: str, content: Mapping[str, Any]) -> None:
        path = self.folder / _USER.format(os.path.basename(run_id))  # a manifest may say anything
        with open(f"{path}.new", "w", encoding="utf-8", opener=private) as file:
            json.dump(content, file)
        os.replace(f"{path}.new", path)


def _has_died(user: Mapping[str, Any]) -> bool:
    """Of a process that did not come to its end. It may be the one that would have made the zip,
    also when `tracelet sync` has sent what it left while others were at it still."""
    return bool(user.get("died")) or (not user.get("ended") and is_alive(user) is False)
