"""What a reader with fresh eyes found, 2026-11-26: the process' end, folders that are relative, two
containers with one name, two syncs at once, a log folder that is taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import tracelet
from readers import event_file_scalars, event_files
from tracelet import _core
from tracelet.backends.tensorboard import paths
from tracelet.recovery.orphans import find_orphans
from tracelet.runs import process_identity
from tracelet.runs.stored_run import find_runs

pytest.importorskip("torch")


def test_a_writer_that_is_used_while_the_interpreter_ends_keeps_the_process_from_nothing(
    run_script, tmp_path
):
    """Its own file is made with a thread, which is never started then: it was waited for."""
    done = run_script(
        """
        import tracelet
        from torch.utils.tensorboard import SummaryWriter
        tracelet.start_logging("end", "tests", "tensorboard")
        class Trainer:
            def __init__(self):
                self.writer = SummaryWriter("log")
                self.writer.add_scalar("loss", 1, 1)
            def __del__(self):
                self.writer.add_scalar("done", 1, 2)
                self.writer.add_scalar("done", 1, 3)
        trainer = Trainer()
        """,
        timeout_s=100,
        is_new=True,  # how it ends is what this is about
    )
    scalars = event_file_scalars(tmp_path / "log")
    assert [step for step, _, _ in scalars["loss"]] == [1]
    assert [step for step, _, _ in scalars["done"]] == [2, 3], done.stderr


def test_relative_folders_are_those_of_the_start_wherever_the_program_goes(run_script, tmp_path):
    """Hydra changes the working folder; the journal and the ring were looked for in the new one."""
    environment = {"TRACELET_DIR": "relative-runs", "TRACELET_RING_DIR": "relative-rings"}
    code = """
        import os, sys, tracelet
        (tmp := os.path.join(os.getcwd(), "elsewhere")), os.makedirs(tmp, exist_ok=True)
        os.makedirs("relative-rings", exist_ok=True)
        experiment = tracelet.start_logging("relative", "tests", "tensorboard", {
            "log_dir": "log", "ring_slots": 1024})
        os.chdir(tmp)
        for step in range(5000):
            experiment.log_metric("a", step, step)
        END
    """
    run_script(code.replace("END", "tracelet.stop_logging()"), env=environment)
    assert os.listdir(tmp_path / "relative-rings") == []
    assert os.listdir(tmp_path / "relative-runs") == []
    run_script(code.replace("END", "os.kill(os.getpid(), 9)"), env=environment, check=False)
    (run,) = find_runs(str(tmp_path / "relative-runs"))
    done = subprocess.run(
        [sys.executable, "-m", "tracelet", "sync", "--all", "--runs-dir", run.path + "/.."],
        cwd="/", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done
    steps = [step for step, _, _ in event_file_scalars(tmp_path / "log")["a"]]
    assert sorted(steps) == sorted([*range(5000)] * 2)


def test_a_ring_that_had_points_is_no_orphan_of_another_runs_folder(tmp_path, monkeypatch):
    """What is in a journal is not delivered yet, and what was dropped is counted in the ring."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    from tracelet.places import temporary_folder

    found = {}
    for name, count in (("with", 3), ("without", 0)):
        path = Path(temporary_folder(), f"tracelet-20260101-000000-{name}.ring")
        path.parent.mkdir(exist_ok=True)
        ring = _core.Ring.create(str(path), 64, 1.0, 1 << 16)
        for _ in range(count):
            _core.log_metric_into(ring, "a", 1.0, 1, "")
        lease = ring.lease(64)
        lease.release()
        assert ring.head == ring.tail == count
        del lease, ring
        os.utime(path, (time.time() - 3600,) * 2)
        found[name] = str(path) in find_orphans(str(tmp_path / "other-runs"))
        path.unlink()
    assert found == {"with": False, "without": True}


def test_a_name_that_another_container_has_taken_is_left_to_it(tmp_path, monkeypatch):
    """One host name, one pid, one second: SummaryWriter() raised FileExistsError."""
    numbers = iter([7, 7, 8, 7, 9])
    monkeypatch.setattr(paths, "_file_numbers", numbers)
    first = paths.new_event_file(paths.writer_key(str(tmp_path), ""), 1000.0)
    second = paths.new_event_file(paths.writer_key(str(tmp_path), ""), 1000.0)
    assert first.endswith("000007")
    assert second.endswith("000008")
    theirs = paths.EventFilePaths().next(paths.writer_key(str(tmp_path), ""), None, 1000.0)
    assert theirs.endswith("000009")


def test_a_log_folder_that_a_file_stands_in_for_costs_counted_points_alone(tmp_path):
    """They were written to the deleted file as well, and counted twice."""
    import shutil

    from torch.utils.tensorboard import SummaryWriter

    with tracelet.start_logging("taken", "tests", "tensorboard") as experiment:
        writer = SummaryWriter(tmp_path / "log")
        for until, change in ((100, None), (200, "taken"), (300, "given back")):
            if change == "taken":
                shutil.rmtree(tmp_path / "log")
                (tmp_path / "log").touch()
            elif change == "given back":
                (tmp_path / "log").unlink()
            for step in range(until - 100, until):
                writer.add_scalar("a", step, step)
            assert experiment.flush()
            (lane,) = experiment.stats.lanes.values()
            assert lane.not_meant == 0, lane
            assert lane.delivered + sum(lane.set_aside.values()) == until, lane
    stats = experiment.stats
    assert stats.delivered["tensorboard"] == 200
    assert sum(stats.dropped.values()) == 100, stats
    (path,) = event_files(tmp_path / "log")
    steps = [step for step, _, _ in event_file_scalars(tmp_path / "log")["a"]]
    assert steps == list(range(200, 300)), path


def test_a_process_of_another_pid_namespace_may_live(monkeypatch):
    """Two containers with one host name: the other's process was taken for dead, and its offline
    session imported while it wrote to it."""
    identity = process_identity.process_identity()
    assert process_identity.is_alive(identity)
    assert process_identity.is_alive({**identity, "pid": 2**22 + 1}) is False
    other = {**identity, "pid": 2**22 + 1, "pid_namespace": "pid:[1]"}
    assert process_identity.is_alive(other) is None
    before = {**other, "boot": "another", "process_start": "another/1"}
    assert process_identity.is_alive(before) is False


@pytest.mark.slow
def test_two_that_import_one_session_make_one_task_of_it(run_script, clearml_server, tmp_path):
    pytest.importorskip("clearml")
    run_script("""
        import tracelet
        tracelet.start_logging("once", "tests", "clearml").log_metric("a", 1.0, 1)
        tracelet.stop_logging()
    """)
    slow = """
        import sys, time, tracelet.backends.clearml.import_session as module
        target = module._target
        module._target = lambda *arguments: (time.sleep(4), target(*arguments))[1]
        from tracelet.cli import main
        sys.exit(main(["sync", "--all"]))
    """
    environment = {
        **os.environ, **clearml_server.environment(),
        "CLEARML_CACHE_DIR": str(tmp_path / "clearml"),
        "TRACELET_DIR": str(tmp_path / "tracelet-runs"),
    }  # fmt: skip
    environment.pop("CLEARML_OFFLINE_MODE", None)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(slow)], env=environment, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = [each.communicate(timeout=240)[0] for each in both]
    (task,) = clearml_server.tasks
    assert clearml_server.scalars(task)["a", "a"] == {1: 1.0}, told
    assert 0 in [each.returncode for each in both], told
    assert len(list((tmp_path / "clearml").glob("offline/*/tracelet.json"))) == 1
    (note,) = (tmp_path / "clearml").glob("offline/*/tracelet.json")
    assert json.loads(note.read_text())["task"] == task


def test_ctrl_c_right_after_a_start_leaves_no_thread(monkeypatch, tmp_path):
    from tracelet.pipeline import run as module

    class Interrupted(module.contextlib.ExitStack):
        def pop_all(self):
            kept = super().pop_all()
            raise KeyboardInterrupt
            return kept

    stand_in = type("contextlib", (), {**vars(module.contextlib), "ExitStack": Interrupted})
    monkeypatch.setattr(module, "contextlib", stand_in)
    with pytest.raises(KeyboardInterrupt):
        tracelet.start_logging("cut", "tests", "tensorboard", {"log_dir": str(tmp_path / "log")})
    left = [each.name for each in threading.enumerate() if each.name.startswith("tracelet")]
    assert left == []
    assert tracelet.get_active_experiment() is None


def test_a_removal_that_was_cut_short_is_finished_by_the_next_stop(monkeypatch, tmp_path, caplog):
    from tracelet.runs import deletion

    experiment = tracelet.start_logging("cut", "tests", "tensorboard")
    experiment.log_metric("a", 1.0, 1)
    parent = Path(experiment._run.folder.path).parent

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deletion.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tracelet.stop_logging()
    tracelet.stop_logging()
    assert "putting the run's folder in order failed" not in caplog.text
    assert list(parent.iterdir()) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_an_ended_run_maps_nothing_any_more_though_its_handle_is_kept(run_script):
    """Its ring is 25 MiB of shared memory: it was held, by a method that a backend had handed out,
    as long as the handle was kept, and else until the collector's next pass."""
    run_script("""
        import gc, tracelet
        from torch.utils.tensorboard import SummaryWriter
        gc.disable()
        kept = []
        for backends in (["tensorboard"], ["clearml", "tensorboard"]):
            experiment = tracelet.start_logging("ended", "tests", backends)
            SummaryWriter("log").add_scalar("a", 1, 1)
            experiment.log({"b": 1})
            experiment.log_params({"c": 1})
            places = experiment._run.folder.ring_path, experiment._run.folder.path
            tracelet.stop_logging()
            kept.append(experiment)
            with open("/proc/self/maps") as maps:
                left = [line for line in maps if any(place in line for place in places)]
            assert left == [], (backends, left)
            assert experiment.stats.accepted >= 2
    """)


def test_a_backend_of_the_users_own_serves_a_second_run(tmp_path):
    """The end of the first run took its sinks away: the second one logged to nobody."""
    from recording_sink import RecordingSink
    from tracelet.backends.plain import PlainBackend

    sink = RecordingSink()
    backend = PlainBackend("once_made", [sink])
    tracelet.register_sink("once_made", lambda info: backend)
    for number in range(2):
        with tracelet.start_logging("twice", "tests", "once_made") as experiment:
            experiment.log({"a": number}, step=number)
        assert experiment.stats.delivered[sink.name] == 1
    assert list(backend.sinks) == [sink]


def test_a_folder_that_can_not_be_synced_keeps_no_parameters_back(tmp_path, monkeypatch):
    """Some file systems have no way to sync a folder (EINVAL): the run was unsent for ever."""
    import errno
    import stat

    from torch.utils.tensorboard import SummaryWriter

    sync = os.fsync

    def refusing(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(fd)

    monkeypatch.setattr(os, "fsync", refusing)
    with tracelet.start_logging("folder", "tests", "tensorboard") as experiment:
        SummaryWriter(tmp_path / "log")
        experiment.log_params({"a": 1})
        experiment.log_params({"b": 2})
    assert experiment.stats.unsent_calls == 0
    assert list((tmp_path / "log").glob("*.params"))


def test_a_hook_at_exit_that_no_thread_can_be_started_in_loses_no_event(run_script, tmp_path):
    """From Python 3.12 on Thread.start raises there; the first one to be needed was after the run's
    end, for the writer's own file."""
    run_script(
        """
        import atexit, threading, tracelet
        from torch.utils.tensorboard import SummaryWriter
        def refuse(thread):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        def last():
            threading.Thread.start = refuse
            for step in (2, 3):
                writer.add_scalar("done", 1, step)
        atexit.register(last)
        tracelet.start_logging("hook", "tests", "tensorboard")
        writer = SummaryWriter("log")
        writer.add_scalar("loss", 1, 1)
        """,
        is_new=True,  # how it ends is what this is about
    )
    scalars = event_file_scalars(tmp_path / "log")
    assert [step for step, _, _ in scalars["loss"]] == [1]
    assert [step for step, _, _ in scalars["done"]] == [2, 3]


def test_a_process_that_can_t_be_looked_at_is_not_an_error(monkeypatch):
    identity = process_identity.process_identity()

    def refuse():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(process_identity, "boot_id", refuse)
    assert process_identity.is_alive(identity) is None


def test_a_name_that_is_no_utf_8_is_told_before_anything_is_logged(tmp_path):
    with tracelet.start_logging("name", "tests", "tensorboard") as experiment:
        with pytest.raises(ValueError, match="can't be written as UTF-8"):
            experiment.log({"good": 1, "bad\ud800": 2, "later": 3})
        experiment.log({}, step=41)
        experiment.log({"good": 1})
    assert experiment.stats.accepted == 1


def test_parameters_may_be_logged_by_a_signal_handler(run_script):
    """Its own lock was held by the call that it had interrupted."""
    run_script("""
        import signal, sys, tracelet
        from tracelet.backends.tensorboard import backend
        experiment = tracelet.start_logging("signal", "tests", "tensorboard")
        make = backend.params_event
        def making(*arguments):
            if not fired:
                fired.append(1)
                signal.raise_signal(signal.SIGUSR1)
            return make(*arguments)
        fired = []
        backend.params_event = making
        signal.signal(signal.SIGUSR1, lambda *_: experiment.log_params({"from handler": 1}))
        experiment.log_params({"a": 1})
        tracelet.stop_logging()
        assert experiment.stats.unsent_calls == 0
    """)


def test_a_writer_of_the_inner_run_is_not_the_outer_ones_first(tmp_path, monkeypatch):
    """Used after its own run, it settled the outer handle in its folder: one run in TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.chdir(tmp_path)
    with tracelet.start_logging("outer", "tests", "tensorboard") as outer:
        with tracelet.logging("tensorboard", "inner"):
            writer = SummaryWriter("theirs")
            writer.add_scalar("in", 1, 1)
        writer.add_scalar("after", 1, 1)
        outer.log({"o": 1})
    assert set(event_file_scalars(tmp_path / "runs" / "outer")) == {"o"}
    assert set(event_file_scalars(tmp_path / "theirs")) == {"in", "after"}


def test_ctrl_c_while_the_drainer_starts_leaves_no_thread(monkeypatch, tmp_path):
    from tracelet.pipeline import run as module

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "Live", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracelet.start_logging("cut", "tests", "tensorboard", {"log_dir": str(tmp_path / "log")})
    left = [each.name for each in threading.enumerate() if each.name.startswith("tracelet")]
    assert left == []


def test_a_stand_in_for_clearml_is_no_clearml(monkeypatch):
    """A test of the user's that replaces the module: start_logging() raised ValueError."""
    import types

    from tracelet.backends.clearml.set_up import is_installed

    monkeypatch.setitem(sys.modules, "clearml", types.ModuleType("clearml"))
    assert not is_installed()


def test_a_file_that_another_container_has_made_is_not_removed_for_want_of_a_descriptor(
    tmp_path, monkeypatch
):
    """What could not be opened was taken for a file of its own that was half written."""
    import resource

    key = paths.writer_key(str(tmp_path), "")
    monkeypatch.setattr(paths, "_file_numbers", iter([7, 7]))
    theirs = paths.new_event_file(key, 1000.0)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            paths.new_event_file(key, 1000.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert os.path.exists(theirs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_may_note_one_session_at_once(tmp_path):
    """Both wrote to one file of a passing name: the second found it gone."""
    from tracelet.backends.clearml import import_session

    pid = os.fork()
    failed = 1
    try:
        for number in range(300):
            import_session._write(tmp_path, {"run": "r", "number": number})
        failed = 0
    finally:
        if pid == 0:
            os._exit(failed)
        _, status = os.waitpid(pid, 0)
    assert status == 0
    assert json.loads((tmp_path / "tracelet.json").read_text())["number"] == 299


def test_a_note_that_was_damaged_after_it_was_found_is_told_and_kept(tmp_path, capsys, monkeypatch):
    """It ended `tracelet sync --all` with a traceback; the sessions behind it were not sent."""
    from tracelet.backends.clearml import import_session
    from tracelet.commands.offline_sessions import send_session

    monkeypatch.delenv("CLEARML_OFFLINE_MODE", raising=False)
    import_session._write(tmp_path, {"run": "r"})
    session = import_session.OfflineSession(tmp_path)
    (tmp_path / "tracelet.json").write_text('{"run": "r", ')
    assert send_session(session, str(tmp_path)) == 1
    assert "tracelet.json is damaged" in capsys.readouterr().err
