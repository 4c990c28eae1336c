"""The command `tracelet` and its subcommands, called as `main(argv)`."""

from __future__ import annotations

import os
import subprocess
import sys

import tracelet
from dead_runs import make_dead_runs
from tracelet.cli import COMMANDS, main


def test_without_a_command_the_help_names_them_all(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(f"\n    {name} " in told for name in COMMANDS)


def test_runs_lists_a_run_that_goes_on_and_one_that_has_ended(capsys):
    assert main(["runs"]) == 0
    assert "no runs in" in capsys.readouterr().out
    experiment = tracelet.start_logging("listed", "my project", backend="tensorboard")
    assert main(["runs"]) == 0
    (row,) = capsys.readouterr().out.splitlines()[1:]
    assert row.startswith(f"{experiment.id}  running ")
    assert row.endswith("my project / listed")
    experiment.log_metric("train/loss", 0.25, 7)
    tracelet.stop_logging()
    assert main(["runs"]) == 0
    (row,) = capsys.readouterr().out.splitlines()[1:]
    assert row.startswith(f"{experiment.id}  finished ")
    assert " 7      1       train/loss 0.25  tensorboard " in row
    assert row.endswith("my project / listed")


def test_a_name_with_a_slash_is_a_run_s_for_each_command(capsys, tmp_path):
    (run,) = make_dead_runs(tmp_path, ["team/net"]).values()
    assert main(["show", "team/net"]) == 0
    assert main(["sync", "team/net", "--dry-run"]) == 0
    assert main(["clean", "team/net", "--dry-run"]) == 0
    assert main(["sync", run.path, "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["sync", "team/nothing"]) == 1
    assert "there is no run 'team/nothing'" in capsys.readouterr().err


def test_export_takes_a_name_for_the_run_and_a_path_for_the_folder(capsys, tmp_path):
    with tracelet.start_logging("train", "tests", "tensorboard", {"quiet": True}) as experiment:
        experiment.log_metric("loss", 0.5, 1)
    (tmp_path / "train").mkdir()
    assert main(["export", "train"]) == 0
    told = capsys.readouterr()
    assert "train,loss,1,0.5," in told.out
    assert "./train is the folder" in told.err
    assert main(["export", "./train"]) == 1
    assert "no event files" in capsys.readouterr().err


def test_output_that_nobody_takes_or_that_has_no_such_letters_is_no_traceback():
    with tracelet.start_logging("名", "tests", "tensorboard", {"quiet": True}) as experiment:
        experiment.log_metric("损失", 0.5, 1)
    command = f"{sys.executable} -m tracelet"
    for line in (
        f"{command} runs | true", f"{command} show 名 | head -1", f"{command} runs >&-",
        f"PYTHONIOENCODING=latin-1 {command} show 名",
    ):  # fmt: skip
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=240
        )
        assert (done.returncode, done.stderr) == (0, ""), (line, done)
    found = subprocess.run(
        [sys.executable, "-m", "tracelet", "export", "名"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, timeout=240,
    )  # fmt: skip
    assert "损失,1,0.5" in found.stdout.decode()
