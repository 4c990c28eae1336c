"""The models of a task that is reopened by `tracelet sync`: by requests of our own, or in the files
of an offline session. Each may be registered again: there is one of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelet.backends.artifact import Model as Weights
from tracelet.backends.clearml.models import model_comment, put_into_session, source_of, typed
from tracelet.backends.clearml.session import edit_task, read_task
from tracelet.backends.clearml.task_edits import TaskEdits


class OnlineModels:
    """`register` and `apply` raise SinkUnavailableError, RefusedError."""

    def __init__(self, edits: TaskEdits) -> None:
        self._edits = edits

    def register(self, model: Weights, url: str, path: str) -> None:
        edits = self._edits
        task = edits.task()
        about: dict[str, Any] = {
            "name": model.name or f"{task.get('name')} - {model.entry}",
            "uri": url,
            "framework": model.framework,
            "tags": list(model.tags if model.tags is not None else task.get("tags") or ()),
        }
        held = {each["name"]: each["model"] for each in _outputs(task)}
        known = held.get(model.entry) or self._unlisted(task, about["name"], set(held.values()))
        if known is None:
            made = edits.call_models(
                "CreateRequest", task=task["id"], project=task.get("project"), labels={}, **about
            )
            known = made["id"]
        else:
            edits.call_models("EditRequest", model=known, **about)
        edits.call("AddOrUpdateModelRequest", name=model.entry, type="output", model=known)
        self._add_metadata(known, model.metadata)

    def _unlisted(self, task: Mapping[str, Any], name: str, listed: set[str]) -> str | None:
        """A model of the task that an earlier try has made, and died before it was listed."""
        found = self._edits.call_models("GetAllRequest", task=[task["id"]])["models"]
        ids = (each["id"] for each in found if each.get("name") == name)
        return next((str(each) for each in ids if each not in listed), None)

    def apply(self, metadata: Mapping[str, Any]) -> None:
        """Gives all models of the task what they lack of the run's metadata: a model's own wins."""
        for entry in _outputs(self._edits.task()) if metadata else ():
            model = self._edits.call_models("GetByIdRequest", model=entry["model"])["model"]
            held = model.get("metadata") or {}
            names = {each.get("key") for each in held} if isinstance(held, list) else set(held)
            lacking = {key: value for key, value in metadata.items() if key not in names}
            self._add_metadata(entry["model"], lacking)

    def _add_metadata(self, model_id: str, values: Mapping[str, Any]) -> None:
        if values:
            items = [{"key": key, **each} for key, each in typed(values).items()]
            self._edits.call_models(
                "AddOrUpdateMetadataRequest", model=model_id, metadata=items, replace_metadata=False
            )


class SessionModels:
    """Those of an offline session. Raises OSError."""

    def __init__(self, folder: Path, destination: str | None) -> None:
        self._folder = folder
        self._destination = destination

    def register(self, model: Weights, url: str, path: str) -> None:
        task = read_task(self._folder)
        tags = list(model.tags if model.tags is not None else task.get("tags") or ())
        name = model.name or f"{task.get('name')} - {model.entry}"
        entry = put_into_session(self._folder, model, path, name, tags, self._destination)
        entry["init"]["comment"] = model_comment("", model.metadata)
        target = entry["weights"]["target_filename"]

        def change(content: dict[str, Any]) -> None:
            entries = content.get("offline_output_models") or []
            content["offline_output_models"] = [
                *(
                    each
                    for each in entries
                    if (not model.source or source_of(each) != model.source)
                    and os.path.basename(str(each["weights"].get("target_filename"))) != target
                ),
                entry,
            ]

        edit_task(self._folder, change)

    def apply(self, metadata: Mapping[str, Any]) -> None:
        if not metadata:
            return

        def change(content: dict[str, Any]) -> None:
            for entry in content.get("offline_output_models") or ():
                comment = str(entry["init"].get("comment") or "")
                lines = comment.partition("\nmetadata:\n")[2].splitlines()
                held = dict(line.partition(": ")[::2] for line in lines)
                entry["init"]["comment"] = model_comment(comment, {**metadata, **held})

        edit_task(self._folder, change)


def _outputs(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((task.get("models") or {}).get("output") or ())
