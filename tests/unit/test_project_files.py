"""What is written down twice agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tracelet

_ROOT = Path(__file__).resolve().parents[2]


def test_the_citation_names_this_version():
    found = re.search(r"^version: (.+)$", (_ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert found
    assert found[1] == tracelet.__version__


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "README.md"])
def test_links_lead_to_files(name):
    text = (_ROOT / name).read_text("utf-8")
    targets = re.findall(r"\]\(([^()\s#]+)[^()\s]*\)", text)
    missing = [each for each in targets if "://" not in each and not (_ROOT / each).exists()]
    assert missing == []


def test_the_instruction_counts_are_compared_with_a_tolerance_on_both_sides():
    pytest.importorskip("psutil")
    from benchmarks.instructions import compare

    assert compare({"call": 103.0}, {"call": 101.0}) == []
    assert compare({"call": 110.0}, {"call": 100.0}) == [
        "call: 110.0 instructions, dearer than 100.0"
    ]
    assert compare({"call": 90.0}, {"call": 100.0}) == [
        "call: 90.0 instructions, cheaper than 100.0"
    ]
    assert compare({}, {"call": 100.0}) == ["call: not measured"]
    assert compare({"call": 100.0}, {}) == ["call: not committed"]
