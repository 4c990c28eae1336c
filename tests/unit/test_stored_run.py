"""A run's folder as other processes see it, each rule by a folder that is made for it."""

from __future__ import annotations

import json
import logging
import os
import time

import numpy as np
import pytest
from tracelet import _core
from tracelet.cli import main
from tracelet.journal.journal import Journal
from tracelet.records import RECORD_DTYPE
from tracelet.recovery import resend
from tracelet.runs import notices, run_lock, stored_run
from tracelet.runs.deletion import NothingLogged, UsersWish
from tracelet.runs.manifest import FORMAT
from tracelet.runs.notices import tell_of_network_file_system, tell_of_unsent_runs
from tracelet.runs.process_identity import process_identity
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import (
    ARTIFACTS,
    MANIFEST,
    RUN_LOCK,
    ring_name,
    write_manifest,
)
from tracelet.runs.run_lock import RunLock
from tracelet.runs.stored_run import (
    NewerFormatError,
    StoredRun,
    UnreadableRunError,
    find_runs,
    folder_size_bytes,
    scan_runs,
)  # fmt: skip

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs links and flock")

SINKS = [{"name": "one", "backend": "tensorboard"}, {"name": "two", "backend": "tensorboard"}]


class Made:
    """Makes runs that no process has."""

    def __init__(self, folder):
        self.runs_dir = folder / "runs"
        self.runs_dir.mkdir()
        self.rings = folder / "rings"
        self.rings.mkdir()

    def run(self, name="a-run", ring_in=None, **manifest):
        """With a ring of two points in `ring_in`, or without one."""
        folder = self.runs_dir / name
        folder.mkdir()
        (folder / RUN_LOCK).touch()
        content = {
            "format": FORMAT, "run": name, "project": "p", "exp_name": "e", **process_identity(),
            "ring": str(self.rings / ring_name(name)), "state": "running", "sinks": SINKS,
        }  # fmt: skip
        if ring_in is not None:
            content["ring_id"] = make_ring(ring_in / ring_name(name))
        content.update(manifest)
        write_manifest(str(folder), {k: v for k, v in content.items() if v is not ...})
        return folder


def make_ring(path):
    ring = _core.Ring.create(str(path), 16, 0.0)
    id = ring.id
    del ring
    return id


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_run, "SHARED_MEMORY", str(tmp_path / "shm"))
    (tmp_path / "shm").mkdir()
    return Made(tmp_path)


def read(folder):
    return StoredRun(str(folder))


def test_a_ring_is_found_where_it_was_in_the_run_in_the_named_folder_or_in_shared_memory(
    made, tmp_path, monkeypatch
):
    (tmp_path / "named").mkdir()
    monkeypatch.setenv("TRACELET_RING_DIR", str(tmp_path / "named"))
    for place in (made.rings, made.runs_dir / "in-run", tmp_path / "named", tmp_path / "shm"):
        name = f"run-{place.name}"
        folder = made.run(name)
        place = folder if place.name == "in-run" else place
        make_ring(place / ring_name(name))
        run = read(folder)
        assert run.ring_path == str(place / ring_name(name))
        assert run.has_ring
        assert run.ring_problem() == ""
    gone = read(made.run("gone", ring_id="1"))
    assert not gone.has_ring
    assert gone.ring_path == str(made.rings / ring_name("gone"))


def test_a_ring_is_its_runs_by_its_name_and_its_id(made):
    run = read(made.run("mine", made.rings))
    assert run.has_ring
    other = read(made.run("other", made.rings, ring_id="0123456789abcdef"))
    assert not other.has_ring
    assert "is not here, so the points in it are not" in other.ring_problem()
    assert read(made.run("no-id", made.rings, ring_id=...)).has_ring  # of an older version
    damaged = made.run("damaged", made.rings)
    (made.rings / ring_name("damaged")).write_bytes(bytes(4096))
    assert read(damaged).has_ring  # it has the name, and is not passed over without a word
    os.unlink(made.rings / ring_name("mine"))
    os.symlink(made.rings / ring_name("no-id"), made.rings / ring_name("mine"))
    assert not run.has_ring


def test_a_ring_that_can_not_be_opened_now_is_not_taken_for_one_that_is_lost(made, monkeypatch):
    folder = made.run("a-run", made.rings)
    run = read(folder)

    class NoneLeft:
        @staticmethod
        def id_of(path):
            raise OSError(24, "Too many open files")

    class Gone:
        @staticmethod
        def id_of(path):
            raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(stored_run._core, "StoredRing", NoneLeft)
    with pytest.raises(UnreadableRunError, match="its ring can't be opened now"):
        _ = run.has_ring
    monkeypatch.setattr(stored_run._core, "StoredRing", Gone)
    assert not run.has_ring


def test_why_a_ring_is_missed_is_told_and_where_none_is_needed_nothing_is(made):
    for needs_none in (
        {"ring_is_drained": True}, {"sinks": ...}, {"format": 1, "state": "unsent"},
        {"format": 1, "state": "finished"},
    ):  # fmt: skip
        name = f"none-{len(list(made.runs_dir.iterdir()))}"
        assert read(made.run(name, **needs_none)).ring_problem() == ""
    for needs_one, why in (
        ({"format": 1, "state": "running"}, "looked in"),
        ({"format": 2, "state": "unsent"}, "looked in"),
        ({"host": "another"}, "it ran on another, where"),
        ({"host": ...}, "it ran on None"),
        ({"boot": "another"}, "the machine was started anew since"),
        ({"boot": None}, f"(looked in {made.rings}, "),
        ({}, "TRACELET_RING_DIR names another folder"),
    ):
        name = f"one-{len(list(made.runs_dir.iterdir()))}"
        assert why in read(made.run(name, **needs_one)).ring_problem()
    assert read(made.run("here")).is_of_another_boot is False
    assert read(made.run("old", boot="another")).is_of_another_boot is True
    assert read(made.run("unknown", boot=None)).is_of_another_boot is False


def test_a_run_lives_while_its_lock_or_its_ring_is_held_and_no_longer(made):
    folder = made.run("a-run", made.rings)  # this process' own, by its manifest
    run = read(folder)
    assert not run.is_alive
    assert run.state == "unsent"
    lock = RunLock(str(folder / RUN_LOCK))
    assert lock.acquire()
    assert run.is_alive
    assert run.state == "running"
    lock.release()
    before = len(os.listdir("/dev/fd"))
    assert not run.is_alive
    assert len(os.listdir("/dev/fd")) == before
    import fcntl

    with open(run.ring_path) as child:  # one that was forked and has logged
        fcntl.flock(child, fcntl.LOCK_SH)
        assert run.is_alive
        assert run.take_ring() is None
    fd = run.take_ring()
    assert fd >= 0
    os.close(fd)


def test_a_run_whose_lock_tells_nothing_is_alive_as_its_process_is(made):
    dead = {"process_start": "another/1"}
    for name, manifest, is_alive in (
        ("mine", {}, True), ("dead", dead, False), ("elsewhere", {"host": "another"}, True)
    ):  # fmt: skip
        folder = made.run(name, made.rings, **manifest)
        (folder / RUN_LOCK).unlink()
        (folder / RUN_LOCK).mkdir()
        assert read(folder).is_alive is is_alive
    no_ring = read(made.run("no-ring", ring_is_drained=True))
    assert not no_ring.is_alive


def test_a_run_that_a_claim_of_another_container_holds_is_named_by_each_command(
    made, monkeypatch, capsys
):
    """Where the file system has no flock. It counted as running for ever, without a word."""
    monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    monkeypatch.setattr(resend, "_DYING_TIMEOUT_S", 0.0)
    folder = made.run("a-run", made.rings)
    claim = folder / f"{RUN_LOCK}.claim"
    claim.write_text(json.dumps({**process_identity(), "pid_namespace": "pid:[1]"}))
    commands = (
        ["sync", "--all"], ["sync", "a-run"], ["sync", "a-run", "--dry-run"],
        ["clean", "a-run", "--yes"],
    )  # fmt: skip
    for command in commands:
        assert main([*command, "--runs-dir", str(made.runs_dir)]) == 1, command
        assert f"{claim} is of process" in capsys.readouterr().err, command
    os.rename(claim, folder / "sync.lock.claim")
    assert main(["sync", "a-run", "--runs-dir", str(made.runs_dir)]) == 1
    assert "a-run is being sent by another process: " in capsys.readouterr().err


def test_a_run_of_another_machine_whose_lock_is_not_seen_here_is_not_taken_for_dead(
    made, monkeypatch, capsys
):
    """Lustre with localflock, sshfs: `sync --all` on a login node sent a living run beside it, and
    stopped its task."""
    monkeypatch.setattr(stored_run, "locks_of_one_machine", lambda folder: "lustre")
    monkeypatch.setattr(resend, "_DYING_TIMEOUT_S", 0.0)
    here = process_identity()
    folder = made.run("a-run", made.rings, host="node7", boot="another")
    for command in (["sync", "--all"], ["sync", "a-run"], ["clean", "a-run", "--yes"]):
        assert main([*command, "--runs-dir", str(made.runs_dir)]) == 1, command
        told = capsys.readouterr().err
        assert "it ran on node7, and a lock that is held there is not seen here (lustre)" in told
        assert f"remove {folder / RUN_LOCK} to send it here" in told
    assert read(folder).state == "running"
    made.run("ended", made.rings, host="node7", boot="another", state="unsent")
    made.run("container", made.rings, host="node7", boot=here["boot"])  # the same kernel
    made.run("here", made.rings, boot="another")
    for name in ("ended", "container", "here"):
        assert (read(made.runs_dir / name).doubt, read(made.runs_dir / name).state) == \
            ("", "unsent"), name  # fmt: skip
    os.unlink(folder / RUN_LOCK)
    assert (read(folder).doubt, read(folder).state) == ("", "unsent")
    (folder / RUN_LOCK).touch()
    monkeypatch.setattr(stored_run, "locks_of_one_machine", lambda folder: "")
    assert (read(folder).doubt, read(folder).state) == ("", "unsent")


def test_a_run_whose_life_can_not_be_told_is_unsent_and_deletes_nothing(made, monkeypatch):
    run = read(made.run("a-run", made.rings))

    def refuse(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(stored_run, "take_from_users", refuse)
    with pytest.raises(UnreadableRunError, match=r"a-run: its ring .* can't be opened now"):
        run.take_ring()
    assert run.state == "unsent"


def test_a_dead_run_whose_server_may_lack_something_is_unsent_and_cleaned_with_a_word(made, capsys):
    for n, (reopen, shown) in enumerate((
        ({}, "killed"), ({"x": 3}, "killed"), ({"x": {"may_lack": 1}}, "killed"),
        ({"y": {}, "x": {"may_lack": True}}, "unsent"),
    )):  # fmt: skip
        folder = made.run(f"dead-{n}", ring_is_drained=True, reopen=reopen, end=7)
        Progress.create(str(folder), [7, 7]).close()
        run = read(folder)
        assert (run.pending(), run.shown_state) == (0, shown)
    code = main(["clean", "--runs-dir", os.path.dirname(run.path), run.run_id, "--dry-run"])
    assert code == 0
    assert "what its server may lack is NOT SENT" in capsys.readouterr().out


def test_a_run_is_finished_when_it_says_so_and_nothing_else_is_left(made):
    folder = made.run("a-run", state="finished", ring_is_drained=True)
    assert read(folder).state == "finished"
    assert read(folder).pending() == 0
    (folder / "journal-0.bin").touch()  # killed while it said it
    assert read(folder).state == "unsent"
    assert read(made.run("ring", made.rings, state="finished")).state == "unsent"
    assert read(made.run("not", ring_is_drained=True)).is_finished is False


def append(folder, count):
    records = np.zeros(count, RECORD_DTYPE)
    records["sequence"] = np.arange(1, count + 1)
    journal = Journal(str(folder))
    journal.append(records)
    journal.close()


def test_what_is_pending_is_told_by_ring_journal_or_manifest(made):
    assert read(made.run("starting", sinks=...)).pending() == 0
    ring = made.run("ring", made.rings)
    Progress.create(str(ring), [0, 0]).close()
    assert read(ring).pending() == 0
    journal = made.run("journal", ring_is_drained=True)
    Progress.create(str(journal), [7, 3]).close()
    append(journal, 10)
    assert read(journal).pending() == 7
    noted = made.run("noted", ring_is_drained=True, end=5)
    Progress.create(str(noted), [4, 3]).close()
    assert read(noted).pending() == 2
    ahead = made.run("ahead", ring_is_drained=True, end=2)
    Progress.create(str(ahead), [4, 3]).close()
    assert read(ahead).pending() == 0
    for name, manifest in (("no-progress", {"ring_is_drained": True}), ("no-ring", {})):
        folder = made.run(name, **manifest)
        assert read(folder).pending() is None


def test_a_folder_is_no_run_when_what_is_used_of_its_manifest_has_another_type(made):
    for n, odd in enumerate((
        {"run": 3}, {"run": "../x"}, {"run": "x" * 201}, {"run": ""}, {"ring": 5}, {"ring": ...},
        {"run": ...}, {"options": []}, {"reopen": 1}, {"missing": "x"}, {"lost": []},
        {"dropped": 1}, {"sinks": [{"name": 1, "backend": "b"}]},
        {"sinks": [{"name": "n", "backend": None}]}, {"sinks": [{"name": "n"}]}, {"sinks": 3},
    )):  # fmt: skip
        folder = made.run(f"odd-{n}", **odd)
        with pytest.raises(UnreadableRunError, match="can't be read as a run"):
            read(folder)
    assert read(made.run("x" * 200)).run_id == "x" * 200
    runs, unreadable = scan_runs(str(made.runs_dir))
    assert [run.run_id for run in runs] == ["x" * 200]
    assert {each.run_id for each in unreadable} == {f"odd-{n}" for n in range(16)}


def test_a_copy_beside_its_run_is_named_and_not_sent(made, capsys):
    """A backup in the same folder: what was in its journal was sent a second time."""
    copy = made.run("a-run.bak", made.rings, run="a-run")
    with pytest.raises(UnreadableRunError, match="it is a copy of the run a-run"):
        read(copy)
    for command in (["sync", "--all"], ["clean", "--yes"], ["runs"]):
        code = main([*command, "--runs-dir", str(made.runs_dir)])
        assert code == (0 if command[0] == "clean" else 1), command
        assert "a copy of the run a-run" in capsys.readouterr().err, command
    assert sorted(os.listdir(copy)) == ["manifest.json", "run.lock"]
    os.rename(copy, made.runs_dir / "a-run")
    assert read(made.runs_dir / "a-run").run_id == "a-run"


def test_a_run_of_a_later_format_is_named_with_the_version_that_reads_it(made):
    folder = made.run("later", format=FORMAT + 1, tracelet="9.9")
    with pytest.raises(NewerFormatError, match=r"later was written by tracelet 9.9 \(format "):
        read(folder)
    (unreadable,) = scan_runs(str(made.runs_dir))[1]
    assert "sync it with that version" in unreadable.problem
    assert unreadable.path == str(folder)


def test_the_newest_runs_are_found_oldest_first_and_folders_that_are_none_are_not(made):
    for name in ("20260102-b", "20260101-a", "20260103-c"):
        made.run(name)
    (made.runs_dir / "empty").mkdir()
    (made.runs_dir / "a-file").touch()
    (made.runs_dir / ".removed-x").mkdir()
    (made.runs_dir / ".removed-x" / MANIFEST).touch()
    names = [run.run_id for run in find_runs(str(made.runs_dir))]
    assert names == ["20260101-a", "20260102-b", "20260103-c"]
    assert scan_runs(str(made.runs_dir))[1] == []
    for name in ("journal-0.bin", "names.bin", "payloads", "progress.bin", "set_aside-1"):
        folder = made.runs_dir / f"with-{name}"
        folder.mkdir()
        (folder / name).touch()
    assert len(scan_runs(str(made.runs_dir))[1]) == 5
    assert scan_runs(str(made.runs_dir / "gone")) == ([], [])
    (made.runs_dir / "empty").rename(made.runs_dir / "0")
    for name in ("z1", "z2"):
        made.run(name)
    assert [run.run_id for run in find_runs(str(made.runs_dir), most=1)] == ["z2"]
    assert [run.run_id for run in find_runs(str(made.runs_dir), most=2)] == ["z1", "z2"]


def test_a_folder_that_can_not_be_looked_into_counts_as_a_run(made, monkeypatch):
    (made.runs_dir / "closed").mkdir()
    real = os.listdir

    def listdir(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(stored_run.os, "listdir", listdir)
    assert [each.run_id for each in scan_runs(str(made.runs_dir))[1]] == ["closed"]


def test_what_is_kept_of_artifacts_may_be_the_users_own(made):
    folder = made.run()
    (folder / ARTIFACTS).mkdir()
    os.symlink("/etc/passwd", folder / ARTIFACTS / "link")
    assert read(folder).run_id == "a-run"
    os.symlink("/etc/passwd", folder / "link")
    with pytest.raises(UnreadableRunError, match="a link"):
        read(folder)


def test_a_manifest_is_changed_whole_and_a_run_is_removed_with_its_own_ring_alone(made):
    run = read(made.run("a-run", made.rings))
    run.update(state="unsent", end=3)
    again = read(run.path)
    assert (again.manifest["state"], again.manifest["end"]) == ("unsent", 3)
    assert (again.project, again.exp_name) == ("p", "e")
    other = read(made.run("other", made.rings, ring_id="0123456789abcdef"))
    other.remove(UsersWish())
    assert set(os.listdir(made.rings)) == {ring_name("a-run"), ring_name("other")}
    run.remove(NothingLogged(0))
    assert os.listdir(made.rings) == [ring_name("other")]
    assert os.listdir(made.runs_dir) == []


def test_sizes_and_ages_are_of_the_files_that_are_there(made, tmp_path):
    folder = made.run("a-run", made.rings)
    (folder / "payloads").mkdir()
    (folder / "payloads" / "1").write_bytes(bytes(100_000))
    run = read(folder)
    inside = sum(os.lstat(path).st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    assert folder_size_bytes(str(folder)) == inside >= 100_000
    ring = os.stat(run.ring_path).st_blocks * 512
    assert run.size_bytes() == inside + ring > inside
    os.utime(folder / MANIFEST, (0, time.time() - 500))
    assert 500 <= run.age_s() < 560
    os.utime(folder / MANIFEST, (0, time.time() + 500))
    assert run.age_s() == 0.0
    within = made.run("within")
    make_ring(within / ring_name("within"))
    assert read(within).size_bytes() == folder_size_bytes(str(within))
    assert read(within).users_of_ring() == []
    assert stored_run._allocated_bytes(str(tmp_path / "gone")) == 0
    os.unlink(run.ring_path)
    assert run.users_of_ring() == []


def told(caplog, made, project="p", own="own"):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tracelet"):
        tell_of_unsent_runs(str(made.runs_dir), project, own)
    return [record.getMessage() for record in caplog.records]


def test_unsent_runs_of_the_project_are_told_of_in_one_line(made, caplog):
    assert told(caplog, made) == []
    made.run("finished", state="finished", ring_is_drained=True)
    made.run("own")
    made.run("theirs", project="q")
    assert told(caplog, made) == []
    made.run("left")
    (line,) = told(caplog, made)
    assert line == (
        "tracelet: 1 earlier run of 'p' may have points that were not sent. This sends them: "
        "tracelet sync left"
    )
    made.run("more")
    (line,) = told(caplog, made)
    assert line.startswith("tracelet: 2 earlier runs of 'p' may have")
    assert line.endswith("tracelet sync --all")


def test_runs_that_can_not_be_looked_at_are_none_to_fail_a_start_for(made, caplog, monkeypatch):
    def refuse(path, most):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(notices, "find_runs", refuse)
    assert told(caplog, made) == []


def test_what_unsent_runs_take_is_told_when_it_is_much(made, caplog, monkeypatch):
    for name, state in (("left", "running"), ("finished", "finished"), ("own", "running")):
        folder = made.run(name, state=state, ring_is_drained=True, project="q")
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"1" * 400_000)
    left = folder_size_bytes(str(made.runs_dir / "left"))
    monkeypatch.setattr(notices, "LARGE_BYTES", left)
    assert told(caplog, made) == []
    monkeypatch.setattr(notices, "LARGE_BYTES", left - 1)
    (line,) = told(caplog, made)
    assert "runs that were not sent take 0.0 GiB" in line
    both = [run for run in find_runs(str(made.runs_dir)) if run.run_id != "own"]
    sizes = notices._sizes_bytes(both)
    assert sizes == [folder_size_bytes(run.path) for run in both]
    monkeypatch.setattr(notices, "_MOST_ENTRIES", 1)
    assert notices._sizes_bytes(both)[1] == 0
    monkeypatch.setattr(notices, "LARGE_BYTES", 3 * left)
    assert told(caplog, made) == []


def test_a_network_file_system_is_named(caplog, monkeypatch):
    monkeypatch.setattr(notices, "network_file_system_of", lambda folder: "")
    tell_of_network_file_system("/x")
    assert caplog.text == ""
    monkeypatch.setattr(notices, "network_file_system_of", lambda folder: "nfs4")
    tell_of_network_file_system("/x")
    assert "/x is on a network file system (nfs4)" in caplog.text
