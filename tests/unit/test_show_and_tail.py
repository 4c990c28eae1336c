"""`tracelet show`, `tail` and `version`: one run, ended, living or killed."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tracelet
from dead_runs import POINTS, make_dead_runs
from tracelet import _core
from tracelet.cli import main
from tracelet.commands import tail, terminal
from tracelet.commands.selection import find_view
from tracelet.commands.series_plots import plot
from tracelet.runs.summaries import summary_of_files


def make_run(name: str = "shown") -> tracelet.Experiment:
    experiment = tracelet.start_logging(
        name, "tests", backend="tensorboard", config={"tags": ["baseline", "fp16"], "quiet": True}
    )
    for step in range(100):
        experiment.log_metric("train/loss", 1.0 - step / 100, step)
        experiment.log_metric("acc", step * 1.0, step)
    experiment.log_metric("odd", float("nan"), 5)
    experiment.log_params({"lr": 0.5, "hf_token": "SECRET", "path": "a\x1b[2J"})
    return experiment


def test_show_tells_all_of_a_run_that_has_ended_in_80_columns(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    experiment = make_run()
    tracelet.stop_logging()
    assert main(["show", "shown"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("shown (tests)  finished\n")
    assert experiment.id in told
    assert "tags        baseline, fp16" in told
    assert f"event files {tmp_path / 'runs' / 'shown'}" in told
    assert "lr        0.5" in told
    assert "hf_token  (redacted)" in told
    assert "SECRET" not in told
    assert "\x1b" not in told
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.strip()}
    assert rows["train/loss"][:5] == ["0.01", "0.01", "1", "100", "99"]
    assert rows["acc"] == ["99", "0", "99", "100", "99", "▁▂▂▃▃▄▄▄▅▅▆▆▇▇██"]
    assert rows["odd"] == ["nan", "1", "5"]
    wide = [line for line in told.splitlines() if "event files" not in line]
    assert max(map(terminal.columns_of, wide)) <= 80


def test_show_as_json_has_what_is_noted(capsys, tmp_path):
    experiment = make_run()
    tracelet.stop_logging()
    assert main(["show", experiment.id, "--json"]) == 0
    text = capsys.readouterr().out
    told = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["state"] == "finished"
    assert told["summary"]["odd"]["last"] == "NaN"
    assert told["params"]["lr"] == 0.5
    assert told["tags"] == ["baseline", "fp16"]
    assert told["summary"]["train/loss"] == {
        "last": 1.0 - 0.99, "least": 1.0 - 0.99, "greatest": 1.0, "points": 100, "last_step": 99,
    }  # fmt: skip
    assert [Path(path).parent for path in told["event_files"]] == [tmp_path / "runs" / "shown"]


def test_show_of_a_living_and_of_a_killed_run(capsys, tmp_path):
    experiment = make_run()
    assert experiment.flush()
    assert main(["show", "shown"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("shown (tests)  running\n")
    assert "train/loss" in told
    tracelet.stop_logging()
    (run,) = make_dead_runs(tmp_path, ["victim"]).values()
    assert main(["show", "victim"]) == 0
    told = capsys.readouterr().out
    assert f"{POINTS}, {POINTS} of them not sent yet" in told
    assert f"to send it  tracelet sync {run.run_id}" in told
    assert f"run folder  {run.path}" in told


def test_show_says_when_the_event_files_are_gone(capsys, tmp_path):
    make_run()
    tracelet.stop_logging()
    (path,) = (tmp_path / "runs" / "shown").glob("*tfevents*")
    path.unlink()
    assert main(["show", "shown"]) == 0
    assert f"gone: {path.parent}" in capsys.readouterr().out


def test_a_run_that_is_not_there_is_named_with_the_nearest(capsys):
    make_run()
    tracelet.stop_logging()
    assert main(["show", "show-n"]) == 1
    told = capsys.readouterr().err
    assert "there is no run 'show-n'" in told
    assert "the nearest: " in told
    assert "'shown', finished" in told


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""), ([5.0], "▁"), ([1.0, 1.0], "▁▁"), ([0.0, 7.0], "▁█"),
        ([np.nan, 1.0, np.inf, 2.0], " ▁ █"), ([np.nan], ""), (list(range(8)), "▁▂▃▄▅▆▇█"),
    ],
)  # fmt: skip
def test_a_plot_has_the_form_of_the_series(values, expected):
    assert plot(np.array(values, np.float64)) == expected


def test_two_writers_of_one_tag_are_two_series(tmp_path):
    writer_class = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    paths = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        with writer_class(str(tmp_path / name)) as writer:
            writer.add_scalar("loss", value, 1)
        paths += [str(path) for path in (tmp_path / name).iterdir()]
    summary = summary_of_files(paths)
    assert summary is not None
    assert {tag: each["last"] for tag, each in summary.items()} == {"loss": 1.0, "b: loss": 2.0}


def places() -> tuple[str, str]:
    return os.environ["TRACELET_DIR"], os.environ["TRACELET_HISTORY_DIR"]


def wait_for(is_so, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_tail_shows_the_values_of_a_living_run_until_it_ends(capsys, monkeypatch):
    monkeypatch.setattr(tail, "_POLL_S", 0.01)
    monkeypatch.setattr(tail, "_LOOK_S", 0.02)
    writer_class = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    experiment = make_run()
    assert experiment.flush()
    told, codes = [], []
    monkeypatch.setattr("builtins.print", lambda *args, **kwargs: told.append(str(args[0])))
    follower = threading.Thread(target=lambda: codes.append(main(["tail", "shown", "-n", "5"])))
    follower.start()
    try:
        wait_for(lambda: len(told) >= 6)
        assert told[0] == "... 196 more points before these"
        # A writer, and so a file, that is made while it is followed; values as doubles, too.
        writer = writer_class("late")
        writer.add_scalar("late", 0.125, 7)
        writer.add_scalar("double", 1 / 3, 8, new_style=True, double_precision=True)
        assert experiment.flush()
        wait_for(lambda: any("double" in line for line in told))
        writer.add_scalar("late", 0.25, 9)
    finally:
        tracelet.stop_logging()
        follower.join(60)
    assert codes == [0]
    late = [line.split()[1:] for line in told if " late " in line]
    assert late == [["7", "late", "0.125"], ["9", "late", "0.25"]]
    assert [line.split()[1:] for line in told if "double" in line] == [["8", "double", "0.333333"]]
    assert told[-1] == f"{experiment.id}: finished"


class Nowhere:
    """A backend without event files."""

    name, is_remote, takes_every_point = "nowhere", False, True
    record_kinds = (tracelet.SCALAR,)

    def write(self, batch: tracelet.Batch) -> tracelet.Delivery:
        return tracelet.Delivery(len(batch))

    def close(self, process_is_ending: bool) -> None:
        pass


def test_tail_of_a_run_without_event_files_looks_at_its_ring(monkeypatch):
    monkeypatch.setattr(tail, "_POLL_S", 0.01)
    monkeypatch.setattr(tail, "_LOOK_S", 0.02)
    tracelet.register_sink("nowhere", lambda info: Nowhere())
    experiment = tracelet.start_logging(
        "ringed", "tests", backend="nowhere", config={"quiet": True, "ring_slots": 64}
    )
    for step in range(200):  # more than it holds
        experiment.log_metric("loss", step / 4, step)
    assert experiment.flush()
    told: list[str] = []
    errors: list[str] = []

    def note(text: str = "", **kwargs: object) -> None:
        (errors if "file" in kwargs else told).append(text)

    monkeypatch.setattr("builtins.print", note)
    follower = threading.Thread(target=main, args=(["tail", "ringed", "-n", "3"],))
    follower.start()
    try:
        wait_for(lambda: len(told) >= 4)
        experiment.log_metric("late", 0.5, 7)
        wait_for(lambda: any("late" in line for line in told))
    finally:
        tracelet.stop_logging()
        follower.join(60)
    assert told[0] == "... 61 more points before these"
    assert [line.split()[1:] for line in told[1:5]] == [
        ["197", "loss", "49.25"], ["198", "loss", "49.5"], ["199", "loss", "49.75"],
        ["7", "late", "0.5"],
    ]  # fmt: skip
    assert "has no event files: these values are from its buffer" in errors[0]
    assert told[-1] == f"{experiment.id}: finished"


def test_show_has_parameters_and_tags_of_a_run_that_goes_on_or_was_killed(capsys, run_script):
    def shown() -> tuple[dict, list]:
        capsys.readouterr()
        assert main(["show", "noted", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        return found["params"], found["tags"]

    script = (
        "import os, tracelet\n"
        "run = tracelet.start_logging('noted', 'tests', 'tensorboard', {'tags': ['first']})\n"
        "run.log_metric('loss', 1.0, 1)\n"
        "run.log_params({'lr': 0.1, 'hf_token': 'SECRET'})\n"
        "for n in range(200): run.log_params({'n': n})\n"
        "run.set_tags(['second'])\n"
        "print(open(run._run.folder.path + '/notes.json').read(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    told = run_script(script, check=False).stdout
    assert "SECRET" not in told
    params, tags = shown()
    assert (params["lr"], params["hf_token"]) == (0.1, "(redacted)")
    assert params["n"] >= 40  # a loop is written once a second
    assert tags == ["second"]
    (folder,) = Path(os.environ["TRACELET_DIR"]).iterdir()
    (folder / "notes.json").write_text("damaged")
    assert shown() == ({}, [])


def test_what_the_ring_has_shown_is_not_shown_again_from_the_file():
    experiment = tracelet.start_logging(
        "late", "tests", "tensorboard", {"quiet": True, "drain_interval_s": 60.0}
    )
    for step in range(5):
        experiment.log_metric("loss", step / 4, step)
    follower = tail._Follower(find_view(*places(), "late"), "*")
    assert not follower.has_files
    shown = follower.new_points()
    assert [point.step for point in shown] == [0, 1, 2, 3, 4]
    experiment.log_metric("loss", 0.5, 1)  # logged twice, and to be shown twice
    assert experiment.flush()
    assert [point.step for point in follower.new_points()] == [1]
    assert follower.has_files
    assert follower.new_points() == []


def test_tail_shows_a_point_of_any_wall_time(capsys):
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    tracelet.start_logging("odd", "tests", "tensorboard", {"quiet": True})
    writer = SummaryWriter("odd")
    for step, wall_time_s in enumerate((1e20, -1e20, 1.0, 1e300)):
        writer.add_scalar("loss", 1.0, step, walltime=wall_time_s)
    tracelet.stop_logging()
    assert main(["tail", "odd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[1] for line in lines[:4]) == ["0", "1", "2", "3"]
    assert sum(line.startswith("--:--:--") for line in lines) == 3
    assert terminal.clock(float("nan")) == "--:--:--"  # of a file that is not ours


def test_what_is_taken_out_of_a_ring_is_seen_until_it_comes_round(tmp_path):
    ring = _core.Ring.create(str(tmp_path / "ring"), 16, 0.0)
    for step in range(40):
        _core.log_metric_into(ring, "a", step * 0.5, step, "")
        lease = ring.lease(16)
        lease.release()
    stored = _core.StoredRing.open(str(tmp_path / "ring"))
    assert (stored.tail, stored.head) == (40, 40)
    pieces = [stored.scalars_again(at, 100) for at in (24, 32)]  # up to the end of the memory
    records = np.frombuffer(b"".join(pieces), tracelet.RECORD_DTYPE)
    assert records["step"].tolist() == list(range(24, 40))
    assert records["value"].tolist() == [step * 0.5 for step in range(24, 40)]
    assert stored.scalars_again(23, 100) == b""  # written over
    assert stored.scalars_again(40, 100) == b""  # not there yet
    assert len(stored.scalars_again(26, 4)) == 4 * 64


def test_tail_chooses_tags_and_ends_at_once_for_a_run_that_has_ended(capsys):
    experiment = make_run()
    tracelet.stop_logging()
    assert main(["tail", experiment.id, "--tag", "train/*", "-n", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "... 98 more points before these"
    assert [line.split()[1:3] for line in lines[1:3]] == [
        ["98", "train/loss"],
        ["99", "train/loss"],
    ]
    assert lines[3] == f"{experiment.id}: finished"


def test_tail_of_a_killed_run_says_how_to_send_it(capsys, tmp_path):
    (run,) = make_dead_runs(tmp_path, ["victim"]).values()
    assert main(["tail", "victim"]) == 0
    told = capsys.readouterr()
    assert f"{run.run_id}: unsent; to send it: tracelet sync {run.run_id}" in told.out
    assert "has no event files" in told.err


def test_ctrl_c_ends_tail_quietly_and_leaves_the_run_as_it_is(capsys, monkeypatch):
    experiment = make_run()
    assert experiment.flush()
    (folder,) = Path(os.environ["TRACELET_DIR"]).iterdir()
    before = {path.name: path.stat().st_size for path in folder.iterdir()}

    def press(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tail, "_sleep", press)
    try:
        assert main(["tail", "shown"]) == 0
    finally:
        monkeypatch.undo()
    told = capsys.readouterr()
    assert told.err == ""
    assert "interrupted" not in told.out
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == before
    assert experiment.is_active


def test_version_names_it(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"tracelet {tracelet.__version__} (Python 3.")
