"""tracelet doctor, as far as this machine goes: each line that fails says what to do."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections import namedtuple

import pytest
from tracelet import checks, places
from tracelet.cli import main

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def doctor(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")

    def run(*arguments):
        code = main(["doctor", "--runs-dir", str(tmp_path / "runs"), *arguments])
        lines = capsys.readouterr().out.splitlines()
        failing = {
            line[6:].partition(":")[0]: (line, lines[number + 1].strip())
            for number, line in enumerate(lines)
            if line.startswith("FAIL")
        }
        assert code == (1 if failing else 0)
        assert all(fix.startswith("fix: ") for _, fix in failing.values()), lines
        return failing, "\n".join(lines)

    return run


def test_it_names_what_there_is(doctor):
    _, text = doctor()
    assert "ok    native core: makes a ring" in text
    assert "ok    unsent runs: none" in text


def test_a_folder_that_can_not_be_made_and_one_without_room(doctor, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRACELET_RING_DIR", str(tmp_path / "file" / "rings"))
    failing, _ = doctor("--runs-dir", str(tmp_path / "file" / "runs"))
    assert "TRACELET_DIR" in failing["runs' folder"][1]
    assert "TRACELET_RING_DIR" in failing["rings' folder"][1]
    monkeypatch.delenv("TRACELET_RING_DIR")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 5 << 20))
    failing, _ = doctor()
    assert "5 MiB free" in failing["runs' folder"][0]
    assert "free 1.0 GiB" in failing["runs' folder"][1]


@pytest.mark.parametrize(("free_bytes", "place"), [
    (64 << 20, "in {runs}: shared memory is left to others where less than 1.2 GiB of it is free "
     "(/dev/shm: 64 MiB free); docker run --shm-size"),
    (None, "in {runs}: shared memory is left to others"),
    (1 << 30, "in {runs}"),
    (2 << 30, "in shared memory (/dev/shm: 2.0 GiB free)"),
])  # fmt: skip
def test_it_says_where_rings_go(doctor, tmp_path, monkeypatch, free_bytes, place):
    monkeypatch.setattr(places, "free_shared_memory_bytes", lambda: free_bytes)
    monkeypatch.setattr(checks, "free_shared_memory_bytes", lambda: free_bytes)
    _, text = doctor()
    assert "ok    rings: " + place.format(runs=tmp_path / "runs") in text


def test_a_network_file_system_and_what_is_not_installed(doctor, monkeypatch):
    monkeypatch.setattr(places, "file_system_of", lambda folder: "nfs4")

    def version(package):
        if package == "clearml":
            return "1.14.4"
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    failing, text = doctor()
    assert "nfs4" in failing["runs' folder is local"][0]
    assert "clearml>=1.15.0" in failing["clearml"][1]
    assert "torch: not installed" in text


def test_unsent_runs_are_named_with_the_command(doctor, tmp_path):
    run = tmp_path / "runs" / "20260101-000000-abcd"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text('{"ring": "/gone", "state": "running", "pid": 2147483646}')
    failing, _ = doctor()
    assert "1, " in failing["unsent runs"][0]
    assert "tracelet sync --all" in failing["unsent runs"][1]
