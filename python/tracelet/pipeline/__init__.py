"""The pipeline: ring to drainer to journal to sinks. Knows no backend.

run_folder.py  where a run keeps its files
drainer.py     the one thread that takes records out of the ring
journal.py     on disk: what some sink has not acknowledged yet
lane.py        one sink and how far it has come
shipper.py     brings a lane that lags, or waits for a network, up to date from the journal
run.py         the parts of a run put together: its start, flush, stop
lifecycle.py   the active run of the process: start_logging, exit, fork
"""
