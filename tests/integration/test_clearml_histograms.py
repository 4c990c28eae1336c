"""Histograms on ClearML: bars for each step, one view over time; offline, online, on bad days."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tracelet
from readers import session_plots

pytest.importorskip("clearml")
torch = pytest.importorskip("torch")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

OVER_TIME = " over time"


def is_over_time(event):
    return event["variant"].endswith(OVER_TIME)


def steps_of(events):
    return [event for event in events if not is_over_time(event)]


def trace_of(event):
    (trace,) = json.loads(event["plot_str"])["data"]
    return trace


def check_bars(event, total, low, high, bin_width):
    """Bars of what was binned: they hold all values, and reach as far as these.

    To within `bin_width`, 0 where min and max are known to be inside of the bins.
    """
    trace = trace_of(event)
    assert trace["type"] == "bar"
    x, y, width = (np.array(trace[name], dtype=float) for name in ("x", "y", "width"))
    assert 1 <= len(x) == len(y) == len(width) <= 128
    assert (y > 0).all()
    assert sum(trace["y"]) == total
    assert (np.diff(x) > 0).all()
    slack = 1e-6 * max(abs(low), abs(high), width.max())
    reach = slack + bin_width
    outside = reach + width.max()
    assert low - outside <= (x - width / 2).min() <= low + reach
    assert high - reach <= (x + width / 2).max() <= high + outside
    assert ((x + width / 2)[:-1] <= (x - width / 2)[1:] + slack).all()  # none over another
    assert len(event["plot_str"]) < 10_000


def offline(calls, name="offline", **config):
    """The plots that an offline session has of the calls."""
    experiment = tracelet.start_logging(name, "tests", config=config)
    session = experiment.url
    calls(SummaryWriter(f"log-{name}"))
    tracelet.stop_logging()
    plots = session_plots(session)
    return experiment, plots


RNG = np.random.default_rng(9)
VALUES = {
    "normal": RNG.normal(size=5000),
    "wide": RNG.normal(size=5000) * 10.0 ** RNG.integers(-9, 9, 5000),
    "uniform": RNG.uniform(3, 4, 1000),
    "integers": RNG.integers(-1000, 1000, 700),
    "skewed": RNG.exponential(size=900).astype(np.float16),
    "one value": np.full(10, 2.5),
    "zero": np.zeros(7),
    "single": np.array([1e-30]),
    "large": np.array([-1e38, 1e38, 5.0]),
}


@pytest.mark.parametrize("kwargs", [{}, {"bins": 100}, {"bins": 1000}, {"max_bins": 20}], ids=str)
@pytest.mark.slow
def test_each_call_is_one_plot_of_bars(kwargs):
    def calls(writer):
        for step in (0, 3, 7):
            for name, values in VALUES.items():
                writer.add_histogram(f"layer/{name}", values, step, walltime=1.7e9 + step, **kwargs)

    experiment, plots = offline(calls)
    bars = steps_of(plots)
    assert len(bars) == 3 * len(VALUES)
    expected = [(step, "layer", name) for step in (0, 3, 7) for name in VALUES]
    assert [(event["iter"], event["metric"], event["variant"]) for event in bars] == expected
    for event in bars:
        assert event["timestamp"] == int((1.7e9 + event["iter"]) * 1000)
        values = VALUES[event["variant"]].astype(float)
        if "bins" not in kwargs:
            values = values[abs(values) < 9e19]  # TensorBoard's bins end there
            bin_width = 10 * abs(values).max() if kwargs else 0
        else:
            bin_width = (values.max() - values.min()) / kwargs["bins"]
        check_bars(event, len(values), values.min(), values.max(), bin_width)
        assert "title" not in json.loads(event["plot_str"])["layout"]
    assert not any('"histogram"' in event["plot_str"] for event in plots)
    stats = experiment.stats
    assert stats.delivered == {"tensorboard": len(bars), "clearml": len(bars)}


def test_a_few_explicit_bins_are_kept_as_they_are():
    edges = [0.0, 10.0, 50.0, 60.0, 99.0]
    many = np.linspace(-4, 4, 129)
    values = VALUES["normal"]

    def calls(writer):
        writer.add_histogram("few", np.r_[0:50, 60:100], 1, bins=edges)
        writer.add_histogram("many", values, 2, bins=many)
        writer.add_histogram("more", values, 3, bins=np.linspace(-4, 4, 1000))
        writer.add_histogram_raw("raw", 0, 4, 10, 20, 50, [1, 2, 3, 4.0], [1, 2, 3, 4], 4)

    _, plots = offline(calls)
    few, large, more, raw = map(trace_of, steps_of(plots))
    assert (few["x"], few["width"], few["y"]) == ([5, 30, 79.5], [10, 40, 39], [10, 40, 40])
    counts, _ = np.histogram(values, many)
    shown = counts > 0
    assert large["y"] == counts[shown].tolist()
    assert np.allclose(large["x"], ((many[1:] + many[:-1]) / 2)[shown])
    assert np.allclose(large["width"], 8 / 128)
    assert len(more["x"]) <= 128
    assert (raw["x"], raw["y"]) == ([0.5, 1.5, 2.5, 3.5], [1, 2, 3, 4])


@pytest.mark.slow
def test_what_is_not_shown_is_in_the_title():
    def calls(writer):
        writer.add_histogram("some", [1.0, np.nan, np.inf, 2.0, np.nan], 1)
        writer.add_histogram("none", [np.nan] * 1234, 1)
        writer.add_histogram("empty", [], 1)

    experiment, plots = offline(calls)
    layouts = {e["variant"]: json.loads(e["plot_str"])["layout"] for e in steps_of(plots)}
    assert layouts["some"]["title"] == "2 NaN and 1 infinite of 5 values are not shown"
    assert layouts["none"]["title"] == "1,234 NaN and 0 infinite of 1,234 values are not shown"
    assert layouts["empty"]["title"] == "no values"
    assert experiment.stats.not_finite_values == 3 + 1234
    assert [e["variant"] for e in plots if is_over_time(e)] == ["some" + OVER_TIME]


TAGS = ["w", "a/w", "a/b/w", "/lead", "trail/", "a//b", "with space/x y", "ü/é", "w over time"]


@pytest.mark.slow
def test_names_are_those_of_clearmls_own_tensorboard_binding(run_script):
    """The binding's titles and series, caught where it draws its plots, for two log folders."""
    calls = f"""
        for folder in ("logs/one", "logs/two"):
            writer = SummaryWriter(folder)
            for tag in {TAGS!r}:
                writer.add_histogram(tag, np.arange(10.0), 0)
            writer.close()
"""
    theirs = run_script(
        """
        import json, numpy as np
        from torch.utils.tensorboard import SummaryWriter
        from clearml import Task
        from clearml.binding.frameworks import tensorflow_bind
        names = []
        tensorflow_bind.WeightsGradientHistHelper.add_histogram = (
            lambda self, title, series, **others: names.append((title, series))
        )
        Task._report_subprocess_enabled = False
        task = Task.init("tests", "theirs", auto_resource_monitoring=False)
"""
        + calls
        + """
        print("NAMES" + json.dumps(names))
        task.close()
        """
    )
    (line,) = [line for line in theirs.stdout.splitlines() if "NAMES" in line]
    theirs = {tuple(pair) for pair in json.loads(line.partition("NAMES")[2])}
    assert len(theirs) == 2 * len(TAGS)
    experiment = tracelet.start_logging("ours", "tests")
    session = experiment.url
    exec(textwrap.dedent(calls), {"SummaryWriter": SummaryWriter, "np": np})
    tracelet.stop_logging()
    plots = session_plots(session)
    ours = Counter((event["metric"], event["variant"]) for event in plots)
    assert set(ours.values()) == {1}  # the views over time are no other series' plot
    assert theirs <= set(ours), theirs - set(ours)
    assert len(ours) == 2 * len(theirs)  # with a view for each


def test_one_view_over_time_for_each_series():
    totals = {step: 50 + 3 * step for step in range(200)}

    def calls(writer):
        for step, total in totals.items():
            writer.add_histogram("layer/a", RNG.normal(size=total) + step, step)
            writer.add_histogram("b", np.full(total, 2.0), step)
            writer.add_scalar("loss", 1.0, step)

    _, plots = offline(calls)
    assert len(steps_of(plots)) == 400
    views = [event for event in plots if is_over_time(event)]
    assert [(view["metric"], view["variant"], view["iter"]) for view in views] == [
        ("layer", "a over time", 0), ("Histograms", "b over time", 0),
    ]  # fmt: skip
    for view in views:
        assert len(view["plot_str"].encode()) <= 65_536
        trace = trace_of(view)
        assert trace["type"] == "heatmap"
        assert trace["y"] == sorted(set(trace["y"]))
        assert trace["y"][0] == 0
        assert trace["y"][-1] == 199
        assert len(trace["z"]) == len(trace["y"]) <= 49
        assert all(len(row) == len(trace["x"]) == 64 for row in trace["z"])
        assert [sum(row) for row in trace["z"]] == [totals[step] for step in trace["y"]]


@pytest.mark.slow
def test_the_interval_says_how_often_the_views_are_written():
    counts = {}
    for interval_s in (0.1, 60.0):

        def calls(writer):
            for step in range(12):
                writer.add_histogram("a", np.arange(10.0), step)
                time.sleep(0.05)

        _, plots = offline(
            calls,
            f"every {interval_s}",
            histogram_view_interval_s=interval_s,
            drain_interval_s=0.02,
        )
        counts[interval_s] = sum(map(is_over_time, plots))
    assert counts[60.0] == 1
    assert 3 <= counts[0.1] <= 8


CALLS = """
        def calls(writer):
            values = np.random.default_rng(12).normal(size=(400, 300))
            for step, row in enumerate(values):
                writer.add_histogram("layer/w", row * step, step, walltime=1.7e9 + step)
                writer.add_histogram("layer/b", row[:50], step, bins=20, walltime=1.7e9 + step)
                writer.add_histogram("plain", np.r_[row, np.nan], step, walltime=1.7e9 + step)
                writer.add_scalar("loss", step, step, 1.7e9 + step)
"""


def by_name(events):
    """The last figure and time stamp of each plot: a view over time is written over."""
    return {
        (event["metric"], event["variant"], event["iter"]): (
            json.loads(event["plot_str"]),
            None if is_over_time(event) else event["timestamp"],
        )
        for event in events
    }


@pytest.fixture
def expected():
    """What an offline session has of CALLS."""
    scope = {"np": np}
    exec(textwrap.dedent(CALLS), scope)
    _, plots = offline(scope["calls"])
    assert len(steps_of(plots)) == 1200
    return by_name(plots)


def stored_plots(server, name):
    (task,) = [id for id, task in server.tasks.items() if task["name"] == name]
    assert len(server.scalars(task)["loss", "loss"]) == 400
    return by_name(server.events(task, "plot"))


ONLINE = (
    """
        import os, time, numpy as np, tracelet
        from torch.utils.tensorboard import SummaryWriter
"""
    + CALLS
)
FAULTS = ["400", "401", "413", "429", "500", "502", "503", "close before", "close after",
          "half answer", "slow"]  # fmt: skip


@pytest.mark.slow
def test_all_plots_arrive_with_a_tenth_of_the_requests_failing(
    clearml_server, run_script, expected
):
    for mode in FAULTS:
        clearml_server.faults.add(
            mode, probability=0.1 / len(FAULTS), delay=0.2, endpoints=("events.add_batch",)
        )
    done = run_script(
        ONLINE
        + """
        config = {"batch_max_points": 16, "batch_max_age_s": 0.01}
        experiment = tracelet.start_logging("faulty", "tests", config=config)
        calls(SummaryWriter("log"))
        tracelet.stop_logging(timeout_s=100)
        print(experiment.stats)
        """,
        env=clearml_server.environment(),
    )
    assert "pending=0, " in done.stdout, done.stdout + done.stderr
    assert "dropped={}" in done.stdout, done.stdout + done.stderr
    assert "'clearml': 1600" in done.stdout, done.stdout
    assert len(clearml_server.faults.injected) >= 4
    assert clearml_server.schema_violations == []
    stored = stored_plots(clearml_server, "faulty")
    assert len(stored) == 1203
    assert stored == expected


@pytest.mark.slow
def test_plots_wait_in_the_journal_while_the_server_is_away(
    clearml_server, run_script, tmp_path, expected
):
    clearml_server.faults.add("503", endpoints=("events.add_batch",))

    def bring_back():
        while not (tmp_path / "logged").exists():
            time.sleep(0.02)
        clearml_server.faults.clear()
        (tmp_path / "logged").unlink()

    thread = threading.Thread(target=bring_back, daemon=True)
    thread.start()
    done = run_script(
        ONLINE
        + """
        config = {"payload_bytes": 65_536, "ring_slots": 64}
        experiment = tracelet.start_logging("away", "tests", config=config)
        calls(SummaryWriter("log"))
        print("pending then", experiment.stats.pending, flush=True)
        open("logged", "w").close()
        while os.path.exists("logged"):
            time.sleep(0.01)
        tracelet.stop_logging(timeout_s=60)
        print(experiment.stats)
        """,
        env=clearml_server.environment(),
    )
    thread.join(5)
    assert "pending then 1600" in done.stdout
    assert "pending=0" in done.stdout, done.stdout + done.stderr
    assert stored_plots(clearml_server, "away") == expected


@pytest.mark.slow
def test_the_sdk_replays_the_plots_of_an_offline_session(clearml_server, run_script, expected):
    done = run_script(
        ONLINE
        + """
        experiment = tracelet.start_logging("replayed", "tests")
        print(experiment.url)
        calls(SummaryWriter("log"))
        tracelet.stop_logging()
        """
    )
    folder = next(line for line in done.stdout.splitlines() if Path(line).is_dir())
    assert by_name(session_plots(folder)) == expected
    run_script(
        f"""
        from clearml import Task
        Task.import_offline_session({folder + ".zip"!r})
        """,
        env=clearml_server.environment(),
    )
    assert stored_plots(clearml_server, "replayed") == expected
    assert clearml_server.schema_violations == []
