"""Runs and rings find a place: without a home, with one that can't be written, beside NFS."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tracelet
from read_only import read_only
from tracelet import places
from tracelet.errors import ConfigurationError
from tracelet.runs import notices

LOGS_TWICE = """
import logging, os, sys, tracelet
for name in ("first", "second"):
    run = tracelet.start_logging(name, "tests", backend="tensorboard", config={"log_dir": "log"})
    run.log_metric("a", 1.0, 1)
    print(run._run.folder.path)
    tracelet.stop_logging()
"""


def _environment(tmp_path, home):
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path / "tmp")}
    del environment["TRACELET_DIR"]
    (tmp_path / "tmp").mkdir()
    return environment


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX")
@pytest.mark.parametrize("kind", ["missing", "a file", "read-only"])
@pytest.mark.slow
def test_without_a_home_runs_lie_among_the_temporary_files(tmp_path, kind):
    home = tmp_path / "home"
    prefix = []
    if kind == "a file":
        home.write_text("")
    elif kind == "read-only":
        home.mkdir()
        prefix = read_only(home)
    done = subprocess.run(
        [*prefix, sys.executable, "-c", LOGS_TWICE], env=_environment(tmp_path, home),
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    place = tmp_path / "tmp" / f"tracelet-{os.getuid()}"
    for folder in done.stdout.split():
        assert os.path.dirname(folder) == str(place / "runs")
    assert place.stat().st_mode & 0o777 == 0o700
    assert done.stderr.count("can't be written") == 1
    assert str(place) in done.stderr
    assert not (home / ".tracelet").exists()


def test_a_temporary_folder_of_somebody_else_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(places.tempfile, "gettempdir", lambda: str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.symlink(elsewhere, places.temporary_folder())
    with pytest.raises(ConfigurationError, match="not this user's alone; TRACELET_DIR chooses"):
        places.own_temporary_folder()
    os.unlink(places.temporary_folder())
    os.mkdir(places.temporary_folder())
    os.chmod(places.temporary_folder(), 0o777)
    with pytest.raises(ConfigurationError, match="not this user's alone"):
        places.own_temporary_folder()


@pytest.fixture
def nfs(tmp_path, monkeypatch):
    """Only what is below `tmp` is on a local disk, and shared memory is scarce."""
    monkeypatch.setattr(places.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(places, "_warned", set())
    monkeypatch.setattr(places, "free_shared_memory_bytes", lambda: 64 << 20)
    local = str(tmp_path / "tmp")
    monkeypatch.setattr(
        places, "file_system_of", lambda folder: "ext4" if folder.startswith(local) else "nfs4"
    )
    return tmp_path


@pytest.mark.parametrize("option", [{}, {"ring_dir": "rings"}])
def test_the_ring_is_never_on_a_network_file_system(nfs, option, caplog):
    if option:
        option = {"ring_dir": str(nfs / option["ring_dir"])}
    for _ in range(2):
        run = tracelet.start_logging("ring", "tests", backend="tensorboard", config=option)
        assert os.path.dirname(run._run.folder.ring_path) == places.temporary_folder()
        run.log_metric("a", 1.0, 1)
        tracelet.stop_logging()
        assert run.stats.delivered == {"tensorboard": 1}
    assert len([text for text in caplog.messages if "is on nfs4: rings are in" in text]) == 1
    assert os.listdir(places.temporary_folder()) == []


def test_where_all_is_on_the_network_it_is_told(nfs, monkeypatch, caplog):
    monkeypatch.setattr(places, "file_system_of", lambda folder: "fuse.sshfs")
    run = tracelet.start_logging("ring", "tests", backend="tensorboard")
    assert os.path.dirname(run._run.folder.ring_path) == run._run.folder.path
    assert "TRACELET_RING_DIR chooses a local folder" in caplog.text


@pytest.mark.parametrize(
    ("kind", "is_network"),
    [
        ("ext4", False), ("tmpfs", False), ("overlay", False), ("fuseblk", False),
        ("fuse.fuse-overlayfs", False), ("", False), ("nfs4", True), ("panfs", True),
        ("fuse.sshfs", True), ("fuse.mount-s3", True), ("fuse", True),
    ],
)  # fmt: skip
def test_the_ring_and_the_notice_go_by_one_list_of_network_file_systems(
    tmp_path, monkeypatch, caplog, kind, is_network
):
    """The notice of a run's folder knew fewer kinds than the choice of the ring's."""
    monkeypatch.setattr(places, "file_system_of", lambda folder: kind)
    assert bool(places.network_file_system_of(str(tmp_path))) is is_network
    notices.tell_of_network_file_system(str(tmp_path))
    assert ("is on a network file system" in caplog.text) is is_network


@pytest.mark.parametrize(
    ("kind", "options", "is_of_one_machine"),
    [
        ("ext4", "rw,nolock", False), ("nfs4", "rw,local_lock=none", False),
        ("nfs", "rw,nolock,local_lock=none", True), ("nfs4", "rw,local_lock=flock", True),
        ("nfs", "local_lock=all,rw", True), ("nfs", "local_lock=posix", False),
        ("lustre", "rw,flock", False), ("lustre", "rw,localflock", True), ("beegfs", "rw", True),
        ("9p", "rw", True), ("gpfs", "rw", False), ("fuse.sshfs", "rw", True),
        ("fuse.glusterfs", "rw", False), ("fuse.fuse-overlayfs", "rw", False), ("", "", False),
    ],
)  # fmt: skip
def test_where_a_lock_is_of_one_machine_alone(monkeypatch, kind, options, is_of_one_machine):
    monkeypatch.setattr(places, "_mount_of", lambda folder: (kind, options))
    assert places.locks_of_one_machine("/x") == (kind if is_of_one_machine else "")


def test_the_file_system_of_a_folder_is_the_innermost_mount():
    assert places.file_system_of("/proc/self") == "proc"
    if os.path.ismount(places.SHARED_MEMORY):
        assert places.file_system_of(places.SHARED_MEMORY) == "tmpfs"
    assert places.network_file_system_of("/proc/self") == ""
