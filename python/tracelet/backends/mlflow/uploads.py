"""Parameters, artifacts and models on their way to MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any, Callable

from tracelet.backends.artifact import Artifact, FileUpload, Model
from tracelet.backends.mlflow.names import clean_name
from tracelet.backends.mlflow.store import RefusedError, Store

_REQUEST_PARAMS = 100  # MLflow takes no more
_LONGEST_VALUE = 6_000
_LONGEST_TAG = 5_000  # what MLflow before 3 takes, too
_ENVIRONMENT_TAGS = {
    "git_commit": "mlflow.source.git.commit",
    "git_branch": "mlflow.source.git.branch",
    "git_is_changed": "mlflow.source.git.dirty",
    "git_remote": "mlflow.source.git.repoURL",
    "git_diff": "mlflow.source.git.diff",
}
NOTES = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""


def texts_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Names and values as MLflow takes them; of two names that become one, the first has it."""
    texts: dict[str, str] = {}
    for name, value in params.items():
        text = str(value)
        if len(text) > _LONGEST_VALUE:
            text = text[: _LONGEST_VALUE - 1] + "…"
        texts.setdefault(clean_name(name), text)
    return texts


def send_params(store: Store, run_id: str, params: Mapping[str, str]) -> dict[str, str]:
    """Sends them all; returns those that MLflow does not take, with its words. What is there with
    the same value is no change."""
    items = list(params.items())
    refused: dict[str, str] = {}
    for start in range(0, len(items), _REQUEST_PARAMS):
        piece = dict(items[start : start + _REQUEST_PARAMS])
        try:
            store.log_params(run_id, piece)
        except RefusedError:
            for name, text in piece.items():
                try:
                    store.log_params(run_id, {name: text})
                except RefusedError as error:
                    refused[name] = str(error)
    return refused


def environment_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """What a run runs in, under the names that MLflow itself has for some of it; without the list
    of packages, which is too long among tags."""
    return {
        _ENVIRONMENT_TAGS.get(name, f"tracelet.{name}"): str(value)[:_LONGEST_TAG]
        for name, value in environment.items()
        if name != "packages"
    }


def send_description(store: Store, run_id: str, about: Mapping[str, Any]) -> dict[str, str]:
    """Sets tags and notes; returns those that MLflow does not take, with its words."""
    refused: dict[str, str] = {}
    texts = {clean_name(tag): "" for tag in about.get("tags", ())}
    if "notes" in about:
        texts[NOTES] = str(about["notes"])
    texts.update(about.get("environment", {}))
    for name, text in texts.items():
        try:
            store.set_tag(run_id, name, text)
        except RefusedError as error:
            refused[name] = str(error)
    for name in {clean_name(tag) for tag in about.get("gone", ())} - set(texts):
        with contextlib.suppress(RefusedError):  # it is not there
            store.delete_tag(run_id, name)
    return refused


class ArtifactUpload(FileUpload):
    """A file among the run's artifacts, under its name; a folder is put there as it was."""

    def __init__(
        self, artifact: Artifact, repository: Callable[[], Any], model: Model | None = None
    ) -> None:
        super().__init__(artifact, is_artifact=model is None)
        self._repository = repository
        self._model = model

    def upload(self) -> None:
        source = self.make_file()
        path = self._path()
        folder, name = posixpath.split(path)
        with tempfile.TemporaryDirectory(dir=self.artifact.place) as temporary:
            local = os.path.join(temporary, name)
            try:
                os.link(source, local)
            except OSError:
                shutil.copyfile(source, local)
            self._repository().log_artifact(local, folder or None)
            if self._model is not None:
                self._repository().log_artifact(self._about(temporary, name), folder)

    def _path(self) -> str:
        name = clean_name(self.artifact.name).replace(":", "_")
        end = os.path.splitext(self.artifact.content.filename)[1]
        name = name if name.endswith(end) else name + end
        return f"models/{name}" if self._model is not None else name

    def _about(self, folder: str, name: str) -> str:
        assert self._model is not None
        path = os.path.join(folder, f"{name}.about.json")
        about = {
            "framework": self._model.framework,
            "tags": list(self._model.tags or ()),
            "metadata": {str(key): str(each) for key, each in self._model.metadata.items()},
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(about, file, indent=2)
        return path
