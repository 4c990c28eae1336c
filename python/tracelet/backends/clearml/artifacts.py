"""Artifacts and weights files of a task on their way to the file server."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from tracelet.backends.artifact import Artifact, FileUpload, Model, sha256_of
from tracelet.backends.clearml.storage import ProgressFile, is_verdict, open_storage
from tracelet.errors import BackendError


class Registry(Protocol):
    def register(self, model: Model, url: str, path: str) -> None:
        """Makes a model of what is at `url`, and here at `path`; once, however often."""


class ArtifactUpload(FileUpload):
    """One file on its way. `upload` may be called again after it failed: it goes on from there."""

    def __init__(
        self, task: Any, models: Registry, artifact: Artifact, model: Model | None,
        is_artifact: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(artifact, is_artifact)
        self._task = task
        self._artifact = artifact.name
        self._content = artifact.content
        self._models = models
        self._model = model
        self._is_artifact = is_artifact
        self._path = ""
        self._hash = ""
        self._url = ""

    def upload(self) -> None:
        self._make_file()
        if not self._url:
            self._url = self._store()
        if self._is_artifact:
            self._register()
        if self._model is not None:
            self._models.register(self._model, self._url, self._path)

    def _make_file(self) -> None:
        if not self._hash:
            self._path = self.make_file()
            self._hash = sha256_of(self._path)

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
        return is_verdict(error) or super().is_refused(error)
