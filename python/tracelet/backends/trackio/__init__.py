"""trackio: one run in its local database, by its own bulk call.

backend.py   the run in trackio, as the pipeline knows it: made, adopted, gone on with
store.py     trackio's database of a project
sink.py      scalars
media.py     histograms and all other events
uploads.py   artifacts and models
"""

from __future__ import annotations

from tracelet.backends.base import Backend, RunInfo
from tracelet.backends.opening import import_package, open_or_reopen


def open_trackio(info: RunInfo) -> Backend:
    """A new run, or the one that is active; one that is reopened goes on with its run."""
    import_package("trackio")
    from tracelet.backends.trackio.backend import TrackioBackend

    return open_or_reopen(TrackioBackend, info)
