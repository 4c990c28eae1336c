"""tensorboard="passthrough" and "off": who writes the event files, what the other sinks get."""

from __future__ import annotations

import pytest
import tracelet
from readers import events
from recording_sink import RecordingSink

torch = pytest.importorskip("torch")
from event_session import (  # noqa: E402
    SESSIONS,
    all_files,
    assert_same_events,
    bytes_of_other_files,
)
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

SESSION = [name for name in SESSIONS if name != "figures"]


def session(writer):
    for name in SESSION:
        SESSIONS[name](writer)
    writer.close()


def start(sink, mode, **config):
    sink.register()
    config = {"tensorboard": mode, **config}
    return tracelet.start_logging("modes", "tests", backend="recording", config=config)


def recorded(mode, folder, **config):
    """What a sink gets of the session, with the folders relative."""
    sink = RecordingSink()
    run = start(sink, mode, **config)
    session(SummaryWriter(folder))
    tracelet.stop_logging()
    assert not run.stats.dropped
    assert run.stats.delivered["recording"] == run.stats.accepted == len(sink.points)
    return [(k, f[len(str(folder)) :], tag, step) for k, f, tag, step, _ in sink.points]


def points_of_files(root):
    """(tag, step) of each event that has values: a sink is told the first one's tag."""
    return [
        (value.tag, event.step)
        for path in all_files(root)
        if "tfevents" in path.name
        for event in events(path)
        for value in event.summary.value[:1]
    ]


def test_every_mode_gives_the_other_sinks_the_same_once(tmp_path):
    native = recorded("native", tmp_path / "native")
    beside = recorded("passthrough", tmp_path / "passthrough")
    alone = recorded("off", tmp_path / "off")
    assert native == beside == alone
    assert {kind for kind, *_ in native} == {tracelet.SCALAR, tracelet.HISTOGRAM, tracelet.EVENT}
    points = sorted((tag, step) for _, _, tag, step in native if tag)
    assert points == sorted(points_of_files(tmp_path / "native"))


def test_passthrough_leaves_torchs_own_file(tmp_path):
    session(SummaryWriter(tmp_path / "theirs", filename_suffix=".x"))
    sink = RecordingSink()
    start(sink, "passthrough")
    session(SummaryWriter(tmp_path / "ours", filename_suffix=".x"))
    tracelet.stop_logging()
    assert_same_events(tmp_path / "ours", tmp_path / "theirs")
    assert bytes_of_other_files(tmp_path / "ours") == bytes_of_other_files(tmp_path / "theirs")
    names = [path.name for path in all_files(tmp_path / "ours")]
    assert not [name for name in names if "tracelet" in name]
    assert len(names) == len(list(all_files(tmp_path / "theirs")))


def test_passthrough_with_writers_older_and_longer_than_the_run(tmp_path):
    sink = RecordingSink()
    writer = SummaryWriter(tmp_path / "log")
    for step in range(3):
        if step == 1:
            start(sink, "passthrough")
        writer.add_histogram("h", torch.arange(4.0), step)
        writer.add_text("t", "text", step)
        writer.add_scalar("s", 1.0, step)
        if step == 1:
            tracelet.stop_logging()
    writer.close()
    expected = ["h", "t/text_summary", "s"]
    assert points_of_files(tmp_path) == [(tag, step) for step in range(3) for tag in expected]
    assert sink.summary() == [
        (tracelet.HISTOGRAM, "h", 1),
        (tracelet.EVENT, "t/text_summary", 1),
        (tracelet.SCALAR, "s", 1),
    ]


def test_off_leaves_no_file(tmp_path):
    recorded("off", tmp_path / "log")
    assert not [path for path in all_files(tmp_path / "log") if "tfevents" in path.name]


@pytest.mark.parametrize("mode", ["native", "passthrough", "off"])
def test_large_events_reach_the_other_sinks_by_files_in_every_mode(mode, tmp_path):
    """A sink that lags reads the file later: it stays until each sink has it."""
    from tensorboard.compat.proto.event_pb2 import Event

    failures = iter([True, True])

    def fail():
        if next(failures, False):
            raise OSError("not now")

    sink = RecordingSink(is_remote=True, fail=fail)
    run = start(sink, mode, payload_bytes=1 << 16, batch_max_age_s=0.01)
    writer = SummaryWriter(tmp_path / "log")
    texts = [letter * 100_000 for letter in "abc"]
    for step, text in enumerate(texts):
        writer.add_text("t", text, step)
    assert run.flush(20)
    tracelet.stop_logging()
    found = [Event.FromString(content) for *_, content in sink.points]
    assert [e.summary.value[0].tensor.string_val[0].decode() for e in found] == texts
    assert not list((tmp_path / "tracelet-runs").iterdir())


@pytest.mark.parametrize("mode", ["", "on", "Native", 3, True])
def test_modes_there_are_not(mode):
    with pytest.raises((tracelet.ConfigurationError, TypeError), match="tensorboard"):
        tracelet.start_logging("modes", "tests", backend="recording", config={"tensorboard": mode})


@pytest.mark.parametrize("mode", ["passthrough", "off"])
@pytest.mark.parametrize(
    ("backend", "named"), [("tensorboard", "mode"), ([], "backend must name a backend")]
)
def test_a_run_without_any_sink_is_refused(mode, backend, named):
    with pytest.raises(tracelet.ConfigurationError, match=mode if named == "mode" else named):
        tracelet.start_logging("modes", "tests", backend=backend, config={"tensorboard": mode})
    assert tracelet.get_active_experiment() is None


def test_the_mode_can_be_set_by_the_environment(monkeypatch, tmp_path):
    RecordingSink().register()
    monkeypatch.setenv("TRACELET_TENSORBOARD", "off")
    tracelet.start_logging("modes", "tests", backend="recording")
    SummaryWriter(tmp_path / "log").add_text("t", "text")
    tracelet.stop_logging()
    assert not list(all_files(tmp_path / "log"))
