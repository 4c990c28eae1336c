"""Other people's methods and objects on a SummaryWriter's way to its file, put there before a run
or in it: each is called for each point, and each point is in the run and in the files once."""

from __future__ import annotations

import functools
from unittest import mock

import numpy as np
import pytest
import tracelet
from readers import quick_events
from recording_sink import RecordingSink

pytest.importorskip("tensorboard")
torch_writer = pytest.importorskip("torch.utils.tensorboard.writer")
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

FileWriter = torch_writer.FileWriter


def start(**config):
    sink = RecordingSink().register()
    tracelet.start_logging("patches", "tests", backend=["recording", "tensorboard"], config=config)
    return sink


class Foreign:
    """Somebody's wrapper of a method: counts the calls and passes them on."""

    def __init__(self, target, name):
        self.calls = 0
        self._target, self._name = target, name
        self._had = vars(target).get(name)

    def put(self):
        original = getattr(self._target, self._name)

        def method(*args, **kwargs):
            # A file's first event is made with the file, when that is.
            self.calls += not any(getattr(each, "file_version", "") for each in args)
            return original(*args, **kwargs)

        setattr(self._target, self._name, self.made_of(method, original))

    def made_of(self, method, original):
        return method

    def take_away(self):
        if self._had is None:
            vars(self._target).pop(self._name, None)
        else:
            setattr(self._target, self._name, self._had)


class Wrapped(Foreign):
    def made_of(self, method, original):
        return functools.wraps(original)(method)


class Partial(Foreign):
    def made_of(self, method, original):
        return functools.partialmethod(method)


class WrittenTo:
    """Somebody's own object in the place of a FileWriter or an event writer."""

    def __init__(self, inner, told):
        self._inner, self._told = inner, told

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def add_event(self, *args):
        self._told.calls += 1
        self._inner.add_event(*args)

    def add_summary(self, *args):
        self._told.calls += 1
        self._inner.add_summary(*args)


class ForeignObject(Foreign):
    def put(self):
        setattr(self._target, self._name, WrittenTo(getattr(self._target, self._name), self))

    def take_away(self):
        pass


PLACES = {
    "SummaryWriter.add_scalar": lambda writer: Foreign(SummaryWriter, "add_scalar"),
    "SummaryWriter._get_file_writer": lambda writer: Foreign(SummaryWriter, "_get_file_writer"),
    "FileWriter.add_event": lambda writer: Foreign(FileWriter, "add_event"),
    "FileWriter.add_event, wrapped": lambda writer: Wrapped(FileWriter, "add_event"),
    "FileWriter.add_event, partialmethod": lambda writer: Partial(FileWriter, "add_event"),
    "FileWriter.add_summary": lambda writer: Foreign(FileWriter, "add_summary"),
    "EventFileWriter.add_event": lambda writer: Foreign(EventFileWriter, "add_event"),
    "writer.add_scalar": lambda writer: Foreign(writer, "add_scalar"),
    "writer._get_file_writer": lambda writer: Foreign(writer, "_get_file_writer"),
    "writer.file_writer": lambda writer: ForeignObject(writer, "file_writer"),
    "writer.file_writer.add_event": lambda writer: Foreign(writer.file_writer, "add_event"),
    "writer.file_writer.add_summary": lambda writer: Foreign(writer.file_writer, "add_summary"),
    "writer.file_writer.event_writer": lambda writer: ForeignObject(
        writer.file_writer, "event_writer"
    ),
    "event_writer.add_event": lambda writer: Foreign(writer.file_writer.event_writer, "add_event"),
}


@pytest.fixture
def clean():
    """The classes are as before, whatever a test left there."""
    classes = (SummaryWriter, FileWriter, EventFileWriter)
    before = [dict(vars(cls)) for cls in classes]
    yield
    tracelet.stop_logging()
    for cls, methods in zip(classes, before):
        for name in set(vars(cls)) - set(methods):
            delattr(cls, name)
        for name, method in methods.items():
            if vars(cls)[name] is not method and not name.startswith("__dict"):
                setattr(cls, name, method)


def tags_in_files(folder):
    return sorted(
        value.tag
        for path in folder.glob("*tfevents*")
        for event in quick_events(path)
        for value in event.summary.value
    )


def log(writer, number):
    writer.add_scalar(f"scalar{number}", 0.5, number)
    writer.add_text(f"text{number}", "text", number)


@pytest.mark.parametrize("order", ["before the run", "before the first call", "between calls"])
@pytest.mark.parametrize("place", PLACES)
def test_each_is_called_and_each_point_is_there_once(place, order, clean, tmp_path):
    if order == "before the run":
        writer = SummaryWriter(str(tmp_path / "log"))
        foreign = PLACES[place](writer)
        foreign.put()
        sink = start()
    else:
        sink = start()
        writer = SummaryWriter(str(tmp_path / "log"))
        if order == "between calls":
            log(writer, 0)
        foreign = PLACES[place](writer)
        foreign.put()
    calls = []
    for number in (1, 2):
        for method, value in (("add_scalar", 1.5), ("add_text", "1.5")):
            before = foreign.calls
            getattr(writer, method)(f"{method}{number}", value, number)
            calls.append(foreign.calls - before)
    writer.flush()
    experiment = tracelet.get_active_experiment()
    tracelet.stop_logging()
    is_scalars_alone = place.endswith("add_scalar")
    assert calls == [1, 0, 1, 0] if is_scalars_alone else calls == [1, 1, 1, 1]
    tags = [tag for _, _, tag, _, _ in sink.points]
    expected = ["add_scalar1", "add_text1/text_summary", "add_scalar2", "add_text2/text_summary"]
    if order == "between calls":
        expected = ["scalar0", "text0/text_summary", *expected]
    assert tags == expected
    stats = experiment.stats
    assert stats.accepted == stats.delivered["recording"] == len(expected)
    assert not stats.dropped
    if place != "writer.file_writer.event_writer":  # its own file has it, too
        assert tags_in_files(tmp_path / "log") == sorted(expected)


@pytest.mark.parametrize("method", ["add_scalars", "add_histogram", "add_histogram_raw"])
@pytest.mark.parametrize("place", ["FileWriter.add_event", "method"])
def test_the_other_hot_methods(method, place, clean, tmp_path):
    sink = start()
    writer = SummaryWriter(str(tmp_path / "log"))
    arguments = {
        "add_scalars": ({"a": 0.5, "b": 1.5}, 1),
        "add_histogram": (np.array([0.5, 1.5]), 1),
        "add_histogram_raw": (0, 1, 2, 1, 1, [1.0, 2.0], [1, 1], 1),
    }[method]
    getattr(writer, method)("tag", *arguments)
    target = (SummaryWriter, method) if place == "method" else (FileWriter, "add_event")
    foreign = Foreign(*target)
    foreign.put()
    getattr(writer, method)("tag", *arguments)
    tracelet.stop_logging()
    each = 2 if method == "add_scalars" else 1
    assert foreign.calls == (1 if place == "method" else each)
    assert len(sink.points) == 2 * each


@pytest.mark.parametrize("modes", ["native native", "native passthrough", "passthrough native"])
@pytest.mark.parametrize("place", list(PLACES)[:7])
def test_a_wrapper_that_is_left_is_called_after_the_run_and_in_the_next(
    place, modes, clean, tmp_path
):
    first, second = modes.split()
    sink = start(tensorboard=first)
    writer = SummaryWriter(str(tmp_path / "log"))
    log(writer, 0)
    foreign = PLACES[place](writer)
    foreign.put()
    log(writer, 1)
    tracelet.stop_logging()
    assert len(sink.points) == 4
    each = 1 if place == "SummaryWriter.add_scalar" else 2
    for number, mode in ((2, None), (3, second), (4, None), (5, first)):
        sink = start(tensorboard=mode) if mode else None
        before = foreign.calls
        log(writer, number)
        assert foreign.calls - before == each, mode
        tracelet.stop_logging()
        if sink is not None:
            expected = [f"scalar{number}", f"text{number}/text_summary"]
            assert [tag for _, _, tag, _, _ in sink.points] == expected
    writer.close()
    tags = [f"scalar{n}" for n in range(6)] + [f"text{n}/text_summary" for n in range(6)]
    assert tags_in_files(tmp_path / "log") == sorted(tags)


def test_a_mock_in_the_place_of_a_method_is_called_as_without_a_run(clean, tmp_path):
    start()
    writer = SummaryWriter(str(tmp_path / "log"))
    writer.add_scalar("a", 0.5, 1)
    with mock.patch.object(writer.file_writer, "add_summary") as add_summary:
        writer.add_scalar("b", 0.5, 1)
    with mock.patch.object(FileWriter, "add_event") as add_event:
        writer.add_scalar("c", 0.5, 1)
    writer.add_scalar("d", 0.5, 1)
    tracelet.stop_logging()
    assert add_summary.call_count == add_event.call_count == 1
    assert tags_in_files(tmp_path / "log") == ["a", "d"]


def test_a_wrapper_that_its_library_takes_away_in_the_run(clean, tmp_path):
    writer = SummaryWriter(str(tmp_path / "log"))
    foreign = Foreign(FileWriter, "add_event")
    foreign.put()
    sink = start()
    log(writer, 1)
    foreign.take_away()
    log(writer, 2)
    tracelet.stop_logging()
    sink_two = start()
    log(writer, 3)
    tracelet.stop_logging()
    assert foreign.calls == 2
    assert len(sink.points) == 4
    assert len(sink_two.points) == 2


def test_a_subclass_with_its_own_file_writer_is_asked_for_it(clean, tmp_path):
    class Own(SummaryWriter):
        calls = 0

        def _get_file_writer(self):
            type(self).calls += 1
            return super()._get_file_writer()

    sink = start()
    writer = Own(str(tmp_path / "log"))
    Own.calls = 0
    writer.add_scalar("a", 0.5, 1)
    writer.add_scalar("a", 0.5, 2)
    assert Own.calls == 2
    tracelet.stop_logging()
    assert len(sink.points) == 2


def test_others_that_stand_nowhere_on_the_way_cost_nothing(clean, tmp_path, monkeypatch):
    """The native methods go on: no FileWriter is asked."""
    start()
    writer = SummaryWriter(str(tmp_path / "log"))
    writer.add_scalar("a", 0.5, 1)
    Foreign(SummaryWriter, "add_image").put()
    calls = []
    original = FileWriter.get_logdir
    monkeypatch.setattr(FileWriter, "get_logdir", lambda self: calls.append(1) or original(self))
    for step in range(10):
        writer.add_scalar("a", 0.5, step)
    assert not calls
    writer.close()
    writer.add_scalar("a", 0.5, 11)
    assert type(writer.file_writer) is FileWriter  # made anew, as torch does; none of its calls
    writer.add_scalar("a", 0.5, 12)
    assert len(calls) <= 1
