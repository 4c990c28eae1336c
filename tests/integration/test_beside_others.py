"""Other libraries that put themselves into torch's and tensorboard's modules, before us or after.

What stands in a module keeps being a class, and nobody's wrapper is passed by.
"""

from __future__ import annotations

import os
import re
import shutil

import pytest
import tracelet
from readers import quick_events
from recording_sink import RecordingSink

pytest.importorskip("tensorboard")
torch_writer = pytest.importorskip("torch.utils.tensorboard.writer")
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


def start(**config):
    sink = RecordingSink().register()
    tracelet.start_logging("beside", "tests", backend=["recording", "tensorboard"], config=config)
    return sink


def event_files(folder):
    """Ours and torch's."""
    return sorted(folder.glob("*tfevents*"))


def tags_in(folder):
    """Of each event file, the tags of its events, in order."""
    return [
        [value.tag for event in quick_events(path) for value in event.summary.value]
        for path in event_files(folder)
    ]


class Wandb:
    """What wandb.init(sync_tensorboard=True) does with the module, and wandb.finish() undoes."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self.told: list[str] = []

    def patch(self):
        told = self.told

        class TBXEventFileWriter(torch_writer.EventFileWriter):
            def __init__(self, logdir, *args, **kwargs):
                told.append(logdir)
                super().__init__(logdir, *args, **kwargs)

        self._monkeypatch.setattr(torch_writer, "EventFileWriter", TBXEventFileWriter)

    def unpatch(self):
        self._monkeypatch.setattr(torch_writer, "EventFileWriter", EventFileWriter)


@pytest.fixture
def wandb(monkeypatch):
    return Wandb(monkeypatch)


@pytest.mark.parametrize("order", ["before", "in the run", "left from the run before"])
def test_wandb_subclasses_the_event_file_writer(order, wandb, tmp_path):
    if order != "in the run":
        wandb.patch()
    if order == "left from the run before":
        start()
        tracelet.stop_logging()
    sink = start()
    if order == "in the run":
        wandb.patch()
    folder = str(tmp_path / "log")
    with SummaryWriter(folder) as writer:
        assert isinstance(writer.file_writer.event_writer, EventFileWriter)
        assert isinstance(writer.file_writer.event_writer, torch_writer.EventFileWriter)
        assert issubclass(torch_writer.EventFileWriter, EventFileWriter)
        writer.add_scalar("a", 1.0, 1)
        writer.add_text("b", "text", 1)
    assert wandb.told == [folder]
    tracelet.stop_logging()
    assert [tag for _, _, tag, _, _ in sink.points] == ["a", "b/text_summary"]
    assert tags_in(tmp_path / "log") == [["a", "b/text_summary"]]
    wandb.unpatch()
    with SummaryWriter(str(tmp_path / "after")) as writer:
        writer.add_scalar("a", 1.0, 1)
    assert tags_in(tmp_path / "after") == [["a"]]
    assert wandb.told == [folder]


def test_a_writer_that_wandb_watches_goes_on_after_the_run(wandb, tmp_path):
    wandb.patch()
    start()
    writer = SummaryWriter(str(tmp_path))
    writer.add_text("a", "text", 1)
    tracelet.stop_logging()
    assert len(tags_in(tmp_path)) == 1
    writer.add_text("b", "text", 2)
    writer.close()
    assert sorted(tags_in(tmp_path)) == [["a/text_summary"], ["b/text_summary"]]


def test_what_a_subclass_does_with_an_event_is_done(monkeypatch, tmp_path):
    seen = []

    class Watching(torch_writer.EventFileWriter):
        def add_event(self, event):
            seen.extend(value.tag for value in event.summary.value)
            super().add_event(event)

    monkeypatch.setattr(torch_writer, "EventFileWriter", Watching)
    older = SummaryWriter(str(tmp_path / "older"))
    sink = start()
    newer = SummaryWriter(str(tmp_path / "newer"))
    for writer in (older, newer):
        writer.add_text("a", "text", 1)
    assert seen == ["a/text_summary"] * 2
    tracelet.stop_logging()
    assert len(sink.points) == 2
    older.close()
    newer.close()


def test_the_module_and_its_classes_are_as_before_after_a_run():
    modules = dict(vars(torch_writer))
    classes = [dict(vars(cls)) for cls in (EventFileWriter, torch_writer.FileWriter, SummaryWriter)]
    start()
    assert torch_writer.EventFileWriter is EventFileWriter
    tracelet.stop_logging()
    assert dict(vars(torch_writer)) == modules
    assert classes == [
        dict(vars(cls)) for cls in (EventFileWriter, torch_writer.FileWriter, SummaryWriter)
    ]


def test_an_event_writer_of_somebody_elses_gets_its_events_and_so_does_the_run(tmp_path):
    class Foreign:
        def __init__(self):
            self.tags = []

        def get_logdir(self):
            return str(tmp_path / "log")

        def add_event(self, event):
            self.tags += [value.tag for value in event.summary.value]

        def flush(self):
            pass

        close = flush

    sink = start()
    writer = SummaryWriter(str(tmp_path / "log"))
    writer.file_writer.event_writer = foreign = Foreign()
    writer.add_text("a", "text", 1)
    writer.close()
    tracelet.stop_logging()
    assert foreign.tags == ["a/text_summary"]
    assert [tag for _, _, tag, _, _ in sink.points] == ["a/text_summary"]


def test_a_direct_user_of_tensorboards_event_file_writer_keeps_its_file(tmp_path):
    sink = start()
    writer = EventFileWriter(str(tmp_path / "own"))
    SummaryWriter(str(tmp_path / "log")).add_text("a", "text", 1)
    tracelet.stop_logging()
    writer.close()
    (path,) = event_files(tmp_path / "own")
    assert "tracelet" not in path.name
    assert len(sink.points) == 1


def test_the_event_file_is_there_when_the_writer_is_made(tmp_path):
    """As torch does: Lightning counts versions by it, readers look for it."""
    start()
    writer = SummaryWriter(str(tmp_path / "log"), filename_suffix=".x")
    (path,) = event_files(tmp_path / "log")
    assert writer.file_writer.event_writer._file_name == str(path)
    assert [event.file_version for event in quick_events(path)] == ["brain.Event:2"]
    SummaryWriter(str(tmp_path / "log"), filename_suffix=".x")
    writer.add_scalar("a", 1.0, 1)
    tracelet.stop_logging()
    assert event_files(tmp_path / "log") == [path]
    assert path.name.endswith(".x")
    assert tags_in(tmp_path / "log") == [["a"]]


def test_a_writer_in_a_folder_that_cant_be_written_raises_as_torchs(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    start()
    with pytest.raises((FileExistsError, NotADirectoryError)):
        SummaryWriter(str(blocked / "log"))
    with pytest.raises(FileNotFoundError):
        SummaryWriter(str(tmp_path / "log"), filename_suffix="/no/folder")


@pytest.mark.parametrize("how", ["deleted", "moved", "file deleted"])
@pytest.mark.parametrize("is_new_writer", [False, True])
def test_a_log_folder_that_is_gone_gets_a_new_file(how, is_new_writer, tmp_path):
    """It got none, and its points counted as delivered: they were in a deleted file."""
    sink = start(drain_interval_s=0.01)
    folder = tmp_path / "log"
    writer = SummaryWriter(str(folder))
    other = SummaryWriter(str(tmp_path / "other"))
    writer.add_scalar("before", 1.0, 1)
    writer.flush()
    (first,) = event_files(folder)
    if how == "deleted":
        shutil.rmtree(folder)
    elif how == "moved":
        os.rename(folder, tmp_path / "moved")
    else:
        first.unlink()
    if is_new_writer:
        writer = SummaryWriter(str(folder))
        assert len(event_files(folder)) == 1
    for step in range(3):
        writer.add_scalar("after", 1.0, step)
        other.add_scalar("other", 1.0, step)
        writer.flush()
    run = tracelet.get_active_experiment()
    tracelet.stop_logging()
    assert tags_in(folder) == [["after"] * 3]
    assert event_files(folder)[0].name > first.name  # TensorBoard follows the last one
    if how == "moved":
        assert tags_in(tmp_path / "moved") == [["before"]]
    assert tags_in(tmp_path / "other") == [["other"] * 3]
    assert run.stats.delivered["tensorboard"] == len(sink.points) == 7
    assert not run.stats.dropped


def test_a_folder_deleted_while_its_file_was_closed(tmp_path):
    """At most 64 files are open; the others are looked for by name."""
    start(drain_interval_s=0.01)
    writers = [SummaryWriter(str(tmp_path / f"log{n}")) for n in range(70)]
    for writer in writers:
        writer.add_scalar("before", 1.0, 1)
    writers[-1].flush()
    for n in range(70):
        shutil.rmtree(tmp_path / f"log{n}")
    for writer in writers:
        writer.add_scalar("after", 1.0, 1)
    tracelet.stop_logging()
    assert [tags_in(tmp_path / f"log{n}") for n in range(70)] == [[["after"]]] * 70


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "in the run"])
def test_the_real_wandb_syncs_what_a_run_writes(order, run_script, tmp_path):
    """By sync_tensorboard, offline: its subclass is told of the folder, and it reads our file."""
    pytest.importorskip("wandb")
    done = run_script(
        f"""
        import torch, tracelet, wandb
        from torch.utils.tensorboard import SummaryWriter, writer as module

        def init():
            quiet = wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True)
            return wandb.init(
                project="p", mode="offline", sync_tensorboard=True, dir=".", settings=quiet
            )

        own = module.EventFileWriter
        if {order == "before"}:
            run = init()
        experiment = tracelet.start_logging("beside", "tests", "tensorboard")
        if {order == "in the run"}:
            run = init()
        assert module.EventFileWriter is not own
        assert issubclass(module.EventFileWriter, own)
        with SummaryWriter("log") as writer:
            assert isinstance(writer.file_writer.event_writer, module.EventFileWriter)
            for step in range(3):
                writer.add_scalar("loss", 8.0 - step, step)
            writer.add_text("words", "text", 1)
        tracelet.stop_logging()
        print(experiment.stats.delivered)
        run.finish()
        after = SummaryWriter("after")
        after.add_scalar("loss", 1.0, 1)
        after.close()
        """,
        env={"WANDB_DIR": str(tmp_path), "WANDB_MODE": "offline"},
    )
    assert "{'tensorboard': 4}" in done.stdout
    assert tags_in(tmp_path / "log") == [["loss"] * 3 + ["words/text_summary"]]
    assert re.search(r"wandb: +loss 6\b", done.stderr), done.stderr  # its summary, at the end
    assert tags_in(tmp_path / "after") == [["loss"]]
