"""ClearML. Two sinks: one for scalars and histograms, one for all other events.

backend.py    the run on ClearML, as the pipeline knows it
open_task.py  the ClearML task: made, adopted, a child, or an offline session
task.py       its parameters and artifacts, its end
session_task.py  an offline session beside an SDK that is online
names.py      tags to metric and variant, as ClearML's own TensorBoard binding names them
series.py     scalars and histograms to events, by the native encoder
offline.py    a batch of them to lines of an offline session's metrics.jsonl
create_once.py  tasks.create, never twice
online.py     a batch of them to events.add_batch requests
add_batch.py  that request
media.py      the sink for all other events, offline and online
own_binding.py  ClearML's own TensorBoard binding, off during a run
samples.py    the files of debug samples: their names, their upload
sdk.py        the SDK, made ready
sdk_mends.py  bugs of it, mended
reopen.py     the task of a process that died
signals.py    what the SDK puts over the process' signal handlers
"""

from __future__ import annotations

import contextlib

from tracelet.backends.base import Backend, RunInfo


def open_clearml(info: RunInfo) -> Backend:
    """A new run: offline when the SDK is, else online. One that is reopened goes on with its task,
    under the names that its series have."""
    from tracelet.backends.clearml.backend import ClearMLBackend
    from tracelet.backends.clearml.open_task import open_task
    from tracelet.backends.clearml.reopen import ReopenedTask

    # ClearML's SDK keeps this frame, from its look at the call stack, and so what it refers to.
    if info.reopen is not None:
        return ClearMLBackend(ReopenedTask(info.reopen, info.run_id), info)
    task = open_task(info.options, info.run_id)
    try:
        return ClearMLBackend(task, info)
    except BaseException:
        with contextlib.suppress(Exception):  # the error of the start is the one to be told
            task.give_back()
            task.close(process_is_ending=False)
        raise
