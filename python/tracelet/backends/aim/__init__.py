"""Aim: one run in a repository of this machine, by its public SDK.

backend.py   the run in Aim, as the pipeline knows it: its verbs and its end
run.py       the SDK's run: made, gone on with, closed, its locks
params.py    parameters as Aim's tree has them
sink.py      scalars
order.py     the order in which a batch's points cost Aim least
media.py     histograms and all other events
"""

from __future__ import annotations

from tracelet.backends.base import Backend, RunInfo
from tracelet.backends.opening import import_package, open_or_reopen


def open_aim(info: RunInfo) -> Backend:
    """A new run, or the one that the options name; one that is reopened goes on with its run."""
    import_package("aim")
    from tracelet.backends.aim.backend import AimBackend

    return open_or_reopen(AimBackend, info)
