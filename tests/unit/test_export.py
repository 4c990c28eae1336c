"""`tracelet export`, and `Experiment.history`: numbers that come back as they were logged."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import threading

import numpy as np
import pytest
import tracelet
from recording_sink import RecordingSink
from tracelet.cli import main
from tracelet.reading import export


def make_run(name: str = "exported", **config: object) -> tracelet.Experiment:
    return tracelet.start_logging(
        name, "tests", backend="tensorboard", config={"quiet": True, **config}
    )


def log_some(experiment: tracelet.Experiment) -> dict[str, list[float]]:
    rng = np.random.default_rng()
    values = {
        "train/loss": rng.standard_normal(50).astype(np.float32).tolist(),
        'odd "tag", é': [math.nan, math.inf, -math.inf, 1e-38, 3.4e38],
    }
    for tag, numbers in values.items():
        for step, number in enumerate(numbers):
            experiment.log_metric(tag, number, step)
    experiment.log_text("note", "hello", 0)
    return values


def same(found: list[float], expected: list[float]) -> bool:
    return np.array_equal(np.array(found), np.array(expected, np.float32), equal_nan=True)


def test_csv_has_each_point_exactly(capsys):
    values = log_some(make_run())
    tracelet.stop_logging()
    logs = tracelet.read("runs/exported")
    assert main(["export", "exported"]) == 0
    told = capsys.readouterr()
    rows = list(csv.DictReader(told.out.splitlines()))
    assert len(rows) == 55
    assert {row["run"] for row in rows} == {"exported"}
    for tag, numbers in values.items():
        own = [row for row in rows if row["tag"] == tag]
        assert [int(row["step"]) for row in own] == list(range(len(numbers)))
        assert same([float(row["value"]) for row in own], numbers)
        wall_times = [float(row["wall_time"]) for row in own]
        assert wall_times == logs.scalars(tag).wall_times.tolist()
    assert "55 points of 2 series of 1 run to stdout" in told.err
    assert "not exported, as they are no scalars: 1 texts" in told.err


def test_json_has_names_for_what_json_can_t_hold(tmp_path, capsys):
    values = log_some(make_run())
    tracelet.stop_logging()
    assert main(["export", "runs", "--to", "json", "-o", "out.json"]) == 0
    assert capsys.readouterr().out == ""
    text = (tmp_path / "out.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    odd = found["exported"]['odd "tag", é']
    assert odd["values"][:3] == ["NaN", "Infinity", "-Infinity"]
    assert same(found["exported"]["train/loss"]["values"], values["train/loss"])
    assert odd["steps"] == [0, 1, 2, 3, 4]


def test_a_folder_in_it_of_the_same_name_stays_a_run_of_its_own(capsys):
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    make_run("net")
    for folder, first in ("logs", 0.0), ("logs/net", 100.0):
        writer = SummaryWriter(folder)
        for step in range(3):
            writer.add_scalar("loss", first + step, step)
    tracelet.stop_logging()
    assert main(["export", "net", "--to", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: tags["loss"]["values"] for name, tags in found.items()} == {
        ".": [0.0, 1.0, 2.0], "net": [100.0, 101.0, 102.0],
    }  # fmt: skip
    assert main(["export", "net"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["run"] for row in rows] == ["."] * 3 + ["net"] * 3


def test_what_is_no_file_is_written_to_and_never_replaced(tmp_path):
    log_some(make_run())
    tracelet.stop_logging()
    fifo, link = tmp_path / "fifo", tmp_path / "link.csv"
    os.mkfifo(fifo)
    link.symlink_to("target.csv")
    (tmp_path / "target.csv").write_text("before")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_text()), daemon=True)
    reader.start()
    assert main(["export", "exported", "-o", str(fifo)]) == 0
    reader.join(timeout=60)
    assert fifo.is_fifo()
    assert main(["export", "exported", "-o", str(link)]) == 0
    assert link.is_symlink()
    assert (tmp_path / "target.csv").read_text() == found[0]
    assert len(found[0].splitlines()) == 56
    assert sorted(path.name for path in tmp_path.glob("*.new")) == []


def test_parquet_has_the_columns_in_their_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    values = log_some(make_run())
    tracelet.stop_logging()
    assert main(["export", "exported", "--to", "parquet", "-o", "out.parquet"]) == 0
    table = parquet.read_table("out.parquet")
    assert table.column_names == list(export.COLUMNS)
    assert [str(table.schema.field(name).type) for name in ("step", "value", "wall_time")] == [
        "int64", "double", "double",
    ]  # fmt: skip
    rows = [row for row in table.to_pylist() if row["tag"] == "train/loss"]
    assert same([row["value"] for row in rows], values["train/loss"])


def test_parquet_without_pyarrow_names_the_command_that_installs_it(capsys, monkeypatch, tmp_path):
    log_some(make_run())
    tracelet.stop_logging()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["export", "exported", "--to", "parquet", "-o", "out"]) == 1
    assert "pip install pyarrow" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
    assert main(["export", "exported", "--to", "parquet"]) == 2
    assert "-o FILE" in capsys.readouterr().err


def test_tags_are_chosen_and_repeated_steps_left_out(capsys):
    experiment = make_run()
    for step in (0, 1, 2, 1, 2, 3):
        experiment.log_metric("loss", step * 1.0 + experiment.stats.accepted, step)
    experiment.log_metric("acc", 1.0, 1)
    tracelet.stop_logging()
    assert main(["export", "exported", "--tag", "lo*", "--latest"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["tag"], row["step"], row["value"]) for row in rows] == [
        ("loss", "0", "0.0"), ("loss", "1", "4.0"), ("loss", "2", "6.0"), ("loss", "3", "8.0"),
    ]  # fmt: skip


def test_what_can_t_be_exported_is_an_error_that_says_why(capsys, tmp_path):
    assert main(["export", "nothing"]) == 1
    assert "there is no run 'nothing'" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["export", "empty"]) == 1
    assert "no event files" in capsys.readouterr().err
    log_some(make_run())
    tracelet.stop_logging()
    assert main(["export", "exported", "-o", "no/such/folder.csv"]) == 1
    assert "no/such/folder.csv can't be written" in capsys.readouterr().err


def test_a_file_that_is_there_stays_when_the_export_fails(monkeypatch, tmp_path):
    log_some(make_run())
    tracelet.stop_logging()
    (tmp_path / "out.csv").write_text("before")

    def failing(*_: object) -> int:
        raise OSError("the disk is full")

    monkeypatch.setattr("tracelet.commands.export.write_csv", failing)
    assert main(["export", "exported", "-o", "out.csv"]) == 1
    assert (tmp_path / "out.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv"]


def test_the_history_of_a_living_run_grows_with_it():
    experiment = make_run()
    for step in range(1000):
        experiment.log_metric("loss", step / 4, step)
    loss = experiment.history("loss")
    assert loss.steps.tolist() == list(range(1000))
    assert loss.values.tolist() == [step / 4 for step in range(1000)]
    experiment.log_metric("loss", -1.0, 7)
    assert experiment.history("loss").steps.tolist() == [*range(1000), 7]
    assert experiment.history("loss").latest().values[7] == -1.0
    assert tracelet.read(experiment).scalars("loss").steps.tolist() == [*range(1000), 7]
    with pytest.raises(KeyError, match="did you mean 'loss'"):
        experiment.history("los")
    tracelet.stop_logging()
    assert len(experiment.history("loss")) == 1001  # also when it has ended


def test_the_history_of_a_run_is_read_when_it_has_ended():
    experiment = make_run()
    experiment.log_metric("loss", 0.5, 3)
    tracelet.stop_logging()
    assert experiment.history("loss").values.tolist() == [0.5]


def test_the_history_of_one_tag_in_two_folders_names_them(tmp_path):
    writer_class = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    experiment = make_run()
    writer_class("a").add_scalar("loss", 1.0, 1)
    assert experiment.history("loss").values.tolist() == [1.0]
    writer_class("b").add_scalar("loss", 2.0, 1)
    with pytest.raises(tracelet.TraceletError, match="several folders"):
        experiment.history("loss")
    runs = tracelet.read(experiment).runs
    assert runs[str(tmp_path / "b")].scalars("loss").values.tolist() == [2.0]


def test_the_history_beside_torch_s_own_event_files_names_what_reads_them(capsys):
    tracelet.register_sink("recording", lambda info: RecordingSink())
    config = {"quiet": True, "tensorboard": "passthrough"}
    experiment = tracelet.start_logging("beside", "tests", backend="recording", config=config)
    with pytest.raises(tracelet.TraceletError, match="torch's own"):
        experiment.history("loss")
    tracelet.stop_logging()
    assert main(["export", "beside"]) == 1
    assert "passthrough" in capsys.readouterr().err
    assert main(["show", "beside"]) == 0
    assert "passthrough" in capsys.readouterr().out


def test_the_history_of_a_run_without_event_files_says_so():
    pytest.importorskip("clearml")
    experiment = tracelet.start_logging(
        "without", "tests", backend="clearml",
        config={
            "quiet": True, "auto_connect_frameworks": False, "auto_connect_arg_parser": False,
            "auto_resource_monitoring": False, "auto_connect_streams": False,
        },
    )  # fmt: skip
    experiment.log_metric("loss", 1.0, 1)
    with pytest.raises(tracelet.TraceletError, match="option log_dir"):
        experiment.history("loss")
