"""Events on their way into the ring, without torch: what becomes of each, what sinks are given."""

from __future__ import annotations

import itertools
import logging
import os
import time
import types

import numpy as np
import pytest
import tracelet
from readers import event_files, quick_events
from recording_sink import ALL_KINDS, RecordingSink
from tracelet.backends.tensorboard import paths
from tracelet.backends.tensorboard.paths import check_folder, event_file_name
from tracelet.capture import event_writer
from tracelet.capture.event_writer import key_of, set_event_capture
from tracelet.capture.events import EventCapture
from tracelet.capture.file_writer import patch_file_writer
from tracelet.capture.patch import Patch, then
from tracelet.pipeline import lifecycle
from tracelet.writer_key import split_writer_key, writer_key

event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
from tensorboard.compat.proto.histogram_pb2 import HistogramProto  # noqa: E402
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # noqa: E402

Value = Summary.Value


def event(*values, step=3, **fields):
    return event_pb2.Event(wall_time=5.0, step=step, summary=Summary(value=values), **fields)


def start(sink, backend="recording", **config):
    sink.register()
    return tracelet.start_logging("events", "tests", backend=backend, config=config)


def capture_of(run, largest_bytes=1000):
    return EventCapture(run._run.folder.payloads_path, largest_bytes, check_folder)


def text(content, tag="t"):
    """An event that is more than one scalar or histogram."""
    return event(Value(tag=tag, image=Summary.Image(encoded_image_string=content)))


PLAIN = SummaryMetadata(display_name="shown")
CASES = {
    "a scalar": (event(Value(tag="a", simple_value=0.1)), tracelet.SCALAR),
    "a scalar that is nan": (event(Value(tag="a", simple_value=float("nan"))), tracelet.SCALAR),
    "a scalar without a tag": (event(Value(simple_value=1)), tracelet.SCALAR),
    "a scalar with metadata": (
        event(Value(tag="a", simple_value=1, metadata=PLAIN)), tracelet.EVENT,
    ),
    "a scalar with a node": (event(Value(tag="a", simple_value=1, node_name="n")), tracelet.EVENT),
    "two scalars": (event(Value(tag="a", simple_value=1), Value(tag="b")), tracelet.EVENT),
    "a value of no kind": (event(Value(tag="a")), tracelet.EVENT),
    "no value": (event(), tracelet.EVENT),
    "no summary": (event_pb2.Event(wall_time=5.0, graph_def=b"g"), tracelet.EVENT),
    "nothing at all": (event_pb2.Event(), tracelet.EVENT),
    "a histogram": (
        event(Value(tag="a", histo=HistogramProto(num=3, bucket_limit=[1, 2], bucket=[1, 2]))),
        tracelet.HISTOGRAM,
    ),
    "a histogram without buckets": (event(Value(histo=HistogramProto())), tracelet.HISTOGRAM),
    "a histogram of uneven lists": (
        event(Value(histo=HistogramProto(bucket_limit=[1, 2], bucket=[1]))), tracelet.EVENT,
    ),
    "a histogram beyond the arena": (
        event(Value(histo=HistogramProto(bucket_limit=range(200), bucket=[1] * 200))),
        tracelet.EVENT,
    ),
    "the largest that the ring takes": (text(b"x" * 960), tracelet.EVENT),
    "one in a file": (text(b"x" * 5000), tracelet.EVENT),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_an_event_becomes(name, tmp_path):
    """And its bytes in the event file are those it had."""
    given, kind = CASES[name]
    sink = RecordingSink()
    run = start(sink, ["recording", "tensorboard"])
    assert capture_of(run).push(writer_key(str(tmp_path / "log"), ".x"), given)
    tracelet.stop_logging()
    ((found, folder, tag, step, content),) = sink.points
    assert (found, folder, step) == (kind, str(tmp_path / "log"), given.step)
    assert tag == (given.summary.value[0].tag if given.summary.value else "")
    if kind == tracelet.EVENT:
        assert content == given.SerializeToString()
    (path,) = event_files(tmp_path / "log")
    assert path.name.endswith(".x")
    _, written = quick_events(path)
    assert written.SerializeToString() == given.SerializeToString()


def test_without_a_run_nothing_is_taken(tmp_path):
    capture = EventCapture(str(tmp_path), 10, check_folder)
    for given in (text(b"x"), text(b"x" * 100), CASES["a scalar"][0], CASES["a histogram"][0]):
        assert not capture.push("folder", given)
    assert not list(tmp_path.iterdir())


def test_files_of_payloads_are_removed_when_all_sinks_have_them():
    sink = RecordingSink()
    run = start(sink)
    capture = capture_of(run)
    for number in range(5):
        assert capture.push("folder", text(b"x" * 5000, f"tag{number}"))
        assert len(os.listdir(run._run.folder.payloads_path)) == 1
        assert run.flush()
        deadline_s = time.monotonic() + 5  # nothing else is logged
        while os.listdir(run._run.folder.payloads_path):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    tracelet.stop_logging()
    assert len(sink.points) == 5


def test_files_of_payloads_are_their_owners_alone():
    run = start(RecordingSink(), drain_interval_s=5.0)
    capture_of(run).push("folder", text(b"x" * 5000))
    folder = run._run.folder.payloads_path
    (name,) = os.listdir(folder)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o600


def test_a_payload_that_cant_be_kept_is_told_once_and_counted(caplog):
    run = start(RecordingSink())
    capture = capture_of(run)
    with open(run._run.folder.payloads_path, "w"):
        pass  # where a folder should be
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert capture.push("folder", text(b"x" * 5000))
        assert capture.push("folder", text(b"x"))
        assert run.flush()
        os.unlink(run._run.folder.payloads_path)
        assert capture.push("folder", text(b"x" * 5000))
    tracelet.stop_logging()
    assert run.stats.dropped == {"no disk space": 3}
    assert run.stats.delivered["recording"] == 2
    assert len(caplog.records) == 1


@pytest.mark.parametrize("is_remote", [False, True])
@pytest.mark.parametrize("kinds", [None, (tracelet.SCALAR,), (tracelet.EVENT,), ALL_KINDS, ()])
def test_sinks_are_given_the_kinds_they_name(kinds, is_remote):
    """One that names none, as written before there were events, gets scalars and histograms."""
    sink = RecordingSink(is_remote, kinds)
    run = start(sink, batch_max_age_s=0.01)
    capture = capture_of(run)
    given = [CASES["a scalar"][0], CASES["a histogram"][0], text(b"x"), text(b"x" * 5000)]
    for _ in range(3):
        for each in given:
            capture.push("folder", each)
            capture.push("folder", each)
            assert run.flush()
    capture.push("folder", given[2])  # a batch of nothing that concerns some of them
    tracelet.stop_logging()
    wanted = (tracelet.SCALAR, tracelet.HISTOGRAM) if kinds is None else kinds
    all_points = [tracelet.SCALAR, tracelet.HISTOGRAM, tracelet.EVENT, tracelet.EVENT]
    expected = [kind for kind in all_points * 3 for _ in (1, 2) if kind in wanted]
    expected += [tracelet.EVENT] * (tracelet.EVENT in wanted)
    assert [kind for kind, *_ in sink.points] == expected
    assert run.stats.delivered.get("recording", 0) == len(expected)
    assert run.stats.pending == 0


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_fold_passes_by_events_and_takes_batches_of_nothing_else(is_remote):
    sink = RecordingSink(is_remote, kinds=None)
    sink.takes_every_point = False
    rule = {"every_steps": 2, "reduce": "last"}
    run = start(sink, aggregate={"*": rule}, batch_max_age_s=0.01)
    capture = capture_of(run)
    run._run.ring.wake()
    for step in range(4):
        for each in (text(b"x"), event(Value(tag="a", simple_value=step), step=step)):
            capture.push("folder", each)
            assert run.flush()
    capture.push("folder", text(b"x"))
    tracelet.stop_logging()
    assert sink.summary() == [(tracelet.SCALAR, "a", 1), (tracelet.SCALAR, "a", 3)]
    assert run.stats.pending == 0
    assert not run.stats.retried


def test_a_failing_sink_gets_its_kinds_again():
    failures = iter([True, True, True])

    def fail():
        if next(failures, False):
            raise OSError("not now")

    sink = RecordingSink(kinds=(tracelet.EVENT,), fail=fail)
    run = start(sink, drain_interval_s=0.01, batch_max_age_s=0.01)
    capture = capture_of(run)
    for number in range(50):
        run.log_metric("a", number, number)
        capture.push("folder", text(b"x" * (number * 100 + 1), f"tag{number}"))
    assert run.flush(20)
    tracelet.stop_logging()
    assert [tag for _, _, tag, _, _ in sink.points] == [f"tag{number}" for number in range(50)]
    assert run.stats.retried == 3


def test_payload_files_of_a_run_that_could_not_deliver_stay(tmp_path):
    def fail():
        raise OSError("gone")

    sink = RecordingSink(is_remote=True, fail=fail)
    run = start(sink)
    capture_of(run).push("folder", text(b"x" * 5000))
    tracelet.stop_logging(timeout_s=0.3)
    (path,) = tmp_path.glob("tracelet-runs/*/payloads/*")
    assert path.read_bytes() == text(b"x" * 5000).SerializeToString()
    assert not os.path.exists(run._run.folder.ring_path)  # all is in the journal


@pytest.mark.parametrize("suffix", ["", ".x", "ü b", "\n"])
@pytest.mark.parametrize("folder", ["log", "/a/b", "s3://bucket/log", ""])
def test_writer_keys(folder, suffix, tmp_path):
    key = writer_key(folder, suffix)
    expected = folder if "://" in folder else os.path.join(str(tmp_path), folder)
    assert split_writer_key(key) == (expected.rstrip("/"), suffix)
    assert ("\0" in key) == bool(suffix)


def test_a_patch_is_undone_exactly_and_leaves_others_alone(caplog):
    class Owner:
        @staticmethod
        def method():
            return "original"

        other = 1

    originals = dict(vars(Owner))
    patch = Patch(Owner, {"method": "ours", "other": 2})
    assert (Owner.method, Owner.other) == ("ours", 2)
    Owner.other = 3
    patch.undo()
    assert vars(Owner)["method"] is originals["method"]
    assert Owner.other == 3
    assert "Owner.other was replaced by another library" in caplog.text
    patch.undo()  # once is enough
    assert Owner.method() == "original"
    with pytest.raises(KeyError):
        Patch(Owner, {"method": 1, "not there": 2})
    assert Owner.method() == "original"


def test_then_calls_both_and_gives_back_the_first():
    calls = []

    def original(self):
        """What it does."""
        calls.append(self)
        return 5

    method = then(original, lambda: calls.append("afterwards"))
    assert method(1) == 5
    assert calls == [1, "afterwards"]
    assert method.__doc__ == "What it does."


class FakeEventFileWriter:
    """Stands for the one that tensorboard makes a file with."""

    def __init__(self, logdir, max_queue=10, flush_secs=120, filename_suffix=""):
        self.logdir, self.suffix = logdir, filename_suffix
        self.events, self.closed = [], False
        made.append(self)

    def get_logdir(self):
        return self.logdir

    def add_event(self, event):
        self.events.append(event)

    def flush(self):
        pass

    def close(self):
        self.closed = True


made: list[FakeEventFileWriter] = []


@pytest.fixture
def module():
    """A package like torch's or tensorboardX' module of the FileWriter."""
    made.clear()
    module = types.ModuleType("fake")
    module.EventFileWriter = FakeEventFileWriter

    class FileWriter:
        def __init__(self, logdir, suffix=""):
            self.event_writer = module.EventFileWriter(logdir, 10, 120, suffix)

        def get_logdir(self):
            return self.event_writer.get_logdir()

        def add_event(self, event, step=None, walltime=None):
            self.event_writer.add_event(event)

        def flush(self):
            self.event_writer.flush()

        def close(self):
            self.event_writer.close()

    module.FileWriter = FileWriter
    yield module
    set_event_capture(None)


def test_file_writers_of_any_package(module, tmp_path):
    sink = RecordingSink()
    run = start(sink)
    flushes = []
    older = module.FileWriter(str(tmp_path / "older"))
    set_event_capture(capture_of(run))
    patches = patch_file_writer(module, lambda: flushes.append(1))
    newer = module.FileWriter(str(tmp_path / "newer"), ".x")
    assert isinstance(newer.event_writer, FakeEventFileWriter)
    assert key_of(newer.event_writer) == writer_key(str(tmp_path / "newer"), ".x")
    assert len(made) == 1
    for writer in (older, newer):
        writer.add_event(text(b"1"))
        writer.flush()
    assert len(flushes) == 2
    newer.close()
    newer.add_event(text(b"2"))
    for patch in patches:
        patch.undo()
    set_event_capture(None)
    tracelet.stop_logging()
    assert [folder for _, folder, *_ in sink.points] == [
        str(tmp_path / name) for name in ("older", "newer", "newer")
    ]
    # After the run: the file that there was, and one that is made now.
    older.add_event(text(b"3"))
    newer.add_event(text(b"4"))
    newer.close()
    assert [(each.logdir, each.suffix, len(each.events), each.closed) for each in made] == [
        (str(tmp_path / "older"), "", 1, False),
        (str(tmp_path / "newer"), ".x", 1, True),
    ]
    assert module.EventFileWriter is FakeEventFileWriter


@pytest.mark.parametrize("wrong", [None, "event", b"event", 3, object()])
def test_what_is_no_event_is_a_type_error(wrong, module, tmp_path):
    patches = patch_file_writer(module, lambda: None)
    set_event_capture(EventCapture(str(tmp_path), 10, check_folder))
    writer = module.FileWriter(str(tmp_path))
    with pytest.raises(TypeError, match="Event proto"):
        writer.add_event(wrong)
    for patch in patches:
        patch.undo()


def test_the_records_flags_and_sizes_as_a_sink_sees_them():
    seen = []

    class Looking(RecordingSink):
        def write(self, batch):
            seen.append(np.array(batch.records))
            return super().write(batch)

    run = start(Looking())
    capture = capture_of(run)
    capture.push(writer_key("folder", ".x"), text(b"x" * 10))
    capture.push(writer_key("folder", ".x"), text(b"x" * 5000))
    tracelet.stop_logging()
    small, large = np.concatenate(seen)
    assert not int(small["flags"]) & tracelet.records.PAYLOAD_IN_FILE
    assert int(large["flags"]) & tracelet.records.PAYLOAD_IN_FILE
    assert small["kind"] == large["kind"] == tracelet.EVENT
    assert small["wall_time"] == 5.0
    assert int(large["payload_size"]) < 1000


def test_the_active_runs_capture_is_let_go_of():
    start(RecordingSink())
    assert event_writer._capture is not None
    tracelet.stop_logging()
    assert event_writer._capture is None
    assert lifecycle.active_run() is None


def test_event_files_of_one_process_and_second_sort_as_they_were_made(monkeypatch):
    """TensorBoard follows the last file of a folder, by name."""
    monkeypatch.setattr(paths, "_file_numbers", itertools.count(8))
    names = [event_file_name(1_700_000_000.5) for _ in range(100)]
    assert names == sorted(names)
    assert len(set(names)) == 100


@pytest.mark.parametrize("package", ["torch.utils.tensorboard", "tensorboardX"])
@pytest.mark.parametrize("mode", ["native", "passthrough"])
def test_an_embedding_is_counted_where_there_is_no_form_for_it(package, mode, tmp_path, caplog):
    """It goes to files of its own, which TensorBoard reads; no sink sees any of it."""
    torch = pytest.importorskip("torch")
    cls = pytest.importorskip(package).SummaryWriter
    original = cls.add_embedding
    RecordingSink().register()
    run = tracelet.start_logging(
        "embedding", "tests", backend=["recording", "tensorboard"], config={"tensorboard": mode}
    )
    writer = cls(str(tmp_path / "log"))
    for step in range(2):
        writer.add_embedding(torch.zeros(2, 3), ["a", "b"], None, step)
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever theirs is: nothing was written
        writer.add_embedding(torch.zeros(2, 3), ["too few"])
    writer.close()
    tracelet.stop_logging()
    assert list((tmp_path / "log").glob("**/tensors.tsv"))
    assert run.stats.not_taken == {"recording: no form for embeddings": 2}
    assert caplog.text.count("no form for embeddings") == 1
    assert cls.add_embedding is original
