"""README.md and the quickstart as a newcomer reads them: each block is copied and run, in the order
of the page, without an account and with an empty home."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SETTINGS = ("CLEARML_", "TRAINS_", "TRACELET_", "MLFLOW_", "WANDB_", "TRACKIO_", "__AIM_")


def blocks(language, page="README.md"):
    text = (ROOT / page).read_text("utf-8")
    return [found[2] for found in BLOCK.finditer(text) if found[1] == language]


@pytest.mark.parametrize(
    ("page", "last"),
    [("README.md", "100 points, the last one 0.01\n"), ("docs/quickstart.md", "99 0.0")],
)
def test_each_python_block_runs_when_copied(page, last, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    pytest.importorskip("clearml")
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)
    }
    environment["HOME"] = str(home)
    found = blocks("python", page)
    assert len(found) >= 3
    printed = []
    for number, code in enumerate(found):
        script = tmp_path / f"block_{number}.py"
        script.write_text(code, "utf-8")
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        printed.append(done.stdout)
    assert printed[-1].startswith(last), "of the block before"


def test_each_command_of_the_page_is_there():
    from tracelet.cli import COMMANDS

    shell = "".join(blocks(""))
    commands = set(re.findall(r"^tracelet (\w+)", shell, re.MULTILINE))
    assert commands
    assert commands <= set(COMMANDS)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", shell, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_each_extra_that_is_named_can_be_installed():
    text = (ROOT / "README.md").read_text("utf-8")
    extras = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    named = set(re.findall(r'"tracelet\[(\w+)\]"', text)) | set(
        re.findall(r"\[(\w+)\](?!\()", text)
    )
    assert named
    for extra in named:
        assert re.search(rf"^{extra} = ", extras, re.MULTILINE), extra
    assert not re.search(r"install tracelet\[", text), (
        "zsh takes brackets without quotes for a pattern"
    )
