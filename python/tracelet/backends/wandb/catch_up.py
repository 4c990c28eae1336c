"""A dead online run, brought up to what its files on this machine have.

wandb-core sends a row some seconds after it has written it, and a kill takes it along. `wandb sync`
of such a file puts all of its rows behind those that the server has. So the run is resumed, which
says how far the server has come, and the rows from there on are logged again, with their numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from tracelet.backends.wandb.log_file import LogFile, names_of
from tracelet.backends.wandb.run import SdkRun
from tracelet.runs.ownership import is_own_file


def catch_up(run: SdkRun, paths: Sequence[str]) -> None:
    """Logs to a run that was resumed what its earlier files have and the server lacks."""
    _send_config(run, paths)
    first = int(run.sdk.starting_step)
    done = first - 1
    for path in paths:
        for number, values in _rows_of(path):
            if number <= done:
                continue
            for file in _media_of(values):
                _send_file(run, path, file)
            run.sdk.log(values, step=number, commit=True)
            done = number


def _rows_of(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for record in _records_of(path):
        if record.HasField("history"):
            values = _values(record.history.item)
            for name in ("_step", "_runtime"):
                values.pop(name, None)
            yield int(record.history.step.num), values


def _send_config(run: SdkRun, paths: Sequence[str]) -> None:
    config: dict[str, Any] = {}
    for path in paths:
        for record in _records_of(path):
            if record.HasField("config"):
                config.update(_values(record.config.update))
            elif record.HasField("run"):
                config.update(_values(record.run.config.update))
    config.pop("_wandb", None)
    if config:
        run.sdk.config.update(config, allow_val_change=True)


def _send_file(run: SdkRun, path: str, name: str) -> None:
    folder = os.path.join(os.path.dirname(path), "files")
    whole = os.path.normpath(os.path.join(folder, name))
    if whole.startswith(folder + os.sep) and is_own_file(whole):
        run.sdk.save(whole, base_path=folder, policy="now")


def _media_of(value: Any) -> Iterator[str]:
    """The files, below the run's own, of which a row's values tell."""
    if isinstance(value, dict):
        if str(value.get("_type", "")).endswith("-file") and isinstance(value.get("path"), str):
            yield value["path"]
        for each in value.values():
            yield from _media_of(each)


def _records_of(path: str) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    for data in LogFile(path).new_records():
        yield Record.FromString(data)


def _values(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *folders, last = names_of(item)
        place = values
        for name in folders:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
    return values
