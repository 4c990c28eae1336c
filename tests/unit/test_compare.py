"""`tracelet compare`: two runs, or folders of event files, side by side."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tracelet
from tracelet.cli import main
from tracelet.commands import compare as compare_
from tracelet.commands import terminal
from tracelet.commands.series_plots import plots_on_one_scale


def make_run(name, factor=1.0, params=None, tags=("loss",)):
    with tracelet.start_logging(name, "tests", backend="tensorboard") as run:
        run.log_params({"lr": 0.1, "same": "x", **(params or {})})
        for step in range(32):
            for tag in tags:
                run.log({tag: step * factor}, step)
    return run


def compare(capsys, *arguments):
    code = main(["compare", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_two_runs_are_shown_side_by_side_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    first = make_run("first", params={"depth": 3, "api_key": "a"}, tags=("loss", "in first"))
    make_run("second", 2.0, {"lr": 0.2, "flag": True, "api_key": "b"}, tags=("loss", "other"))
    code, told, _ = compare(capsys, "first", "second")
    assert code == 0
    lines = told.splitlines()
    assert lines[0] == f"A  first (tests)  finished  {first.id}"
    assert lines[1].startswith("B  second (tests)  finished  ")
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["parameters"] == ["that", "differ", "(the", "same:", "2)"]
    assert rows["lr"] == ["0.1", "0.2"]
    assert rows["depth"] == ["3", "-"]
    assert rows["flag"] == ["-", "True"]
    assert "same" not in rows
    assert rows["loss"] == ["A", "31", "0", "31", "32", "31", "▁▁▁▂▂▂▂▃▃▃▃▄▄▄▄▄"]
    (below,) = [line.split() for line in lines if line.lstrip().startswith("B  ") and "62" in line]
    assert below == ["B", "62", "0", "62", "32", "31", "▁▂▂▂▃▃▄▄▅▅▆▆▇▇██"]
    assert "in A alone: in first" in lines
    assert "in B alone: other" in lines
    assert max(map(terminal.columns_of, lines)) <= 80


def test_a_run_with_a_folder_of_event_files(capsys):
    run = make_run("first")
    code, told, _ = compare(capsys, run.id, "runs/first")
    assert code == 0
    assert "B  runs/first\n" in told
    assert "parameters" not in told
    losses = [line.split()[-6:] for line in told.splitlines() if "▁" in line]
    assert len(losses) == 2
    assert losses[0] == losses[1]


def test_as_json_it_has_all_of_both(capsys):
    make_run("first", math.nan)
    make_run("second", params={"lr": 1, "same": "x"})
    code, told, _ = compare(capsys, "first", "second", "--json")
    found = json.loads(told, parse_constant=lambda name: 1 / 0)
    assert code == 0
    assert found["params_that_differ"] == {"lr": [0.1, 1]}
    assert found["a"]["params"] == {"lr": 0.1, "same": "x"}
    assert found["a"]["summary"]["loss"]["last"] == "NaN"
    assert found["b"]["summary"]["loss"]["greatest"] == 31
    assert (found["a"]["name"], found["b"]["state"]) == ("first", "finished")


def make_writers(name, folders):
    """A run with a writer for each folder, all with the tag loss: of 100, 200, ... and its step."""
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tracelet.start_logging(name, "tests", backend="tensorboard"):
        for folder, height in folders.items():
            with tensorboard.SummaryWriter(f"{name}-log/{folder}") as writer:
                for step in range(4):
                    writer.add_scalar("loss", height + step, step)


def test_series_of_one_tag_are_paired_by_their_writers_folders(capsys):
    """Not train with val, as where the writers were made in another order: the first of a tag has
    the bare name."""
    make_writers("first", {"train": 100, "val": 200, "test": 300})
    make_writers("second", {"val": 250, "train": 150})
    _, told, _ = compare(capsys, "first", "second", "--json")
    found = json.loads(told)
    pairs = found["series_in_both"]
    lasts = [(found["a"]["summary"][each["a"]]["last"], found["b"]["summary"][each["b"]]["last"])
             for each in pairs]  # fmt: skip
    assert sorted(lasts) == [(103, 153), (203, 253)]
    _, told, _ = compare(capsys, "first", "second")
    heads = [line.split()[:4] for line in told.splitlines()]
    assert ["train:", "loss", "A", "103"] in heads
    assert ["val:", "loss", "A", "203"] in heads
    assert "in A alone: test: loss" in told
    make_writers("third", {"train": 1})
    _, told, _ = compare(capsys, "first", "third")
    assert "no series is in both" in told  # which of the three it is can't be told


def test_folders_of_event_files_are_paired_alike(capsys):
    make_writers("first", {"train": 100, "val": 200})
    make_writers("second", {"val": 250, "train": 150})
    _, told, _ = compare(capsys, "first", "second-log", "--json")
    found = json.loads(told)
    lasts = {
        (found["a"]["summary"][each["a"]]["last"], found["b"]["summary"][each["b"]]["last"])
        for each in found["series_in_both"]
    }
    assert lasts == {(103, 153), (203, 253)}


def test_what_stands_beside_a_handles_series_is_compared_with_such_alone():
    """The only other writer's folder is all there is: it would be the folder that all share."""

    def side(*folders):
        origins = {f"{n}": {"tag": "loss", "folder": each} for n, each in enumerate(folders)}
        return compare_._Side("", {}, (), origins, None)

    assert compare_._pairs(side("", "/a/val"), side("/b", "/b/val")) == []
    assert compare_._pairs(side("", "/a/val"), side("/b/val", "")) == [
        ("loss", "0", "1"), ("loss", "1", "0")
    ]  # fmt: skip
    assert compare_._pairs(side("/a", "/a"), side("/b", "/b")) == []  # suffixes alone differ


def test_nan_is_nan_and_none_is_not_absent(capsys):
    make_run("first", params={"warmup": math.nan, "seed": None, "both": None, "lr": math.nan})
    make_run("second", params={"warmup": math.nan, "both": None})
    _, told, _ = compare(capsys, "first", "second", "--json")
    assert set(json.loads(told)["params_that_differ"]) == {"seed", "lr"}
    _, told, _ = compare(capsys, "first", "second")
    rows = [line.split() for line in told.splitlines()]
    assert ["seed", "None", "-"] in rows


def test_runs_that_share_nothing(capsys):
    make_run("first", tags=("one",))
    make_run("second", tags=("two",))
    code, told, _ = compare(capsys, "first", "second")
    assert code == 0
    assert "parameters: all 2 are the same" in told
    assert "no series is in both" in told


def test_what_is_not_there_is_an_error(capsys, tmp_path):
    make_run("first")
    (tmp_path / "empty").mkdir()
    code, _, error = compare(capsys, "first", "./empty")
    assert (code, error) == (1, "tracelet: there are no event files in ./empty\n")
    code, _, error = compare(capsys, "first", "fisrt")
    assert code == 1
    assert "there is no run 'fisrt'" in error


def test_true_is_not_one(capsys):
    make_run("first", params={"flag": True, "number": 1})
    make_run("second", params={"flag": 1, "number": 1.0})
    _, told, _ = compare(capsys, "first", "second", "--json")
    assert json.loads(told)["params_that_differ"] == {"flag": [True, 1]}


def test_bars_of_one_height_are_of_one_value():
    none = np.zeros(0)
    assert plots_on_one_scale([np.array([0.0, 1]), np.array([1.0, 2])]) == ["▁▅", "▅█"]
    assert plots_on_one_scale([none, np.array([np.nan, 2])]) == ["", " ▁"]
    assert plots_on_one_scale([none, none]) == ["", ""]
