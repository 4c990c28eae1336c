"""Artifacts and models on their way to trackio."""

from __future__ import annotations

from tracelet.backends.artifact import Artifact, FileUpload, Model, flat_name
from tracelet.backends.trackio.store import Store


class ArtifactUpload(FileUpload):
    """A version of an artifact of the project, made by the run; copied into trackio's folder."""

    def __init__(self, artifact: Artifact, store: Store, model: Model | None = None) -> None:
        super().__init__(artifact, model=model)
        self._store = store

    def upload(self) -> None:
        source, name = self.make_file(), flat_name(self.artifact.name)
        self._store.put_artifact(source, name, self.kind, self.file_name, self.about)
