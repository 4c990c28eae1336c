"""What ClearML would not take, kept on disk with its words."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from tracelet.backends.base import Batch
from tracelet.records import EVENT
from tracelet.runs.private_file import private

_log = logging.getLogger("tracelet")


class SetAsideFile:
    """Lines of JSON, one for each point, in `set_aside-{sink}.jsonl` of the run's folder."""

    def __init__(self, run_dir: str, sink: str) -> None:
        self._path = os.path.join(run_dir, f"set_aside-{sink}.jsonl")

    def keep(self, batch: Batch, record: Any, answer: Exception) -> None:
        point = {
            "tag": batch.tag(record["tag_id"]),
            "log_dir": batch.log_dir(record["writer_id"]),
            "step": int(record["step"]),
            "value": float(record["value"]),
            "wall_time": float(record["wall_time"]),
            "answer": str(answer)[:1000],
        }
        if int(record["kind"]) == EVENT:
            del point["value"]  # it has none; what it held is in the event file
        is_first = not os.path.exists(self._path)
        with open(self._path, "a", encoding="utf-8", opener=private) as file:
            file.write(json.dumps(point) + "\n")
        if is_first:
            _log.warning(
                "tracelet: ClearML refused the point %.200s at step %d (%.300s); points it refuses "
                "are kept in %s", point["tag"], point["step"], answer, self._path,
            )  # fmt: skip
