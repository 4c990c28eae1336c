"""docs/commands.md: what it shows is run, in the order of the page, and no command is missing."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import tracelet
from tracelet.cli import COMMANDS, main

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [found[2] for found in BLOCK.finditer(PAGE) if found[1] == language]


def lines() -> list[list[str]]:
    found = [line for block in blocks("console") for line in block.splitlines()]
    assert all(line.startswith("$ tracelet ") for line in found)
    return [shlex.split(line)[2:] for line in found]


def test_each_line_of_the_page_runs_and_shows_what_it_says(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for code in blocks("python"):
        exec(compile(code, "docs/commands.md", "exec"), {"tracelet": tracelet})
    shown = {"runs": "", "show": "", "tail": ""}
    for arguments in lines():
        capsys.readouterr()
        code = main(arguments)
        told = capsys.readouterr()
        # A machine without ClearML's credentials, or with little room, has something to be told.
        assert code == 0 or arguments[0] == "doctor", (arguments, told)
        shown.setdefault(arguments[0], "")
        shown[arguments[0]] += told.out
    assert "train/loss 0.03579  tensorboard" in shown["runs"]
    on_page = next(line for line in PAGE.splitlines() if line.startswith("train/loss  0.03579"))
    assert on_page in shown["show"]
    assert "999  train/loss  0.0357931" in shown["tail"]


def test_each_command_is_on_the_page():
    assert {arguments[0] for arguments in lines()} == set(COMMANDS)


def test_each_command_says_what_it_does_in_one_line_and_names_each_option():
    for name in COMMANDS:
        module = importlib.import_module(f"tracelet.commands.{name}{'_' * (name == 'import')}")
        assert module.HELP
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        assert all(action.help for action in parser._actions), name
