"""`tracelet sync`: a killed run's points reach every sink, once, value for value."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tracelet
from readers import event_file_scalars, event_files, session_events, session_scalars
from recording_sink import RecordingSink
from tracelet.cli import main
from tracelet.journal.format import scan_segment, segment_paths
from tracelet.runs.stored_run import find_runs
from waiting import wait_until

pytest.importorskip("clearml")
pytest.importorskip("torch")

KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.fixture
def killed(run_script, tmp_path):
    """Runs code that logs, then kills its process; returns the run that it left."""

    def run(code, env=None, end=KILL):
        done = run_script(textwrap.dedent(code) + "\n" + end, env=env, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        (left,) = find_runs(str(tmp_path / "tracelet-runs"))
        return left

    return run


START = """
import tracelet
from torch.utils.tensorboard import SummaryWriter
experiment = tracelet.start_logging("victim", "tests")
writer = SummaryWriter("log")
other = SummaryWriter("other")
"""


def test_a_killed_offline_run_is_sent_and_leaves_nothing(killed, tmp_path, capsys):
    run = killed(
        START
        + """
for step in range(50_000):
    writer.add_scalar("train/loss", step * 0.5, step)
    other.add_scalar("train/loss", -step * 0.25, step)
"""
    )
    folder = run.manifest["reopen"]["clearml"]["offline_folder"]
    assert main(["runs"]) == 0
    assert " unsent " in capsys.readouterr().out
    assert main(["sync", run.run_id]) == 0
    assert f"{run.run_id}: " in capsys.readouterr().out
    by_series = session_scalars(folder)
    steps = list(range(50_000))
    # The second writer's series is named as the dead process named it, or would have.
    assert sorted(by_series) == [("train", "loss"), ("train", "other: loss")]
    assert [p[:2] for p in by_series["train", "loss"]] == [(s, s * 0.5) for s in steps]
    assert [p[:2] for p in by_series["train", "other: loss"]] == [(s, -s * 0.25) for s in steps]
    for name, factor in (("log", 0.5), ("other", -0.25)):
        points = event_file_scalars(tmp_path / name)["train/loss"]
        assert [p[:2] for p in points] == [(s, np.float32(s * factor)) for s in steps]
    assert os.path.exists(folder + ".zip")
    assert not os.path.exists(run.path)
    assert not os.path.exists(run.ring_path)
    assert main(["runs"]) == 0
    assert f"{run.run_id}  killed " in capsys.readouterr().out  # in the history


def test_the_view_of_a_killed_runs_histograms_over_time_is_refreshed(killed):
    run = killed(
        """
import time, tracelet
import numpy as np
from torch.utils.tensorboard import SummaryWriter
experiment = tracelet.start_logging("victim", "tests", config={
    "histogram_view_interval_s": 0.01, "drain_interval_s": 30})
writer = SummaryWriter("log")
for step in range(20):
    writer.add_histogram("layer/a", np.arange(10.0 + step), step)
    if step in (10, 15):
        time.sleep(0.05)
        assert experiment.flush(30)  # the view is written, and kept
"""
    )
    folder = run.manifest["reopen"]["clearml"]["offline_folder"]
    assert main(["sync", run.run_id]) == 0
    events = [e for e in session_events(folder) if e.get("variant") == "a over time"]
    (trace,) = json.loads(events[-1]["plot_str"])["data"]
    assert trace["y"] == list(range(20))
    assert [sum(row) for row in trace["z"]] == [10 + step for step in range(20)]


@pytest.mark.slow
def test_a_killed_online_run_goes_on_in_its_task(killed, clearml_server, monkeypatch, tmp_path):
    code = (
        START
        + """
for step in range(30_000):
    writer.add_scalar("train/loss", step * 0.5, step)
import torch
writer.add_histogram("weights", torch.arange(100.0), 3)
writer.add_image("image", torch.zeros(3, 4, 4), 5)
writer.add_text("text", "a text", 7)
"""
    )
    run = killed(code, env=clearml_server.environment())
    (task_id,) = clearml_server.tasks
    assert run.manifest["task"] == task_id
    done = sync_online(clearml_server, tmp_path, run.run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(clearml_server.tasks) == [task_id]
    assert clearml_server.scalars(task_id)["train", "loss"] == {
        step: step * 0.5 for step in range(30_000)
    }
    kinds = [event["type"] for event in clearml_server.events(task_id)]
    assert kinds.count("training_debug_image") == 2
    assert kinds.count("plot") >= 1
    task = clearml_server.tasks[task_id]
    assert task["status"] == "stopped"
    assert "ended without closing" in task["status_reason"]
    assert clearml_server.schema_violations == []
    assert not os.path.exists(run.path)


def sync_online(server, tmp_path, *arguments):
    environment = {**os.environ, **server.environment()}
    environment.pop("CLEARML_OFFLINE_MODE", None)
    environment["TRACELET_DIR"] = str(tmp_path / "tracelet-runs")
    # `sync --all` imports the offline sessions that are there: those of other tests are not ours.
    environment["CLEARML_CACHE_DIR"] = str(tmp_path / "clearml")
    code = "import sys; from tracelet.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, "sync", *arguments],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_without_its_server_all_is_kept_and_sent_another_time(killed, clearml_server, tmp_path):
    run = killed(
        START + "for step in range(5_000): writer.add_scalar('a/b', step * 0.5, step)\n",
        env=clearml_server.environment(),
    )
    clearml_server.stop()
    done = sync_online(clearml_server, tmp_path, run.run_id)
    assert done.returncode == 1
    assert "not all of it is sent" in done.stderr
    assert f"try again: tracelet sync {run.run_id}" in done.stderr
    points = event_file_scalars(tmp_path / "log")["a/b"]
    assert [p[0] for p in points] == list(range(5_000))
    clearml_server.start()
    done = sync_online(clearml_server, tmp_path, "--all")
    assert done.returncode == 0, done.stderr
    (task_id,) = clearml_server.tasks
    assert clearml_server.scalars(task_id)["a", "b"] == {s: s * 0.5 for s in range(5_000)}
    assert event_file_scalars(tmp_path / "log")["a/b"] == points  # not once more
    assert not os.path.exists(run.path)


def test_a_run_whose_process_is_alive_is_refused(tmp_path, capsys):
    tracelet.start_logging("alive", "tests", backend="tensorboard")
    (run,) = find_runs(str(tmp_path / "tracelet-runs"))
    assert main(["sync", run.run_id]) == 1
    told = capsys.readouterr().err
    assert "is alive" in told
    assert str(os.getpid()) in told
    assert main(["clean", run.run_id, "--yes"]) == 1
    assert os.path.exists(run.ring_path)


@pytest.mark.slow
def test_a_forked_child_that_logs_and_outlives_its_parent_keeps_the_run_alive(killed, capsys):
    run = killed(
        START
        + """
import os, time
writer.add_scalar("a", 1.0, 1)
if os.fork() == 0:
    writer.add_scalar("a", 1.5, 2)
    os.close(1), os.close(2)
    os.mkdir("logged")
    time.sleep(6)
    writer.add_scalar("a", 2.0, 3)
    os._exit(0)
while not os.path.exists("logged"):
    time.sleep(0.01)
"""
    )
    assert main(["sync", run.run_id]) == 1
    assert "or a child of it, is alive" in capsys.readouterr().err
    wait_until(lambda: not run.is_alive)
    assert main(["sync", run.run_id]) == 0
    folder = run.manifest["reopen"]["clearml"]["offline_folder"]
    assert [p[:2] for p in session_scalars(folder)["a", "a"]] == [(1, 1.0), (2, 1.5), (3, 2.0)]


@pytest.mark.slow
def test_two_at_once_on_one_run_are_refused(killed, capsys, tmp_path):
    run = killed(START + "writer.add_scalar('a', 1.0, 1)\n")
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            from tracelet.runs.run_lock import RunLock
            lock = RunLock({os.path.join(run.path, "sync.lock")!r})
            assert lock.acquire()
            print("held", flush=True)
            input()
        """)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    assert main(["sync", run.run_id]) == 1
    assert "is being sent by another process" in capsys.readouterr().err
    holder.communicate("\n")
    assert main(["sync", run.run_id]) == 0


def test_leftovers_of_stop_logging_are_sent_by_the_command_that_it_prints(caplog, tmp_path):
    class Away(RecordingSink):
        is_away = True

        def write(self, batch):
            if self.is_away:
                raise OSError("away")
            return super().write(batch)

    sink = Away(is_remote=True).register()
    experiment = tracelet.start_logging("left", "tests", backend="recording")
    for step in range(1_000):
        experiment.log_metric("a", step * 0.5, step)
    tracelet.stop_logging(timeout_s=0.3)
    (run,) = find_runs(str(tmp_path / "tracelet-runs"))
    assert f"    tracelet sync {run.run_id}" in caplog.text
    assert not os.path.exists(run.ring_path)
    sink.is_away = False
    # Its shipper, in the middle of a pause, has the run's lock.
    wait_until(lambda: main(["sync", run.run_id]) == 0)
    assert sorted({point[3] for point in sink.points}) == list(range(1_000))
    assert not os.path.exists(run.path)


@pytest.mark.slow
def test_damage_costs_its_block_alone_and_is_told_with_its_place(
    killed, clearml_server, tmp_path, capsys
):
    """Online while the server is away: all is in the journal, of which a byte flips."""
    environment = clearml_server.environment()
    run = killed(
        START
        + "for step in range(60_000): writer.add_scalar('a/b', step * 0.5, step)\n"
        + "import time; time.sleep(1)\n",
        env={**environment, "TRACELET_BATCH_MAX_AGE_S": "100",
             "TRACELET_BATCH_MAX_POINTS": "1000000", "TRACELET_TENSORBOARD": "off"},
    )  # fmt: skip
    block = scan_segment(segment_paths(run.path)[0])[0][1]
    data = bytearray(Path(block.path).read_bytes())
    data[block.offset_bytes + 1000] ^= 1
    Path(block.path).write_bytes(data)
    done = sync_online(clearml_server, tmp_path, run.run_id)
    assert done.returncode == 1, done.stderr  # what is lost is no reason to delete the rest
    assert "lost to damage" in done.stderr
    assert f"at byte {block.offset_bytes}: a block's checksum is wrong" in done.stdout
    assert f"{block.count} records are lost to damage" in done.stdout
    (task_id,) = clearml_server.tasks
    kept = set(range(60_000)) - set(range(block.first, block.end))
    assert clearml_server.scalars(task_id)["a", "b"] == {s: s * 0.5 for s in kept}
    assert os.path.exists(block.path)
    assert main(["clean", run.run_id, "--yes"]) == 0
    assert not os.path.exists(run.path)


@pytest.mark.slow
def test_a_death_while_the_sdk_writes_the_task_leaves_a_whole_session(killed):
    run = killed(
        START + "import clearml, json, os, signal\n"
        "for step in range(10): writer.add_scalar('a/b', step * 0.5, step)\n"
        "tracelet.get_active_experiment().flush()\n"
        "def dump(content, file, **options):\n"
        "    file.write(json.dumps(content)[:100])\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "json.dump = dump\n"
        "clearml.Task.current_task().add_tags(['lost'])\n"
    )
    folder = Path(run.manifest["reopen"]["clearml"]["offline_folder"])
    assert main(["sync", run.run_id]) == 0
    assert json.loads((folder / "task.json").read_text())["id"] == run.manifest["task"]
    assert [p[:2] for p in session_scalars(folder)["a", "b"]] == [(s, s * 0.5) for s in range(10)]


@pytest.mark.slow
def test_a_session_s_file_only_grows_whoever_wrote_its_lines(killed):
    """Lines behind what the dead process had noted were dropped, and the file was replaced under
    the other processes of the session, with all that they had written."""
    run = killed(START + "for step in range(9_000): writer.add_scalar('a/b', step * 0.5, step)\n")
    folder = Path(run.manifest["reopen"]["clearml"]["offline_folder"])
    theirs = json.dumps([{"timestamp": 1, "type": "log", "task": "t", "msg": "theirs"}])
    ours = '[{"type":"training_stats_scalar","task":"t","iter":1,"metric":"a","variant":"b"}]'
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(f"{ours}\n{theirs}\n{ours[:40]}")
    before = (folder / "metrics.jsonl").read_bytes()
    inode = (folder / "metrics.jsonl").stat().st_ino
    sibling = open(folder / "metrics.jsonl", "ab", buffering=0)  # noqa: SIM115
    assert main(["sync", run.run_id]) == 0
    sibling.write(ours.replace('"b"', '"later"').encode() + b"\n")
    sibling.close()
    after = (folder / "metrics.jsonl").read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    assert after.startswith(whole)
    # The torn piece becomes blanks: the line that was appended behind it would be lost with it.
    assert after[len(whole) : len(before)] == b" " * len(ours[:40])
    assert (folder / "metrics.jsonl").stat().st_ino == inode
    events = session_events(folder)
    assert [e for e in events if e["type"] == "log"] == json.loads(theirs)
    of_sibling = [e for e in events if e["type"].startswith("training") and e["task"] == "t"]
    assert [e["variant"] for e in of_sibling] == ["b", "later"]
    own = [e for e in events if e.get("metric") == "a" and e["task"] != "t"]
    assert [(e["iter"], e["value"]) for e in own] == [(step, step * 0.5) for step in range(9_000)]


@pytest.mark.slow
def test_what_a_session_has_already_is_not_appended_again(killed):
    """A death between a line and its note in the ledger."""
    run = killed(START + "for step in range(3_000): writer.add_scalar('a/b', step * 0.5, step)\n")
    folder = Path(run.manifest["reopen"]["clearml"]["offline_folder"])
    copy = Path(run.path + "-copy")
    shutil.copytree(run.path, copy)
    shutil.copy(run.ring_path, copy)
    assert main(["sync", run.run_id]) == 0
    points = session_scalars(folder)["a", "b"]
    assert len(points) == 3_000
    copy.rename(run.path)  # with another name it is not sent
    assert main(["sync", run.run_id]) == 0  # from the same notes once more
    assert session_scalars(folder)["a", "b"] == points


@pytest.mark.parametrize("trap", ["another folder", "a link", "no session", "a linked file"])
@pytest.mark.slow
def test_a_folder_that_is_not_the_run_s_offline_session_is_left_alone(
    killed, tmp_path, capsys, trap
):
    """The manifest's word was enough to append to a file of any folder and to zip it."""
    run = killed(START + "for step in range(100): writer.add_scalar('a/b', step * 0.5, step)\n")
    reopen = run.manifest["reopen"]
    folder = Path(reopen["clearml"]["offline_folder"])
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter").write_text("years of work")
    if trap == "another folder":
        run.update(
            reopen={**reopen, "clearml": {**reopen["clearml"], "offline_folder": str(thesis)}}
        )
    elif trap == "a link":
        shutil.copytree(folder, thesis, dirs_exist_ok=True)
        shutil.rmtree(folder)
        folder.symlink_to(thesis)
    elif trap == "no session":
        (folder / "task.json").unlink()
    else:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        (folder / "metrics.jsonl").symlink_to(thesis / "chapter")
    before = sorted(os.listdir(thesis))
    assert main(["sync", run.run_id]) == 1
    assert "is not the folder of this user's offline session" in capsys.readouterr().err
    assert sorted(os.listdir(thesis)) == before
    assert (thesis / "chapter").read_text() == "years of work"
    assert not Path(f"{thesis}.zip").exists()
    assert os.path.isdir(run.path)


def test_a_sink_of_ones_own_is_found_by_its_module(killed, tmp_path, capsys):
    (tmp_path / "mysink.py").write_text(
        textwrap.dedent("""
        import json, tracelet
        class Sink:
            name = "mine"
            is_remote = True
            takes_every_point = True
            def __init__(self, info):
                self.fails = info.reopen is None
                self.reopen_state = {"from": "the first"}
                if info.reopen is not None:
                    assert info.reopen == self.reopen_state
            def write(self, batch):
                if self.fails:
                    raise OSError("away")
                with open("mine.jsonl", "a") as file:
                    for r in batch.records:
                        file.write(json.dumps([batch.tag(r["tag_id"]), float(r["value"])]) + "\\n")
                return tracelet.Delivery(len(batch))
            def close(self, process_is_ending):
                pass
        tracelet.register_sink("mine", Sink)
        """)
    )
    run = killed(
        "import sys; sys.path.insert(0, '.'); import mysink\n"
        + START.replace('"tests")', '"tests", backend="mine")')
        + "for step in range(3): writer.add_scalar('a', step, step)\n"
    )
    assert main(["sync", run.run_id]) == 1
    told = capsys.readouterr().err
    assert "'mine' is not known" in told
    assert "--import" in told
    assert main(["sync", run.run_id, "--import", "mysink"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "mine.jsonl").read_text().splitlines()]
    assert lines == [["a", 0.0], ["a", 1.0], ["a", 2.0]]
    assert [p[0] for p in event_file_scalars(tmp_path / "log")["a"]] == [0, 1, 2]


@pytest.mark.slow
def test_an_interrupted_sync_goes_on_where_it_stopped(killed, monkeypatch, tmp_path):
    """Killed at each of its writes, it is called again until it is through."""
    run = killed(START + "for step in range(3_000): writer.add_scalar('a/b', step * 0.5, step)\n")
    folder = run.manifest["reopen"]["clearml"]["offline_folder"]
    code = """
        import os, sys, signal
        from tracelet import _core
        from tracelet.journal.journal import Journal
        from tracelet.pipeline import lane
        from tracelet.recovery import resend
        resend._LOCAL_BATCH_POINTS = 700
        calls = int(sys.argv[2])
        def dying(original):
            def call(*arguments):
                global calls
                calls -= 1
                if calls == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                made = original(*arguments)
                calls -= 1
                if calls == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return made
            return call
        lane.Lane._note_success = dying(lane.Lane._note_success)
        Journal.sync = dying(Journal.sync)
        from tracelet.cli import main
        sys.exit(main(["sync", sys.argv[1]]))
    """
    ends = []
    for call in (1, 2, 3, 4, 6, 9, 100):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), run.run_id, str(call)],
            capture_output=True, text=True,
        )  # fmt: skip
        ends.append(done.returncode)
    assert ends[:3] == [-9, -9, -9]
    assert ends[-1] == 0, done.stderr
    wanted = [(step, step * 0.5) for step in range(3_000)]
    assert [p[:2] for p in session_scalars(folder)["a", "b"]] == wanted
    assert [p[:2] for p in event_file_scalars(tmp_path / "log")["a/b"]] == wanted
    files = event_files(tmp_path / "log")
    assert len(files) > 2
    assert [p[:2] for f in files for p in [(f.name, 0)]] == sorted((f.name, 0) for f in files)


@pytest.mark.slow
def test_the_next_start_tells_of_unsent_runs_of_its_project(killed, caplog):
    run = killed(START + "writer.add_scalar('a', 1.0, 1)\n")
    tracelet.start_logging("next", "another project", backend="tensorboard")
    tracelet.stop_logging()
    assert "earlier run" not in caplog.text
    tracelet.start_logging("next", "tests", backend="tensorboard")
    tracelet.stop_logging()
    assert caplog.text.count("earlier run") == 1
    assert f"tracelet sync {run.run_id}" in caplog.text
    assert main(["sync", "--all"]) == 0


def test_clean_asks_and_takes_finished_runs_and_orphans_alone(
    killed, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("tracelet.recovery.orphans.SHARED_MEMORY", str(tmp_path / "shm"))
    run = killed(START + "writer.add_scalar('a', 1.0, 1)\n")
    assert main(["clean"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    orphan = tmp_path / "tracelet-runs" / "20200101-000000-00000000"
    orphan.mkdir()
    (orphan / "run.lock").touch()
    os.utime(orphan, (0, 0))
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert main(["clean"]) == 1
    assert orphan.exists()
    assert main(["clean", "--yes"]) == 0
    assert not orphan.exists()
    assert os.path.exists(run.ring_path)
    assert main(["clean", run.run_id]) == 1
    monkeypatch.setattr("builtins.input", lambda prompt: "yes")
    assert main(["clean", run.run_id]) == 0
    assert "1 points NOT SENT" in capsys.readouterr().out
    assert not os.path.exists(run.path)
    assert not os.path.exists(run.ring_path)


@pytest.mark.slow
def test_the_manifest_names_what_is_needed_and_no_secret(killed, tmp_path):
    run = killed(
        START + "writer.add_scalar('a', 1.0, 1)\n",
        env={"CLEARML_API_SECRET_KEY": "hush", "AWS_SECRET_ACCESS_KEY": "hush-too",
             "TRACELET_OUTPUT_URI": "https://user:hush@files/x"},
    )  # fmt: skip
    assert {"run", "project", "exp_name", "task", "pid", "process_start", "host", "ring", "sinks",
            "state", "tracelet", "python"} <= set(run.manifest)  # fmt: skip
    for folder, _, names in os.walk(run.path):
        assert os.stat(folder).st_mode & 0o777 == 0o700
        for name in names:
            path = os.path.join(folder, name)
            assert os.stat(path).st_mode & 0o777 == 0o600, path
            assert b"hush" not in Path(path).read_bytes()
    assert main(["sync", run.run_id]) == 0


@pytest.mark.slow
def test_a_pid_that_is_anothers_by_now_is_no_life(killed):
    run = killed(START + "writer.add_scalar('a', 1.0, 1)\n")
    run.update(pid=os.getpid())
    assert main(["sync", run.run_id]) == 0


def test_a_claimed_slot_that_was_never_committed_is_told_and_passed_over(killed, tmp_path, capsys):
    run = killed(
        START + "for step in range(10): writer.add_scalar('a', step, step)\n",
        end="""
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    # The last slot as a producer leaves it that dies before its release store.
    with open(run.ring_path, "r+b") as file:
        file.seek(4096 + 9 * 64)
        file.write(struct.pack("<Q", 0))
    assert main(["sync", run.run_id]) == 0
    told = capsys.readouterr().out
    points = event_file_scalars(tmp_path / "log").get("a", [])
    if "cut off by the death" in told:  # it was in the ring still
        assert [p[0] for p in points] == list(range(9))
    else:
        assert [p[0] for p in points] == list(range(10))
