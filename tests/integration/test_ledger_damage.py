"""Damage to the ledgers of a dead run, to its event file and to ClearML's offline session: what the
journal still holds is sent again, nothing is there twice, and what is gone is counted."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from kept_run import POINTS, KeptRun
from tracelet import _core
from tracelet.cli import main
from tracelet.recovery import resend
from tracelet.runs.manifest import encoded
from tracelet.runs.stored_run import StoredRun

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX system"),
    pytest.mark.slow,
]

ALL = Counter(range(POINTS))
HEADER_BYTES, ENTRY_BYTES = 24, 80
LEDGERS = ("event_files.bin", "clearml_session.bin")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return KeptRun(tmp_path_factory.mktemp("kept"))


@pytest.fixture(autouse=True)
def _here(kept, monkeypatch):
    monkeypatch.setenv("TRACELET_DIR", str(kept.folder / "runs"))
    monkeypatch.setenv("TRACELET_RING_DIR", str(kept.folder / "shm"))
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(kept.folder / "cache"))
    monkeypatch.setattr(resend, "_FIRST_PAUSE_S", 0.001)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def overwrite(path: Path, start: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(data)


def cut(path: Path, by_bytes: int) -> None:
    os.truncate(path, path.stat().st_size - by_bytes)


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def without_entries(path: Path) -> None:
    path.unlink()
    _core.FileLedger.create(str(path))


LEDGER_DAMAGES = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "truncated in its header": lambda path: os.truncate(path, 10),
    "truncated in its entry": lambda path: os.truncate(path, HEADER_BYTES + 30),
    "header zeroed": lambda path: overwrite(path, 0, bytes(HEADER_BYTES)),
    "entries zeroed": lambda path: overwrite(path, HEADER_BYTES, bytes(4096)),
    "no entries": without_entries,
    "longer": lambda path: append(path, b"more" * 5000),
    "more used than there is": lambda path: overwrite(path, 16, b"\xff" * 8),
    "a bit of its version": lambda path: flip(path, 8 * 8),
    "a bit of its path": lambda path: flip(path, 8 * (HEADER_BYTES + ENTRY_BYTES) + 9),
    "a bit of its first state": lambda path: flip(path, 8 * (HEADER_BYTES + 16) + 1),
    "a bit of its second state": lambda path: flip(path, 8 * (HEADER_BYTES + 48) + 1),
    "both states": lambda path: overwrite(path, HEADER_BYTES + 16, b"\x01" * 64),
}


@pytest.mark.parametrize("ledger", LEDGERS)
def test_each_damage_to_a_ledger_costs_no_point_and_gives_none_twice(kept, capsys, ledger):
    """A sync failed for ever: at a header of zeros, and at a ledger without entries."""
    for name, damage in LEDGER_DAMAGES.items():
        run = kept.restore()
        damage(kept.path / ledger)
        code = main(["sync", run.run_id])
        told = capsys.readouterr()
        assert code == 0, f"{name}: {told}"
        for sink, steps in kept.steps().items():
            assert steps == ALL, f"{name}: {sink}: {told}"
        assert not kept.path.exists(), name


# Each is given the event file, or the session's metrics file.
FILE_DAMAGES = {
    "shorter by a byte": lambda path: cut(path, 1),
    "shorter by a third": lambda path: cut(path, path.stat().st_size // 3),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "torn": lambda path: append(path, b'[{"type":"torn'),
    "zeros behind it": lambda path: append(path, bytes(5000)),
}


@pytest.mark.parametrize("which", ["event_file", "metrics"])
def test_a_file_that_is_shorter_than_its_ledger_is_made_whole_from_the_journal(kept, capsys, which):
    """That an event file was shorter was only told; that ClearML's file was, not even noticed."""
    for name, damage in FILE_DAMAGES.items():
        run = kept.restore()
        damage(getattr(kept, which))
        code = main(["sync", run.run_id])
        told = capsys.readouterr()
        assert code == 0, f"{name}: {told}"
        for sink, steps in kept.steps().items():
            assert steps == ALL, f"{name}: {sink}: {told}"
        assert not kept.path.exists(), name


def without_journal(kept: KeptRun, run: StoredRun) -> None:
    """The sink that was away got everything, and the journal is gone with it."""
    for path in kept.path.glob("journal-*"):
        path.unlink()
    os.unlink(run.ring_path)
    run.update(ring_is_drained=True, end=POINTS)
    from tracelet.runs.progress import Progress

    progress = Progress.open(str(kept.path))
    for number in range(progress.count):
        progress[number] = POINTS
    progress.close()


@pytest.mark.parametrize("which", ["event_file", "metrics"])
def test_what_a_shorter_file_has_lost_and_nobody_has_is_counted_and_keeps_the_run(
    kept, capsys, which
):
    for name in ("shorter by a third", "gone"):
        run = kept.restore()
        without_journal(kept, run)
        sink = "tensorboard" if which == "event_file" else "clearml"
        FILE_DAMAGES[name](getattr(kept, which))
        for _ in range(2):  # told again, not counted twice
            code = main(["sync", run.run_id])
            told = capsys.readouterr()
            lost = ALL - kept.steps()[sink]
            assert sum(lost.values()) > 50
            assert max(kept.steps()[sink].values(), default=1) == 1
            assert code == 1, name
            assert f"{sum(lost.values())} records for {sink} are lost" in told.err, told
        assert kept.path.exists()
        assert main(["clean", run.run_id, "--yes"]) == 0


def test_after_another_start_of_the_machine_no_note_is_believed_that_was_not_synced(kept, capsys):
    """The ledger's pages may reach the disk before the data that they tell of."""
    for name, damage in {**FILE_DAMAGES, "as it was": lambda path: None}.items():
        for ledger_damage in (None, "zeroed", "entries zeroed"):
            kept.restore()
            path = kept.path / "manifest.json"
            run = StoredRun(str(kept.path))
            path.write_bytes(encoded({**run.manifest, "boot": "another"}))
            damage(kept.event_file)
            damage(kept.metrics)
            for ledger in LEDGERS:
                if ledger_damage is not None:
                    LEDGER_DAMAGES[ledger_damage](kept.path / ledger)
            code = main(["sync", run.run_id])
            told = capsys.readouterr()
            assert code == 0, f"{name}, {ledger_damage}: {told}"
            for sink, steps in kept.steps().items():
                assert steps == ALL, f"{name}, {ledger_damage}: {sink}: {told}"


@pytest.mark.parametrize("ledger_damage", [None, "gone", "zeroed", "no entries"])
def test_an_interrupted_sync_of_damaged_files_goes_on_and_gives_nothing_twice(
    kept, capsys, monkeypatch, ledger_damage
):
    run = kept.restore()
    cut(kept.event_file, kept.event_file.stat().st_size // 3)
    cut(kept.metrics, kept.metrics.stat().st_size // 3)
    for ledger in LEDGERS:
        if ledger_damage is not None:
            LEDGER_DAMAGES[ledger_damage](kept.path / ledger)
    with monkeypatch.context() as patch:
        patch.setattr(resend._Resending, "_note_lost", lambda *_: 1 / 0)
        assert main(["sync", run.run_id]) == 1
    assert main(["sync", run.run_id]) == 0, capsys.readouterr()
    for sink in ("tensorboard", "clearml"):
        assert kept.steps()[sink] == ALL, sink
