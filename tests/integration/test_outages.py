"""Each way in which a ClearML server is away, over HTTP: nothing is lost, the end keeps its time.

TRACELET_OUTAGE_POINTS sets how many points each has (`make soak-network`: 500,000).
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time

import pytest
from waiting import wait_until

pytest.importorskip("clearml")

POINTS = int(float(os.environ.get("TRACELET_OUTAGE_POINTS", "20_000")))

IS_SOAK = POINTS >= 500_000
BEFORE = 20_000
SLOW_S = 61.0 if IS_SOAK else 3.0

SCRIPT = f"""
    import os, statistics, time, tracelet
    experiment = tracelet.start_logging("outage", "tests", config={{"batch_max_points": 10_000}})
    log = experiment.log_metric

    def median_ns(first, end):
        \"""Per call, of rounds of 1,000 with a pause after each, as training has them.\"""
        rounds = []
        for begin in range(first, end, 1_000):
            start_ns = time.perf_counter_ns()
            for step in range(begin, begin + 1_000):
                log("a", step, step)
            rounds.append((time.perf_counter_ns() - start_ns) / 1_000)
            time.sleep(0.005)
        return statistics.median(rounds)

    before_ns = median_ns(0, {BEFORE})
    open("started", "w").close()
    while os.path.exists("started"):
        time.sleep(0.01)
    during_ns = median_ns({BEFORE}, {BEFORE + POINTS})
    print(f"calls: {{during_ns:.0f}} ns, {{during_ns / before_ns:.2f}} of what they were before")
    while experiment.stats.retried == 0:
        time.sleep(0.01)
    open("logged", "w").close()
    while os.path.exists("logged"):
        time.sleep(0.01)
    for step in range({BEFORE + POINTS}, {BEFORE + POINTS + 100}):
        log("a", step, step)
    start = time.monotonic()
    tracelet.stop_logging(timeout_s={60 + POINTS / 5_000})
    print(f"stopped after {{time.monotonic() - start:.1f}} s, {{experiment.stats}}")
"""


def stored(server):
    (task,) = [id for id, each in server.tasks.items() if each["name"] == "outage"]
    return server.scalars(task).get(("a", "a"), {})


def refused(server):
    server.stop()


def expired(server):
    server.faults.add("401")
    server.faults.add("401", endpoints=("auth.login",))


def fault(mode, **options):
    return lambda server: server.faults.add(mode, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(refused, id="connection refused"),
        pytest.param(expired, id="401, and no new token"),
        pytest.param(fault("429", retry_after=1), id="429"),
        pytest.param(fault("500"), id="500"),
        pytest.param(fault("500", probability=0.5), id="500 now and then"),
        pytest.param(fault("503"), id="503"),
        pytest.param(fault("close before"), id="closed without an answer"),
        pytest.param(fault("half answer"), id="half an answer"),
    ],
)
def test_an_outage_of_each_kind_loses_nothing(begin, clearml_server, run_script, tmp_path):
    def play():
        wait_until((tmp_path / "started").exists, 200)
        begin(clearml_server)
        (tmp_path / "started").unlink()
        wait_until((tmp_path / "logged").exists, 200)
        time.sleep(1.5)
        clearml_server.start()  # does nothing when it runs
        clearml_server.faults.clear()
        (tmp_path / "logged").unlink()

    director = threading.Thread(target=play, daemon=True)
    director.start()
    done = run_script(SCRIPT, env=clearml_server.environment())
    director.join(10)
    assert "pending=0" in done.stdout, done.stdout + done.stderr
    assert "dropped={}" in done.stdout
    assert stored(clearml_server) == {step: float(step) for step in range(BEFORE + POINTS + 100)}
    assert done.stderr.count("can't take points now") == 1
    assert done.stderr.count("takes points again") == 1
    print("\n" + done.stdout)


@pytest.mark.slow
def test_too_large_and_slow_answers(clearml_server, run_script):
    """413 halves the request; an answer that takes a minute is waited for, and not asked again."""
    clearml_server.faults.add("413", times=3)
    clearml_server.faults.add("slow", times=2, delay=SLOW_S)
    done = run_script(
        f"""
        import tracelet
        experiment = tracelet.start_logging("outage", "tests")
        for step in range(20_000):
            experiment.log_metric("a", step, step)
        tracelet.stop_logging(timeout_s={60 + 2 * SLOW_S})
        print(experiment.stats)
        """,
        env=clearml_server.environment(),
    )
    assert "pending=0" in done.stdout, done.stdout + done.stderr
    assert stored(clearml_server) == {step: float(step) for step in range(20_000)}
    assert clearml_server.write_count < 20_000 + 1_000  # the SDK's own events apart, none twice


@pytest.mark.slow
def test_retry_after_is_honoured(clearml_server, run_script):
    clearml_server.faults.add("429", times=2, retry_after=3)
    done = run_script(
        """
        import time, tracelet
        config = {"auto_resource_monitoring": False, "auto_connect_streams": False}
        experiment = tracelet.start_logging("outage", "tests", config=config)
        experiment.log_metric("a", 0.0, 0)
        start = time.monotonic()
        tracelet.stop_logging(timeout_s=30)
        print("took", time.monotonic() - start, experiment.stats)
        """,
        env=clearml_server.environment(),
    )
    assert "pending=0" in done.stdout
    assert float(re.search(r"took ([\d.]+)", done.stdout)[1]) >= 3.0
    assert len([each for each in clearml_server.faults.injected if each[1] == "429"]) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("way", ["refused", "no answer", "no such host"])
def test_stop_logging_ends_at_its_deadline(way, clearml_server, run_script, tmp_path):
    """Also with a request under way that is never answered."""
    if way == "no answer":
        clearml_server.faults.add("slow", delay=100.0, endpoints=None)

    def play():
        wait_until((tmp_path / "started").exists, 200)
        if way == "refused":
            clearml_server.stop()
        (tmp_path / "started").unlink()

    if way == "no answer":
        clearml_server.faults.clear()
    director = threading.Thread(target=play, daemon=True)
    director.start()
    prepare = {
        "refused": "",
        "no answer": "api.connect(); api._session._Session__host = DEAF",
        "no such host": "api.connect(); api._session._Session__host = 'http://nowhere.invalid:8008'",
    }[way]
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and says nothing
        done = run_script(
            f"""
            import os, time, tracelet
            DEAF = "http://127.0.0.1:{deaf.getsockname()[1]}"
            experiment = tracelet.start_logging("outage", "tests")
            api = experiment._run.backends[0].sinks[0]._post.api
            {prepare}
            open("started", "w").close()
            while os.path.exists("started"):
                time.sleep(0.01)
            for step in range(1_000):
                experiment.log_metric("a", step, step)
            time.sleep(0.5)
            start = time.monotonic()
            tracelet.stop_logging(timeout_s=3)
            print("late", time.monotonic() - start - 3.0)
            print(experiment.stats)
            os._exit(0)  # without the SDK's own wait
            """,
            env=clearml_server.environment(),
        )
    director.join(10)
    late_s = float(re.search(r"late (-?[\d.]+)", done.stdout)[1])
    print(f"{way}: {late_s:+.3f} s from the deadline")
    assert late_s < 0.5
    assert "pending=1000" in done.stdout
    (run,) = [path.name for path in (tmp_path / "tracelet-runs").iterdir()]
    assert "tracelet sync " + run in done.stderr
