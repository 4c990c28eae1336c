"""What `tracelet sync` finds is hostile until it was looked at, and nothing goes without proof."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from dead_runs import POINTS, make_dead_runs
from readers import steps_in
from test_sync_damage import (
    LOCK_OFFSETS,
    PAYLOAD_BYTES_OFFSET,
    TAIL_OFFSET,
    field,
    poke,
    sync_to_journal,
)
from tracelet import _core
from tracelet.cli import main
from tracelet.errors import TraceletError
from tracelet.recovery import resend
from tracelet.runs import deletion, notices
from tracelet.runs.manifest import decoded, encoded
from tracelet.runs.stored_run import StoredRun, find_runs

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACELET_RING_DIR", str(tmp_path / "shm"))
    monkeypatch.setattr(resend, "_FIRST_PAUSE_S", 0.001)


def edit(run, /, **changes):
    path = Path(run.path) / "manifest.json"
    path.write_bytes(encoded({**json.loads(path.read_text()), **changes}))


def replace(path, make):
    """Another thing under the name of a file."""
    path = Path(path)
    path.unlink()
    make(path)


# Each is given the run and an outsider: a file of the user's that nothing may touch.
DAMAGES = {
    "manifest-empty": lambda run, _: Path(run.path, "manifest.json").write_text(""),
    "manifest-torn": lambda run, _: Path(run.path, "manifest.json").write_text('{"run": "x", "ri'),
    "manifest-a-list": lambda run, _: Path(run.path, "manifest.json").write_text("[1, 2]"),
    "manifest-a-flipped-bit": lambda run, _: flip_bit_of_manifest(run),
    "manifest-without-checksum": lambda run, _: Path(run.path, "manifest.json").write_text(
        json.dumps(run.manifest)
    ),
    "manifest-gone": lambda run, _: (
        Path(run.path, "manifest.json").unlink(), Path(run.path, "journal-0.bin").touch()
    ),
    "manifest-a-pipe": lambda run, _: replace(f"{run.path}/manifest.json", os.mkfifo),
    "manifest-a-link": lambda run, outside: replace(
        f"{run.path}/manifest.json", lambda path: path.symlink_to(outside)
    ),
    "newer": lambda run, _: edit(run, format=99, tracelet="9.9"),
    "sinks-odd": lambda run, _: edit(run, sinks=[{"name": 3}]),
    "options-odd": lambda run, _: edit(run, options=["batch_max_points"]),
    "run-odd": lambda run, _: edit(run, run="../../x"),
    "backend-odd": lambda run, _: edit(run, sinks=[{"name": "x", "backend": "y"}]),
    "ring-gone": lambda run, _: os.unlink(run.ring_path),
    "ring-short": lambda run, _: os.truncate(run.ring_path, 100),
    "ring-no-ring": lambda run, _: Path(run.ring_path).write_bytes(b"x" * 10_000),
    "ring-a-pipe": lambda run, _: replace(run.ring_path, os.mkfifo),
    "ring-a-link": lambda run, outside: replace(
        run.ring_path, lambda path: path.symlink_to(outside)
    ),
    "ring-anothers": lambda run, _: replace(
        run.ring_path, lambda path: _core.Ring.create(str(path), 16, 0.0)
    ),
    "ring-any-file": lambda run, outside: (os.unlink(run.ring_path), edit(run, ring=str(outside))),
    "ledger-a-pipe": lambda run, _: replace(f"{run.path}/event_files.bin", os.mkfifo),
    "ledger-any-file": lambda run, outside: point_ledger_at(run, outside),
    "lock-a-link": lambda run, outside: replace(
        f"{run.path}/run.lock", lambda path: path.symlink_to(outside)
    ),
    "sync-lock-a-pipe": lambda run, _: os.mkfifo(f"{run.path}/sync.lock"),
    "log-folder-a-file": lambda run, _: Path("logs", run.exp_name).write_text("in the way"),
    # A field of one record, or of the ring's header: see test_sync_damage.py.
    "record-of-no-tag": lambda run, _: poke(run.ring_path, field("tag_id"), "<I", 0xFFFFFFFF),
    "record-of-no-writer": lambda run, _: poke(run.ring_path, field("writer_id"), "<I", 0xFFFFFFFF),
    "record-of-no-kind": lambda run, _: poke(run.ring_path, field("kind"), "<H", 32),
    "record-too-large": lambda run, _: poke(run.ring_path, field("payload_size"), "<Q", 2**64 - 1),
    "ring-tail-beyond": lambda run, _: poke(run.ring_path, TAIL_OFFSET, "<Q", POINTS + 1),
    "ring-no-payloads": lambda run, _: poke(run.ring_path, PAYLOAD_BYTES_OFFSET, "<Q", 0),
    "journal-a-flipped-bit": lambda run, _: (sync_to_journal(run), flip_bit_of_journal(run)),
}  # fmt: skip

# Those that cost no point: all is sent, and nothing kept.
HARMLESS = {
    "progress-empty": lambda run, _: Path(run.path, "progress.bin").write_bytes(b""),
    "progress-zeroed": lambda run, _: Path(run.path, "progress.bin").write_bytes(bytes(128)),
    "progress-gone": lambda run, _: Path(run.path, "progress.bin").unlink(),
    "ledger-empty": lambda run, _: Path(run.path, "event_files.bin").write_bytes(b""),
    "ledger-zeroed": lambda run, _: Path(run.path, "event_files.bin").write_bytes(bytes(70_000)),
    "ledger-gone": lambda run, _: Path(run.path, "event_files.bin").unlink(),
    "synced-ledger-empty": lambda run, _: Path(run.path, "event_files_synced.bin").write_bytes(b""),
    "ring-locked": lambda run, _: poke(run.ring_path, LOCK_OFFSETS[0], "<I", os.getpid()),
}  # fmt: skip


def flip_bit_of_journal(run):
    (path,) = Path(run.path).glob("journal-*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_bit_of_manifest(run):
    """In a digit of the sinks' names or so: it is JSON as good as before."""
    path = Path(run.path) / "manifest.json"
    data = bytearray(path.read_bytes())
    data[data.index(b"tensorboard")] ^= 1
    json.loads(data)
    path.write_bytes(data)


def point_ledger_at(run, outside):
    os.unlink(f"{run.path}/event_files.bin")
    ledger = _core.FileLedger.create(f"{run.path}/event_files.bin")
    ledger.acknowledge(ledger.add(1, str(outside), 0), 3, 1)


@pytest.mark.slow
def test_of_runs_with_each_kind_of_damage_the_good_one_is_sent_and_the_others_are_named(
    tmp_path, capsys
):
    runs = make_dead_runs(tmp_path, ["good", *DAMAGES, *HARMLESS])
    outside = tmp_path / "thesis.txt"
    outside.write_text("years of work")
    (tmp_path / "logs").mkdir(exist_ok=True)
    for name, damage in {**DAMAGES, **HARMLESS}.items():
        damage(runs[name], outside)
    before = {name: sorted(os.listdir(run.path)) for name, run in runs.items()}
    assert main(["sync", "--all"]) == 1
    told = capsys.readouterr()
    assert steps_in(tmp_path / "logs" / "good") == list(range(POINTS))
    assert not os.path.exists(runs["good"].path)
    for name in HARMLESS:
        assert steps_in(tmp_path / "logs" / name) == list(range(POINTS)), name
        assert not os.path.exists(runs[name].path), name
    for name in DAMAGES:
        assert runs[name].run_id in told.err, name
        assert os.path.isdir(runs[name].path), name
        if name.startswith("ring-tail"):
            continue  # its points are in the journal now
        assert set(before[name]) <= {*os.listdir(runs[name].path), "sync.lock"}, name
    assert outside.read_text() == "years of work"
    assert "9.9" in told.err  # the version that is needed
    # Neither a second time, nor by clean.
    assert main(["sync", "--all"]) == 1
    assert main(["runs"]) == 1
    assert main(["clean", "--yes"]) in (0, 1)
    assert main(["clean", runs["newer"].run_id, "--yes"]) == 1
    for name in DAMAGES:
        assert os.path.isdir(runs[name].path), name
    assert outside.read_text() == "years of work"


@pytest.mark.slow
def test_a_log_folder_that_can_t_be_written_keeps_the_run_until_it_can(tmp_path, capsys):
    """It said "0 to tensorboard", and deleted the run with exit code 0."""
    (run,) = make_dead_runs(tmp_path, ["locked"]).values()
    (tmp_path / "logs").mkdir(exist_ok=True)
    (tmp_path / "logs" / "locked").write_text("a file in its place")
    assert main(["sync", run.run_id]) == 1
    told = capsys.readouterr()
    assert f"could not take {POINTS} points" in told.err
    assert f"tensorboard: {POINTS} event file can't be opened" in told.out
    assert os.path.exists(run.path)
    (tmp_path / "logs" / "locked").unlink()
    assert main(["sync", run.run_id]) == 0
    assert steps_in(tmp_path / "logs" / "locked") == list(range(POINTS))
    assert not os.path.exists(run.path)


@pytest.mark.slow
def test_one_locked_folder_of_two_does_not_keep_the_other_waiting_nor_give_it_twice(tmp_path):
    code = f"""
import os, signal, tracelet
experiment = tracelet.start_logging("two", "tests", backend="tensorboard",
    config={{"log_dir": "logs/open", "drain_interval_s": 100.0}})
ring = experiment._run.ring
from tracelet import _core
writer = ring.intern(os.path.abspath("logs/locked"))
for step in range({POINTS}):
    experiment.log_metric("a", step, step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120, check=False)
    (run,) = find_runs(str(tmp_path / "tracelet-runs"))
    ring = _core.Ring.open(run.ring_path)
    locked = next(i for i in range(1, 20) if ring.text(i).endswith("locked"))
    with open(run.ring_path, "r+b") as file:  # every second point is the other writer's
        for slot in range(0, POINTS, 2):
            place = 4096 + 64 * slot + RECORD_WRITER_OFFSET
            file.seek(place)
            file.write(struct.pack("<I", locked))
    (tmp_path / "logs").mkdir(exist_ok=True)
    (tmp_path / "logs" / "locked").write_text("a file in its place")
    odd, even = list(range(1, POINTS, 2)), list(range(0, POINTS, 2))
    assert main(["sync", run.run_id]) == 1
    assert steps_in(tmp_path / "logs" / "open") == odd
    assert main(["sync", run.run_id]) == 1
    (tmp_path / "logs" / "locked").unlink()
    assert main(["sync", run.run_id]) == 0
    assert steps_in(tmp_path / "logs" / "open") == odd
    assert steps_in(tmp_path / "logs" / "locked") == even


from tracelet.records import RECORD_DTYPE  # noqa: E402

RECORD_WRITER_OFFSET = RECORD_DTYPE.fields["writer_id"][1]


@pytest.mark.slow
def test_a_moved_folder_with_its_ring_is_sent(tmp_path):
    (run,) = make_dead_runs(tmp_path, ["moved"]).values()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(run.path, elsewhere)
    shutil.move(run.ring_path, elsewhere / run.run_id)
    assert main(["sync", "--all", "--runs-dir", str(elsewhere)]) == 0
    assert steps_in(tmp_path / "logs" / "moved") == list(range(POINTS))
    assert os.listdir(elsewhere) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "TRACELET_RING_DIR"),
        ({"host": "node7"}, "it ran on node7"),
        ({"boot": "another"}, "started anew"),
    ],
)
def test_a_ring_that_is_not_there_keeps_the_run_and_says_where_it_may_be(
    tmp_path, capsys, changes, words
):
    (run,) = make_dead_runs(tmp_path, ["lost"]).values()
    assert run.manifest["host"] == socket.gethostname()
    edit(run, **changes)
    os.rename(run.ring_path, tmp_path / os.path.basename(run.ring_path))
    assert main(["runs"]) == 0
    assert " ? " in capsys.readouterr().out
    assert main(["sync", run.run_id]) == 1
    assert words in capsys.readouterr().err
    assert os.path.exists(run.path)
    assert main(["sync", "--all", "--dry-run"]) == 1
    # Found again, it is sent.
    os.rename(tmp_path / os.path.basename(run.ring_path), run.ring_path)
    assert main(["sync", run.run_id]) == 0
    assert steps_in(tmp_path / "logs" / "lost") == list(range(POINTS))


@pytest.mark.slow
def test_a_dry_run_changes_nothing(tmp_path, capsys):
    (run,) = make_dead_runs(tmp_path, ["dry"]).values()
    before = {path: path.stat().st_mtime_ns for path in Path(run.path).rglob("*")}
    assert main(["sync", "--all", "--dry-run"]) == 0
    assert f"would send {POINTS} points" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path(run.path).rglob("*")} == before
    assert _core.Ring.open(run.ring_path).tail == 0


@pytest.mark.slow
def test_progress_that_can_t_be_read_costs_no_point_and_gives_none_twice(tmp_path, capsys):
    runs = make_dead_runs(tmp_path, ["empty", "zeroed", "gone", "short"])
    Path(runs["empty"].path, "progress.bin").write_bytes(b"")
    Path(runs["zeroed"].path, "progress.bin").write_bytes(bytes(128))
    Path(runs["gone"].path, "progress.bin").unlink()
    Path(runs["short"].path, "progress.bin").write_bytes(b"TRCLPROG")
    assert main(["sync", "--all"]) == 0, capsys.readouterr().err
    for name, run in runs.items():
        assert steps_in(tmp_path / "logs" / name) == list(range(POINTS)), name
        assert not os.path.exists(run.path)


@pytest.mark.slow
def test_a_file_that_can_t_be_opened_now_is_no_damage(tmp_path, capsys, monkeypatch):
    """For want of a descriptor, how far each sink had come was written anew from 0, and a ring was
    taken for one that is not there: then delivered points counted as lost."""
    (run,) = make_dead_runs(tmp_path, ["unlucky"]).values()
    before = Path(run.path, "progress.bin").read_bytes()

    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(resend.Progress, "open", refuse)
        assert main(["sync", run.run_id]) == 1
    assert "Too many open files" in capsys.readouterr().err
    assert Path(run.path, "progress.bin").read_bytes() == before
    assert main(["sync", run.run_id]) == 0
    assert steps_in(tmp_path / "logs" / "unlucky") == list(range(POINTS))


@pytest.mark.slow
def test_a_ring_that_can_t_be_opened_now_is_not_taken_for_lost(tmp_path, capsys):
    (run,) = make_dead_runs(tmp_path, ["unlucky"]).values()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))  # no descriptor is to be had
    try:
        with pytest.raises(TraceletError, match="can't be opened now"):
            _ = run.has_ring
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert run.has_ring


@pytest.mark.slow
def test_a_run_that_can_t_be_deleted_now_is_left_whole(tmp_path, capsys, monkeypatch):
    """Its ring went, its folder stayed: a run whose points could not be found, kept for ever."""
    (run,) = make_dead_runs(tmp_path, ["stuck"]).values()
    real = os.rename

    def refuse(source, target):
        if deletion.REMOVED_PREFIX in str(target):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(deletion.os, "rename", refuse)
        assert main(["clean", run.run_id, "--yes"]) == 1
        assert "can't be removed" in capsys.readouterr().err
        assert os.path.exists(run.ring_path)
        assert main(["sync", run.run_id]) == 1
    assert os.path.exists(run.path)
    assert main(["sync", run.run_id]) == 0
    assert not os.path.exists(run.path)
    assert steps_in(tmp_path / "logs" / "stuck") == list(range(POINTS))


@pytest.mark.slow
def test_what_the_run_dropped_is_told_by_the_sync_that_ends_it(tmp_path, capsys, monkeypatch):
    """The counters lie in the ring, which goes with the first sync, also when that one fails."""
    (run,) = make_dead_runs(tmp_path, ["dropped"]).values()
    _core.Ring.open(run.ring_path).count_event_without_room()
    with monkeypatch.context() as patch:
        patch.setattr(resend, "Drops", None)  # fails behind the ring
        assert main(["sync", run.run_id]) == 1
    assert not os.path.exists(run.ring_path)
    capsys.readouterr()
    assert main(["sync", run.run_id]) == 0
    assert "dropped by the run: 1 no disk space" in capsys.readouterr().out


@pytest.mark.slow
def test_the_start_says_how_much_unsent_runs_take(tmp_path, caplog, monkeypatch):
    runs = make_dead_runs(tmp_path, ["small", "large"])
    Path(runs["large"].path, "payloads").mkdir(exist_ok=True)
    Path(runs["large"].path, "payloads", "event-1-0.pb").write_bytes(b"x" * 3_000_000)
    for limit_bytes, is_told in ((2_500_000, True), (20_000_000, False)):
        monkeypatch.setattr(notices, "LARGE_BYTES", limit_bytes)
        caplog.clear()
        notices.tell_of_unsent_runs(str(tmp_path / "tracelet-runs"), "other", "own")
        assert ("runs that were not sent take 0.0 GiB" in caplog.text) is is_told
    # Not those that go on, however large.
    monkeypatch.setattr(notices, "LARGE_BYTES", 2_500_000)
    monkeypatch.setattr(StoredRun, "is_alive", True)
    caplog.clear()
    notices.tell_of_unsent_runs(str(tmp_path / "tracelet-runs"), "other", "own")
    assert not caplog.text


@pytest.mark.slow
def test_the_table_s_sums_agree(tmp_path, capsys):
    (run,) = make_dead_runs(tmp_path, ["summed"]).values()
    result = resend.resend(run)
    assert result.logged == POINTS
    assert [sink.total for sink in result.sinks] == [POINTS]
    assert result.delivered == {"tensorboard": POINTS}
    assert result.kept == []


@pytest.mark.slow
def test_nothing_of_the_working_folder_is_imported(tmp_path):
    """./clearml/__init__.py ran in the place of the SDK."""
    (run,) = make_dead_runs(tmp_path, ["lured"]).values()
    edit(run, sinks=[{"name": "clearml", "backend": "clearml"}])
    for package in ("clearml", "torch", "tqdm"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("open('ran', 'w')\nraise ImportError\n")
    command = [sys.executable, "-m", "tracelet", "sync", run.run_id]
    script = [str(Path(sys.executable).parent / "tracelet"), "sync", run.run_id]
    for each in (command, script):
        done = subprocess.run(each, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert run.run_id in done.stderr
    assert not (tmp_path / "ran").exists()


def test_set_aside_points_are_for_their_owner_alone_whatever_the_umask(tmp_path):
    from tracelet.backends.base import Batch
    from tracelet.backends.clearml.set_aside import SetAsideFile

    class Names:
        def text(self, id):
            return "a"

    before = os.umask(0)
    try:
        records = bytes(64)
        import numpy as np

        batch = Batch(records, Names())
        record = np.frombuffer(records, RECORD_DTYPE)[0]
        SetAsideFile(str(tmp_path), "clearml").keep(batch, record, ValueError("no"))
    finally:
        os.umask(before)
    assert (tmp_path / "set_aside-clearml.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("ends", "objection"),
    [
        ([deletion.SinkEnd("a", 10), deletion.SinkEnd("b", 9)], "b lacks 1 records"),
        ([deletion.SinkEnd("a", 10, failed=1)], "a could not take 1 points"),
        ([deletion.SinkEnd("a", 10, missing=2)], "2 records for a are lost to damage"),
    ],
)
def test_a_run_is_deleted_by_proof_only(tmp_path, ends, objection):
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(deletion.NotDeliveredError, match=objection):
        deletion.delete_run(str(folder), None, deletion.Delivered(10, ends))
    with pytest.raises(deletion.NotDeliveredError, match="lost ring"):
        deletion.delete_run(str(folder), None, deletion.Delivered(0, [], ["lost ring"]))
    with pytest.raises(deletion.NotDeliveredError, match="3 points were logged"):
        deletion.delete_run(str(folder), None, deletion.NothingLogged(3))
    assert folder.is_dir()
    deletion.delete_run(str(folder), None, deletion.Delivered(10, [deletion.SinkEnd("a", 10)]))
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_of_the_version_before_is_read(tmp_path):
    (run,) = make_dead_runs(tmp_path, ["older"]).values()
    manifest = {
        name: value
        for name, value in run.manifest.items()
        if name not in ("format", "ring_id", "boot")
    }
    Path(run.path, "manifest.json").write_text(json.dumps(manifest))
    assert StoredRun(run.path).manifest["format"] == 1
    Path(run.path, "manifest.json").write_text(json.dumps({**run.manifest, "format": 2}, indent=2))
    assert StoredRun(run.path).manifest["format"] == 2
    Path(run.path, "manifest.json").write_text(json.dumps(manifest))
    assert main(["sync", run.run_id]) == 0
    assert steps_in(tmp_path / "logs" / "older") == list(range(POINTS))


def test_each_flipped_bit_of_a_manifest_is_found_out(tmp_path):
    good = encoded({"format": 3, "run": "r", "ring": "/x", "sinks": [], "end": 17, "project": "é"})
    assert decoded(good)["end"] == 17
    assert json.loads(good)["project"] == "é"  # other tools may read it
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):  # noqa: PT011
            decoded(bytes(data))
    for end in range(len(good)):
        with pytest.raises(ValueError):  # noqa: PT011
            decoded(good[:end])
