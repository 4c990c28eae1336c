"""The lock of a run's folder, where the file system has flock and where it has none."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from tracelet.runs import run_lock
from tracelet.runs.process_identity import process_identity
from tracelet.runs.run_lock import RunLock, take_from_users

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs flock")


@pytest.fixture(params=["flock", "claim"])
def path(request, tmp_path, monkeypatch):
    if request.param == "claim":
        monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    return str(tmp_path / "lock")


def test_one_has_it_and_no_other_until_it_is_released(path):
    first, second = RunLock(path), RunLock(path)
    assert RunLock.is_held(path) is False
    assert first.acquire()
    assert RunLock.is_held(path) is True
    assert not second.acquire(0.02)
    second.release()  # of what it has not got: nothing
    assert RunLock.is_held(path) is True
    first.release()
    assert RunLock.is_held(path) is False
    assert second.acquire()
    first.release()
    assert RunLock.is_held(path) is True
    second.release()
    assert not os.path.exists(f"{path}.claim")


def test_a_lock_that_another_has_by_flock_is_not_claimed(tmp_path):
    path = str(tmp_path / "lock")
    first = RunLock(path)
    assert first.acquire()
    assert not RunLock(path).acquire()
    assert not os.path.exists(f"{path}.claim")
    first.release()


def test_no_descriptor_is_left_by_one_that_is_not_had_or_is_let_go(path):
    first, second = RunLock(path), RunLock(path)
    unlocked = len(os.listdir("/dev/fd"))
    assert first.acquire()
    second.acquire()
    before = os.listdir("/dev/fd")
    for _ in range(5):
        assert not second.acquire()
        assert RunLock.is_held(path)
    assert len(os.listdir("/dev/fd")) == len(before)
    first.release()
    assert len(os.listdir("/dev/fd")) == unlocked


def claim_of_the_dead():
    code = "import json; from tracelet.runs.process_identity import process_identity as p; "
    code += "print(json.dumps(p()))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout


def test_of_two_that_find_the_dead_at_once_one_gets_the_lock(tmp_path, monkeypatch):
    """Without flock: the second one's look at the dead claim comes before the first one takes it,
    its removal after: it removed the first one's claim, and both had the lock."""
    monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    path, claim = str(tmp_path / "lock"), tmp_path / "lock.claim"
    first, second, third = RunLock(path), RunLock(path), RunLock(path)
    claim.write_bytes(claim_of_the_dead())
    for name in ("rename", "unlink"):
        real = getattr(os, name)

        def act(*arguments, real=real):
            monkeypatch.undo()
            monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
            assert first.acquire(30.0)
            real(*arguments)
            third.acquire()  # amid the second one's: it finds no claim by the common name
            assert not third._has_claim

        monkeypatch.setattr(os, name, act)
    assert not second.acquire()
    assert first._has_claim
    assert RunLock.is_held(path)
    assert not second.acquire(0.05)
    assert RunLock.doubt(path) == ""
    first.release()
    assert RunLock.is_held(path) is False
    assert os.listdir(tmp_path) == ["lock"]
    assert second.acquire()
    second.release()


def test_who_lets_go_removes_no_claim_of_another(tmp_path, monkeypatch):
    """As where a person removed its own, as a claim in doubt says; also amid its look at it."""
    monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    path, claim = str(tmp_path / "lock"), tmp_path / "lock.claim"
    first, second = RunLock(path), RunLock(path)
    assert first.acquire()
    claim.unlink()
    assert second.acquire()
    first.release()
    assert RunLock.is_held(path)
    second.release()
    assert first.acquire()
    is_own = first._is_own

    def look(path):
        found = is_own(path)
        if path == str(claim) and found:
            claim.unlink()
            assert second.acquire()
        return found

    first._is_own = look
    first.release()
    del first._is_own
    assert RunLock.is_held(path)
    assert not first.acquire()
    second.release()
    assert RunLock.is_held(path) is False


def test_a_claim_is_taken_from_the_dead_and_from_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    path = str(tmp_path / "lock")
    claim = tmp_path / "lock.claim"
    claim.write_bytes(claim_of_the_dead())
    assert RunLock.is_held(path) is False
    lock = RunLock(path)
    assert lock.acquire(30.0)
    claimed = json.loads(claim.read_text())
    assert claimed.pop("claim")
    assert claimed == json.loads(json.dumps(process_identity()))
    lock.release()
    claim.write_text(json.dumps({**process_identity(), "host": "another"}))
    (tmp_path / "lock").touch()
    assert not lock.acquire(0.02)
    assert RunLock.is_held(path) is True
    assert claim.exists()


def test_a_lock_is_waited_for_as_long_as_is_said_and_no_longer(path):
    """By turns of sleep and time of the test's own."""
    first, second = RunLock(path), RunLock(path)
    assert first.acquire()
    waits, now_s = [], [100.0]

    class Time:
        @staticmethod
        def monotonic():
            return now_s[0]

        @staticmethod
        def sleep(seconds):
            waits.append(seconds)
            now_s[0] += seconds
            if len(waits) == 3:
                first.release()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_lock, "time", Time)
        assert not second.acquire()
        assert waits == []
        assert second.acquire(1.0)
        assert len(waits) == 3
        assert not first.acquire(0.1)
    assert 0.1 <= now_s[0] - 100.0 - sum(waits[:3]) < 0.2
    second.release()


def test_a_fork_that_outlives_its_parent_holds_nothing(path):
    lock = RunLock(path)
    assert lock.acquire()
    lock.renew_in_child()  # as a child would: its descriptor goes, the claim stays the parent's
    assert (lock._fd, lock._has_claim) == (None, False)
    is_claimed = os.path.exists(f"{path}.claim")
    lock.release()
    assert os.path.exists(f"{path}.claim") is is_claimed
    RunLock(path).renew_in_child()


def test_a_forked_child_gives_back_no_lock_of_its_parent(path):
    lock = RunLock(path)
    assert lock.acquire()
    pid = os.fork()
    if pid == 0:
        lock.release()
        os._exit(0)
    os.waitpid(pid, 0)
    assert RunLock.is_held(path) is True
    lock.release()
    assert RunLock.is_held(path) is False


def test_a_lock_of_which_nothing_can_be_told_is_not_called_free(tmp_path):
    (tmp_path / "a-folder").mkdir()
    assert RunLock.is_held(str(tmp_path / "a-folder")) is None
    assert RunLock.is_held(str(tmp_path / "gone")) is False


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"x" * ((1 << 16) + 1)])
def test_a_claim_that_is_being_written_or_is_odd_is_somebodys(tmp_path, monkeypatch, content):
    monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    path = str(tmp_path / "lock")
    (tmp_path / "lock").touch()
    (tmp_path / "lock.claim").write_bytes(content)
    assert RunLock.is_held(path) is True
    assert not RunLock(path).acquire()
    assert (tmp_path / "lock.claim").read_bytes() == content


def test_a_claim_of_which_nothing_can_be_told_is_named_with_what_to_do(tmp_path, monkeypatch):
    """Of another container, or of a process that died as it wrote it: it held the run for ever, and
    nobody was told why."""
    path, claim = str(tmp_path / "lock"), tmp_path / "lock.claim"
    other = {**process_identity(), "pid": 77, "host": "node7", "pid_namespace": "pid:[1]"}
    for content, process in (
        (json.dumps(other), "process 77 on node7"),
        (json.dumps({**process_identity(), "pid_namespace": "pid:[1]"}), f"process {os.getpid()}"),
        ("", "a process that it does not name"),
        ("[]", "a process that it does not name"),
    ):
        claim.write_text(content)
        (tmp_path / "lock").touch()
        assert RunLock.doubt(path) == ""  # with flock a claim that lies there holds nothing
        with monkeypatch.context() as without:
            without.setattr(run_lock, "_flock", lambda fd, shared: None)
            assert RunLock.is_held(path)
            doubt = RunLock.doubt(path)
            assert doubt.startswith(f"{claim} is of {process}")
            assert doubt.endswith("If it has ended, remove this file")


def test_of_a_lock_that_is_free_or_held_by_one_that_is_known_nothing_is_doubtful(path, tmp_path):
    lock = RunLock(path)
    assert RunLock.doubt(path) == ""
    assert lock.acquire()
    assert RunLock.doubt(path) == ""
    lock.release()
    (tmp_path / "a-folder").mkdir()
    assert RunLock.doubt(str(tmp_path / "a-folder")) == ""


def test_a_claim_is_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    lock = RunLock(str(tmp_path / "lock"))
    assert lock.acquire()
    assert (tmp_path / "lock.claim").stat().st_mode & 0o777 == 0o600
    os.unlink(tmp_path / "lock.claim")  # with the run's folder
    lock.release()


def test_a_file_is_taken_when_nobody_holds_it_and_stays_taken(tmp_path):
    import fcntl

    path = tmp_path / "ring"
    path.touch()
    with open(path) as user, open(path) as other:
        for each in (user, other):  # its users hold it together
            fcntl.flock(each, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert take_from_users(str(path)) is None
        fcntl.flock(user, fcntl.LOCK_UN)
        assert take_from_users(str(path)) is None
    before = len(os.listdir("/dev/fd"))
    fd = take_from_users(str(path))
    assert fd >= 0
    with open(path) as user, pytest.raises(BlockingIOError):
        fcntl.flock(user, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert take_from_users(str(path)) is None
    os.close(fd)
    assert len(os.listdir("/dev/fd")) == before


def test_a_file_that_is_not_there_or_not_ours_is_nobodys_and_one_not_opened_is_an_error(
    tmp_path, monkeypatch
):
    path = tmp_path / "ring"
    assert take_from_users(str(path)) == -1
    path.mkdir()
    assert take_from_users(str(path)) == -1
    path.rmdir()
    path.touch()
    asked = []

    def refuse(path, flags):
        asked.append(flags)
        if flags == os.O_RDWR:
            raise OSError(errno_of[0], "refused")
        return os.open(path, flags)

    errno_of = [0]
    monkeypatch.setattr(run_lock, "open_own", refuse)
    for errno_of[0] in (errno.EROFS, errno.EACCES, errno.EPERM):
        os.close(take_from_users(str(path)))  # to be read alone
        assert asked[-2:] == [os.O_RDWR, os.O_RDONLY]
    errno_of[0] = errno.EMFILE
    with pytest.raises(OSError, match="refused"):
        take_from_users(str(path))
    assert asked[-1] == os.O_RDWR


def test_where_there_is_no_flock_who_has_a_file_mapped_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    path = tmp_path / "ring"
    path.touch()
    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(run_lock, "processes_that_map", lambda path: [1])
    assert take_from_users(str(path)) is None
    assert len(os.listdir("/dev/fd")) == before
    monkeypatch.setattr(run_lock, "processes_that_map", lambda path: [])
    os.close(take_from_users(str(path)))
