"""The command `tracelet` and its subcommands, called as `main(argv)`."""

from __future__ import annotations

import tracelet
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
