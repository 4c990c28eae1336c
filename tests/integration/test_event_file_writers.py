"""The lives of SummaryWriters: closed and used again, older or younger than the run, very many."""

from __future__ import annotations

import logging
import pickle
import threading
from pathlib import Path

import pytest
import tracelet
from readers import event_files, events

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from event_session import all_files, events_by_folder  # noqa: E402
from tensorboard.summary.writer import event_file_writer as tensorboard_writer  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402
from torch.utils.tensorboard.writer import FileWriter  # noqa: E402
from tracelet.capture import event_writer  # noqa: E402

PIXELS = np.zeros((3, 4, 4))


def start(**config):
    return tracelet.start_logging("writers", "tests", backend="tensorboard", config=config)


def torch_files(folder):
    return [path for path in Path(folder).glob("*tfevents*") if path not in event_files(folder)]


def steps(path):
    """(tag, step) of each point in one file."""
    return [(value.tag, event.step) for event in events(path) for value in event.summary.value]


def test_a_writer_goes_on_after_close(tmp_path):
    start()
    writer = SummaryWriter(tmp_path / "log", filename_suffix=".x")
    for step in range(3):
        writer.add_scalar("s", 1.0, step)
        writer.add_image("i", PIXELS, step)
        writer.close()
        assert steps(event_files(writer.log_dir)[0])[-1] == ("i", step)
    writer.close()
    writer.flush()
    tracelet.stop_logging()
    (path,) = all_files(tmp_path / "log")
    assert steps(path) == [(tag, step) for step in range(3) for tag in "si"]


def test_a_writer_older_than_the_run_and_that_outlives_it(tmp_path):
    """torch's file, then ours, then torch's again: each with all that was logged at its time."""
    writer = SummaryWriter(tmp_path / "log", filename_suffix=".x")

    def log(step):
        writer.add_image("i", PIXELS, step)
        writer.add_scalar("s", 1.0, step)
        writer.add_histogram("h", np.arange(3.0), step)
        writer.add_text("t", "text", step)
        writer.flush()

    log(1)
    for step in (2, 3):
        start()
        log(step)
        tracelet.stop_logging()
    log(4)
    writer.close()
    (theirs,) = torch_files(writer.log_dir)
    first, second = event_files(writer.log_dir)
    tags = ["i", "s", "h", "t/text_summary"]
    assert steps(theirs) == [(tag, step) for step in (1, 4) for tag in tags]
    assert steps(first) == [(tag, 2) for tag in tags]
    assert steps(second) == [(tag, 3) for tag in tags]
    assert all(path.name.endswith(".x") for path in all_files(writer.log_dir))


def test_a_writer_of_the_run_gets_a_file_of_torch_when_it_is_used_after_it(tmp_path):
    start()
    writer = SummaryWriter(tmp_path / "log", filename_suffix=".x")
    unused = SummaryWriter(tmp_path / "unused")
    assert list(all_files(tmp_path / "log")) == event_files(tmp_path / "log")
    writer.add_image("i", PIXELS, 1)
    tracelet.stop_logging()
    assert not torch_files(writer.log_dir)
    writer.add_scalar("s", 1.0, 2)
    writer.add_image("i", PIXELS, 3)
    writer.flush()
    (theirs,) = torch_files(writer.log_dir)
    assert steps(theirs) == [("s", 2), ("i", 3)]
    assert theirs.name.endswith(".x")
    writer.close()
    writer.add_text("t", "text", 4)
    writer.close()
    assert sorted(point for path in torch_files(writer.log_dir) for point in steps(path)) == [
        ("i", 3), ("s", 2), ("t/text_summary", 4),
    ]  # fmt: skip
    unused.close()
    (empty,) = all_files(tmp_path / "unused")
    assert event_files(tmp_path / "unused") == [empty]
    assert steps(empty) == []


def test_scalars_and_images_share_a_file_whatever_the_suffix(tmp_path):
    """One that begins with a digit looks like a part of the file's name before it."""
    start()
    for suffix in ("7", ".5.6", "_a b", "ü"):
        with SummaryWriter(tmp_path / "log" / suffix, filename_suffix=suffix) as writer:
            writer.add_scalar("s", 1.0, 1)
            writer.add_image("i", PIXELS, 2)
            writer.add_scalar("s", 1.0, 3)
    tracelet.stop_logging()
    for suffix in ("7", ".5.6", "_a b", "ü"):
        (path,) = all_files(tmp_path / "log" / suffix)
        assert path.name.endswith(suffix)
        assert steps(path) == [("s", 1), ("i", 2), ("s", 3)]


def test_writers_of_one_folder_that_differ_in_the_suffix_have_files_of_their_own(tmp_path):
    start()
    writers = [SummaryWriter(tmp_path / "log", filename_suffix=suffix) for suffix in ("", ".b", "")]
    for step, writer in enumerate(writers):
        writer.add_scalar("s", 1.0, step)
        writer.add_image("i", PIXELS, step)
    tracelet.stop_logging()
    found = {path.name.endswith(".b"): steps(path) for path in all_files(tmp_path / "log")}
    assert found == {
        False: [("s", 0), ("i", 0), ("s", 2), ("i", 2)],
        True: [("s", 1), ("i", 1)],
    }


def test_a_file_writer_by_itself(tmp_path):
    from torch.utils.tensorboard.summary import image, scalar

    start()
    writer = FileWriter(str(tmp_path / "log"), 10, 120, ".x")
    assert writer.get_logdir() == str(tmp_path / "log")
    writer.add_summary(scalar("s", 1.5), 1)
    writer.add_summary(image("i", PIXELS[None]), 2)
    writer.flush()
    assert steps(event_files(tmp_path / "log")[0]) == [("s", 1), ("i", 2)]
    writer.add_summary(scalar("s", 2.5), 3)
    writer.close()
    assert steps(event_files(tmp_path / "log")[0]) == [("s", 1), ("i", 2), ("s", 3)]
    assert len(list(all_files(tmp_path / "log"))) == 1


def test_subclasses_that_wrap_what_torch_offers(tmp_path):
    class Prefixing(SummaryWriter):
        def add_image(self, tag, *args, **kwargs):
            super().add_image("sub/" + tag, *args, **kwargs)

        def add_hparams(self, hparam_dict, metric_dict):
            """As people write it to have hparams in the folder of the writer itself."""
            from torch.utils.tensorboard.summary import hparams

            for summary in hparams(hparam_dict, metric_dict):
                self.file_writer.add_summary(summary)
            for name, value in metric_dict.items():
                self.add_scalar(name, value)

    start()
    with Prefixing(tmp_path / "log") as writer:
        writer.add_image("i", PIXELS, 1)
        writer.add_hparams({"lr": 0.1}, {"loss": 2.0})
    tracelet.stop_logging()
    (found,) = events_by_folder(tmp_path / "log").values()
    assert [value.tag for event in found for value in event.summary.value] == [
        "sub/i", "_hparams_/experiment", "_hparams_/session_start_info",
        "_hparams_/session_end_info", "loss",
    ]  # fmt: skip


def test_a_writer_cant_be_pickled_as_ever(tmp_path):
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(SummaryWriter(tmp_path / "theirs"))
    start()
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(SummaryWriter(tmp_path / "ours"))


@pytest.mark.slow
def test_three_hundred_writers_with_few_file_descriptors(run_script, tmp_path):
    run_script(
        """
        import os, resource
        import numpy as np
        import torch, tracelet
        from torch.utils.tensorboard import SummaryWriter

        run = tracelet.start_logging("many", "tests", backend="tensorboard")
        SummaryWriter("first").add_text("t", "text")  # what is imported now needs no file later
        run.flush()
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 70, 4096))
        writers = [SummaryWriter(f"log/{number}") for number in range(300)]
        pixels = np.zeros((3, 4, 4))
        for step in range(5):
            for writer in writers:
                writer.add_scalar("s", step, step)
                writer.add_image("i", pixels, step)
                writer.add_histogram("h", np.arange(3.0), step)
            assert run.flush(30)
        for writer in writers:
            writer.close()
        tracelet.stop_logging()
        stats = run.stats
        assert not stats.dropped and stats.pending == 0 and stats.retried == 0, stats
        """
    )
    expected = [(tag, step) for step in range(5) for tag in "sih"]
    for number in range(300):
        (path,) = all_files(tmp_path / "log" / str(number))
        assert steps(path) == expected


@pytest.mark.slow
def test_forked_children_log_events_into_the_run(run_script, tmp_path):
    """Small and large ones; by a writer of the parent's and by one of their own."""
    run_script(
        """
        import os
        import numpy as np
        import torch, tracelet
        from torch.utils.tensorboard import SummaryWriter

        older = SummaryWriter("older")
        run = tracelet.start_logging(
            "fork", "tests", backend="tensorboard", config={"payload_bytes": 1 << 16}
        )
        shared = SummaryWriter("shared")
        noise = np.random.default_rng(0).random((3, 100, 100))
        children = []
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                own = SummaryWriter(f"own{number}")
                for writer in (shared, own, older):
                    writer.add_image("small", np.zeros((3, 4, 4)), number)
                    writer.add_image("large", noise, number)
                    writer.add_scalar("s", number, number)
                shared.close()
                own.close()
                os._exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        shared.add_image("large", noise, 4)
        tracelet.stop_logging()
        assert run.stats.accepted == run.stats.delivered["tensorboard"] == 37, run.stats
        assert not os.listdir(os.environ["TRACELET_DIR"])
        """
    )
    for folder in ("shared", "older"):
        found = events_by_folder(tmp_path / folder)["."]
        logged = [(event.summary.value[0].tag, event.step) for event in found]
        by_parent = [("large", 4)] if folder == "shared" else []
        expected = [(tag, step) for step in range(4) for tag in ("s", "small", "large")]
        assert sorted(logged) == sorted(expected + by_parent)


def test_one_writer_without_a_file_holds_back_no_other(tmp_path, caplog):
    start()
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a_b").write_text("where add_scalars wants a folder")
    writer = SummaryWriter(tmp_path / "log")
    with caplog.at_level(logging.WARNING):
        writer.add_scalars("a", {"b": 1.0}, 1)
        writer.add_scalars("a", {"b": 1.0}, 2)
        writer.add_scalars("a", {"c" * 300: 1.0}, 3)
        writer.add_image("i", PIXELS, 4)
        writer.flush()
        assert steps(event_files(writer.log_dir)[0]) == [("i", 4)]
        (tmp_path / "log" / "a_b").unlink()
        writer.add_scalars("a", {"b": 1.0}, 5)
        run = tracelet.get_active_experiment()
        tracelet.stop_logging()
    assert steps(event_files(tmp_path / "log" / "a_b")[0]) == [("a", 5)]
    assert run.stats.dropped == {"event file can't be opened": 3}
    assert run.stats.pending == 0
    assert caplog.text.count("there is no event file in") == 2


def test_two_threads_adopt_a_writer_that_is_older_than_the_run(tmp_path, monkeypatch):
    """The second begins while the first is at it: one of them adopts the writer."""
    writer = SummaryWriter(str(tmp_path / "log"))
    suffix_of = event_writer._filename_suffix
    others = []

    def log_in_another_thread(event_writer):
        if not others:
            others.append(threading.Thread(target=writer.add_text, args=("other", "text", 1)))
            others[0].start()
            others[0].join(0.2)  # it waits for this thread, or it is done
        return suffix_of(event_writer)

    monkeypatch.setattr(event_writer, "_filename_suffix", log_in_another_thread)
    experiment = start()
    writer.add_text("first", "text", 1)
    others[0].join()
    tracelet.stop_logging()
    assert experiment.stats.accepted == experiment.stats.delivered["tensorboard"] == 2
    (path,) = event_files(tmp_path / "log")
    tags = {value.tag for event in events(path) for value in event.summary.value}
    assert tags == {"first/text_summary", "other/text_summary"}


def test_a_run_that_starts_while_a_writer_of_the_run_before_makes_its_own_file(
    tmp_path, monkeypatch
):
    """What a file begins with is in that file, and no point of the run."""
    start()
    writer = SummaryWriter(str(tmp_path / "log"))
    tracelet.stop_logging()
    started = []
    make = tensorboard_writer._AsyncWriter

    def start_and_make(*args, **kwargs):
        if not started:
            started.append(start())
            other = threading.Thread(target=writer.flush)  # of a file that is not there yet
            other.start()
            other.join()
        return make(*args, **kwargs)

    monkeypatch.setattr(tensorboard_writer, "_AsyncWriter", start_and_make)
    writer.add_text("between", "text", 1)
    tracelet.stop_logging()
    writer.close()
    assert started[0].stats.accepted == 0
    (own,) = torch_files(tmp_path / "log")
    first, point = events(own)
    assert first.file_version == "brain.Event:2"
    assert point.summary.value[0].tag == "between/text_summary"
