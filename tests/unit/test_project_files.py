"""What is written down twice agrees."""

from __future__ import annotations

import importlib.util
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


def test_a_rival_that_is_not_there_is_a_line_of_the_report(tmp_path, monkeypatch):
    pytest.importorskip("psutil")
    from benchmarks import environments, harness

    monkeypatch.setattr(environments, "_FOLDER", tmp_path / "environments")
    settings = harness.Settings(quick=True, seed=0, temp_root=tmp_path)
    failed = tmp_path / "environments" / "bench-failed"
    failed.mkdir(parents=True)
    (failed / "failed.txt").write_text("can't be installed here: no such wheel")
    made = {
        "ours": harness.Worker(settings, "benchmarks.contender:Contender"),
        "absent": harness.Worker(settings, "benchmarks.rivals.trackers:Aim", "absent"),
        "failed": harness.Worker(settings, "benchmarks.rivals.trackers:Aim", "failed"),
    }
    with harness.workers(made, required="ours") as (ready, missing):
        assert list(ready) == ["ours"]
    assert missing == [
        "absent: not measured, not installed; python -m benchmarks.environments does it",
        "failed: not measured, can't be installed here: no such wheel",
    ]


def test_the_page_of_modules_is_as_the_files_say():
    path = _ROOT / ".ci" / "modules_page.py"
    spec = importlib.util.spec_from_file_location("modules_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.page()
    assert "|  |" not in text, "each file says what it is"
    assert (_ROOT / "docs" / "modules.md").read_text("utf-8") == text, (
        "write it anew: .venv/bin/python .ci/modules_page.py"
    )
