"""The ClearML sinks: one for scalars and histograms, one for all other events.

task.py       the ClearML task: made or adopted, its parameters and artifacts, its end
names.py      tags to metric and variant, as ClearML's own TensorBoard binding names them
series.py     scalars and histograms to events, by the native encoder
offline.py    a batch of them to lines of an offline session's metrics.jsonl
online.py     a batch of them to events.add_batch requests
add_batch.py  that request
media.py      the sink for all other events, offline and online
parts.py      a TensorBoard event, taken apart into what ClearML can show
tensors.py    TensorProto to numpy
plots.py      tensors to Plotly's JSON
samples.py    the files of debug samples: their names, their upload
"""

from __future__ import annotations

from tracelet.sinks.base import RunInfo, Sink


def open_clearml_sinks(info: RunInfo) -> list[Sink]:
    """The sinks of a new run: offline when the SDK is, else online."""
    from tracelet.sinks.clearml.media import ClearMLMediaSink
    from tracelet.sinks.clearml.names import TaskNames
    from tracelet.sinks.clearml.offline import OfflineClearMLSink
    from tracelet.sinks.clearml.online import OnlineClearMLSink
    from tracelet.sinks.clearml.task import open_task

    task = open_task(info.options)
    names = TaskNames()
    sink_class = OfflineClearMLSink if task.is_offline else OnlineClearMLSink
    return [sink_class(task, info, names), ClearMLMediaSink(task, info, names)]
