"""The one place where a run is deleted: by proof alone, all of it or nothing."""

from __future__ import annotations

import os

import pytest
from tracelet.runs import deletion
from tracelet.runs.deletion import (
    REMOVED_PREFIX,
    Delivered,
    NotDeliveredError,
    NothingLogged,
    SinkEnd,
    UsersWish,
    delete_run,
)

ALL_THERE = Delivered(10, [SinkEnd("one", 10), SinkEnd("two", 11)])


@pytest.fixture
def run(tmp_path):
    """A run's folder with a file in a folder of its own, and its ring's file elsewhere."""
    folder = tmp_path / "runs" / "a-run"
    (folder / "payloads").mkdir(parents=True)
    (folder / "payloads" / "1").write_bytes(b"1")
    (folder / "journal-0.bin").write_bytes(b"2")
    (tmp_path / "ring").write_bytes(b"3")
    return folder


def test_what_every_sink_has_speaks_for_a_deletion_and_nothing_else_does():
    assert ALL_THERE.objections() == []
    assert Delivered(0, []).objections() == []
    ends = [SinkEnd("one", 9), SinkEnd("two", 10, failed=1), SinkEnd("three", 10, missing=1_000)]
    assert Delivered(10, ends, ["a doubt"]).objections() == [
        "a doubt", "one lacks 1 records", "two could not take 1 points",
        "1,000 records for three are lost to damage",
    ]  # fmt: skip
    assert SinkEnd("one", 10) == SinkEnd("one", 10, failed=0, missing=0)
    assert NothingLogged(0).objections() == UsersWish().objections() == []
    assert NothingLogged(1_000).objections() == ["1,000 points were logged"]


@pytest.mark.parametrize(
    "reason", [NothingLogged(1), Delivered(10, [SinkEnd("one", 9)]), Delivered(0, [], ["a doubt"])]
)
def test_a_reason_that_does_not_hold_deletes_nothing(run, tmp_path, reason):
    with pytest.raises(NotDeliveredError, match="a-run is kept: "):
        delete_run(str(run), str(tmp_path / "ring"), reason)
    assert (run / "payloads" / "1").exists()
    assert (tmp_path / "ring").exists()


@pytest.mark.parametrize("reason", [ALL_THERE, NothingLogged(0), UsersWish()])
def test_all_of_a_run_goes_and_nothing_beside_it(run, tmp_path, reason):
    (run.parent / "another").mkdir()
    delete_run(str(run) + os.sep, str(tmp_path / "ring"), reason)
    assert os.listdir(tmp_path) == ["runs"]
    assert os.listdir(run.parent) == ["another"]


def test_the_folder_is_no_run_any_more_before_its_ring_and_its_files_go(run, tmp_path, monkeypatch):
    """Killed between any two steps, what is left is never taken for a run that lost its ring."""
    steps = []
    doomed = str(run.parent / f"{REMOVED_PREFIX}a-run")
    unlink = os.unlink

    def unlinked(path):
        steps.append((path, os.path.exists(doomed), os.path.exists(run)))
        unlink(path)

    def removed(path, ignore_errors):
        steps.append((path, ignore_errors, os.path.exists(tmp_path / "ring")))

    with monkeypatch.context() as patched:
        patched.setattr(deletion.os, "unlink", unlinked)
        patched.setattr(deletion.shutil, "rmtree", removed)
        delete_run(str(run), str(tmp_path / "ring"), ALL_THERE)
    assert steps == [(str(tmp_path / "ring"), True, False), (doomed, True, False)]
    # A deletion that was cut short there is gone on with.
    delete_run(str(run), str(tmp_path / "ring"), ALL_THERE)
    assert os.listdir(run.parent) == []


def test_what_is_left_of_one_that_had_the_same_name_is_in_no_way(run, tmp_path):
    """An import that is made again has the id that it had: it could never be removed."""
    left = run.parent / f"{REMOVED_PREFIX}a-run"
    left.mkdir()
    (left / "journal-1.bin").write_text("of the first")
    delete_run(str(run), str(tmp_path / "ring"), ALL_THERE)
    assert os.listdir(run.parent) == []
    assert not os.path.exists(tmp_path / "ring")


def test_a_run_that_can_not_be_moved_away_stays_as_it_was(run, tmp_path, monkeypatch):
    def refused(source, target):
        raise PermissionError(1, "refused")

    monkeypatch.setattr(deletion.os, "rename", refused)
    with pytest.raises(PermissionError):
        delete_run(str(run), str(tmp_path / "ring"), ALL_THERE)
    assert (run / "payloads" / "1").exists()
    assert (tmp_path / "ring").exists()


def test_a_run_without_a_ring_of_its_own_is_deleted_without_one(run, tmp_path):
    delete_run(str(run), None, ALL_THERE)
    assert set(os.listdir(tmp_path)) == {"ring", "runs"}
    assert os.listdir(run.parent) == []
