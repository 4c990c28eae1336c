"""`experiment.summary`: the last, least and greatest value of each series, of every point."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import tracelet
from tracelet.cli import main

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
