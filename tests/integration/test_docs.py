"""docs/clearml.md and docs/migration.md: their blocks are run, and what they name is there."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("clearml.md", "migration.md", "sync.md", "processes.md")
BLOCK = re.compile(
    r"(?:<!-- (?P<file>\S+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL
)


def blocks(page, language):
    """(where, file that the passage is of or None, text) of each block."""
    text = (ROOT / "docs" / page).read_text()
    return [
        (f"{page}:{text.count(chr(10), 0, found.start('text'))}", found["file"], found["text"])
        for found in BLOCK.finditer(text)
        if found["language"] == language
    ]


# In one process, which imports torch and clearml once. Each block by itself: in a folder with the
# files that the page names, and with a run unless it starts one.
RUN_BLOCKS = """
import json, os, sys, torch, tracelet
from clearml import Task
for where, code in json.load(open("blocks.json")):
    os.makedirs(where); os.chdir(where)
    torch.save({{"a": torch.zeros(1)}}, "model.pth")
    torch.save({{"b": torch.zeros(1)}}, "checkpoint.pth")
    open("config.yaml", "w").write("depth: 50")
    open("train_stats.json", "w").write("{{}}")
    starts_itself = "start_logging(" in code or "tracelet.logging(" in code
    if not starts_itself:
        tracelet.start_logging("of the docs", "docs", "clearml")
    try:
        exec(compile(code, where, "exec"), {{"__name__": "__main__", "tracelet": tracelet}})
    except BaseException as error:
        raise RuntimeError(where) from error
    left_open = tracelet.get_active_experiment()
    assert starts_itself == (left_open is None), where
    tracelet.stop_logging()
    assert Task.current_task() is None, where
    os.chdir({folder!r})
print("blocks run")
"""


@pytest.mark.slow
def test_each_python_block_runs(run_script, tmp_path):
    pytest.importorskip("clearml")
    pytest.importorskip("torch")
    import json

    (tmp_path / "clearml.conf").write_text("sdk.development.report_use_subprocess: false\n")
    found = [
        (where, text)
        for page in PAGES
        for where, file, text in blocks(page, "python")
        if file is None
    ]
    assert len(found) >= 10
    (tmp_path / "blocks.json").write_text(json.dumps(found))
    done = run_script(
        RUN_BLOCKS.format(folder=str(tmp_path)),
        env={"CLEARML_CONFIG_FILE": str(tmp_path / "clearml.conf")},
    )
    assert "blocks run" in done.stdout
    assert "is not on the server" not in done.stderr


def test_a_block_of_a_file_is_a_passage_of_it():
    passages = [block for page in PAGES for block in blocks(page, "python") if block[1]]
    assert passages
    for where, file, text in passages:
        source = (ROOT / file).read_text()
        assert text in source or textwrap.indent(text, "    ") in source, where


def test_commands_and_variables_of_the_pages_are_known(run_script):
    shell = "".join(text for page in PAGES for _, _, text in blocks(page, "bash"))
    commands = set(re.findall(r"^tracelet (\w+)", shell, re.MULTILINE))
    assert commands
    from tracelet.cli import COMMANDS

    assert commands <= set(COMMANDS)
    for compose in re.findall(r"-f (\S+)", shell):
        assert (ROOT / compose).is_file()
    pages = "".join((ROOT / "docs" / page).read_text() for page in PAGES)
    pytest.importorskip("clearml")
    from importlib.util import find_spec

    sdk = Path(find_spec("clearml").submodule_search_locations[0])
    known = "".join(
        path.read_text()
        for path in (
            sdk / "config" / "defs.py",
            sdk / "backend_api" / "session" / "defs.py",
            ROOT / "python" / "tracelet" / "environment.py",
        )
    )
    for variable in set(re.findall(r"CLEARML_[A-Z_]+[A-Z]", pages)):
        assert variable in known, variable


def test_each_message_that_the_page_on_troubles_quotes_is_one_of_ours():
    package = ROOT / "python" / "tracelet"
    constants = {
        node.value
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = [each for line in re.findall(r"^\*\*(.+)\*\*$", page, re.MULTILINE)
              for each in re.findall(r"`([^`]+)`", line)]  # fmt: skip
    assert len(quoted) > 15
    for message in quoted:
        # What stands between values: the longest is enough to find it, with a value in it or not.
        pieces = re.split(r"\.\.\.|'[^']*'|\d[\d,]*|[()=]|TRACELET_\w+|SummaryWriter\S*", message)
        longest = max((piece.strip() for piece in pieces), key=len)
        assert any(longest in re.sub("%[.0-9]*[a-z]", "", each) for each in constants), longest


def test_each_test_that_a_page_names_exists():
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = set()
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text()
        for file, test in re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", text):
            named.add((file or "test_clearml_examples.py", test))
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in tests[file], f"{file}::{test}"
