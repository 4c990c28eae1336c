"""Artifacts and models on their way to trackio."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

from tracelet.backends.artifact import Artifact, FileUpload, Model
from tracelet.backends.trackio.store import Store


def artifact_name(name: str) -> str:
    """A name as trackio takes it, which has no folders; two names never become one."""
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if clean == name:
        return name
    stem, extension = os.path.splitext(clean)
    return f"{stem}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}{extension}"


class ArtifactUpload(FileUpload):
    """A version of an artifact of the project, made by the run; copied into trackio's folder."""

    def __init__(self, artifact: Artifact, store: Store, model: Model | None = None) -> None:
        super().__init__(artifact, is_artifact=model is None)
        self._store = store
        self._model = model

    def upload(self) -> None:
        source = self.make_file()
        name = self.artifact.name
        about: dict[str, Any] = {"name": name}
        if self._model is not None:
            about.update(framework=self._model.framework, tags=list(self._model.tags or ()))
            about.update({str(key): str(value) for key, value in self._model.metadata.items()})
        file_name = os.path.basename(name)
        end = os.path.splitext(self.artifact.content.filename)[1]
        self._store.put_artifact(
            source, artifact_name(name), "model" if self._model is not None else "artifact",
            file_name if file_name.endswith(end) else file_name + end, about,
        )  # fmt: skip
