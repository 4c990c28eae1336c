"""Artifacts of a task: their names, and their way from a value to a file on the server."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import time
from typing import Any

from tracelet.backends.clearml.models import ModelEntry, ModelRegistry, framework_of
from tracelet.backends.clearml.storage import ProgressFile, is_verdict, open_storage
from tracelet.backends.content import ChangedError, Content, content_of
from tracelet.errors import BackendError

_HASH_BLOCK_BYTES = 1 << 20


class ArtifactStore:
    """The artifacts of one task. `prepare` may be called by any thread."""

    def __init__(self, task: Any, models: ModelRegistry) -> None:
        self._task = task
        self._models = models
        self._numbers = itertools.count(1)
        self._sources: dict[str, str] = {}  # an artifact's name to the path it came from

    def prepare(self, value: Any, artifact_path: str | None, folder: str) -> ArtifactUpload:
        """What is to be uploaded; in `folder` lies what must be kept until then.

        Raises FileNotFoundError, ValueError or TypeError naming the artifact.
        """
        name = self._unused_name(artifact_name(value, artifact_path), value, artifact_path)
        model = None
        if is_path(value) and (framework := framework_of(os.fspath(value))):
            stem, extension = os.path.splitext(name)
            source = os.path.abspath(os.fspath(value))
            model = ModelEntry(stem, framework, extension, source)
        return self._upload(name, value, folder, model, is_artifact=True)

    def prepare_model(self, value: Any, model: ModelEntry, folder: str) -> ArtifactUpload:
        return self._upload(model.entry, value, folder, model, is_artifact=False)

    def _upload(
        self, name: str, value: Any, folder: str, model: ModelEntry | None, is_artifact: bool
    ) -> ArtifactUpload:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        place = os.path.join(folder, f"{next(self._numbers):06d}")
        os.mkdir(place, mode=0o700)
        is_ours = model is not None and not model.source
        base = os.path.basename(os.path.abspath(os.fspath(value))) if is_path(value) else "object"
        content = content_of(value, name, os.path.join(place, base), is_ours)
        models = self._models if model is not None else None
        return ArtifactUpload(self._task, name, content, place, models, model, is_artifact)

    def _unused_name(self, name: str, value: Any, artifact_path: str | None) -> str:
        """Another name for another file with the same base name: neither shall be overwritten.

        The same file again, and a name that the user gave in full, replace what is there.
        """
        is_chosen = bool(artifact_path) and not str(artifact_path).endswith("/")
        if is_chosen or not is_path(value):
            return name
        source = os.path.realpath(os.fspath(value))
        stem, extension = os.path.splitext(name)
        for number in itertools.count(2):
            if self._sources.setdefault(name, source) == source:
                return name
            name = f"{stem}-{number}{extension}"
        raise AssertionError


class ArtifactUpload:
    """One file on its way. `upload` may be called again after it failed: it goes on from there."""

    def __init__(
        self, task: Any, name: str, content: Content, place: str,
        models: ModelRegistry | None, model: ModelEntry | None, is_artifact: bool,
    ) -> None:  # fmt: skip
        self.name = f"{'artifact' if is_artifact else 'model'} {name!r}"
        self.size_bytes: int | None = 0
        self._task = task
        self._artifact = name
        self._content = content
        self._place = place
        self._models = models
        self._model = model
        self._is_artifact = is_artifact
        self._path = content.path
        self._hash = ""
        self._url = ""

    def upload(self) -> None:
        self._make_file()
        if not self._url:
            self._url = self._store()
        if self._is_artifact:
            self._register()
        if self._models is not None and self._model is not None:
            self._models.register(self._model, self._url, self._path)

    def _make_file(self) -> None:
        if self._content.write is not None and not self._path:
            path = os.path.join(self._place, self._content.filename)
            self._content.write(path)
            self._path = path
        if not self._hash:
            self._content.check_unchanged()
            self._hash = _sha256(self._path)
            self.size_bytes = os.path.getsize(self._path)

    def _store(self) -> str:
        from clearml.backend_interface.metrics.events import UploadEvent

        logger = self._task.get_logger()
        destination = str(self._task.output_uri or logger.get_default_upload_destination())
        # The SDK's own place for it; an artifact of that name replaces the file as it replaces it.
        event = UploadEvent(
            metric="artifacts" if self._is_artifact else "models",
            variant=self._artifact,
            image_data=None,
            upload_uri=destination,
            local_image_path=self._path,
            override_filename=self._content.filename,
            override_filename_ext=os.path.splitext(self._content.filename)[1],
            override_storage_key_prefix=self._task._get_output_destination_suffix(),
        )
        _, target = event.get_target_full_upload_uri(destination, quote_uri=False)
        _, url = event.get_target_full_upload_uri(destination)
        storage = open_storage(destination)
        size_bytes = self.size_bytes or 0
        with ProgressFile(self._path, self.name, size_bytes) as file:
            storage.upload_from_stream(file, target, retries=1, return_canonized=False)
        self._content.check_unchanged()
        return str(url)

    def _register(self) -> None:
        from clearml.backend_api.services import tasks

        content = self._content
        data = tasks.ArtifactTypeData(preview=content.preview, content_type=content.content_type)
        artifact = tasks.Artifact(
            key=self._artifact,
            type=content.kind,
            uri=self._url,
            content_size=self.size_bytes,
            hash=self._hash,
            timestamp=int(time.time()),
            type_data=data,
        )
        if self._task._add_artifacts([artifact]) is None:
            raise BackendError("ClearML's server did not take the artifact's entry")

    def is_refused(self, error: Exception) -> bool:
        return is_verdict(error) or isinstance(error, (ChangedError, FileNotFoundError))

    def set_aside(self, folder: str) -> str:
        """Moves the copy that was made to `folder`; returns where the data are."""
        if self._content.state is not None:
            return self._content.path
        if not self._path and self._content.write is not None:
            with contextlib.suppress(Exception):
                self._make_file()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        target = os.path.join(folder, f"{os.path.basename(self._place)}-{self._content.filename}")
        with contextlib.suppress(OSError):
            os.replace(self._path, target)
        self.discard()
        return target

    def discard(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)


def is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def artifact_name(artifact: Any, artifact_path: str | None) -> str:
    """The name an artifact gets: a folder ("models/") is put before the file's own name.

    Raises FileNotFoundError for a path that isn't there, ValueError for an object without a name.
    """
    if artifact_path is not None and not isinstance(artifact_path, str):
        raise TypeError(f"log_artifact: artifact_path must be a str, not {artifact_path!r}")
    path = os.fspath(artifact) if is_path(artifact) else None
    if path is not None and not os.path.exists(path):
        raise FileNotFoundError(f"log_artifact: there is no file or folder {path!r}")
    base = os.path.basename(os.path.abspath(path)) if path is not None else ""
    if artifact_path and not artifact_path.endswith("/"):
        return artifact_path
    if not base:
        raise ValueError("log_artifact: an object needs a name: artifact_path='results.csv'")
    return f"{artifact_path or ''}{base}"


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
