"""What logging costs, one file per question; run all of it with `python -m benchmarks`.

harness.py              rounds, child processes, summaries: how everything here is measured
worker.py               the child process' side
loops.py                the timed loops, and the empty method they are compared with
contender.py            what a way to log scalars offers to be measured
tracelet_writer.py      Tracelet itself
rivals.py               the others
trackers.py             those that have an environment of their own, by environments.py
pure_python_backend.py  one of the others: Tracelet's job in pure Python
arrivals.py             counts what really arrived
report.py               figures, targets, JSON, Markdown, plot

scalars.py      cost of add_scalar, against an empty method and against the others
call_shapes.py  cost of other calls than the plainest one
latency.py      percentiles of single calls
shipping.py     what happens behind the call: CPU per point, stop_logging, share of the GIL
memory.py       memory that 10,000,000 points add, over time
scale.py        growth of the cost with points, tags and threads; scale_workers.py is its worker
instructions.py what the hot calls cost in instructions, held to committed figures in CI
histograms.py   cost of histograms, with histogram_arrays.py (counting alone) and
                histogram_contenders.py (writers)
"""
