"""Runs one after the other, what they leave behind, and the ends a process can take."""

from __future__ import annotations

import os
import sys
import threading

import psutil
import pytest
import tracelet
from readers import event_file_scalars, event_files
from tracelet import places


def test_names_and_ids():
    experiment = tracelet.start_logging("the name", "tests", backend="tensorboard")
    assert experiment.name == "the name"
    assert experiment.id
    assert tracelet.get_active_experiment() is experiment
    tracelet.stop_logging()
    assert tracelet.get_active_experiment() is None
    with pytest.raises(tracelet.TraceletError, match="has ended"):
        experiment.log_metric("a", 1.0)
    tracelet.stop_logging()  # does nothing


def test_log_metric_goes_to_the_event_file_of_log_dir(tmp_path):
    experiment = tracelet.start_logging("named", "tests", backend="tensorboard")
    experiment.log_metric("a", 1.5, 7)
    experiment.log_metric("a", 2.5)
    with pytest.raises(TypeError, match=r"log_metric.*'a'"):
        experiment.log_metric("a", None, 7)
    tracelet.stop_logging()
    points = event_file_scalars(tmp_path / "runs" / "named")["a"]
    assert [p[:2] for p in points] == [(7, 1.5), (0, 2.5)]


def test_tensorboard_sees_the_points_while_the_run_goes_on(tmp_path):
    """Also beside the file that torch's own writer has made in the same folder."""
    writer_class = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    experiment = tracelet.start_logging("live", "tests", backend="tensorboard")
    for _ in range(200):  # torch numbers its files, and so do we
        writer_class(tmp_path / "other").close()
    writer = writer_class(tmp_path / "log")
    reader = EventAccumulator(str(tmp_path / "log"), size_guidance={"scalars": 0})
    for round_ in range(1, 4):
        for step in range(1_000):
            writer.add_scalar("a", step, 1_000 * round_ + step)
        assert experiment.flush()
        reader.Reload()
        assert len(reader.Scalars("a")) == 1_000 * round_


def test_a_start_while_a_run_is_active_stops_that_one_first(caplog, tmp_path):
    first = tracelet.start_logging(
        "first", "tests", backend="tensorboard", config={"log_dir": str(tmp_path / "first")}
    )
    first.log_metric("a", 1.0, 1)
    second = tracelet.start_logging("second", "tests", backend="tensorboard")
    assert "that run is stopped first" in caplog.text
    assert tracelet.get_active_experiment() is second
    assert first.stats.pending == 0
    assert len(event_file_scalars(tmp_path / "first")["a"]) == 1


def test_the_context_manager_ends_the_run_also_when_the_block_raises(tmp_path):
    def block():
        with tracelet.logging("tensorboard", exp_name="block", project="tests") as experiment:
            experiment.log_metric("a", 1.0, 1)
            raise RuntimeError("the block")

    with pytest.raises(RuntimeError, match="the block"):
        block()
    assert tracelet.get_active_experiment() is None
    assert len(event_file_scalars(tmp_path / "runs" / "block")["a"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "runs"), [("tensorboard", 100), ("clearml", 30)])
def test_a_hundred_runs_leak_nothing(backend, runs, tmp_path):
    """With ClearML fewer, of half a second each: what each leaks is seen in 30 as well."""
    if backend == "clearml":
        pytest.importorskip("clearml")
    writer_class = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    originals = dict(vars(writer_class))
    process = psutil.Process()

    def cycle():
        tracelet.start_logging("leaks", "tests", backend=backend)
        writer = writer_class(tmp_path / "log")
        writer.add_scalar("a", 1.0, 1)
        writer.close()
        tracelet.stop_logging()

    def in_use():
        maps = process.memory_maps(grouped=False)
        ours = {m.path for m in maps if "tracelet" in m.path and m.path.endswith(".ring")}
        return ours, threading.active_count(), process.num_fds()

    mappings, _, _ = in_use()
    for _ in range(5):
        cycle()
    _, threads, fds = in_use()
    for _ in range(runs):
        cycle()
    mappings_after, threads_after, fds_after = in_use()
    assert mappings_after <= mappings
    assert threads_after <= threads
    # torch's own writers of the last cycles close their file when they are collected.
    assert fds_after <= fds + 3
    assert dict(vars(writer_class)) == originals
    assert list((tmp_path / "tracelet-runs").iterdir()) == []
    assert len(event_files(tmp_path / "log")) == 5 + runs


ENDS = {
    "the script's end": "",
    "an uncaught exception": "raise RuntimeError('training failed')",
    "sys.exit": "import sys; sys.exit(3)",
    "an exception in a thread": (
        "import threading\n"
        "def fail(): raise RuntimeError('thread')\n"
        "t = threading.Thread(target=fail); t.start(); t.join()"
    ),
}
EXIT_CODES = {"an uncaught exception": 1, "sys.exit": 3}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_points_are_flushed_when_the_process_ends_without_stop(end, run_script, tmp_path):
    done = run_script(
        f"""
import tracelet
experiment = tracelet.start_logging("ends", "tests", backend="tensorboard")
for step in range(10_000):
    experiment.log_metric("a", step, step)
{ENDS[end]}
""",
        check=False,
        is_new=True,
    )
    assert done.returncode == EXIT_CODES.get(end, 0), done.stderr
    assert "nanobind" not in done.stderr
    points = event_file_scalars(tmp_path / "runs" / "ends")["a"]
    assert [step for step, _, _ in points] == list(range(10_000))
    assert list((tmp_path / "tracelet-runs").iterdir()) == []


def test_the_rings_file_and_the_run_folder_are_the_owners_alone(tmp_path):
    experiment = tracelet.start_logging("modes", "tests", backend="tensorboard")
    (folder,) = (tmp_path / "tracelet-runs").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in (folder / "manifest.json", experiment._run.folder.ring_path):
        assert os.stat(path).st_mode & 0o777 == 0o600


def test_the_ring_lies_in_the_run_folder_when_shared_memory_has_no_room(monkeypatch, tmp_path):
    monkeypatch.setattr("tracelet.places.free_shared_memory_bytes", lambda: 1_000_000)
    experiment = tracelet.start_logging("small", "tests", backend="tensorboard")
    assert str(tmp_path) in experiment._run.folder.ring_path


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_childs_points_arrive_and_its_exit_ends_nothing(run_script, tmp_path):
    run_script(
        """
        import os, sys, time, tracelet
        experiment = tracelet.start_logging(
            "forks", "tests", backend="tensorboard", config={"log_dir": "log"}
        )
        writer = experiment._run.handle.settle()
        experiment.log_metric("parent", 0.0, 0)
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                from tracelet import _core
                assert not tracelet.get_active_experiment().is_active  # the parent's
                for step in range(5_000):
                    _core.log_metric(f"child{number}", step, step, writer)
                tracelet.stop_logging() if number == 0 else None
                sys.exit(0) if number == 1 else os._exit(0)
            children.append(pid)
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
        experiment.log_metric("parent", 1.0, 1)
        tracelet.stop_logging()
        assert experiment.stats.accepted == 15_002, experiment.stats
        """
    )
    points = event_file_scalars(tmp_path / "log")
    assert [p[:2] for p in points["parent"]] == [(0, 0.0), (1, 1.0)]
    for number in range(3):
        assert [step for step, _, _ in points[f"child{number}"]] == list(range(5_000))


def test_without_torch_the_import_and_log_metric_work(run_script, tmp_path):
    done = run_script(
        """
        import importlib.abc, sys

        class NoTorch(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "tensorboard"):
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, NoTorch())
        import tracelet
        experiment = tracelet.start_logging("no torch", "tests", backend="tensorboard")
        experiment.log_metric("a", 1.5, 3)
        tracelet.stop_logging()
        print(experiment.stats.delivered)
        """
    )
    assert "'tensorboard': 1" in done.stdout
    assert event_file_scalars(tmp_path / "runs" / "no torch")["a"][0][:2] == (3, 1.5)


def test_the_import_brings_in_neither_torch_nor_clearml(run_script):
    done = run_script(
        """
        import sys
        import tracelet
        print(sorted({"torch", "clearml", "tensorboard", "requests"} & set(sys.modules)))
        """,
        is_new=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_command_prints_its_version(run_script):
    done = run_script(
        "import sys, tracelet.cli; sys.argv = ['tracelet', '--version']; tracelet.cli.main()"
    )
    assert done.stdout.strip() == f"tracelet {tracelet.__version__}"
    assert sys.version_info >= (3, 9)


@pytest.mark.parametrize(
    ("free_bytes", "is_there"), [(64 << 20, False), (None, False), (4 << 30, True)]
)
def test_the_ring_leaves_a_small_shared_memory_to_others(free_bytes, is_there, monkeypatch):
    """Docker gives 64 MB, and a DataLoader needs them: a ring of 25 MiB there ended it."""
    monkeypatch.setattr(places, "free_shared_memory_bytes", lambda: free_bytes)
    run = tracelet.start_logging("ring", "tests", backend="tensorboard")
    folder = run._run.folder
    assert os.path.exists(folder.ring_path)
    parent = os.path.dirname(folder.ring_path)
    assert parent == (places.SHARED_MEMORY if is_there else folder.path)
    run.log_metric("a", 1.0, 1)
    tracelet.stop_logging()
    assert run.stats.pending == 0
    assert not os.path.exists(folder.path)
    assert not os.path.exists(folder.ring_path)
