"""What logging costs, one file per question; run all of it with `python -m benchmarks`.

parts/       the questions: what each measures is one part of the report
workers/     the workers' side of them, Tracelet itself: tracelet_writer.py
rivals/      the others: writers.py, trackers.py (each in an environment of its own, by
             environments.py), pure_python_backend.py (Tracelet's job in pure Python)

harness.py   rounds, child processes, summaries: how everything here is measured
worker.py    the child process' side
loops.py     the timed loops, and the empty method they are compared with
contender.py what a way to log scalars offers to be measured
arrivals.py  counts what really arrived
report.py    figures, targets, JSON, Markdown, plot

instructions.py  what the hot calls cost in instructions, held to committed figures in CI
ring_sizes.py    what a smaller ring would cost
"""
