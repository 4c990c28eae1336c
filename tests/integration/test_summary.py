"""`experiment.summary`: the last, least and greatest value of each series, of every point."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import tracelet
from tracelet.cli import main
from tracelet.runs.history import read_record, write_record
from tracelet.summary import named, series_names

QUICK = {"quiet": True, "log_dir": "log"}


def test_each_series_is_summed_up_while_it_runs_and_after(tmp_path):
    experiment = tracelet.start_logging("summed", "tests", "tensorboard", QUICK)
    assert experiment.summary == {}
    chance = random.Random(5)
    values = {f"tag/{n}": [chance.gauss(0, 1) for _ in range(500)] for n in range(20)}
    values["tag/3"][100] = math.nan
    values["tag/4"][499] = math.inf
    for step in range(500):
        experiment.log({tag: each[step] for tag, each in values.items()}, step=step * 2)
    experiment.log_metric("none", math.nan)
    assert experiment.flush(60)
    living = experiment.summary
    experiment.log_metric("tag/5", -100.0, 3)
    tracelet.stop_logging()
    assert sorted(living) == sorted([*values, "none"])
    for tag, each in values.items():
        finite = [value for value in each if math.isfinite(value)]
        assert living[tag] == tracelet.SeriesSummary(each[-1], min(finite), max(finite), 500, 998)
    assert math.isnan(living["none"].last)
    assert math.isnan(living["none"].greatest)
    ended = experiment.summary
    assert ended["tag/5"] == tracelet.SeriesSummary(
        -100.0, -100.0, living["tag/5"].greatest, 501, 3
    )
    assert ended["tag/6"] == living["tag/6"]


def test_it_is_shown_when_the_run_is_gone(capsys):
    experiment = tracelet.start_logging("shown", "tests", "tensorboard", QUICK)
    experiment.log({"loss": 2.5}, step=1)
    experiment.log({"loss": 1.5, "bad": math.nan}, step=7)
    run_id = experiment._run.folder.run_id
    tracelet.stop_logging()
    for path in Path("log").iterdir():
        path.unlink()  # so that it is not read from there
    assert main(["show", run_id, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["loss"] == {
        "last": 1.5, "least": 1.5, "greatest": 2.5, "points": 2, "last_step": 7,
    }  # fmt: skip
    assert summary["bad"]["least"] is None


def test_writers_of_one_tag_are_told_apart():
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    experiment = tracelet.start_logging("apart", "tests", "tensorboard", {"quiet": True})
    for name, value in (("train", 1.0), ("val", 2.0)):
        SummaryWriter(f"logs/{name}").add_scalar("loss", value, 1)
    SummaryWriter("logs/train").add_scalars("both", {"a": 3.0, "b": 4.0}, 1)
    tracelet.stop_logging()
    last = {tag: each.last for tag, each in experiment.summary.items()}
    assert last == {
        "loss": 1.0, "val: loss": 2.0, "both": 3.0, "train/both_b: both": 4.0,
    }  # fmt: skip


def test_writers_of_one_folder_are_told_apart_by_their_suffix():
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    experiment = tracelet.start_logging("suffixes", "tests", "tensorboard", {"quiet": True})
    for value, suffix in enumerate(("", "a", "b")):
        SummaryWriter("log", filename_suffix=suffix).add_scalar("loss", value, 1)
    tracelet.stop_logging()
    last = {tag: each.last for tag, each in experiment.summary.items()}
    assert last == {"loss": 0.0, "log (a): loss": 1.0, "log (b): loss": 2.0}


def test_no_two_series_ever_have_one_name():
    series = [
        ("loss", "/r/a", ""), ("loss", "", ""), ("loss", "", ""), ("loss", "/r/b", ""),
        ("b: loss", "/r/a", ""), ("b: loss", "/r/b", ""), ("loss", "/r/b", "x"), ("loss", "/r", ""),
    ]  # fmt: skip
    assert series_names(series) == [
        "loss", "(handle): loss", "(handle): loss (2)", "b: loss", "a: b: loss", "b: b: loss",
        "b (x): loss", "r: loss",
    ]  # fmt: skip
    urls = [("loss", "s3://x/a", ""), ("loss", "/r/b", ""), ("loss", "s3://x/a", "s")]
    assert series_names(urls) == ["loss", "/r/b: loss", "s3://x/a (s): loss"]


def test_the_handles_points_are_not_a_writers_of_the_same_tag():
    text = {1: "loss", 2: "/logs/mix"}
    of_writer, of_handle = (1, 2, 4.0, 0.0, 4.0, 5, 4), (1, 0, 102.0, 100.0, 102.0, 3, 2)
    last = {name: each.last for name, each in named([of_writer, of_handle], text.get).items()}
    assert last == {"loss": 4.0, "(handle): loss": 102.0}
    last = {name: each.last for name, each in named([of_handle, of_writer], text.get).items()}
    assert last == {"loss": 102.0, "mix: loss": 4.0}


def test_a_plot_is_of_the_series_beside_it(capsys):
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    experiment = tracelet.start_logging("plots", "tests", "tensorboard", {"quiet": True})
    rising, falling = SummaryWriter("z"), SummaryWriter("a")
    for step in range(16):
        rising.add_scalar("loss", step, step)
        falling.add_scalar("loss", 100 - step, step)
        falling.add_scalar("alone", step, step)
    tracelet.stop_logging()
    for is_counted_anew in (False, True):
        if is_counted_anew:  # from the event files
            records = os.environ["TRACELET_HISTORY_DIR"]
            record = read_record(records, experiment.id)
            assert record is not None
            write_record(records, dataclasses.replace(record, summary=None), 1 << 30)
        assert main(["show", experiment.id]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "█" in line]
        plots = {line[:10].strip(): line.split()[-1] for line in lines}
        assert {name: each[0] < each[-1] for name, each in plots.items()} == {
            "a: loss": False, "alone": True, "loss": True,
        }  # fmt: skip


def test_a_scalar_that_awaited_its_device_is_in_it_with_its_value():
    torch = pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter
    from tracelet import _core

    experiment = tracelet.start_logging("device", "tests", "tensorboard", QUICK)
    writer = SummaryWriter("log")
    _core.treat_cpu_as_device(True)
    try:
        for step in range(10):
            writer.add_scalar("loss", torch.tensor(float(step)), step)
    finally:
        _core.treat_cpu_as_device(False)
    tracelet.stop_logging()
    assert experiment.summary["loss"] == tracelet.SeriesSummary(9.0, 0.0, 9.0, 10, 9)


def test_a_sink_that_fails_and_is_given_points_again_counts_none_twice():
    class Fails:
        name, is_remote, takes_every_point = "fails", False, True

        def __init__(self):
            self.left = 3

        def write(self, batch):
            self.left -= 1
            if self.left >= 0:
                raise OSError("not now")
            return tracelet.Delivery(len(batch))

        def close(self, process_is_ending):
            pass

    tracelet.register_sink("fails", lambda info: Fails())
    experiment = tracelet.start_logging("again", "tests", ["fails"], {"quiet": True})
    for step in range(1000):
        experiment.log_metric("a", np.float32(step), step)
    assert experiment.flush(60)
    tracelet.stop_logging()
    assert experiment.summary["a"].points == 1000


def test_in_a_forked_child_it_is_empty(run_script):
    done = run_script(
        """
        import os, tracelet
        experiment = tracelet.start_logging("forked", "tests", "tensorboard", {"quiet": True})
        experiment.log_metric("a", 1.0, 1)
        assert experiment.flush(60) and len(experiment.summary) == 1
        pid = os.fork()
        if pid == 0:
            os._exit(len(experiment.summary))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert done.stdout.strip() == "0"


def test_the_history_in_a_forked_child_waits_for_its_points(run_script):
    done = run_script(
        """
        import os, tracelet
        experiment = tracelet.start_logging("forked", "tests", "tensorboard", {"quiet": True})
        experiment.log_metric("a", 1.0, 1)
        pid = os.fork()
        if pid == 0:
            missing = 20
            try:
                for n in range(20):
                    experiment.log_metric(f"a{n}", 1.0, n)
                    missing -= experiment.history(f"a{n}", 60).steps.tolist() == [n]
            finally:
                os._exit(missing)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert done.stdout.strip() == "0", done.stderr
