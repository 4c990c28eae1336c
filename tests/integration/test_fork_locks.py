"""A child that is forked while other threads of the process are inside Tracelet."""

from __future__ import annotations

import pytest
from readers import event_file_scalars

pytest.importorskip("torch")

CHILDREN = 60

FORKED_BESIDE_CALLS = f"""
    import itertools, os, signal, threading, tracelet
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    experiment = tracelet.start_logging(
        "locks", "tests", backend="tensorboard",
        config={{"log_dir": "handle", "full_ring_timeout_s": 60}},
    )
    writer = SummaryWriter("log")
    is_done = False

    calls = [
        lambda i: experiment.log_params({{f"name{{i % 5}}": i}}),
        lambda i: experiment.stats,
        lambda i: experiment.flush(0.001),
        lambda i: SummaryWriter(f"others/{{i}}").add_text("text", "words", i),
    ]

    def work(call):
        for i in itertools.count():
            if is_done:
                return
            call(i)

    threads = [threading.Thread(target=work, args=[call]) for call in calls]
    for thread in threads:
        thread.start()

    def child(number):
        signal.alarm(30)  # one that hangs is killed
        experiment.stats
        experiment.flush(0.01)
        try:
            experiment.log_params({{"of a child": number}})
        except tracelet.TraceletError as error:
            assert "another process'" in str(error), error
        else:
            raise AssertionError("log_params")
        writer.add_scalar("scalar", number, number)
        writer.add_scalar(f"new/{{number}}", number, number)
        writer.add_text("child", str(number), number)
        writer.add_histogram("child", np.arange(10.0), number)
        SummaryWriter(f"children/{{number}}").add_text("text", "words", number)
        experiment.log_metric("metric", number, number)
        experiment.log_text("handle", str(number), number)

    codes = []
    for number in range({CHILDREN}):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(number)
                code = 0
            finally:
                os._exit(code)
        codes.append(os.waitpid(pid, 0)[1])
    is_done = True
    for thread in threads:
        thread.join()
    print("codes", set(codes))
    tracelet.stop_logging()
    print(experiment.stats)
"""


@pytest.mark.slow
def test_a_child_forked_beside_calls_finds_no_lock_taken(run_script, tmp_path):
    done = run_script(FORKED_BESIDE_CALLS)
    assert "codes {0}" in done.stdout, done.stdout + done.stderr
    assert "pending=0" in done.stdout
    assert "dropped={}" in done.stdout
    steps = list(range(CHILDREN))
    scalars = event_file_scalars(tmp_path / "log")
    assert [step for step, _, _ in scalars["scalar"]] == steps
    assert {f"new/{step}" for step in steps} <= set(scalars)
    handle = event_file_scalars(tmp_path / "handle")
    assert [(step, value) for step, value, _ in handle["metric"]] == [(n, float(n)) for n in steps]
