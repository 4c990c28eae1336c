"""The pipeline: ring to drainer to journal to sinks. Knows no backend.

drainer.py     the one thread that takes records out of the ring
lane.py        one sink and how far it has come
shipper.py     brings a lane that lags, or waits for a network, up to date from the journal
verbs.py       what is logged by hand, to every backend; uploads.py sends it
run.py         the parts of a run put together: its start, flush, stop
live.py        what a run has while it lives
run_end.py     the end of its backends and of its folder
lifecycle.py   the active run of the process: start_logging, exit, fork
"""
