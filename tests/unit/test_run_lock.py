"""The lock of a run's folder, where the file system has flock and where it has none."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tracelet.runs import run_lock
from tracelet.runs.process_identity import process_identity
from tracelet.runs.run_lock import RunLock

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


def test_no_descriptor_is_left_by_one_that_is_not_had(path):
    first, second = RunLock(path), RunLock(path)
    assert first.acquire()
    second.acquire()
    before = os.listdir("/dev/fd")
    for _ in range(5):
        assert not second.acquire()
        assert RunLock.is_held(path)
    assert len(os.listdir("/dev/fd")) == len(before)
    first.release()


def test_a_claim_is_taken_from_the_dead_and_from_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_flock", lambda fd, shared: None)
    path = str(tmp_path / "lock")
    code = "import json; from tracelet.runs.process_identity import process_identity as p; "
    code += "print(json.dumps(p()))"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    claim = tmp_path / "lock.claim"
    claim.write_bytes(dead)
    assert RunLock.is_held(path) is False
    lock = RunLock(path)
    assert lock.acquire(30.0)
    assert json.loads(claim.read_text()) == json.loads(json.dumps(process_identity()))
    lock.release()
    claim.write_text(json.dumps({**process_identity(), "host": "another"}))
    (tmp_path / "lock").touch()
    assert not lock.acquire(0.02)
    assert RunLock.is_held(path) is True
    assert claim.exists()
