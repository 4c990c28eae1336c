"""A run's own folder: made for its owner, held, left and removed; orphans beside it."""

from __future__ import annotations

import json
import os
import time

import pytest
from tracelet import _core
from tracelet.errors import ConfigurationError
from tracelet.options import Options
from tracelet.recovery import orphans
from tracelet.recovery.orphans import find_orphans
from tracelet.runs import run_folder as module
from tracelet.runs.deletion import REMOVED_PREFIX, NotDeliveredError, NothingLogged
from tracelet.runs.run_folder import MANIFEST, RUN_LOCK, RunFolder, manifest_of, ring_name
from tracelet.runs.run_lock import RunLock, take_from_users
from tracelet.runs.stored_run import StoredRun

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs flock")


def options(tmp_path, **changes):
    return Options(**{
        "backend": ("tensorboard",), "runs_dir": str(tmp_path / "runs"), "project": "p",
        "exp_name": "e", "ring_dir": str(tmp_path), **changes,
    })  # fmt: skip


def made(tmp_path):
    folder = RunFolder(options(tmp_path))
    folder.make()
    return folder


@pytest.fixture
def folder(tmp_path):
    folder = made(tmp_path)
    _core.Ring.create(folder.ring_path, 16, 0.0)
    yield folder
    folder.leave()


def test_a_folder_is_its_owners_alone_and_says_what_it_is(folder, tmp_path):
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "runs").st_mode & 0o777 == 0o700
    manifest = StoredRun(folder.path).manifest
    assert (manifest["run"], manifest["project"], manifest["exp_name"]) == (folder.run_id, "p", "e")
    assert (manifest["pid"], manifest["state"]) == (os.getpid(), "starting")
    assert manifest["ring"] == folder.ring_path == str(tmp_path / ring_name(folder.run_id))
    assert "log_dir" in manifest["options"]
    assert "runs_dir" not in manifest["options"]
    folder.update(state="running", more=1)
    content = json.loads((tmp_path / "runs" / folder.run_id / MANIFEST).read_text())
    assert (content["state"], content["more"], content["project"]) == ("running", 1, "p")


def test_its_lock_is_held_from_its_start_until_it_is_left(folder):
    path = os.path.join(folder.path, RUN_LOCK)
    assert RunLock.is_held(path) is True
    folder.leave()
    assert RunLock.is_held(path) is False
    folder.leave()


def test_its_ring_is_held_with_its_children_and_let_go_of(folder):
    def is_held():
        fd = take_from_users(folder.ring_path)
        if fd is not None:
            os.close(fd)
        return fd is None

    assert not is_held()
    before = len(os.listdir("/dev/fd"))
    folder.hold_ring()
    assert is_held()
    folder.renew_in_child()  # as a child of a fork does with its copy
    assert len(os.listdir("/dev/fd")) == before
    folder.renew_in_child()
    folder.hold_ring()
    folder.leave()
    assert not is_held()


def test_what_was_set_aside_is_seen(folder, tmp_path):
    assert not folder.has_set_aside
    (tmp_path / "runs" / folder.run_id / "set_aside-x.jsonl").touch()
    assert folder.has_set_aside


def test_parts_go_one_by_one_and_artifacts_only_when_there_are_none(folder):
    for path in (folder.payloads_path, folder.artifacts_path):
        os.mkdir(path)
        with open(os.path.join(path, "file"), "w"):
            pass
    folder.remove_payloads()
    folder.remove_payloads()
    folder.remove_artifacts_folder()
    assert not os.path.exists(folder.payloads_path)
    assert os.listdir(folder.artifacts_path) == ["file"]
    os.unlink(os.path.join(folder.artifacts_path, "file"))
    folder.remove_artifacts_folder()
    assert not os.path.exists(folder.artifacts_path)


def test_the_manifest_says_that_the_ring_is_drained_before_it_goes(folder, monkeypatch):
    seen = []

    def unlink(path):
        seen.append(StoredRun(folder.path).manifest.get("ring_is_drained"))
        real(path)

    real = os.unlink
    monkeypatch.setattr(
        module, "remove_ring", lambda path: (seen.append(os.path.exists(path)), unlink(path))
    )
    folder.remove_ring(7)
    assert seen == [True, True]
    assert StoredRun(folder.path).manifest["end"] == 7
    assert not os.path.exists(folder.ring_path)
    monkeypatch.undo()
    folder.remove_ring(7)  # once more


def test_a_run_is_removed_and_let_go_of_or_kept_and_let_go_of(folder):
    with pytest.raises(NotDeliveredError):
        folder.remove(NothingLogged(1))
    assert os.path.exists(folder.path)
    assert RunLock.is_held(os.path.join(folder.path, RUN_LOCK)) is False
    folder.remove(NothingLogged(0))
    assert not os.path.exists(folder.path)
    assert not os.path.exists(folder.ring_path)


@pytest.mark.parametrize("failing", ["ring_bytes_of", "ring_folder", "write_manifest"])
def test_a_start_that_fails_leaves_no_folder(tmp_path, monkeypatch, failing):
    def fail(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, failing, fail)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(OSError, match="Too many"):
        RunFolder(options(tmp_path)).make()
    assert os.listdir(tmp_path / "runs") == []
    assert len(os.listdir("/dev/fd")) == before


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="TRACELET_DIR chooses another place"):
        RunFolder(options(tmp_path, runs_dir=str(tmp_path / "file"))).make()


def test_the_folders_above_reach_the_disk_and_one_that_can_t_is_none_to_fail_for(
    tmp_path, monkeypatch
):
    synced = []
    monkeypatch.setattr(module, "sync_folder", synced.append)
    made(tmp_path).leave()
    assert synced == [str(tmp_path / "runs"), str(tmp_path)]

    def refuse(path):
        raise OSError

    monkeypatch.setattr(module, "sync_folder", refuse)
    made(tmp_path).leave()


def test_a_manifest_has_all_sinks_and_the_first_task():
    class Backend:
        def __init__(self, name, id, *sinks, state=None, url=None):
            self.name, self.id, self.reopen_state, self.url = name, id, state, url
            self.sinks = [type("Sink", (), {"name": each})() for each in sinks]

    one, two = Backend("one", None, "a", "b"), Backend("two", "7", "c", state={"x": 1})
    two.url = "https://user:secret@host/x"
    assert manifest_of([one, two]) == {
        "ids": {"two": "7"},
        "urls": {"two": "https://(redacted)@host/x"},
        "task": "7",
        "sinks": [{"name": "a", "backend": "one"}, {"name": "b", "backend": "one"},
                  {"name": "c", "backend": "two"}],
        "reopen": {"two": {"x": 1}},
    }  # fmt: skip
    assert manifest_of([])["task"] is None


# ---- Orphans.


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of rings and one of runs, with all in them two minutes old when it is looked at."""
    rings, runs = tmp_path / "shm", tmp_path / "runs"
    rings.mkdir()
    runs.mkdir()
    monkeypatch.setattr(orphans, "SHARED_MEMORY", str(rings))
    monkeypatch.setattr(orphans, "temporary_folder", lambda: str(tmp_path / "tmp"))

    class Place:
        def __init__(self):
            self.rings, self.runs, self.tmp = rings, runs, tmp_path / "tmp"

        def ring(self, run_id, folder=rings):
            folder.mkdir(exist_ok=True)
            path = folder / ring_name(run_id)
            ring = _core.Ring.create(str(path), 16, 0.0)
            del ring
            return path

        def folder(self, name, *files):
            made = runs / name
            made.mkdir()
            for each in files:
                (made / each).touch()
            return made

        def found(self, age_s=120):
            for each in (*rings.iterdir(), *runs.iterdir(), *(self.tmp.glob("*"))):
                at_s = time.time() - age_s
                os.utime(each, (at_s, at_s), follow_symlinks=False)
            return sorted(os.path.basename(path) for path in find_orphans(str(runs)))

    return Place()


def test_an_empty_ring_without_a_run_is_an_orphan_wherever_it_lies_once_it_is_old(place):
    place.ring("a")
    place.ring("b", place.tmp)
    assert place.found(30) == []
    assert place.found() == [ring_name("a"), ring_name("b")]
    place.folder("a", MANIFEST)
    assert place.found() == [ring_name("b")]


def test_a_ring_that_is_held_or_holds_something_or_is_not_ours_is_none(place, monkeypatch):
    import fcntl

    held = place.ring("held")
    with open(held) as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        assert place.found() == []
    before = len(os.listdir("/dev/fd"))
    assert place.found() == [ring_name("held")]
    assert len(os.listdir("/dev/fd")) == before
    monkeypatch.setattr(orphans, "processes_that_map", lambda path: [1])
    assert place.found() == []
    monkeypatch.setattr(orphans, "processes_that_map", lambda path: [])
    monkeypatch.setattr(orphans.os, "getuid", lambda: os.geteuid() + 1)
    assert place.found() == []
    monkeypatch.undo()


def test_what_is_no_ring_of_this_version_is_none(place):
    (place.rings / "tracelet-x.ring").write_bytes(bytes(4096))
    (place.rings / "other-x.ring").touch()
    (place.rings / "tracelet-x").touch()
    os.symlink(place.ring("real", place.tmp), place.rings / ring_name("link"))
    assert place.found() == [ring_name("real")]


@pytest.mark.parametrize(
    ("head", "dropped", "id", "was_removed", "may_go"),
    [
        (0, {}, "1", False, True), (0, {"ring full": 0}, "1", False, True),
        (1, {}, "1", False, False), (0, {"ring full": 1}, "1", False, False),
        (1, {"ring full": 1}, "1", True, True), (0, {}, "", False, False), (0, {}, "", True, False),
    ],
)  # fmt: skip
def test_a_ring_may_go_when_nothing_of_it_is_needed(
    place, monkeypatch, head, dropped, id, was_removed, may_go
):
    class StoredRing:
        @staticmethod
        def open(path):
            return type("Ring", (), {"head": head, "dropped": dropped, "id": id})()

    monkeypatch.setattr(orphans._core, "StoredRing", StoredRing)
    if was_removed:
        place.folder(f"{REMOVED_PREFIX}a")
    assert orphans._may_go("ring", str(place.runs), "a") is may_go


def test_folders_in_which_nothing_was_logged_and_those_half_removed_are_orphans(place):
    place.folder("start", RUN_LOCK)
    names = (RUN_LOCK, f"{RUN_LOCK}.claim", f"{RUN_LOCK}.claim.0a", f"{MANIFEST}.new", "sync.lock")
    place.folder("claimed", *names)
    place.folder(f"{REMOVED_PREFIX}run", "journal-0.bin")
    place.folder("empty")
    place.folder("a-run", RUN_LOCK, MANIFEST)
    place.folder("journal", RUN_LOCK, "journal-0.bin")
    (place.runs / "file").touch()
    assert place.found(30) == []
    assert place.found() == [f"{REMOVED_PREFIX}run", "claimed", "start"]
    lock = RunLock(str(place.runs / "start" / RUN_LOCK))
    assert lock.acquire()
    assert place.found() == [f"{REMOVED_PREFIX}run", "claimed"]
    lock.release()
    assert find_orphans(str(place.runs / "gone")) == []
