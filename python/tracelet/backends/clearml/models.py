"""The model registry: weights files as output models of a task, each once."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelet.backends.artifact import Model as Weights
from tracelet.errors import BackendError
from tracelet.safe_names import file_name

_METADATA_TYPES = {float: "float", int: "int", bool: "bool", str: "str"}


class ModelRegistry:
    """The output models of one task. `register` and `apply` are called by one thread at a time."""

    def __init__(self, task: Any, is_offline: bool, output_uri: str | bool | None) -> None:
        self._task = task
        self._is_offline = is_offline
        self._output_uri = output_uri
        self._metadata: dict[str, Any] = {}  # of all models of the run
        self._own: dict[str, dict[str, Any]] = {}  # a model's id to its own metadata

    def add_metadata(self, values: Mapping[str, Any]) -> None:
        """Metadata for all models of the run, those to come included; see `apply`."""
        self._metadata.update(values)

    @property
    def has_metadata(self) -> bool:
        return bool(self._metadata)

    def register(self, model: Weights, url: str, path: str) -> None:
        """Makes an output model, or takes the one ClearML's binding made of the same file.

        It is at `url`, and here at `path`. Raises BackendError, and what the SDK raises.
        """
        if self._is_offline:
            self._register_offline(model, path)
            return
        from clearml import OutputModel
        from clearml.backend_interface.model import Model

        known = self._known_id(model.source)
        output = OutputModel(
            task=self._task,
            name=model.name or f"{self._task.name} - {model.entry}",
            tags=self._tags(model),
            framework=model.framework,
            base_model_id=known,
        )
        if known is None:
            output.connect(self._task, name=model.entry)
        output.update_weights(register_uri=url, update_comment=False)
        if not output.id:
            raise BackendError(f"ClearML made no model of {model.entry!r}")
        if model.source:
            Model._local_model_to_id_uri[model.source] = (output.id, url)
        self._own[output.id] = dict(model.metadata)
        self._set_metadata(output)

    def _tags(self, model: Weights) -> list[str]:
        return list(model.tags if model.tags is not None else self._task.get_tags() or ())

    def _known_id(self, source: str) -> str | None:
        """The model of this task that was saved to the path `source`."""
        from clearml.backend_interface.model import Model

        if not source:
            return None
        self._task.reload()
        ids = {entry.model for entry in self._task.data.models.output or ()}
        for saved, (identifier, _) in list(Model._local_model_to_id_uri.items()):
            if identifier in ids and os.path.abspath(str(saved)) == source:
                return str(identifier)
        return None

    def apply(self) -> None:
        """Gives all models of the task the metadata of the run."""
        if not self._metadata:
            return
        if self._is_offline:
            for entry in self._task._offline_output_models:
                entry["init"]["comment"] = self._comment(entry)
            return
        for model in self._task.get_models()["output"]:
            self._set_metadata(model)

    def _set_metadata(self, model: Any) -> None:
        values = {**self._metadata, **self._own.get(model.id, {})}
        if not values:
            return
        if not model.set_all_metadata(typed(values), replace=False):
            raise BackendError(f"ClearML did not take the metadata of model {model.name!r}")

    # An offline session: its import makes the models, by what is noted here in the SDK's form. Not
    # by its OutputModel.update_weights, which takes the base name of a file alone: of two it would
    # would keep one. There is no place for metadata: they are lines of the comment.

    def finish(self) -> None:
        """Before an offline session is closed: of each file that was saved often, one model.

        The SDK's bindings note one each time; online they take the one that is there.
        """
        if not self._is_offline:
            return
        entries = self._task._offline_output_models
        last = {source_of(entry) or entry["id"]: entry for entry in entries}
        entries[:] = [entry for entry in entries if entry in last.values()]

    def _register_offline(self, model: Weights, path: str) -> None:
        entries = self._task._offline_output_models
        for entry in list(entries):
            if model.source and source_of(entry) == model.source:
                entries.remove(entry)
        folder = Path(self._task.get_offline_mode_folder())
        name = model.name or f"{self._task.name} - {model.entry}"
        destination = import_destination(self._output_uri)
        entry = put_into_session(folder, model, path, name, self._tags(model), destination)
        self._own[entry["id"]] = dict(model.metadata)
        entry["init"]["comment"] = self._comment(entry)
        entries.append(entry)

    def _comment(self, entry: dict[str, Any]) -> str:
        values = {**self._metadata, **self._own.get(str(entry["id"]), {})}
        return model_comment(str(entry["init"].get("comment") or ""), values)


def import_destination(output_uri: str | bool | None) -> str | None:
    """Where the import is to upload the weights: else it registers the path in the session."""
    from clearml.backend_api.session.defs import ENV_FILES_HOST
    from clearml.config import config_obj

    if isinstance(output_uri, str):
        return output_uri
    return ENV_FILES_HOST.get(default=config_obj.get("api.files_server", "")) or None


def put_into_session(
    folder: Path, model: Weights, path: str, name: str, tags: list[str], destination: str | None
) -> dict[str, Any]:
    """Copies a weights file into an offline session; returns the model's entry, in the SDK's form.
    Raises OSError."""
    # One file for each, in the session and at the import: the SDK takes the base name alone.
    target = file_name(model.entry) + model.extension
    (folder / "models").mkdir(parents=True, exist_ok=True)
    kept = str(folder / "models" / target)
    shutil.copyfile(path, kept)
    return {
        "init": {
            "config_text": None,
            "config_dict": None,
            "label_enumeration": None,
            "name": name,
            "tags": tags,
            "comment": "",
            "framework": model.framework,
        },
        "weights": {
            "weights_filename": kept,
            "upload_uri": destination,
            "target_filename": target,
            "register_uri": None,
            "iteration": None,
            "update_comment": False,
            "is_package": False,
        },
        "output_uri": destination,
        "id": f"offline-{uuid.uuid4().hex}",
        "source": model.source,
    }


def model_comment(comment: str, values: Mapping[str, Any]) -> str:
    """A model's comment with its metadata as lines, in the place of those that it had."""
    head = comment.partition("\nmetadata:\n")[0]
    lines = "".join(f"{key}: {value}\n" for key, value in values.items())
    return f"{head}\nmetadata:\n{lines}" if lines else head


def typed(values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Metadata as the server takes it."""
    return {
        key: {"value": str(value), "type": _METADATA_TYPES.get(type(value), "str")}
        for key, value in values.items()
    }


def source_of(entry: Mapping[str, Any]) -> str:
    """The path that an offline session's model was saved to."""
    known = str(entry.get("source") or entry["weights"].get("register_uri") or "")
    if not known:
        return ""
    return os.path.abspath(known[len("file://") :] if known.startswith("file://") else known)


class ModelMetadataUpload:
    """The last thing a run sends: its metadata, for models that others registered too."""

    name = "the models' metadata"
    size_bytes: int | None = None

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models

    def upload(self) -> None:
        self._models.apply()

    def is_refused(self, error: Exception) -> bool:
        return False

    def keep(self, folder: str) -> str:
        return ""

    def discard(self) -> None:
        """Nothing is kept."""
