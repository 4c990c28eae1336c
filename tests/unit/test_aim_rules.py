"""What of the Aim backend is a rule of its own: the order of calls, parameters' places, bins."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from tracelet.backends.aim.backend import clean_name, own_options
from tracelet.backends.aim.media import even_bins
from tracelet.backends.aim.order import Point, rows_of
from tracelet.backends.aim.params import ParamTree, storable
from tracelet.backends.own_options import checked
from tracelet.errors import ConfigurationError
from tracelet.options import Options


def points_of(values, name="a"):
    return [Point(name, step, 100.0 + step, value) for step, value in enumerate(values)]


@pytest.mark.parametrize("seed", range(20))
def test_rows_have_the_last_point_of_each_name_and_step_once(seed):
    random = np.random.default_rng(seed)
    points = [
        Point(f"tag {random.integers(3)}", int(random.integers(-5, 20)), float(k), float(value))
        for k, value in enumerate(random.choice([0.5, -1.0, math.inf, math.nan, 7.0], 60))
    ]
    expected = {(point.name, point.step): point.value for point in points}
    rows = rows_of(points, set())
    count = Counter((name, row.step) for row in rows for name in row.values)
    assert dict(count) == dict.fromkeys(expected, 1)
    found = {(name, row.step): each for row in rows for name, each in row.values.items()}
    assert repr(sorted(found.items())) == repr(sorted(expected.items()))


def test_a_new_series_begins_with_its_first_point_then_what_aim_notes_of_it():
    points = points_of([3.0, 1.0, 4.0, 9.0, 2.0, 6.0])
    assert [row.step for row in rows_of(points, set())] == [0, 5, 1, 3, 2, 4]
    assert [row.step for row in rows_of(points, {"a"})] == [5, 1, 3, 0, 2, 4]


def test_points_of_a_step_are_one_call_with_the_time_of_the_first():
    points = [Point(name, step, 10.0 + step, 0.5) for step in range(4) for name in "abc"]
    rows = rows_of(points, set("abc"))
    assert [sorted(row.values) for row in rows] == [["a", "b", "c"]] * 4
    assert sorted((row.step, row.wall_time_s) for row in rows) == [
        (step, 10.0 + step) for step in range(4)
    ]


def test_a_series_of_nan_alone_is_taken():
    rows = rows_of(points_of([math.nan, math.nan]), {"a"})
    assert sorted(row.step for row in rows) == [0, 1]


def test_of_a_value_and_names_below_it_one_keeps_its_flat_name():
    tree = ParamTree({})
    assert tree.place("model/depth") == ("model", "depth")
    assert tree.place("model") == ("model ",)
    assert tree.place("lr") == ("lr",)
    assert tree.place("lr/warmup") == ("lr/warmup",)
    assert tree.place("lr/warmup/steps") == ("lr/warmup/steps",)
    assert [tree.place(name) for name in ("model/depth", "model", "lr/warmup")] == [
        ("model", "depth"), ("model ",), ("lr/warmup",),
    ]  # fmt: skip
    assert tree.place("a//b") == ("a//b",)


def test_what_a_run_has_already_keeps_its_place():
    tree = ParamTree({"lr": 0.1, "model": {"depth": 3, "empty": {}}})
    assert tree.place("lr/warmup") == ("lr/warmup",)
    assert tree.place("model/width") == ("model", "width")
    assert tree.place("model/depth/x") == ("model/depth/x",)


def test_integers_of_more_than_64_bits_are_texts():
    assert storable([1 << 63, (1 << 63) - 1, -(1 << 63), (True, None, 0.5)]) == [
        str(1 << 63), (1 << 63) - 1, -(1 << 63), [True, None, 0.5],
    ]  # fmt: skip


def test_bins_of_one_width_stay_as_they_are():
    counts, low, high = even_bins(np.array([1.0, 5.0, 2.0]), np.array([0.0, 0.5, 1.0, 1.5]))
    assert (counts.tolist(), low, high) == ([1.0, 5.0, 2.0], 0.0, 1.5)


def test_other_bins_are_spread_over_even_ones_with_the_same_sum():
    edges = np.array([-1.0, -0.1, 0.0, 0.3, 3.0])
    counts = np.array([9.0, 10.0, 6.0, 27.0])
    even, low, high = even_bins(counts, edges)
    assert (len(even), low, high) == (512, -1.0, 3.0)
    assert even.sum() == pytest.approx(counts.sum())
    at = np.linspace(low, high, 513)
    assert even[at[:-1] >= 0.3 + 1 / 128].sum() == pytest.approx(27.0, abs=0.2)


@pytest.mark.parametrize("high", [math.inf, math.nan, 1.7e308])
def test_bins_without_end_have_no_form(high):
    assert even_bins(np.array([1.0]), np.array([-1.7e308, high])) is None


def test_no_bins_are_one_that_is_empty():
    counts, low, high = even_bins(np.array([]), np.array([]))
    assert (counts.tolist(), low, high) == ([0.0], 0.0, 1.0)


@pytest.mark.parametrize(
    ("tag", "name"), [("", "tag "), (" ", "tag  "), ("a\ud800", "a?"), ("é/ü\0?*", "é/ü\0?*")]
)
def test_names_are_utf_8_and_not_empty(tag, name):
    assert clean_name(tag) == name


@pytest.mark.parametrize("repo", ["aim://host:53800", "ssh://host/folder"])
def test_a_repository_on_another_machine_is_refused(repo):
    with pytest.raises(ConfigurationError, match=r"must be a folder.*aim runs cp"):
        own_options(Options(aim={"repo": repo}))


def test_options_of_one_tracker_are_checked_by_name_and_type():
    known = {"mode": (str,), "system_metrics": (bool,)}
    assert checked("wandb", None, known) == {}
    with pytest.raises(ConfigurationError, match=r"config\['wandb'\] .*'mod'; did you mean 'mode'"):
        checked("wandb", {"mod": "online"}, known)
    with pytest.raises(ConfigurationError, match=r"\['mode'\] must be a str, not"):
        checked("wandb", {"mode": 1}, known)
    with pytest.raises(ConfigurationError, match=r"\['system_metrics'\] must be a bool, not"):
        checked("wandb", {"system_metrics": "yes"}, known)
