"""MLflow: one run, by `runs/log-batch` with our own time-outs, or straight into a database.

backend.py   the run on MLflow, as the pipeline knows it: made, adopted, resumed, ended
store.py     the tracking server, or the database, behind one interface
sink.py      scalars
media.py     histograms and all other events, as artifacts and figures of merit
uploads.py   parameters, artifacts, models
names.py     names that MLflow takes
"""

from __future__ import annotations

from tracelet.backends.base import Backend, RunInfo
from tracelet.backends.opening import import_package, open_or_reopen


def open_mlflow(info: RunInfo) -> Backend:
    """A new run, or the one that is active; one that is reopened goes on with its run."""
    import_package("mlflow")
    from tracelet.backends.mlflow.backend import MLflowBackend

    return open_or_reopen(MLflowBackend, info)
