"""Whether a run's process lives: told for certain, or not told, and never guessed."""

from __future__ import annotations

import mmap
import os
import socket

import pytest
from tracelet.runs import process_identity as identities
from tracelet.runs.process_identity import (
    boot_id,
    is_alive,
    process_identity,
    processes_that_map,
)

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")

WITHOUT_START = {"process_start": None}


@pytest.fixture
def child():
    """A process that waits until it is told to end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    yield pid, writer
    os.close(writer)
    os.waitpid(pid, 0)


def test_this_process_says_of_itself_what_no_other_one_does():
    mine = process_identity()
    assert (mine["pid"], mine["host"]) == (os.getpid(), socket.gethostname())
    with open("/proc/sys/kernel/random/boot_id") as file:
        assert mine["boot"] == boot_id() == file.read().strip()
    assert mine["pid_namespace"] == os.readlink("/proc/self/ns/pid")
    with open("/proc/self/stat") as file:
        ticks = file.read().rpartition(")")[2].split()[19]
    assert mine["process_start"] == f"{boot_id()}/{ticks}"
    assert is_alive(mine) is True


def test_a_process_with_the_pid_and_another_start_is_another_one():
    mine = process_identity()
    assert is_alive({**mine, "process_start": mine["process_start"] + "1"}) is False
    assert is_alive({**mine, "pid": 1}) is False


def test_a_process_that_has_ended_is_dead_though_nobody_has_waited_for_it():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    start = identities.start_of(pid)
    assert start is not None
    it = {**process_identity(), "pid": pid, "process_start": start}
    assert is_alive(it) is True
    os.close(writer)
    os.close(reader)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert is_alive(it) is False
    assert identities.start_of(pid) is None
    os.waitpid(pid, 0)
    assert is_alive(it) is False


@pytest.mark.parametrize("pid", [0, -1, None, "1"])
def test_what_is_no_pid_is_not_told(pid):
    assert is_alive({**process_identity(), "pid": pid}) is None
    assert is_alive({**process_identity(), **WITHOUT_START, "pid": pid}) is None


def test_without_its_start_the_pid_has_to_do(child, monkeypatch):
    pid, _ = child
    it = {"host": socket.gethostname(), "pid": pid}
    assert is_alive(it) is True
    assert is_alive({**it, "pid": 1}) is True
    assert is_alive({**it, "pid": 1 << 22}) is False  # above the greatest that Linux gives
    assert is_alive({**it, "pid": 1 << 70}) is False  # damaged

    def of_another_user(pid, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", of_another_user)
    assert is_alive(it) is True


def test_a_process_of_another_pid_namespace_is_told_dead_by_another_boot_alone():
    there = {**process_identity(), "pid_namespace": "pid:[1]"}
    assert is_alive(there) is None
    of_before = f"another/{there['process_start']}"
    assert is_alive({**there, "boot": "another", "process_start": of_before}) is False
    assert is_alive({**there, "host": "another", "boot": "another"}) is None
    assert is_alive({**process_identity(), "pid_namespace": None}) is True  # of an older version


def test_where_no_descriptor_is_left_nothing_is_told(monkeypatch):
    mine = process_identity()
    there = {**mine, "pid_namespace": "pid:[1]"}

    def none_left(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("builtins.open", none_left)
    assert is_alive(mine) is None
    assert is_alive(there) is None


def test_without_proc_there_is_no_start_and_no_boot(monkeypatch):
    for error in (FileNotFoundError, NotADirectoryError, PermissionError):

        def refuse(*_, error=error, **__):
            raise error

        with monkeypatch.context() as patched:
            patched.setattr("builtins.open", refuse)
            patched.setattr(os, "readlink", refuse)
            mine = process_identity()
        told = (mine["process_start"], mine["boot"], mine["pid_namespace"])
        assert told == (None, None, None)
        assert is_alive(mine) is True


def test_who_has_a_file_mapped_is_named_and_this_process_is_not(tmp_path, child):
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    (tmp_path / "file2").write_bytes(bytes(4096))
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ)
    assert processes_that_map(str(path)) == []
    reader, writer = os.pipe()
    pid = os.fork()  # has the mapping, too
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        assert processes_that_map(str(path)) == [pid]
        assert processes_that_map(str(tmp_path / "file2")) == []
        assert processes_that_map(str(path)[:-1]) == []
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(pid, 0)
        mapped.close()
