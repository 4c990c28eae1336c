"""The ClearML sink offline, against the unmodified SDK: what lies in the session."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tracelet
from readers import event_file_scalars, session_events, session_scalars

pytest.importorskip("clearml")
torch = pytest.importorskip("torch")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


@pytest.mark.slow
def test_a_million_points_over_twenty_tags_value_for_value(tmp_path):
    experiment = tracelet.start_logging("million", "tests")
    writer = SummaryWriter(tmp_path / "log")
    tags = [f"group{number % 4}/series{number}" for number in range(20)]
    values = np.random.default_rng(1).normal(size=(50_000, 20)) * 10.0 ** np.arange(-10, 10)
    rows = values.tolist()
    for step, row in enumerate(rows):
        for tag, value in zip(tags, row):
            writer.add_scalar(tag, value, step)
    session = experiment.url
    tracelet.stop_logging()
    stats = experiment.stats
    assert stats.accepted == 1_000_000
    assert stats.delivered == {"tensorboard": 1_000_000, "clearml": 1_000_000}
    assert (stats.pending, stats.dropped, stats.not_finite) == (0, {}, 0)

    by_series = session_scalars(session)
    by_tag = event_file_scalars(tmp_path / "log")
    steps = list(range(50_000))
    assert len(by_series) == len(by_tag) == 20
    for number, tag in enumerate(tags):
        metric, _, variant = tag.partition("/")
        points = by_series[metric, variant]
        assert [point[0] for point in points] == steps
        assert [point[1] for point in points] == values[:, number].tolist()
        events = by_tag[tag]
        assert [event[0] for event in events] == steps
        assert np.array_equal([event[1] for event in events], values[:, number].astype(np.float32))
        milliseconds = [int(event[2] * 1e3) for event in events]
        assert [point[2] for point in points] == milliseconds


def log_among_good_points(writer, odd):
    """The odd calls, each amid 10,000 good points."""
    for number, (tag, value) in enumerate(odd):
        for step in range(10_000):
            writer.add_scalar(f"good{number}", float(step), step)
            if step == 5_000:
                writer.add_scalar(tag, value, step)


ODD = [
    ("nan", math.nan), ("inf", math.inf), ("minus", -math.inf), ("huge", 1e39), ("x" * 40_000, 1.0),
    ("eval/2026-01-01", 2.0), ("12:30:00", 3.0), ("eval/2026-00-10", 4.0), ("", 5.0),
    ("ünï/😀\n\"'\\", 6.0), ("y" * 10_000, 7.0),
]  # fmt: skip


@pytest.mark.slow
def test_points_the_server_would_refuse_cost_no_other_point(tmp_path, caplog):
    experiment = tracelet.start_logging("odd", "tests")
    writer = SummaryWriter(tmp_path / "log")
    log_among_good_points(writer, ODD)
    session = experiment.url
    tracelet.stop_logging()
    by_series = session_scalars(session)
    for number in range(len(ODD)):
        points = by_series[f"good{number}", f"good{number}"]
        assert [point[:2] for point in points] == [(step, float(step)) for step in range(10_000)]
    others = {name: points for name, points in by_series.items() if "good" not in name[0]}
    values = sorted(point[1] for points in others.values() for point in points)
    assert values == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert ("eval", "(2026-01-01)") in others
    assert ("(12:30:00)", "(12:30:00)") in others
    assert all(len(name.encode()) <= 32_766 for pair in others for name in pair)
    stats = experiment.stats
    assert stats.not_finite == 3
    assert stats.dropped == {"beyond float32": 1}
    assert stats.accepted == stats.delivered["tensorboard"] == len(ODD) * 10_001
    assert stats.delivered["clearml"] == stats.accepted - 4
    for tag in ("nan", "inf", "minus", "huge"):
        assert sum(f"tracelet: {tag} is" in line for line in caplog.text.splitlines()) == 1
    events = event_file_scalars(tmp_path / "log")
    assert math.isnan(events["nan"][0][1])
    assert [events[tag][0][1] for tag in ("inf", "minus", "huge")] == [
        math.inf, -math.inf, math.inf,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_series_that_is_often_not_finite_costs_one_line(tmp_path, caplog):
    experiment = tracelet.start_logging("nans", "tests")
    for step in range(1_000):
        experiment.log_metric("loss", math.nan, step)
    tracelet.stop_logging()
    assert caplog.text.count("not sent to ClearML") == 1
    assert experiment.stats.not_finite == 1_000


@pytest.mark.slow
def test_a_hundred_thousand_tags(tmp_path):
    experiment = tracelet.start_logging("tags", "tests")
    writer = SummaryWriter(tmp_path / "log")
    for number in range(100_000):
        writer.add_scalar(f"group{number % 100}/series{number}", number, 1)
    session = experiment.url
    tracelet.stop_logging()
    by_series = session_scalars(session)
    assert len(by_series) == 100_000
    assert all(points[0][1] == int(name[1][6:]) for name, points in by_series.items())
    assert len(event_file_scalars(tmp_path / "log")) == 100_000


@pytest.mark.slow
def test_a_tag_of_ten_thousand_characters_is_kept_whole(tmp_path):
    experiment = tracelet.start_logging("long", "tests")
    tag = "a" * 5_000 + "/" + "ü" * 5_000
    SummaryWriter(tmp_path / "log").add_scalar(tag, 1.0, 2**63 - 1)
    session = experiment.url
    tracelet.stop_logging()
    assert session_scalars(session) == {
        ("a" * 5_000, "ü" * 5_000): [(2**63 - 1, 1.0, pytest.approx(0, abs=1e15))]
    }


@pytest.mark.slow
def test_the_events_have_the_form_the_sdk_gives_them(run_script):
    """Same keys, types and values as the SDK's own reporter writes for the same points."""
    done = run_script(
        """
        import json, tracelet
        experiment = tracelet.start_logging("form", "tests")
        from clearml import Task
        logger = Task.current_task().get_logger()
        for step, value in [(0, 0.0), (1, 0.1), (2, 1e-7), (3, -2.5e30), (4, 3)]:
            logger.report_scalar("title", "theirs", iteration=step, value=value)
            experiment.log_metric("title/ours", value, step)
        Task.current_task().flush(wait_for_uploads=True)
        tracelet.stop_logging()
        print(json.dumps(experiment.url))
        """
    )
    events = session_events(json.loads(done.stdout.strip().splitlines()[-1]))
    theirs = [e for e in events if e.get("variant") == "theirs"]
    ours = [e for e in events if e.get("variant") == "ours"]
    assert len(theirs) == len(ours) == 5
    for their, our in zip(theirs, ours):
        their.pop("method", None)  # a stray key of the SDK's, see clearml.md
        assert set(our) == set(their)
        for key in ("type", "task", "iter", "metric", "value"):
            assert our[key] == their[key]
        assert abs(our["timestamp"] - their["timestamp"]) < 10_000


TAGS = ["loss", "train/loss", "a/b/c", "/lead", "trail/", "a//b", "with space/x y", "ü/é"]


@pytest.mark.slow
def test_names_are_those_of_clearmls_own_tensorboard_binding(run_script, tmp_path):
    """Logs the same calls through the SDK's binding and through tracelet, and compares."""
    calls = f"""
    for folder in ("one", "deep/two"):
        writer = SummaryWriter("{{root}}/" + folder)
        for tag in {TAGS!r}:
            writer.add_scalar(tag, 1.0, 1)
        writer.close()
    writer = SummaryWriter("{{root}}/three")
    writer.add_scalars("main", {{{{"x": 1.0, "y": 2.0}}}}, 1)
    writer.add_scalars("run/14h", {{{{"x": 1.0}}}}, 1)
    writer.close()
    """
    theirs = run_script(
        f"""
        from torch.utils.tensorboard import SummaryWriter
        from clearml import Task
        Task._report_subprocess_enabled = False
        task = Task.init("tests", "theirs", auto_resource_monitoring=False)
{_indented(calls.format(root="theirs"))}
        print(task.get_offline_mode_folder())
        task.close()
        """
    )
    ours = run_script(
        f"""
        from torch.utils.tensorboard import SummaryWriter
        import tracelet
        experiment = tracelet.start_logging(
            "ours", "tests", config={{"auto_resource_monitoring": False}}
        )
{_indented(calls.format(root="theirs"))}
        print(experiment.url)
        tracelet.stop_logging()
        """
    )
    names = []
    for done in (theirs, ours):
        folders = [line for line in done.stdout.splitlines() if Path(line.strip()).is_dir()]
        names.append(Counter(session_scalars(folders[0].strip()).keys()))
    assert set(names[1]) - set(names[0]) == set()
    assert set(names[0]) - set(names[1]) == set()


def _indented(code):
    return "\n".join("    " + line for line in code.splitlines())


def test_a_session_that_cant_be_written_for_a_while_gets_every_point_once(tmp_path, caplog):
    """The file's size is limited in the middle of a batch of many lines, then no longer."""
    import resource
    import signal

    experiment = tracelet.start_logging(
        "full", "tests", config={"batch_max_points": 1_000, "drain_interval_s": 0.5}
    )
    experiment.log_metric("a", 0, 0)  # the tag finds its place before the limit
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, limits[1]))
    try:
        for step in range(1, 60_000):
            experiment.log_metric("a", step, step)
        assert not experiment.flush(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for step in range(60_000, 70_000):
        experiment.log_metric("a", step, step)
    session = experiment.url
    tracelet.stop_logging()
    assert caplog.text.count("can't take points now") == 1
    assert [point[0] for point in session_scalars(session)["a", "a"]] == list(range(70_000))
    stats = experiment.stats
    assert (stats.delivered["clearml"], stats.pending, stats.dropped) == (70_000, 0, {})
    assert stats.retried >= 1


@pytest.mark.slow
def test_two_runs_one_after_the_other_have_tasks_of_their_own(tmp_path):
    writer = SummaryWriter(tmp_path / "log")
    sessions = []
    for number in range(2):
        experiment = tracelet.start_logging(f"run{number}", "tests")
        for step in range(1_000):
            writer.add_scalar("a", number, step)
        sessions.append(experiment.url)
        tracelet.stop_logging()
    assert sessions[0] != sessions[1]
    for number, session in enumerate(sessions):
        points = session_scalars(session)["a", "a"]
        assert [point[:2] for point in points] == [(step, float(number)) for step in range(1_000)]


def test_aggregation_thins_clearml_and_not_the_event_file(tmp_path):
    experiment = tracelet.start_logging(
        "folded", "tests", config={"aggregate": {"train/*": {"every_steps": 100}}}
    )
    writer = SummaryWriter(tmp_path / "log")
    for step in range(1_000):
        writer.add_scalar("train/loss", step, step)
    session = experiment.url
    tracelet.stop_logging()
    points = session_scalars(session)["train", "loss"]
    assert [p[:2] for p in points] == [(100 * k + 99, 100 * k + 49.5) for k in range(10)]
    assert len(event_file_scalars(tmp_path / "log")["train/loss"]) == 1_000
    assert experiment.stats.folded == 990


@pytest.mark.slow
def test_offline_mode_may_be_set_after_the_import(run_script):
    done = run_script(
        """
        import os
        import tracelet, clearml
        os.environ["CLEARML_OFFLINE_MODE"] = "1"
        experiment = tracelet.start_logging("late", "tests")
        experiment.log_metric("a", 1.0, 1)
        tracelet.stop_logging()
        print(experiment.id)
        """,
        env={"CLEARML_API_HOST": "http://127.0.0.1:9"},
    )
    assert "offline-" in done.stdout


def test_missing_credentials_are_one_clear_error(run_script, tmp_path):
    done = run_script(
        """
        import tracelet
        try:
            tracelet.start_logging("none", "tests", "clearml")
        except tracelet.CredentialsError as error:
            print("CAUGHT", error)
        print(tracelet.get_active_experiment())
        """,
        env={
            "CLEARML_API_HOST": "http://127.0.0.1:9",
            "CLEARML_CONFIG_FILE": str(tmp_path / "none.conf"),
            "HOME": str(tmp_path),
        },
    )
    for word in (
        "CAUGHT",
        "clearml-init",
        "CLEARML_API_ACCESS_KEY",
        "CLEARML_OFFLINE_MODE",
        "None",
    ):
        assert word in done.stdout
    assert list((tmp_path / "tracelet-runs").iterdir()) == []


def test_a_project_name_that_clearml_refuses_is_refused_before():
    with pytest.raises(tracelet.ConfigurationError, match="project='ab' is too short"):
        tracelet.start_logging("name", "ab")


@pytest.mark.slow
def test_a_task_that_is_current_is_used_and_left_open(run_script):
    done = run_script(
        """
        from clearml import Task
        import tracelet
        task = Task.init("tests", "mine", auto_resource_monitoring=False)
        experiment = tracelet.start_logging("other name", "tests")
        assert experiment.id == task.id
        experiment.log_metric("a", 1.0, 1)
        tracelet.stop_logging()
        assert Task.current_task() is task
        task.get_logger().report_scalar("b", "b", iteration=2, value=2.0)
        print(task.get_offline_mode_folder())
        task.close()
        """
    )
    folder = next(line for line in done.stdout.splitlines() if Path(line).is_dir())
    assert set(session_scalars(folder)) == {("a", "a"), ("b", "b")}


@pytest.mark.slow
def test_the_sdks_reporter_is_a_thread_during_the_run_and_as_set_up_afterwards(run_script):
    done = run_script(
        """
        import sys, tracelet
        from clearml import Task
        before = Task._report_subprocess_enabled
        tracelet.start_logging("threads", "tests")
        during = Task._report_subprocess_enabled
        tracelet.stop_logging()
        assert (during, Task._report_subprocess_enabled) == (False, before)
        assert before == (sys.platform == "linux")
        """
    )
    assert done.returncode == 0


@pytest.mark.slow
def test_the_threads_of_the_sdk_share_one_lock_for_a_task(run_script):
    """It is made when it is first asked for. With one each they wait for one another for ever."""
    done = run_script(
        """
        import threading, time, tracelet
        from clearml.backend_interface.task import task as module
        experiment = tracelet.start_logging("locks", "tests")
        import clearml
        # A copy: a thread of the SDK may hold the lock of the task itself.
        task = object.__new__(clearml.Task)
        vars(task).update(vars(clearml.Task.current_task()))
        class Slow(module.FileRLock):
            def __init__(self, *arguments, **options):
                time.sleep(0.2)
                super().__init__(*arguments, **options)
        module.FileRLock = Slow
        task._edit_lock = None
        locks = []
        threads = [threading.Thread(target=lambda: locks.append(task._edit_lock)) for _ in range(3)]
        for each in threads: each.start()
        for each in threads: each.join()
        assert isinstance(locks[0], Slow)
        print("locks", len(locks), len(set(map(id, locks))))
        tracelet.stop_logging()
        """
    )
    assert "locks 3 1" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("end", ["raise RuntimeError('failed')", "import sys; sys.exit(3)", ""])
def test_the_session_is_whole_when_the_process_ends_without_stop(end, run_script):
    done = run_script(
        f"""
        import tracelet
        experiment = tracelet.start_logging("ends", "tests")
        print(experiment.url, flush=True)
        for step in range(5_000):
            experiment.log_metric("a", step, step)
        {end}
        """,
        check=False,
    )
    folder = next(line for line in done.stdout.splitlines() if Path(line).is_dir())
    points = session_scalars(folder)["a", "a"]
    assert [point[0] for point in points] == list(range(5_000))
    assert Path(folder + ".zip").exists()


def test_params_and_artifacts_are_in_the_session(tmp_path):
    experiment = tracelet.start_logging("manual", "tests", config={"tags": ["one", "two"]})
    experiment.log_params({"lr": 0.01, "model": {"depth": 3}})
    (tmp_path / "weights.bin").write_bytes(b"weights")
    experiment.log_artifact("weights.bin", artifact_path="models/")
    experiment.log_artifact({"a": 1}, artifact_path="results.json")
    with pytest.raises(FileNotFoundError, match="absent"):
        experiment.log_artifact("absent.bin")
    with pytest.raises(ValueError, match="needs a name"):
        experiment.log_artifact({"a": 1})
    session = Path(experiment.url)
    tracelet.stop_logging()
    task = json.loads((session / "task.json").read_text())
    assert task["name"] == "manual"
    assert {"one", "two"} <= set(task["tags"])
    parameters = task["hyperparams"]["General"]
    assert parameters["lr"]["value"] == "0.01"
    assert parameters["model/depth"]["value"] == "3"
    names = {artifact["key"] for artifact in task["execution"]["artifacts"]}
    assert {"models/weights.bin", "results.json"} <= names
