"""A backend of one's own: everything as JSON lines in a folder. CONTRIBUTING.md has the recipe.

    import json_lines_backend
    tracelet.start_logging("run", backend=["clearml", "json_lines"])

It passes the same tests as tracelet's own backends (tests/contract/).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import tracelet
from tracelet.backends.artifact import Artifact, FileUpload
from tracelet.backends.base import Later

FOLDER = "json-lines"


class Lines:
    """A file of JSON lines; a line that was cut off by a kill is removed when it is opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)

    def append(self, rows: Sequence[object]) -> None:
        with open(self.path, "a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def last(self) -> Any:
        with open(self.path) as file:
            row = None
            for row in file:  # noqa: B007
                pass
        return json.loads(row) if row else None


class Sink:
    name = "json_lines"
    is_remote = True
    takes_every_point = True
    record_kinds: Sequence[int] = (tracelet.SCALAR,)

    def __init__(self, folder: str) -> None:
        self._lines = Lines(os.path.join(folder, "points.jsonl"))
        # Points come again after a failure: what is here already is known by its sequence.
        last = self._lines.last()
        self._sequence = last["sequence"] if last else 0

    def write(self, batch: tracelet.Batch) -> tracelet.Delivery:
        new = [record for record in batch.records if record["sequence"] > self._sequence]
        rows = [
            {
                "sequence": int(record["sequence"]),
                "folder": batch.log_dir(record["writer_id"]),
                "tag": batch.tag(record["tag_id"]),
                "step": int(record["step"]),
                "value": float(record["value"]),
            }
            for record in new
        ]
        self._lines.append(rows)
        self._sequence = int(batch.records["sequence"][-1])
        return tracelet.Delivery(len(batch))

    def close(self, process_is_ending: bool) -> None:
        pass


class CopyUpload(FileUpload):
    def __init__(self, artifact: Artifact, folder: str) -> None:
        super().__init__(artifact)
        self._target = os.path.join(folder, os.path.basename(artifact.name))

    def upload(self) -> None:
        shutil.copyfile(self.make_file(), self._target)


class JsonLines(tracelet.Backend):
    name = "json_lines"

    def __init__(self, info: tracelet.RunInfo) -> None:
        state = info.reopen or {"folder": os.path.abspath(os.path.join(FOLDER, info.run_id))}
        self.reopen_state = state
        self._folder = state["folder"]
        self._failure: BaseException | None = None
        self._is_reopened = info.reopen is not None
        self.id = info.run_id
        self.url = self._folder
        self.sinks = [Sink(self._folder)]

    def log_params(self, params: Mapping[str, Any], given: Any, later: Later) -> None:
        Lines(os.path.join(self._folder, "params.jsonl")).append([params])

    def prepare_artifact(self, artifact: Artifact) -> CopyUpload:
        return CopyUpload(artifact, self._folder)

    def note_failure(self, failure: BaseException) -> None:
        self._failure = failure

    def close(self, process_is_ending: bool) -> None:
        status = "killed" if self._is_reopened else "failed" if self._failure else "finished"
        Lines(os.path.join(self._folder, "status.jsonl")).append([status])


tracelet.register_sink("json_lines", JsonLines)
