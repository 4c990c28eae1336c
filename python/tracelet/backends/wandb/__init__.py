"""Weights & Biases: one run, by its public SDK; delivered is what is in W&B's own file on disk.

backend.py   the run on W&B, as the pipeline knows it: its verbs and its end
run.py       the SDK's run: made, adopted, gone on with, each within a deadline
sink.py      points, as rows
rows.py      which points make a row, the same ones whenever they are given
media.py     histograms and events as W&B's own types
log_file.py  W&B's file of a run, read beside the process that writes it
catch_up.py a dead online run, brought up to what its files have
uploads.py   parameters, artifacts, models
names.py     names that W&B takes
"""

from __future__ import annotations

from tracelet.backends.base import Backend, RunInfo
from tracelet.backends.opening import import_package, open_or_reopen
from tracelet.errors import BackendError


def open_wandb(info: RunInfo) -> Backend:
    """A new run, or the one that is active; one that is reopened goes on with its run."""
    wandb = import_package("wandb")
    # Older ones write a row to their file when a buffer is full, and not before.
    if "x_transaction_log_flush_interval" not in wandb.Settings.model_fields:
        raise BackendError(
            f"backend 'wandb' needs wandb 0.31 or later, this is {wandb.__version__}: "
            "pip install --upgrade wandb"
        )
    from tracelet.backends.wandb.backend import WandbBackend

    return open_or_reopen(WandbBackend, info)
