"""The ClearML sink.

task.py     the ClearML task: made or adopted, its parameters and artifacts, its end
names.py    tags to metric and variant, as ClearML's own TensorBoard binding names them
offline.py  a batch to lines of an offline session's metrics.jsonl
online.py   a batch to events.add_batch requests
"""

from __future__ import annotations

from tracelet.sinks.base import RunInfo, Sink


def open_clearml_sink(info: RunInfo) -> Sink:
    """The sink of a new run: offline when the SDK is, else online."""
    from tracelet.sinks.clearml.offline import OfflineClearMLSink
    from tracelet.sinks.clearml.online import OnlineClearMLSink
    from tracelet.sinks.clearml.task import open_task

    task = open_task(info.options)
    return OfflineClearMLSink(task, info) if task.is_offline else OnlineClearMLSink(task, info)
