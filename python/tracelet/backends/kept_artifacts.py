"""Artifacts and models on disk from the call on, so that another process can upload them.

Beside each copy lies an entry that says what it is; both go when the upload is done. What a killed
process has left `tracelet sync` sends, if the copy is the one of the call.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tracelet.backends.artifact import Artifact, Model
from tracelet.backends.content import ChangedError, Content, files_in, zip_of
from tracelet.backends.params import plain
from tracelet.errors import TraceletError
from tracelet.runs.ownership import NotOwnError, is_own_file, is_own_folder, read_own
from tracelet.runs.private_file import private

_ENTRY = "entry.json"
_MOST_ENTRY_BYTES = 16 << 20
_BLOCK_BYTES = 4 << 20


class DamagedCopyError(TraceletError):
    """What was to be uploaded is not there, or not as it was at the call."""


def keep(artifact: Artifact, backend: str, model: Model | None = None) -> None:
    """Writes the entry of an artifact, or of a model's weights. Raises OSError."""
    content = artifact.content
    if content.is_object and content.is_quick:
        artifact.make_file()
    path = artifact.path or content.path
    about: dict[str, Any] = {
        "backend": backend,
        "name": artifact.name,
        "kind": content.kind,
        "filename": content.filename,
        "preview": content.preview,
        "model": _fields_of(artifact.model) if artifact.model is not None else None,
        "weights": _fields_of(model) if model is not None else None,
    }
    if content.folder:
        about["folder"] = _within(artifact.place, content.folder)
        about["size"] = _size_of(content.folder)
    elif content.state is not None:
        about["file"], about["state"] = path, list(content.state)
    elif path:
        about["file"] = _within(artifact.place, path)
        about["size"], about["crc"] = os.path.getsize(path), _crc_of(path)
    target = os.path.join(artifact.place, _ENTRY)
    with open(f"{target}.new", "w", encoding="utf-8", opener=private) as file:
        json.dump(about, file, default=str)
    os.replace(f"{target}.new", target)


def keep_growing(
    folder: str, name: str, backends: Sequence[str], made: dict[str, Artifact]
) -> None:
    """An empty file that is written to until the run ends, one name of it for each backend; in the
    folder of a run's artifacts. One of a dead process is sent as far as it goes.

    They come into `made`, by backend, before they are on the disk: Ctrl-C leaves none that the
    caller doesn't know. Raises OSError, also where the file system has no hard links and there are
    several; nothing is left then.
    """
    first = ""
    try:
        for number, backend in enumerate(backends):
            place = os.path.join(folder, f"growing-{number}")
            made[backend] = artifact = Artifact(name, Content("custom", name, "", None), place)
            os.makedirs(place, mode=0o700)
            path = os.path.join(place, name)
            if first:
                os.link(first, path)
            else:
                open(path, "xb", opener=private).close()
                first = path
            keep(artifact, backend)  # without a path, and so a size: it has none so far
            artifact.content.path = path
    except BaseException:
        for artifact in made.values():
            artifact.discard()
        made.clear()
        raise


def _fields_of(model: Model) -> dict[str, Any]:
    """Without its file; the metadata are the user's own objects, and are not copied."""
    kept = {each.name: getattr(model, each.name) for each in fields(model)}
    kept["file"] = None
    kept["metadata"] = {str(name): plain(value) for name, value in model.metadata.items()}
    return kept


@dataclass
class KeptArtifact:
    """One that a dead process has left."""

    place: str
    backend: str
    name: str
    _about: dict[str, Any]

    @property
    def what(self) -> str:
        return f"{'model' if self._about.get('weights') else 'artifact'} {self.name!r}"

    def restored(self) -> tuple[Artifact, Model | None]:
        """As it was at the call. Raises DamagedCopyError."""
        about = self._about
        try:
            content = self._content()
            entry, weights = about.get("model"), about.get("weights")
            artifact = Artifact(
                self.name, content, self.place, Model(**entry) if entry else None, content.path
            )
            model = Model(**{**weights, "file": artifact}) if weights else None
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedCopyError(f"its entry is damaged: {error!r}") from error
        return artifact, model

    def _content(self) -> Content:
        about = self._about
        name = os.path.basename(str(about["filename"]))
        made = Content(str(about["kind"]), name, str(about["preview"]), None)
        if about.get("folder"):
            folder = os.path.join(self.place, str(about["folder"]))
            if not is_own_folder(folder) or _size_of(folder) != about["size"]:
                raise DamagedCopyError(f"{folder} is not as it was")
            made.folder, made.write = folder, zip_of(folder)
            return made
        if not about.get("file"):  # written later than the entry, whole or not at all
            made.path = os.path.join(self.place, name)
            if not is_own_file(made.path):
                raise DamagedCopyError("its process died before it could write it to the disk")
            return made
        made.path = os.path.join(self.place, str(about["file"]))
        if not is_own_file(made.path):
            raise DamagedCopyError(f"{made.path} is not there, or not this user's own file")
        if about.get("state"):
            size_bytes, changed_ns = about["state"]
            made.state = (int(size_bytes), int(changed_ns))
            with _as_damage():
                made.check_unchanged()
        elif os.path.getsize(made.path) != about["size"] or _crc_of(made.path) != about["crc"]:
            raise DamagedCopyError(f"{made.path} is damaged")
        return made


def kept_in(folder: str) -> Iterator[KeptArtifact]:
    """Those in the folder of a run's artifacts, in the order of their calls."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    for name in names:
        place = os.path.join(folder, name)
        path = os.path.join(place, _ENTRY)
        if not is_own_folder(place) or not os.path.lexists(path):
            continue
        try:
            about = json.loads(read_own(path, _MOST_ENTRY_BYTES))
            yield KeptArtifact(place, str(about["backend"]), str(about["name"]), about)
        except (OSError, ValueError, KeyError, TypeError, NotOwnError) as error:
            yield KeptArtifact(place, "", name, {"error": str(error)})


@contextlib.contextmanager
def _as_damage() -> Iterator[None]:
    try:
        yield
    except ChangedError as error:
        raise DamagedCopyError(str(error)) from error


def _within(place: str, path: str) -> str:
    """The path in its place, so that a run that is moved finds it; as it is outside of that."""
    relative = os.path.relpath(path, place)
    return os.path.abspath(path) if relative.startswith(os.pardir) else relative


def _size_of(folder: str) -> list[int]:
    files = files_in(folder)
    return [len(files), sum(os.path.getsize(each) for each in files)]


def _crc_of(path: str) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
