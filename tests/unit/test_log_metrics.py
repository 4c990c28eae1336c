"""Experiment.log: a point for each entry of a mapping, all or none of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
import tracelet
from readers import event_file_scalars


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tracelet.start_logging("log", "tests", "tensorboard", {"log_dir": str(tmp_path / "log")})
    yield made
    made.stop()


def logged(experiment, tmp_path):
    """(step, value) by tag."""
    experiment.stop()
    found = event_file_scalars(tmp_path / "log")
    return {tag: [(step, value) for step, value, _ in points] for tag, points in found.items()}


class Lazy(Mapping):
    """What is no dict."""

    def __init__(self, held):
        self.held = held

    def __getitem__(self, key):
        return self.held[key]

    def __iter__(self):
        return iter(self.held)

    def __len__(self):
        return len(self.held)


def test_each_entry_is_a_point_at_the_step_and_time_of_the_call(experiment, tmp_path):
    experiment.log({"loss": 0.5, "acc": 1, "numpy": np.float32(0.25)}, step=7)
    experiment.log(Lazy({"loss": True}), step=np.int64(9))
    experiment.log({}, step=100)
    experiment.stop()
    found = event_file_scalars(tmp_path / "log")
    assert [(step, value) for step, value, _ in found["loss"]] == [(7, 0.5), (9, 1.0)]
    assert [(step, value) for step, value, _ in found["acc"]] == [(7, 1.0)]
    assert [(step, value) for step, value, _ in found["numpy"]] == [(7, 0.25)]
    assert len({found[tag][0][2] for tag in ("loss", "acc", "numpy")}) == 1


def test_without_a_step_it_goes_on_from_the_greatest(experiment, tmp_path):
    experiment.log({"a": 0})
    experiment.log({"a": 1})
    experiment.log({"a": 2}, step=10)
    experiment.log({"a": 3}, step=5)
    experiment.log({"a": 4})
    experiment.log({"a": 5}, step=-3)
    experiment.log({"a": 6})
    steps = [step for step, _ in logged(experiment, tmp_path)["a"]]
    assert steps == [0, 1, 10, 5, 11, -3, 12]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"good": 1, "a": {"b": 1}}, "log('a'): the value must be a number, not of type dict"),
        ({"good": 1, "a": "0.5"}, "log('a'): the value must be a number, not of type str"),
        ({"good": 1, "a": np.zeros(2)}, "log('a')"),
        ({"good": 1, 2: 1}, "each name must be a str that is not empty, not 2"),
        ({"good": 1, "": 1}, "each name must be a str that is not empty"),
        ([("good", 1)], "metrics must be a mapping of names to numbers, not a list"),
        ("good", "log_metric(name, value, step) logs one"),
        (None, "metrics must be a mapping"),
    ],
)
def test_what_can_t_be_logged_is_named_and_nothing_of_the_call_is_logged(
    experiment, tmp_path, metrics, words
):
    with pytest.raises((TypeError, ValueError)) as told:
        experiment.log(metrics, step=1)
    assert words in str(told.value)
    experiment.log({"good": 2})  # the step of the call that failed is not counted
    assert logged(experiment, tmp_path) == {"good": [(0, 2.0)]}


@pytest.mark.parametrize("step", [1.5, "3", 2**70, -(2**70)])
def test_a_step_that_is_none_is_told_of(experiment, tmp_path, step):
    with pytest.raises((TypeError, ValueError), match="log: step must be an int"):
        experiment.log({"a": 1}, step=step)
    assert logged(experiment, tmp_path) == {}


def test_the_greatest_step_is_followed_by_no_other(experiment, tmp_path):
    experiment.log({"a": 1}, step=2**63 - 1)
    experiment.log({"a": 2})
    assert logged(experiment, tmp_path)["a"] == [(2**63 - 1, 1.0), (0, 2.0)]


def test_a_value_that_ends_the_run_while_it_is_read_is_an_error_of_the_call(experiment):
    class Ending:
        def __float__(self):
            experiment.stop()
            return 1.0

    with pytest.raises((tracelet.TraceletError, RuntimeError)):
        experiment.log({"a": 1, "b": Ending()}, step=1)
    stats = experiment.stats
    assert stats.accepted == 0
    with pytest.raises(tracelet.TraceletError, match="log: this run has ended"):
        experiment.log({"a": 1})


def test_the_outer_handle_logs_to_the_outer_run(experiment, tmp_path):
    with tracelet.logging(
        "tensorboard", "inner", config={"log_dir": str(tmp_path / "inner")}
    ) as it:
        experiment.log({"outer": 1}, step=1)
        it.log({"inner": 1}, step=1)
    assert set(event_file_scalars(tmp_path / "inner")) == {"inner"}
    assert set(logged(experiment, tmp_path)) == {"outer"}


def test_threads_that_log_without_a_step_share_none(experiment, tmp_path):
    def log():
        for _ in range(500):
            experiment.log({"a": 1, "b": 2})

    threads = [threading.Thread(target=log) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = logged(experiment, tmp_path)
    for tag in ("a", "b"):
        assert Counter(step for step, _ in found[tag]) == Counter(range(2000))
