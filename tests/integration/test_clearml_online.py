"""The ClearML sink online: the unmodified SDK over HTTP into the loopback server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from readers import event_file_scalars, session_scalars

pytest.importorskip("clearml")
pytest.importorskip("torch")


def task_id(server, name):
    (found,) = [id for id, task in server.tasks.items() if task["name"] == name]
    return found


def test_a_run_online_is_complete_and_completed(clearml_server, run_script, tmp_path):
    done = run_script(
        """
        import tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging(
            "online", "tests/nested", config={"tags": ["a", "b"], "task_type": "testing"}
        )
        writer = SummaryWriter("log")
        for step in range(50_000):
            writer.add_scalar("train/loss", step * 0.5, step, walltime=1.7e9 + step)
        experiment.log_params({"lr": 0.1})
        assert experiment.flush(60)
        print(experiment.url)
        tracelet.stop_logging()
        print(experiment.stats)
        """,
        env=clearml_server.environment(),
    )
    task = task_id(clearml_server, "online")
    assert task in done.stdout
    points = clearml_server.scalars(task)["train", "loss"]
    assert points == {step: step * 0.5 for step in range(50_000)}
    times = clearml_server.timestamps(task)["train", "loss"]
    assert times == {step: int((1.7e9 + step) * 1000) for step in range(50_000)}
    record = clearml_server.tasks[task]
    assert record["status"] == "completed"
    assert record["type"] == "testing"
    assert set(record["tags"]) >= {"a", "b"}
    assert clearml_server.schema_violations == []
    assert clearml_server.unknown_endpoints == []
    assert "delivered={'tensorboard': 50000, 'clearml': 50000}" in done.stdout
    assert "pending=0" in done.stdout
    batches = [r for r in clearml_server.request_log if r.endpoint == "events.add_batch"]
    assert len([r for r in batches if r.events > 1]) <= 10  # many points a request


FAULTS = ["400", "401", "413", "429", "500", "502", "503", "close before", "close after",
          "half answer", "slow"]  # fmt: skip


@pytest.mark.slow
def test_a_million_points_with_a_tenth_of_the_requests_failing(
    clearml_server, run_script, tmp_path
):
    """Every kind of failure; nothing missing, nothing twice, every value right."""
    for mode in FAULTS:
        clearml_server.faults.add(
            mode, probability=0.1 / len(FAULTS), delay=0.3, endpoints=("events.add_batch",)
        )
    done = run_script(
        """
        import numpy as np, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("faulty", "tests", config={"batch_max_points": 10_000})
        writer = SummaryWriter("log")
        tags = [f"group{number % 4}/series{number}" for number in range(20)]
        values = np.random.default_rng(2).normal(size=(50_000, 20)).tolist()
        for step, row in enumerate(values):
            for tag, value in zip(tags, row):
                writer.add_scalar(tag, value, step)
        tracelet.stop_logging(timeout_s=200)
        print(experiment.stats)
        """,
        env=clearml_server.environment(),
        timeout_s=280,
    )
    assert "pending=0" in done.stdout, done.stdout + done.stderr
    assert "dropped={}" in done.stdout, done.stdout + done.stderr
    values = np.random.default_rng(2).normal(size=(50_000, 20))
    task = task_id(clearml_server, "faulty")
    stored = clearml_server.scalars(task)
    stored = {name: points for name, points in stored.items() if not name[0].startswith(":monitor")}
    assert len(stored) == 20
    for number in range(20):
        points = stored[f"group{number % 4}", f"series{number}"]
        assert points == dict(enumerate(values[:, number].tolist()))
    assert len(clearml_server.faults.injected) >= 3
    assert clearml_server.schema_violations == []
    assert sum(map(len, event_file_scalars(tmp_path / "log").values())) == 1_000_000


ODD_POINTS = """
        import math, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("odd", "tests")
        writer = SummaryWriter("log")
        odd = [("nan", math.nan), ("inf", math.inf), ("minus", -math.inf), ("huge", 1e39),
               ("x" * 40_000, 1.0), ("eval/2026-01-01", 2.0), ("12:30:00", 3.0), ("", 5.0),
               ("eval/2026-00-10", 4.0)]
        for step in range(10_000):
            writer.add_scalar("good", step, step)
            if step % 1_000 == 500 and step // 1_000 < len(odd):
                writer.add_scalar(*odd[step // 1_000], step)
"""


@pytest.mark.slow
def test_points_the_server_would_refuse_never_reach_it(clearml_server, run_script):
    done = run_script(
        ODD_POINTS + "        tracelet.stop_logging(); print(experiment.stats)",
        env=clearml_server.environment(),
    )
    task = task_id(clearml_server, "odd")
    stored = clearml_server.scalars(task)
    assert stored["good", "good"] == {step: float(step) for step in range(10_000)}
    others = {value for name, points in stored.items() if name[0] != "good"
              for value in points.values() if not name[0].startswith(":monitor")}  # fmt: skip
    assert others == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert "not_finite=3" in done.stdout
    assert "'beyond float32': 1" in done.stdout
    refused = [r for r in clearml_server.request_log
               if r.endpoint == "events.add_batch" and r.status != 200]  # fmt: skip
    assert refused == []


@pytest.mark.slow
@pytest.mark.parametrize("request_bytes", [8 << 20, 50], ids=["", "a point in each request"])
def test_a_point_that_only_the_server_knows_to_refuse_is_set_aside_alone(
    request_bytes, clearml_server, run_script, tmp_path
):
    """With our escape of date-like names switched off, the real refusal: 500 for a whole batch."""
    done = run_script(
        f"""
        import tracelet.backends.clearml.names as names
        names.safe_name = lambda name: name
        import tracelet
        config = {{"batch_max_bytes": {request_bytes}}}
        experiment = tracelet.start_logging("culprit", "tests", config=config)
        for step in range(3_000):
            experiment.log_metric("good", step, step)
            if step in (100, 2_500):
                experiment.log_metric("eval/2026-01-01", 7.0, step)
        tracelet.stop_logging(timeout_s=60)
        print(experiment.stats)
        """,
        env=clearml_server.environment(),
    )
    task = task_id(clearml_server, "culprit")
    stored = clearml_server.scalars(task)
    assert stored["good", "good"] == {step: float(step) for step in range(3_000)}
    assert ("eval", "2026-01-01") not in stored
    assert "'refused by clearml': 2" in done.stdout, done.stdout + done.stderr
    assert "pending=0" in done.stdout
    (folder,) = (tmp_path / "tracelet-runs").iterdir()
    lines = (folder / "set_aside-clearml.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    assert [(p["tag"], p["step"], p["value"]) for p in points] == [
        ("eval/2026-01-01", 100, 7.0), ("eval/2026-01-01", 2_500, 7.0),
    ]  # fmt: skip
    assert all("500" in point["answer"] for point in points)
    assert str(folder) in done.stderr


@pytest.mark.slow
def test_a_server_that_refuses_everything_sets_nothing_aside(clearml_server, run_script, tmp_path):
    clearml_server.faults.add("500", endpoints=("events.add_batch",))
    done = run_script(
        """
        import time, tracelet
        experiment = tracelet.start_logging("sick", "tests")
        for step in range(100):
            experiment.log_metric("a", step, step)
        start = time.monotonic()
        tracelet.stop_logging(timeout_s=3)
        print("took", time.monotonic() - start < 6, experiment.stats)
        """,
        env=clearml_server.environment(),
        timeout_s=60,
    )
    assert "took True" in done.stdout
    assert "pending=100" in done.stdout, done.stdout
    assert "dropped={}" in done.stdout
    assert done.stderr.count("can't take points now") == 1
    assert "100 points are not delivered yet" in done.stderr
    for ring in Path("/dev/shm").glob("tracelet-*.ring"):
        if any(str(ring) in p.read_text() for p in tmp_path.rglob("manifest.json")):
            ring.unlink()


def test_an_outage_loses_nothing_and_holds_up_no_call(clearml_server, run_script, tmp_path):
    clearml_server.faults.add("503", endpoints=("events.add_batch",))
    code = """
        import os, sys, time, tracelet
        experiment = tracelet.start_logging("outage", "tests")
        longest = 0.0
        for step in range(200_000):
            start = time.perf_counter()
            experiment.log_metric("a", step, step)
            longest = max(longest, time.perf_counter() - start)
        print("longest", longest < 0.5, flush=True)
        open("logged", "w").close()
        while os.path.exists("logged"):
            time.sleep(0.01)
        tracelet.stop_logging(timeout_s=60)
        print(experiment.stats)
    """
    import threading
    import time

    def bring_back():
        while not (tmp_path / "logged").exists():
            time.sleep(0.05)
        clearml_server.faults.clear()
        (tmp_path / "logged").unlink()

    thread = threading.Thread(target=bring_back, daemon=True)
    thread.start()
    done = run_script(code, env=clearml_server.environment())
    thread.join(5)
    assert "longest True" in done.stdout
    assert "pending=0" in done.stdout, done.stdout + done.stderr
    task = task_id(clearml_server, "outage")
    assert len(clearml_server.scalars(task)["a", "a"]) == 200_000


@pytest.mark.slow
def test_the_sdk_replays_an_offline_session_complete(clearml_server, run_script, tmp_path):
    offline = run_script(
        """
        import tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("offline", "tests", config={"tags": ["kept"]})
        writer = SummaryWriter("log")
        for step in range(50_000):
            for tag in ("train/loss", "val/acc", "2026-01-01", "plain"):
                writer.add_scalar(tag, step * 0.25, step)
        experiment.log_params({"lr": 0.5})
        print(experiment.url)
        tracelet.stop_logging()
        """
    )
    folder = next(line for line in offline.stdout.splitlines() if Path(line).is_dir())
    expected = session_scalars(folder)
    assert len(expected) == 4
    run_script(
        f"""
        from clearml import Task
        Task.import_offline_session({folder + ".zip"!r})
        """,
        env=clearml_server.environment(),
    )
    task = task_id(clearml_server, "offline")
    stored = clearml_server.scalars(task)
    for name, points in expected.items():
        assert stored[name] == {step: value for step, value, _ in points}
    assert clearml_server.tasks[task]["hyperparams"]["General"]["lr"]["value"] == "0.5"
    assert "kept" in clearml_server.tasks[task]["tags"]
    assert clearml_server.schema_violations == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["raise RuntimeError('failed')", "import sys; sys.exit(3)"])
def test_points_reach_the_server_when_the_process_ends_without_stop(
    end, clearml_server, run_script
):
    run_script(
        f"""
        import tracelet
        experiment = tracelet.start_logging("ends", "tests")
        for step in range(5_000):
            experiment.log_metric("a", step, step)
        {end}
        """,
        env=clearml_server.environment(),
        check=False,
    )
    task = task_id(clearml_server, "ends")
    assert len(clearml_server.scalars(task)["a", "a"]) == 5_000
    assert clearml_server.tasks[task]["status"] == "failed"


def test_no_secret_is_on_disk_or_in_the_output(clearml_server, run_script, tmp_path):
    environment = clearml_server.environment()
    clearml_server.faults.add("500", endpoints=("events.add_batch",))
    done = run_script(
        """
        import tracelet
        experiment = tracelet.start_logging("secret", "tests")
        experiment.log_metric("a", 1.0, 1)
        tracelet.stop_logging(timeout_s=1)
        """,
        env=environment,
    )
    secret = environment["CLEARML_API_SECRET_KEY"]
    assert secret not in done.stdout + done.stderr
    for path in (tmp_path / "tracelet-runs").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes()
    for ring in Path("/dev/shm").glob("tracelet-*.ring"):
        if any(str(ring) in p.read_text() for p in tmp_path.rglob("manifest.json")):
            ring.unlink()
