"""The request tasks.create, of which the server may have done more than it came to answer.

It is not one that may be sent twice: of a connection that broke nobody knows whether a task was
made, and a second one would be left beside it. So each has a token in the task's comment, and who
does not know asks for the task with that token before another one is made.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

_MARK = "tracelet-start:"
_NEWEST = 500  # of one name, in one project; the one that is looked for was made just now


class CreateOnce:
    """Of one start. One thread at a time."""

    def __init__(self, token: str | None = None) -> None:
        """`token`: of requests that were sent before, maybe by another process."""
        self.token = token or uuid.uuid4().hex[:12]
        self.is_unsure = token is not None
        """Whether a request was sent to which there is no answer."""

    def is_meant(self, request: Any) -> bool:
        return _path(request).endswith("/tasks.create")

    def marked(self, request: Any) -> Any:
        """The request to make the task, with the token."""
        body = _body(request)
        comment = str(body.get("comment") or "")
        if self._mark in comment:
            return request
        return _with_body(request, {**body, "comment": f"{comment} {self._mark}".strip()})

    def question(self, request: Any) -> Any:
        """The request that asks for the task that `request` may have made."""
        body = _body(request)
        asked = _with_body(request, query(body.get("name"), body.get("project")))
        asked.url = asked.url.replace("/tasks.create", "/tasks.get_all")
        return asked

    def answer(self, found: Any) -> Any:
        """The answer to `question` as that of the request itself; None where there is no task."""
        content = found.json()
        task_id = self.find(content["data"]["tasks"])
        if task_id is None:
            return None
        content["data"] = {"id": task_id}
        content["meta"]["endpoint"]["name"] = "tasks.create"
        found._content = json.dumps(content).encode()
        return found

    def find(self, tasks: Any) -> str | None:
        """The id of the one that has the token."""
        for task in tasks:
            fields = task if isinstance(task, Mapping) else vars(task)
            if self._mark in str(fields.get("comment") or ""):
                return str(fields["id"])
        return None

    @property
    def _mark(self) -> str:
        return f"({_MARK} {self.token})"


def query(name: Any, project_id: Any) -> dict[str, Any]:
    """The body of tasks.get_all for the newest tasks of a name."""
    asked = {
        "name": f"^{re.escape(str(name))}$",
        "only_fields": ["id", "comment"],
        "order_by": ["-created"],
        "page": 0,
        "page_size": _NEWEST,
        "search_hidden": True,
    }
    return {**asked, "project": [project_id]} if project_id else asked


def _path(request: Any) -> str:
    return str(request.url).partition("?")[0]


def _body(request: Any) -> dict[str, Any]:
    return dict(json.loads(request.body or b"{}"))


def _with_body(request: Any, body: Mapping[str, Any]) -> Any:
    made = request.copy()
    made.prepare_body(None, None, json=dict(body))
    return made
