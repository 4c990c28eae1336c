"""What processes of one ClearML offline session do to its files: merged, mended, never cut."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import time
import zipfile
from collections import Counter

import pytest
import tracelet
from tracelet.backends.clearml import session
from tracelet.backends.clearml.reopen import all_events_behind, event_key
from tracelet.backends.clearml.session import SessionUsers, edit_task, mend_lines, merged
from tracelet.runs.process_identity import process_identity

LINE = b'[{"iter": 1}]\n'


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "wanted"),
    [
        ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}),
        ({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        (None, {"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"x": 1, "y": 2}}),
        ({"a": {"x": 1, "y": 1}}, {"a": {"x": 2, "y": 1}}, {"a": {"x": 1, "y": 3}},
         {"a": {"x": 2, "y": 3}}),
        ({"a": 1, "b": 1}, {"b": 1}, {"a": 1, "b": 2}, {"b": 2}),  # I removed it
        ({"a": 1, "b": 1}, {"a": 1, "b": 2}, {"b": 1}, {"b": 2}),  # they did
        ({"a": 1}, {"a": 2}, {}, {"a": 2}),
        (["t"], ["t", "mine"], ["t", "theirs"], ["t", "theirs", "mine"]),
        ([{"key": "a", "v": 1}], [{"key": "a", "v": 2}], [{"key": "a", "v": 1}, {"key": "b"}],
         [{"key": "a", "v": 2}, {"key": "b"}]),
        ([{"id": "a"}, {"id": "b"}], [{"id": "b"}], [{"id": "a"}, {"id": "b"}, {"id": "c"}],
         [{"id": "b"}, {"id": "c"}]),
        ([1, 1], [1, 1, 1], [1, 1], [1, 1, 1]),
    ],
)  # fmt: skip
def test_an_edit_changes_what_it_changed_alone(base, mine, theirs, wanted):
    assert merged(base, mine, theirs) == wanted


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (LINE + b'[{"iter": 2}, {"it' + b"\n" + LINE, LINE + b"[]                \n" + LINE),
        (b'[{"type":"' + LINE, b"          " + LINE),
        (b'[{"a": "' + LINE[:-1], b"        " + LINE),
        (LINE + LINE[:-1], LINE + LINE),
        (LINE + b'[{"iter', LINE + b"[]     \n"),
        (b"[", b"[]\n"),
        (LINE + LINE, LINE + LINE),
        (b"", b""),
    ],
)
def test_torn_lines_become_empty_and_what_stands_behind_them_whole(tmp_path, content, wanted):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    mend_lines(path, is_settled=True)
    assert path.read_bytes() == wanted
    assert all(isinstance(json.loads(line), list) for line in wanted.splitlines())


@pytest.mark.parametrize("seed", range(100))
def test_what_is_looked_for_in_a_damaged_file_is_what_mending_leaves_in_it(tmp_path, seed):
    """A line behind a piece that never reached the disk was passed over by who looked for what is
    there, and made whole by who mends: sync wrote its events a second time."""
    rng = random.Random(seed)
    lines = [json.dumps([{"type": "x", "iter": n}] * rng.randint(1, 9)).encode() for n in range(9)]
    content = bytearray(b"\n".join([*lines, b"[" * 5_000, b""]))
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content))
        size_bytes = min(rng.randint(1, 200), len(content) - start)
        content[start : start + size_bytes] = rng.choice([bytes(size_bytes), b" " * size_bytes])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    found = all_events_behind(str(path), 0, b'[{"type": "')
    mend_lines(path, is_settled=False)
    left = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")]  # fmt: skip
    assert found == Counter(hash(event_key(event)) for events in left for event in events)
    assert found == all_events_behind(str(path), 0, b'[{"type": "')


def test_the_end_of_a_line_that_may_yet_come_is_left_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"[{\n" + LINE + LINE[:5])
    mend_lines(path, is_settled=False)
    assert path.read_bytes() == b"[]\n" + LINE + LINE[:5]


def test_a_stopped_process_that_holds_the_lock_keeps_nobody_waiting_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "_LOCK_S", 0.1)
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    start_s = time.monotonic()
    edit_task(tmp_path, lambda content: content.update(a=1))
    assert 0.1 <= time.monotonic() - start_s < 30
    os.close(fd)
    assert session.read_task(tmp_path) == {"a": 1}


@pytest.fixture
def no_flock(monkeypatch):
    """As on NFS without lockd."""

    def refuse(fd, flags):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_where_a_folder_can_not_be_locked_a_claim_keeps_its_editors_apart(
    tmp_path, monkeypatch, no_flock, caplog
):
    """Each went on without a lock there: the edit of one was lost, and nobody was told."""
    monkeypatch.setattr(session, "_LOCK_S", 60.0)
    with session.locked(tmp_path):
        claim = tmp_path / "tracelet-task.lock.claim"
        assert claim.exists()
        monkeypatch.setattr(session, "_LOCK_S", 0.02)
        with session.locked(tmp_path):  # it lives: nobody takes its claim, and nothing hangs
            assert json.loads(claim.read_text())["pid"] == os.getpid()
        assert claim.exists()
    assert not claim.exists()
    edit_task(tmp_path, lambda content: content.update(a=1))
    assert session.read_task(tmp_path) == {"a": 1}
    assert not claim.exists()
    assert caplog.text == ""


def test_a_claim_of_which_nothing_can_be_told_costs_an_editor_one_wait(
    tmp_path, monkeypatch, no_flock
):
    monkeypatch.setattr(session, "_LOCK_S", 0.02)
    claim = tmp_path / "tracelet-task.lock.claim"
    claim.write_text(json.dumps({**process_identity(), "pid_namespace": "pid:[1]"}))
    with session.locked(tmp_path):
        claimed = json.loads(claim.read_text())
        assert claimed.items() >= json.loads(json.dumps(process_identity())).items()
    assert not claim.exists()
    assert os.listdir(tmp_path) == ["tracelet-task.lock"]


def test_where_neither_a_lock_nor_a_claim_is_to_be_had_it_is_told_once(
    tmp_path, monkeypatch, no_flock, caplog
):
    (tmp_path / "tracelet-task.lock").mkdir()
    for value in (1, 2):
        edit_task(tmp_path, lambda content, value=value: content.update(a=value))
    assert session.read_task(tmp_path) == {"a": 2}
    assert caplog.text.count("an edit may be lost") == 1
    with session.locked(tmp_path / "gone"):  # no matter of locks
        pass
    assert caplog.text.count("an edit may be lost") == 1


def test_a_run_that_was_sent_is_no_user_any_more_whatever_host_it_was_of(tmp_path, monkeypatch):
    users = SessionUsers(tmp_path)
    monkeypatch.setattr(
        session, "process_identity", lambda: {**process_identity(), "host": "another-host"}
    )
    users.add("one")
    users.add("two")
    users.was_sent("one")
    assert users.others_live("one")
    assert not users.others_live("two")
    assert [each["run"] for each in users.all()] == ["one", "two"]


def test_who_ends_last_zips_the_session_anew(tmp_path):
    folder = tmp_path / "offline-1"
    folder.mkdir()
    (folder / "metrics.jsonl").write_bytes(LINE)
    users = SessionUsers(folder)
    users.add("one")
    users.add("two")
    assert users.others_live("one")
    archive = tmp_path / "offline-1.zip"
    users.end("one")  # its SDK zips it, if that is its task
    assert not archive.exists()
    session.zip_session(folder)
    (folder / "metrics.jsonl").write_bytes(LINE + LINE)
    os.utime(archive, (time.time() + 3_600,) * 2)  # the clock was set back since
    users.end("two")
    with zipfile.ZipFile(archive) as held:
        assert held.read("metrics.jsonl") == LINE + LINE
    assert not users.others_live("")


@pytest.mark.parametrize("content", [LINE[:-3] + b"7}]", None])
def test_a_zip_is_made_anew_by_what_is_in_it_and_by_no_clock(tmp_path, content):
    """What was written in the tick of the clock in which the SDK made the zip was not in it."""
    folder = tmp_path / "offline-1"
    folder.mkdir()
    (folder / "metrics.jsonl").write_bytes(LINE)
    session.write_task(folder, {"name": "a"})
    session.zip_session(folder)
    archive = tmp_path / "offline-1.zip"
    made = archive.stat()
    users = SessionUsers(folder)
    users.end("one")
    assert archive.stat().st_ino == made.st_ino  # it has all
    if content is None:
        archive.write_bytes(b"half a zip")
    else:
        (folder / "metrics.jsonl").write_bytes(content)
    for path in (archive, *folder.iterdir()):
        os.utime(path, ns=(made.st_mtime_ns,) * 2)
    users.end("two")
    with zipfile.ZipFile(archive) as held:
        assert held.read("metrics.jsonl") == (content or LINE)
        assert held.read("task.json") == b'{"name": "a"}'


def test_who_ends_last_zips_the_session_whose_first_process_was_killed_and_sent(tmp_path):
    """Sync said of the killed one that it had ended; who could have made the zip was dead, and the
    last one thought that it had been made."""
    folder = tmp_path / "offline-1"
    folder.mkdir()
    (folder / "metrics.jsonl").write_bytes(LINE)
    users = SessionUsers(folder)
    for name in ("first", "two", "three"):
        users.add(name)
    users.was_sent("first")
    users.end("two")
    assert not (tmp_path / "offline-1.zip").exists()
    users.end("three")
    assert (tmp_path / "offline-1.zip").exists()


def test_an_edit_from_memory_keeps_what_another_process_has_set():
    """The SDK writes all of the task as it has it: what a rank had set was gone."""
    clearml = pytest.importorskip("clearml")
    tracelet.start_logging("edits", "tests", "clearml")
    task = clearml.Task.current_task()
    folder = task.get_offline_mode_folder()
    theirs = {"lr": {"section": "theirs", "name": "lr", "value": "0.1"}}
    edit_task(folder, lambda content: content.update(hyperparams={"theirs": theirs}))
    task._edit(comment="mine")
    content = session.read_task(folder)
    assert content["comment"] == "mine"
    assert content["hyperparams"]["theirs"] == theirs
