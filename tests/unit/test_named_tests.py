"""What the documentation says of a test is true at least in this: the test is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(test_\w+(?:\.py)?)(\.\.\.|…)?[^`]*`")
CPP_NAMED = re.compile(r"`(\w+_test\.cpp)`")


def names_there() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found.add(path.name)
        found.update(re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE))
    return found


PAGES = ["CHANGELOG.md", *(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_test_that_is_named_exists(page):
    text = (ROOT / page).read_text()
    there = names_there()
    missing = [
        name + (dots or "")
        for name, dots in NAMED.findall(text)
        if not (any(each.startswith(name) for each in there) if dots else name in there)
    ]
    missing += [
        name for name in CPP_NAMED.findall(text) if not (ROOT / "cpp/tests" / name).exists()
    ]
    assert not missing


def test_each_line_of_the_guarantees_names_its_test():
    text = (ROOT / "docs/guarantees.md").read_text()
    table = text[text.index("| failure |") : text.index("## What is not kept")]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert len(rows) > 15
    assert [row for row in rows if not NAMED.search(row.rsplit("|", 2)[1])] == []


def test_no_two_files_of_tests_have_one_name():
    """Else pytest, which imports them by it, collects neither, and all tests fail."""
    paths = (ROOT / "tests").rglob("test_*.py")
    names = [each.name for each in paths if not (each.parent / "__init__.py").exists()]
    assert sorted({name for name in names if names.count(name) > 1}) == []
