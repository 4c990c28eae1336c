"""Parameters as TensorBoard shows them: its hyperparameters, and a table among its texts."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from tracelet import _core
from tracelet.backends.base import Description
from tracelet.tensorboard_messages import LOGGED_PARAMS, compat, messages

_SESSION_START = "_hparams_/session_start_info"
_TEXT = "params/text_summary"


def params_event(params: Mapping[str, Any], call: int, is_first: bool) -> Any:
    """All parameters of the run so far, logged by the `call`-th call of `log_params`, which may be
    the first one that logs them to its folder.

    Raises ImportError without TensorBoard's messages.
    """
    values = [_text(params)]
    if is_first:
        # TensorBoard keeps what the first event of a tag says of itself: later ones are texts only,
        # and their hyperparameters go to a file that it reads before this one (`params_file`).
        values.append(_session_start(params))
    return _event(values, call)


def description_event(about: Description, call: int) -> Any:
    """Tags and notes as texts. Raises ImportError without TensorBoard's messages."""
    values = []
    if "tags" in about:
        values.append(_text_value("tags/text_summary", ", ".join(about["tags"])))
    if "notes" in about:
        values.append(_text_value("notes/text_summary", about["notes"]))
    return _event(values, call)


def params_file(params: Mapping[str, Any]) -> bytes:
    """An event file that says, to who reads it first, what the hyperparameters are."""
    now_s = time.time()
    event: bytes = _event([_session_start(params)], 0).SerializeToString()
    return _core.version_event(now_s) + _core.framed_event(event)


def params_file_name(wall_time_s: float, run_id: str) -> str:
    """TensorBoard reads the files of a folder in the order of their names: this one before those
    with the points, and before those of older runs in the same folder. It is no file that it would
    follow, and none of `recovered`."""
    newest_first_us = 10**16 - 1 - int(wall_time_s * 1e6)
    host = socket.gethostname()
    return f"events.out.tfevents.0000000000.{newest_first_us:016d}.{host}.{run_id}.params"


def _event(values: list[Any], step: int) -> Any:
    summary = compat("summary_pb2").Summary(value=values)
    return compat("event_pb2").Event(summary=summary, step=step, wall_time=time.time())


def _session_start(params: Mapping[str, Any]) -> Any:
    plugin = messages("tensorboard.plugins.hparams.plugin_data_pb2", "plugin_hparams_pb2")
    start = plugin.SessionStartInfo(start_time_secs=time.time())
    for name, value in params.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, (int, float)):
            start.hparams[name].number_value = value
        else:
            start.hparams[name].string_value = str(value)
    content = plugin.HParamsPluginData(session_start_info=start, version=0).SerializeToString()
    metadata = _metadata("hparams")
    metadata.plugin_data.content = content
    return compat("summary_pb2").Summary.Value(tag=_SESSION_START, metadata=metadata)


def _text(params: Mapping[str, Any]) -> Any:
    rows = ["| parameter | value |", "| --- | --- |"]
    rows += [f"| {_cell(name)} | {_cell(value)} |" for name, value in params.items()]
    return _text_value(_TEXT, "\n".join(rows))


def _text_value(tag: str, text: str) -> Any:
    """One that other backends leave out: they have a form of their own."""
    tensor = compat("tensor_pb2").TensorProto(
        dtype="DT_STRING", string_val=[text.encode(errors="replace")]
    )
    value = compat("summary_pb2").Summary.Value
    return value(tag=tag, metadata=_metadata("text"), tensor=tensor)


def _metadata(plugin: str) -> Any:
    summary = compat("summary_pb2")
    plugin_data = summary.SummaryMetadata.PluginData(plugin_name=plugin)
    return summary.SummaryMetadata(plugin_data=plugin_data, summary_description=LOGGED_PARAMS)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
