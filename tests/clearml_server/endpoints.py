"""What each endpoint answers: the smallest `data` that the unmodified SDK works with.

Not here: ``auth.login`` (see `auth`) and ``events.add_batch`` (see `events`).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from .errors import ApiError
from .event_store import LOG, EventStore
from .registry import Record, Registry, find, now, update

Body = dict[str, Any]
Answer = dict[str, Any]
Endpoint = Callable[["Endpoints", Body], Answer]


class Endpoints:
    """The answers, over one registry and one store. Locked by its owner."""

    def __init__(self, registry: Registry, store: EventStore) -> None:
        self.registry = registry
        self.store = store

    def answer(self, name: str, body: Body) -> Answer | None:
        """The data of `name`'s answer; None where the endpoint is unknown."""
        endpoint = ENDPOINTS.get(name)
        return None if endpoint is None else endpoint(self, body)

    # projects

    def create_project(self, body: Body) -> Answer:
        return {"id": self.registry.add_project(body)["id"]}

    def get_project(self, body: Body) -> Answer:
        return {"project": self.registry.project(body["project"])}

    def find_projects(self, body: Body) -> Answer:
        return {"projects": find(self.registry.projects, body)}

    def update_project(self, body: Body) -> Answer:
        return _edit(self.registry.project(body["project"]), body, "project")

    # tasks

    def create_task(self, body: Body) -> Answer:
        return {"id": self.registry.add_task(body)["id"]}

    def get_task(self, body: Body) -> Answer:
        return {"task": self.registry.task(body["task"])}

    def find_tasks(self, body: Body) -> Answer:
        return {"tasks": find(self.registry.tasks, body)}

    def edit_task(self, body: Body) -> Answer:
        return _edit(self.registry.task(body["task"]), body, "task", "force")

    def clone_task(self, body: Body) -> Answer:
        source = self.registry.task(body["task"])
        kept = ("name", "project", "type", "comment", "tags", "script", "execution", "hyperparams",
                "configuration", "container")  # fmt: skip
        fields = {key: deepcopy(source[key]) for key in kept if key in source}
        fields["execution"] = {**fields["execution"], "artifacts": []}
        # Tasks that an SDK runs are marked as such; a clone is a draft.
        fields["system_tags"] = [tag for tag in source["system_tags"] if tag != "development"]
        fields["parent"] = body.get("new_task_parent") or source["id"]
        names = ("name", "comment", "tags", "system_tags", "project")
        fields.update(
            {name: body[f"new_task_{name}"] for name in names if f"new_task_{name}" in body}
        )
        for key, value in (body.get("execution_overrides") or {}).items():
            fields["execution"][key] = value
        return {"id": self.registry.add_task(fields)["id"]}

    def reset_task(self, body: Body) -> Answer:
        task = self.registry.task(body["task"])
        self.store.delete(task["id"])
        task["execution"]["artifacts"] = []
        update(task, {"status": "created", "last_iteration": 0, "last_metrics": {}})
        return {"updated": 1, "fields": {"status": "created"}, "deleted_models": 0}

    def delete_task(self, body: Body) -> Answer:
        task = self.registry.task(body["task"])
        self.store.delete(task["id"])
        del self.registry.tasks[task["id"]]
        return {"deleted": True}

    def set_requirements(self, body: Body) -> Answer:
        task = self.registry.task(body["task"])
        update(task, {"script": {"requirements": body["requirements"]}})
        return {"updated": 1, "fields": {}}

    def _editable(self, body: Body) -> Record:
        """The task, when parameters may be added to it: a draft, or by force one that runs."""
        task = self.registry.task(body["task"])
        allowed = ("created", "in_progress") if body.get("force") else ("created",)
        if task["status"] not in allowed:
            raise ApiError(400, 110, f"Invalid task status: expected=created, {task['status']}")
        return task

    def edit_hyperparams(self, body: Body) -> Answer:
        task = self._editable(body)
        if body.get("replace_hyperparams") == "all":
            task["hyperparams"] = {}
        for item in body["hyperparams"]:
            task["hyperparams"].setdefault(item.get("section"), {})[item.get("name")] = item
        return {"updated": 1}

    def edit_configuration(self, body: Body) -> Answer:
        task = self._editable(body)
        task["configuration"].update({item["name"]: item for item in body["configuration"]})
        return {"updated": 1}

    def put_artifacts(self, body: Body) -> Answer:
        execution = self.registry.task(body["task"])["execution"]
        known = {item["key"]: item for item in execution.get("artifacts") or []}
        known.update({item["key"]: item for item in body["artifacts"]})
        execution["artifacts"] = list(known.values())
        return {"updated": 1}

    def delete_artifacts(self, body: Body) -> Answer:
        execution = self.registry.task(body["task"])["execution"]
        keys = {item["key"] for item in body["artifacts"]}
        kept = [item for item in execution.get("artifacts") or [] if item["key"] not in keys]
        execution["artifacts"] = kept
        return {"deleted": 1}

    def put_task_model(self, body: Body) -> Answer:
        models = self.registry.task(body["task"])["models"]
        item = {"name": body["name"], "model": body["model"]}
        others = [known for known in models[body["type"]] if known["name"] != item["name"]]
        models[body["type"]] = [*others, item]
        return {"updated": 1}

    # models

    def create_model(self, body: Body) -> Answer:
        return {"id": self.registry.add_model(body)["id"], "created": True}

    def get_model(self, body: Body) -> Answer:
        return {"model": self.registry.model(body["model"])}

    def find_models(self, body: Body) -> Answer:
        return {"models": find(self.registry.models, body)}

    def edit_model(self, body: Body) -> Answer:
        return _edit(self.registry.model(body["model"]), body, "model")

    def publish_model(self, body: Body) -> Answer:
        return _edit(self.registry.model(body["model"]), {"ready": True})

    def put_model_metadata(self, body: Body) -> Answer:
        metadata = self.registry.model(body["model"])["metadata"]
        metadata.update({item["key"]: item for item in body["metadata"]})
        return {"updated": 1}

    # events, read back

    def get_console(self, body: Body) -> Answer:
        return _events(self.store.events(body["task"], LOG))

    def get_events(self, body: Body) -> Answer:
        return _events(self.store.events(body["task"], body.get("event_type")))

    def get_plots(self, body: Body) -> Answer:
        plots = self.store.events(body["task"], "plot")
        return {"plots": plots, "returned": len(plots), "total": len(plots)}

    def get_curves(self, body: Body) -> Answer:
        """Every point, where the real server would thin them to `samples`."""
        curves: Answer = {}
        for (metric, variant), points in self.store.scalars(body["task"]).items():
            steps = sorted(step for step in points if step is not None)
            curves.setdefault(metric, {})[variant] = {
                "name": variant,
                "x": steps,
                "y": [points[step] for step in steps],
            }
        return curves


def _change_status(status: str) -> Endpoint:
    def endpoint(self: Endpoints, body: Body) -> Answer:
        task = self.registry.task(body["task"])
        fields = {
            "status": status,
            "status_reason": body.get("status_reason") or "",
            "status_message": body.get("status_message") or "",
        }
        if status == "in_progress":
            fields["started"] = now()
        elif status in ("stopped", "completed", "failed"):
            fields["completed"] = now()
        return {**_edit(task, fields), "started": 1, "published": 1}

    return endpoint


def _edit(record: Record, body: Body, *not_fields: str) -> Answer:
    fields = {key: value for key, value in body.items() if key not in not_fields}
    update(record, fields)
    return {"updated": 1, "fields": fields}


def _events(events: list[dict[str, Any]]) -> Answer:
    return {"events": events, "returned": len(events), "total": len(events), "scroll_id": None}


def _nothing(self: Endpoints, body: Body) -> Answer:
    return {}


def _no_workers(self: Endpoints, body: Body) -> Answer:
    return {"workers": []}


ENDPOINTS: dict[str, Endpoint] = {
    "projects.create": Endpoints.create_project,
    "projects.get_by_id": Endpoints.get_project,
    "projects.get_all": Endpoints.find_projects,
    "projects.update": Endpoints.update_project,
    "tasks.create": Endpoints.create_task,
    "tasks.get_by_id": Endpoints.get_task,
    "tasks.get_all": Endpoints.find_tasks,
    "tasks.edit": Endpoints.edit_task,
    "tasks.update": Endpoints.edit_task,
    "tasks.clone": Endpoints.clone_task,
    "tasks.reset": Endpoints.reset_task,
    "tasks.delete": Endpoints.delete_task,
    "tasks.started": _change_status("in_progress"),
    "tasks.stopped": _change_status("stopped"),
    "tasks.completed": _change_status("completed"),
    "tasks.failed": _change_status("failed"),
    "tasks.publish": _change_status("published"),
    "tasks.ping": _nothing,
    "tasks.set_requirements": Endpoints.set_requirements,
    "tasks.edit_hyper_params": Endpoints.edit_hyperparams,
    "tasks.edit_configuration": Endpoints.edit_configuration,
    "tasks.add_or_update_artifacts": Endpoints.put_artifacts,
    "tasks.delete_artifacts": Endpoints.delete_artifacts,
    "tasks.add_or_update_model": Endpoints.put_task_model,
    "models.create": Endpoints.create_model,
    "models.get_by_id": Endpoints.get_model,
    "models.get_all": Endpoints.find_models,
    "models.edit": Endpoints.edit_model,
    "models.set_ready": Endpoints.publish_model,
    "models.add_or_update_metadata": Endpoints.put_model_metadata,
    "events.get_task_log": Endpoints.get_console,
    "events.get_task_events": Endpoints.get_events,
    "events.get_task_plots": Endpoints.get_plots,
    "events.scalar_metrics_iter_histogram": Endpoints.get_curves,
    "debug.ping": _nothing,
    "workers.get_all": _no_workers,
}
