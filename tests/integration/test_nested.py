"""Runs inside runs: `with tracelet.logging(...)` in a run is a run of its own, a child of it."""

from __future__ import annotations

import logging
import os

import pytest
import tracelet
from readers import event_file_scalars, event_files, session_scalars
from recording_sink import RecordingSink

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


def sink_named(name):
    sink = RecordingSink()
    sink.name = name
    return sink.register()


@pytest.fixture
def sinks():
    return sink_named("outer"), sink_named("inner")


def tags(sink):
    return [tag for _, _, tag, _, _ in sink.points]


def test_writers_and_functions_log_to_the_inner_run_handles_to_their_own(sinks, tmp_path):
    outer_sink, inner_sink = sinks
    writer = SummaryWriter(str(tmp_path / "log"))  # older than both
    with tracelet.logging("outer", exp_name="outer", project="tests") as outer:
        writer.add_scalar("1", 1.0, 1)
        with tracelet.logging("inner", exp_name="inner", project="tests") as inner:
            assert tracelet.get_active_experiment() is inner
            assert outer.is_active
            writer.add_scalar("2", 1.0, 1)
            writer.add_text("3", "text", 1)
            outer.log_metric("o1", 1.0, 5)
            outer.log_metric("o2", torch.tensor(2.0))
            outer.log_text("o3", "text", 1)
            outer.log_image("o4", np.zeros((900, 900, 3)), 1)
            inner.log_metric("i1", 1.0, 5)
            assert outer.flush()
            assert tags(outer_sink) == ["1", "o1", "o2", "o3/text_summary", "o4"]
        assert tracelet.get_active_experiment() is outer
        assert not inner.is_active
        with pytest.raises(tracelet.TraceletError, match="has ended"):
            inner.log_metric("late", 1.0)
        writer.add_scalar("4", 1.0, 1)
        writer.add_histogram("5", np.arange(3.0), 1)
        outer.log_metric("o5", 1.0)
    assert tracelet.get_active_experiment() is None
    writer.close()
    assert tags(outer_sink) == ["1", "o1", "o2", "o3/text_summary", "o4", "4", "5", "o5"]
    assert tags(inner_sink) == ["2", "3/text_summary", "i1"]
    assert [(run.stats.accepted, run.stats.pending) for run in (outer, inner)] == [(8, 0), (3, 0)]
    assert not outer.stats.dropped
    assert not list((tmp_path / "tracelet-runs").iterdir())


def test_outer_handles_raise_as_ever(sinks):
    with tracelet.logging("outer", project="tests") as outer:  # noqa: SIM117
        with tracelet.logging("inner", project="tests"):
            for name, value, step in ((1, 1.0, 1), ("a", "text", 1), ("a", [1, 2], 1)):
                with pytest.raises((TypeError, ValueError)):
                    outer.log_metric(name, value, step)
    assert outer.stats.accepted == 0


def test_the_folder_of_both_runs_has_all_and_the_last_file_is_the_one_that_grows(tmp_path):
    """TensorBoard follows the last file of a folder, by name."""
    run = tracelet.start_logging("outer", "tests", backend="tensorboard")
    writer = SummaryWriter(str(tmp_path / "log"))
    other = SummaryWriter(str(tmp_path / "other"))
    writer.add_scalar("a", 1.0, 1)
    other.add_scalar("a", 1.0, 1)
    assert run.flush()  # or they are written when the first inner run has ended, behind its points
    for _ in range(2):
        with tracelet.logging("tensorboard", project="tests"):
            writer.add_scalar("a", 2.0, 2)
        writer.add_scalar("a", 3.0, 3)
        writer.flush()
        *_, last = event_files(tmp_path / "log")
        assert [p[0] for p in event_file_scalars(tmp_path / "log")["a"]][-1] == 3
        assert last.stat().st_size > 100
    other.add_scalar("a", 3.0, 3)
    tracelet.stop_logging()
    assert [p[0] for p in event_file_scalars(tmp_path / "log")["a"]] == [1, 2, 3, 2, 3]
    assert [p[0] for p in event_file_scalars(tmp_path / "other")["a"]] == [1, 3]
    assert run.stats.delivered["tensorboard"] == 5


def test_three_deep_with_modes_that_differ(sinks, tmp_path):
    outer_sink, inner_sink = sinks
    classes = dict(vars(SummaryWriter))
    with tracelet.logging("outer", project="tests"):
        with tracelet.logging("inner", project="tests", config={"tensorboard": "passthrough"}):
            with tracelet.logging("outer", project="tests", config={"tensorboard": "off"}):  # noqa: SIM117
                with SummaryWriter(str(tmp_path / "off")) as writer:
                    writer.add_scalar("off", 1.0, 1)
            with SummaryWriter(str(tmp_path / "through")) as writer:
                writer.add_scalar("through", 1.0, 1)
        with SummaryWriter(str(tmp_path / "native")) as writer:
            writer.add_scalar("native", 1.0, 1)
    assert dict(vars(SummaryWriter)) == classes
    assert tags(outer_sink) == ["off", "native"]
    assert tags(inner_sink) == ["through"]
    assert not event_files(tmp_path / "off")
    assert len(list((tmp_path / "through").iterdir())) == 1
    assert len(event_files(tmp_path / "native")) == 1


def test_an_inner_block_that_raises_leaves_the_outer_run(sinks):
    outer_sink, _ = sinks
    with tracelet.logging("outer", project="tests") as outer:
        with pytest.raises(ZeroDivisionError), tracelet.logging("inner", project="tests"):
            raise ZeroDivisionError
        with pytest.raises(tracelet.TraceletError), tracelet.logging("no such backend"):
            pass
        assert tracelet.get_active_experiment() is outer
        outer.log_metric("a", 1.0)
    assert tags(outer_sink) == ["a"]


def test_start_logging_inside_stops_the_run_that_it_is_in(sinks, caplog):
    """And the block that run was of ends the new one."""
    _, inner_sink = sinks
    with tracelet.logging("outer", project="tests") as outer:
        with tracelet.logging("inner", project="tests") as inner, caplog.at_level(logging.WARNING):
            second = tracelet.start_logging("second", "tests", backend="inner")
            assert "that run is stopped first" in caplog.text
            assert (outer.is_active, inner.is_active, second.is_active) == (True, False, True)
            second.log_metric("second", 1.0)
        assert not second.is_active
        assert tracelet.get_active_experiment() is outer
        with tracelet.start_logging("third", "tests", backend="inner") as third:
            assert not outer.is_active
            third.log_metric("third", 1.0)
        assert tracelet.get_active_experiment() is None
    assert tags(inner_sink) == ["second", "third"]


def test_stop_logging_ends_the_innermost(sinks):
    with tracelet.logging("outer", project="tests") as outer:
        with tracelet.logging("inner", project="tests") as inner:
            tracelet.stop_logging()
            assert not inner.is_active
            assert tracelet.get_active_experiment() is outer
        assert outer.is_active
    assert not outer.is_active


@pytest.mark.parametrize("how", ["pass", "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"])
@pytest.mark.slow
def test_a_process_that_ends_inside_flushes_all_runs(how, run_script, tmp_path):
    done = run_script(
        f"""
        import os, signal, time, tracelet
        from torch.utils.tensorboard import SummaryWriter
        outer = tracelet.start_logging("outer", "tests", backend="tensorboard")
        block = tracelet.logging("tensorboard", exp_name="inner", project="tests")
        inner = block.__enter__()
        for step in range(100):
            outer.log_metric("a", 1.0, step)
            inner.log_metric("b", 1.0, step)
        {how}
        """,
        check=False,
    )
    assert done.returncode in (0, -15), done.stderr
    assert (done.returncode == 0) == (how == "pass")
    assert len(event_file_scalars(tmp_path / "runs" / "outer")["a"]) == 100
    assert len(event_file_scalars(tmp_path / "runs" / "inner")["b"]) == 100
    assert not list((tmp_path / "tracelet-runs").iterdir())


def test_a_forked_child_logs_to_the_innermost_run(sinks):
    outer_sink, inner_sink = sinks
    with tracelet.logging("outer", project="tests"), tracelet.logging("inner", project="tests"):
        writer = SummaryWriter("log")
        pid = os.fork()
        if pid == 0:
            writer.add_scalar("child", 1.0, 1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    assert tags(inner_sink) == ["child"]
    assert tags(outer_sink) == []


@pytest.mark.slow
def test_on_clearml_the_inner_run_is_a_child_task(run_script, tmp_path):
    pytest.importorskip("clearml")
    done = run_script(
        """
        import tracelet
        from torch.utils.tensorboard import SummaryWriter
        with tracelet.logging("clearml", exp_name="the outer", project="tests") as outer:
            writer = SummaryWriter("log")
            writer.add_scalar("a", 1.0, 1)
            with tracelet.logging("clearml") as inner:
                writer.add_scalar("a", 2.0, 2)
                outer.log_metric("b", 3.0, 3)
            writer.add_scalar("a", 4.0, 4)
        assert outer.id != inner.id and outer.url != inner.url
        print("FOLDERS", outer.url, inner.url)
        """
    )
    folders = next(line for line in done.stdout.splitlines() if line.startswith("FOLDERS"))
    outer, inner = (session_scalars(folder) for folder in folders.split()[1:])
    steps = {key: [step for step, _, _ in points] for key, points in outer.items()}
    assert steps == {("a", "a"): [1, 4], ("b", "b"): [3]}
    assert [step for points in inner.values() for step, _, _ in points] == [2]
