"""Artifacts and models beside the event files: copied to a folder, with an index."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from typing import Any

from tracelet.backends.artifact import Artifact, FileUpload, Model, sha256_of
from tracelet.safe_names import relative_path

INDEX = "index.jsonl"
"""A line for each file: name, path, size, sum, time; of two lines of one name the last counts."""


class CopyUpload(FileUpload):
    """Copies one file below `folder`, whole or not at all."""

    def __init__(self, artifact: Artifact, folder: str, model: Model | None) -> None:
        super().__init__(artifact, is_artifact=model is None)
        self._folder = folder
        self._model = model

    def upload(self) -> None:
        source = self.make_file()
        relative = relative_path(self.artifact.name, self.artifact.content.filename, INDEX)
        target = os.path.join(self._folder, relative)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target + ".new")
        os.replace(target + ".new", target)
        line = {
            "name": self.artifact.name,
            "path": relative,
            "kind": self.artifact.content.kind,
            "size_bytes": self.size_bytes,
            "sha256": sha256_of(source),
            "time": time.time(),
            **_about(self._model),
        }
        with open(os.path.join(self._folder, INDEX), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _about(model: Model | None) -> Mapping[str, Any]:
    if model is None:
        return {}
    metadata = {str(name): str(value) for name, value in model.metadata.items()}
    about = {"framework": model.framework, "tags": list(model.tags or ()), "metadata": metadata}
    return {"model": about}
