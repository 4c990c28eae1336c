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
kept.py       what is kept in the run's folder, for another process to go on with
sdk.py        the SDK, made ready
sdk_mends.py  bugs of it, mended
reopen.py     the task of a process that died
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracelet.backends.base import RunInfo, Sink

if TYPE_CHECKING:
    from tracelet.backends.clearml.task import ClearMLTask


def open_clearml_sinks(info: RunInfo) -> list[Sink]:
    """The sinks of a new run: offline when the SDK is, else online. Those of a run that is reopened
    go on with its task, under the names that its series have."""
    from tracelet.backends.clearml.reopen import ReopenedTask
    from tracelet.backends.clearml.task import open_task

    # ClearML's SDK keeps this frame, from its look at the call stack, and so what it refers to.
    return _sinks_of(
        open_task(info.options) if info.reopen is None else ReopenedTask(info.reopen), info
    )


def _sinks_of(task: ClearMLTask, info: RunInfo) -> list[Sink]:
    from tracelet.backends.clearml.kept import NAMES, KeptLines
    from tracelet.backends.clearml.media import ClearMLMediaSink
    from tracelet.backends.clearml.names import TaskNames
    from tracelet.backends.clearml.offline import OfflineClearMLSink
    from tracelet.backends.clearml.online import OnlineClearMLSink

    names = TaskNames.kept_in(KeptLines(info.run_dir, NAMES))
    sink_class = OfflineClearMLSink if task.is_offline else OnlineClearMLSink
    return [sink_class(task, info, names), ClearMLMediaSink(task, info, names)]
