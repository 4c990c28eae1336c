"""What a sync makes of a run's files, each run made by hand: sums that agree, nothing given up."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tracelet
from tracelet import _core
from tracelet.backends.base import Delivery
from tracelet.errors import JournalError, TraceletError
from tracelet.journal.drops import DropNotes
from tracelet.journal.journal import Journal
from tracelet.records import EVENT, HISTOGRAM, PAYLOAD_IN_FILE, RECORD_DTYPE, SCALAR
from tracelet.recovery import rescue
from tracelet.recovery import resend as module
from tracelet.recovery.payload_files import PAYLOADS, in_folder
from tracelet.recovery.resend import RunGoneError, resend
from tracelet.runs.manifest import FORMAT
from tracelet.runs.process_identity import process_identity
from tracelet.runs.progress import Progress
from tracelet.runs.run_folder import ARTIFACTS, RUN_LOCK, ring_name, write_manifest
from tracelet.runs.run_lock import RunLock
from tracelet.runs.stored_run import StoredRun

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs flock")


class Names:
    def text(self, id):
        return ["a", "b"][id - 1]

    def text_count(self):
        return 2


class Mine:
    """A user's sink; one for each name."""

    is_remote = False
    takes_every_point = True

    def __init__(self, name, kinds=(SCALAR,)):
        self.name = name
        self.record_kinds = kinds
        self.values = []
        self.batches = []
        self.answer = lambda batch: Delivery(len(batch))
        self.is_closed = 0
        tracelet.register_sink(name, lambda info: self)

    def write(self, batch):
        delivery = self.answer(batch)
        self.values += batch.records["value"].tolist()
        self.batches.append(len(batch))
        return delivery

    def close(self, process_is_ending):
        assert process_is_ending is False
        self.is_closed += 1


def scalars(first, end):
    records = np.zeros(end - first, RECORD_DTYPE)
    records["kind"], records["tag_id"] = SCALAR, 1
    records["sequence"] = np.arange(first + 1, end + 1)
    records["step"] = records["value"] = np.arange(first, end)
    return records


@pytest.fixture
def left(tmp_path, monkeypatch):
    """Makes a run that has died, with records 0 to 100 in its journal."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(module, "_DYING_TIMEOUT_S", 0.0)

    def make(*sinks, positions=None, ranges=((0, 100),), **manifest):
        folder = tmp_path / "runs" / "a-run"
        folder.mkdir(parents=True)
        (folder / RUN_LOCK).touch()
        content = {
            "format": FORMAT, "run": "a-run", "project": "p", "exp_name": "e",
            **process_identity(), "ring": str(tmp_path / ring_name("a-run")), "state": "unsent",
            "ring_is_drained": True, "end": 100, "options": {},
            "sinks": [{"name": sink.name, "backend": sink.name} for sink in sinks],
        }  # fmt: skip
        content.update(manifest)
        write_manifest(str(folder), {k: v for k, v in content.items() if v is not ...})
        if ranges:
            journal = Journal(str(folder), Names())
            for first, end in ranges:
                journal.append(scalars(first, end))
            journal.close()
        if positions is not ...:
            Progress.create(str(folder), positions or [0] * len(sinks)).close()
        return StoredRun(str(folder))

    return make


def sums(result):
    assert all(sink.total == result.logged for sink in result.sinks), result
    return result


def test_each_sink_gets_what_it_lacks_and_the_run_goes(left):
    one, two = Mine("one"), Mine("two")
    told = []
    run = left(one, two, positions=[0, 40])
    result = sums(resend(run, lambda *progress: told.append(progress)))
    assert one.values == list(range(100))
    assert two.values == list(range(40, 100))
    assert [(s.name, s.before, s.sent, s.left, s.missing) for s in result.sinks] == [
        ("one", 0, 100, 0, 0), ("two", 40, 60, 0, 0),
    ]  # fmt: skip
    assert (result.kept, result.notes, result.logged) == ([], [], 100)
    assert (one.is_closed, two.is_closed) == (1, 1)
    assert told == [("one", 0, 100), ("one", 100, 100), ("two", 0, 60), ("two", 60, 60)]
    assert not os.path.exists(run.path)
    with pytest.raises(RunGoneError, match="is gone: another process has sent it"):
        resend(run)


def test_a_sink_that_fails_keeps_the_run_and_holds_back_no_other(left, monkeypatch):
    bad, good = Mine("bad"), Mine("good")
    tries = []

    def fail(batch):
        tries.append(len(batch))
        raise OSError("away")

    bad.answer = fail
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    run = left(bad, good)
    result = sums(resend(run))
    assert tries == [100] * 5
    assert [pause / 0.001 for pause in pauses] == pytest.approx([2, 4, 8, 16])
    assert good.values == list(range(100))
    assert "bad: away" in result.kept
    assert result.failures == {"bad": "bad: away"}
    assert [(s.sent, s.left) for s in result.sinks] == [(0, 100), (100, 0)]
    assert bad.is_closed == 0
    again = StoredRun(run.path)
    assert again.pending() == 100
    bad.answer = lambda batch: Delivery(len(batch))
    result = sums(resend(again))
    assert good.values == list(range(100))  # none twice
    assert bad.values == list(range(100))
    assert not os.path.exists(run.path)


def test_a_sink_that_fails_for_a_moment_goes_on(left):
    sink = Mine("one")
    fails = [OSError("away")] * 4

    def answer(batch):
        if fails:
            raise fails.pop()
        return Delivery(len(batch))

    sink.answer = answer
    assert resend(left(sink)).kept == []
    assert sink.values == list(range(100))


def test_remote_sinks_get_batches_of_the_size_that_the_run_had(left):
    sink, local = Mine("far"), Mine("near")
    sink.is_remote = True
    resend(left(sink, local, options={"batch_max_points": 30, "odd": 1}))
    assert sink.batches == [30, 30, 30, 10]
    assert local.batches == [100]


def test_what_a_sink_could_not_take_for_its_own_reasons_is_given_another_time(left):
    sink = Mine("one")
    sink.answer = lambda batch: Delivery(len(batch) - 3, failed={"disk": 3})
    run = left(sink)
    result = sums(resend(run))
    assert result.kept == ["one could not take 3 points"]
    assert (result.sinks[0].sent, result.sinks[0].set_aside) == (97, {"disk": 3})
    assert StoredRun(run.path).pending() == 100  # noted up to the first that it lacks
    sink.answer = lambda batch: Delivery(len(batch) - 3, set_aside={"refused": 3})
    result = sums(resend(StoredRun(run.path)))
    assert result.kept == []
    assert not os.path.exists(run.path)


def test_records_that_are_nowhere_are_missing_and_the_run_is_kept(left):
    sink = Mine("one")
    run = left(sink, ranges=((0, 40), (60, 90)), positions=[10])
    result = sums(resend(run))
    assert sink.values == [*range(10, 40), *range(60, 90)]
    (row,) = result.sinks
    assert (row.before, row.sent, row.missing, row.left) == (10, 60, 30, 0)
    assert result.kept == ["30 records for one are lost to damage"]
    again = StoredRun(run.path)
    assert again.manifest["missing"] == {"one": 30}
    result = resend(again)  # and it stays so
    assert result.kept == ["30 records for one are lost to damage"]
    assert result.sinks[0].before == 100


def test_what_a_ring_had_lost_is_missing_for_the_sinks_that_take_its_kind(left):
    """It was among what is not for the sink: the sum was right, and said that nothing is lost."""
    both, points = Mine("both", (SCALAR, HISTOGRAM)), Mine("points")
    run = left(both, points, ranges=())
    lost = scalars(0, 100)
    lost["kind"][:90] = 0
    lost["flags"][:40] = 1 << HISTOGRAM
    lost["flags"][40:60] = 0xFFFF  # of any kind: a damaged record; then calls that were cut off
    journal = Journal(run.path, Names())
    journal.append(lost)
    journal.close()
    for _ in range(2):
        result = sums(resend(StoredRun(run.path)))
        assert result.kept == [
            "60 records for both are lost to damage", "20 records for points are lost to damage",
        ]  # fmt: skip
    assert both.values == points.values == list(range(90, 100))  # none twice
    assert StoredRun(run.path).manifest["missing"] == {"both": 60, "points": 20}


def test_of_what_a_ring_had_lost_a_sink_that_was_behind_it_lacks_nothing(left):
    sink = Mine("one")
    run = left(sink, ranges=(), positions=[30])
    lost = scalars(0, 100)
    lost["kind"][:40], lost["flags"][:40] = 0, 0xFFFF
    journal = Journal(run.path, Names())
    journal.append(lost)
    journal.close()
    (row,) = sums(resend(run)).sinks
    assert (row.before, row.sent, row.missing, row.not_for_it) == (30, 60, 10, 0)


def test_records_that_were_given_up_on_purpose_are_no_damage(left):
    sink = Mine("one")
    run = left(sink, ranges=((0, 40), (60, 90)), positions=[10])
    notes = DropNotes(run.path)
    notes.note(40, 60)
    notes.note(90, 98)
    notes.close()
    result = sums(resend(run))
    (row,) = result.sinks
    assert (row.sent, row.dropped, row.missing) == (60, 28, 2)
    assert result.kept == ["2 records for one are lost to damage"]


def test_where_the_positions_are_damaged_all_that_is_here_is_given_again(left):
    one, two = Mine("one"), Mine("two")
    run = left(one, two, positions=[50], ranges=((20, 100),))
    result = resend(run)
    assert one.values == two.values == list(range(20, 100))
    assert "it has 1 sinks, not 2): all that is here is sent" in result.notes[0]
    assert result.kept == []


def test_without_a_ring_or_positions_nothing_is_known_and_nothing_is_done(left):
    sink = Mine("one")
    run = left(sink, positions=..., ranges=(), ring_is_drained=False)
    with pytest.raises(TraceletError, match="nor is known how far each sink had come"):
        resend(run)
    assert sink.values == []
    assert os.path.exists(run.path)


def test_a_ring_that_is_not_here_is_a_doubt_and_what_is_here_is_sent(left):
    sink = Mine("one")
    run = left(sink, ring_is_drained=False)
    result = resend(run)
    assert sink.values == list(range(100))
    assert result.logged is None
    (why,) = result.kept
    assert "is not here, so the points in it are not" in why
    assert os.path.exists(run.path)


def test_a_run_that_had_not_started_goes_and_one_that_lives_or_is_sent_stays(left):
    run = left(sinks=..., ranges=(), positions=...)
    lock = RunLock(os.path.join(run.path, module._LOCK))
    assert lock.acquire()
    with pytest.raises(TraceletError, match="is being sent by another process"):
        resend(run)
    lock.release()
    own = RunLock(os.path.join(run.path, RUN_LOCK))
    assert own.acquire()
    with pytest.raises(TraceletError, match=rf"its process \(pid {os.getpid()} on .* is alive"):
        resend(run)
    own.release()
    assert RunLock.is_held(os.path.join(run.path, module._LOCK)) is False
    result = resend(run)
    assert (result.sinks, result.kept) == ([], [])
    assert not os.path.exists(run.path)


def test_another_backend_under_the_name_of_a_run_gets_nothing(left):
    sink = Mine("one")
    run = left(sink, sinks=[{"name": "other", "backend": "one"}])
    result = resend(run)
    assert sink.values == []
    assert "has other sinks than when the run began" in result.failures["one"]
    assert [(each.name, each.before, each.left) for each in result.sinks] == [("other", 0, 100)]
    assert os.path.exists(run.path)
    run.update(sinks=[{"name": "x", "backend": "nobody's"}])
    result = resend(StoredRun(run.path))
    assert "--import MODULE" in result.failures["nobody's"]


def test_what_a_server_refused_is_kept_and_the_rest_of_the_run_goes(left, tmp_path):
    sink = Mine("one")
    run = left(sink)
    folder = tmp_path / "runs" / "a-run"
    (folder / "set_aside-one.jsonl").write_text("{}\n")
    (folder / PAYLOADS).mkdir()
    (folder / ARTIFACTS).mkdir()
    assert resend(run).kept == []
    names = set(os.listdir(folder))
    assert "set_aside-one.jsonl" in names
    assert not {PAYLOADS, ARTIFACTS} & names
    assert not [name for name in names if name.startswith("journal-")]
    assert StoredRun(str(folder)).state == "finished"


def test_artifacts_that_were_not_uploaded_are_kept_with_a_note(left, tmp_path):
    run = left(Mine("one"))
    folder = tmp_path / "runs" / "a-run" / ARTIFACTS
    folder.mkdir()
    (folder / "theirs.bin").touch()
    result = resend(run)
    assert result.notes == [f"artifacts that were not uploaded are kept in {folder}"]
    assert (folder / "theirs.bin").exists()
    assert StoredRun(run.path).manifest["state"] == "finished"


def test_options_are_those_that_this_version_knows(left):
    run = left(Mine("one"), options={"exp_name": "x", "odd": 1, "backend": ["a", "b"]})
    assert (run.options.exp_name, run.options.backend) == ("x", ("a", "b"))
    run.manifest["options"] = {}
    assert run.options.backend == ()


# ---- Large events in files.


def test_files_of_large_events_are_looked_for_in_the_run_by_their_names(tmp_path):
    run = tmp_path / "moved"
    (run / PAYLOADS).mkdir(parents=True)
    (run / PAYLOADS / "1.event").touch()
    held = [b"/old/payloads/1.event", b"/old/payloads/2.event", b"/etc/passwd"]
    records = scalars(0, 5)
    records["flags"][[1, 2, 4]] = PAYLOAD_IN_FILE
    records["kind"] = EVENT
    payloads = b"start" + b"".join(held)
    at = 5
    for index, path in zip((1, 2, 4), held):
        records["payload_offset"][index], records["payload_size"][index] = at, len(path)
        at += len(path)
    records["payload_size"][0] = 5
    found, data, gone = in_folder(records, payloads, str(run))
    assert gone == ["2.event", "passwd"]
    assert data.startswith(payloads)
    paths = [
        data[offset : offset + size].decode()
        for offset, size in found[["payload_offset", "payload_size"]][[1, 2, 4]].tolist()
    ]
    names = ("1.event", "2.event", "passwd")
    assert paths == [str(run / PAYLOADS / name) for name in names]
    assert data[: int(found["payload_size"][0])] == b"start"
    assert not found.flags.writeable
    none = scalars(0, 2)
    same, payloads, gone = in_folder(none, b"x", str(run))
    assert (same is none, payloads, gone) == (True, b"x", [])


def test_a_file_of_a_large_event_that_is_gone_is_named_and_keeps_the_run(left):
    sink = Mine("one", (EVENT,))
    run = left(sink, ranges=(), end=1)
    path = b"/elsewhere/payloads/7.event"
    record = scalars(0, 1)
    record["kind"], record["flags"], record["payload_size"] = EVENT, PAYLOAD_IN_FILE, len(path)
    journal = Journal(run.path, Names())
    journal.append(record, path)
    journal.close()
    result = resend(run)
    assert result.notes == [f"files of large events are gone from {PAYLOADS}: 7.event"]
    assert result.kept == ["one could not take 1 points"]


# ---- What is in a ring.


def test_a_ring_is_moved_to_the_journal_and_goes_once_that_is_on_the_disk(left, tmp_path):
    path = tmp_path / ring_name("a-run")
    ring = _core.Ring.create(str(path), 128, 0.0)
    id = ring.id
    del ring
    run = left(Mine("one"), ranges=(), ring_is_drained=..., end=..., ring_id=id)
    assert run.has_ring
    recovered = rescue.recover_journal(run)
    assert (recovered.cut_off, recovered.damages, recovered.dropped) == (0, [], {})
    assert not path.exists()
    again = StoredRun(run.path)
    assert (again.manifest["ring_is_drained"], again.manifest["end"]) == (True, 0)


def test_what_was_found_before_is_told_by_a_run_without_its_ring(left):
    run = left(Mine("one"), damages=["a damage"], dropped={"ring full": 3})
    recovered = rescue.recover_journal(run)
    assert (recovered.damages, recovered.dropped) == (["a damage"], {"ring full": 3})
    assert recovered.journal.end == 100
    recovered.journal.close()


def test_payloads_of_another_start_of_the_machine_are_not_believed():
    records = scalars(0, 4)
    records["payload_size"] = [0, 5, 0, 7]
    records["payload_offset"] = [1, 2, 3, 4]
    records["flags"] = 1
    records["kind"][2:] = 0  # one of them damaged, or not there any more
    found, count = rescue._without_payloads(records)
    skipped = int(module.SKIPPED)
    has = [int(kind) != skipped and size > 0 for kind, size in zip(records["kind"], (0, 5, 0, 7))]
    assert count == sum(has)
    assert found["payload_offset"].tolist() == [0] * 4
    assert found["payload_size"][1] == 0
    assert found["flags"].tolist() == [1, 1 << SCALAR, 0, 0]
    assert int(found["kind"][1]) == skipped
    assert int(found["kind"][0]) == SCALAR
    assert records["payload_offset"].tolist() == [1, 2, 3, 4]


def test_names_that_may_never_have_reached_the_disk_end_those_that_are_taken():
    class Found:
        def __init__(self, *texts):
            self.texts = texts

        def text(self, number):
            return self.texts[number - 1] if number <= len(self.texts) else ""

    class Taken(dict):
        def add(self, number, text):
            self[number] = text

    for texts, count in (
        (("a", "b"), 2), (("a", "", "c"), 1), (("a", "b\0", "c"), 1), (("/w\0.x", "c"), 2),
        (("a\0b\0c", "d"), 0), (("/w/rank-3\0.x\0003", "c"), 2), (("/w\0\0003\0", "c"), 0),
    ):  # fmt: skip
        taken = Taken()
        rescue._add_certain(taken, Found(*texts))
        assert taken == {n + 1: text for n, text in enumerate(texts[:count])}


def test_a_ring_that_gives_nothing_is_an_error_and_no_endless_loop():
    class Ring:
        tail, head, path = 0, 5, "ring"

        def read(self, *_):
            return b"", b"", {}

    with pytest.raises(JournalError, match="no record is read at 0"):
        rescue._move(Ring(), None, None, False)


def test_all_of_a_ring_is_moved_and_what_is_odd_is_counted(tmp_path):
    class Ring:
        tail, head, path = 3, 10, "ring"

        def read(self, position, limit, payload_limit, names):
            end = min(position + 3, self.head)
            return scalars(position, end).tobytes(), b"", {"odd": 1}

    journal = Journal(str(tmp_path))
    assert rescue._move(Ring(), None, journal, False) == {"odd": 3}
    records, _ = journal.read(3, 100, 1 << 20)
    assert records["value"].tolist() == list(range(3, 10))
    journal.close()
