"""`tracelet top` and `tracelet show --ranks`: how far each rank is, and which stopped first."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest
import tracelet
from tracelet.cli import main
from tracelet.commands import ranks_view, terminal, top
from tracelet.commands.ranks_view import RankView, first_stopped, lines_of, of_one_job, ranks_of
from tracelet.reading.pulse import Pulse, pulse_of_files, pulse_of_ring
from tracelet.runs.run_folder import write_manifest
from tracelet.runs.stored_run import StoredRun, find_runs, scan_runs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")

VARIABLES = {"WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "a job"}

DIES = """
    import os, signal, tracelet
    experiment = tracelet.start_logging("net", "tests", "tensorboard", {{"log_dir": "log{rank}"}})
    for step in range({steps}):
        experiment.log_metric("train/loss", 1 / (1 + step), step)
        experiment.log_metric("rate", 0.1, step)
    experiment.flush(60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def set_rank(monkeypatch, rank):
    for name, value in {**VARIABLES, "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def job(monkeypatch, run_script):
    """Rank 2 died first, then rank 1; rank 0 goes on."""
    for rank, steps in (("2", 30), ("1", 40)):
        env = {**VARIABLES, "RANK": rank, "LOCAL_RANK": rank}
        run_script(DIES.format(rank=rank, steps=steps), env, check=False)
    set_rank(monkeypatch, "0")
    experiment = tracelet.start_logging("net", "tests", "tensorboard", {"log_dir": "log0"})
    for step in range(50):
        experiment.log_metric("train/loss", 1 / (1 + step), step)
    return experiment


def test_each_rank_is_shown_and_the_one_that_stopped_first_is_named(job, capsys):
    assert main(["top", "--once"]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["RANK", "STATE", "STEP", "STEPS/S"]
    cells = [row.split() for row in rows]
    assert [each[:3] for each in cells] == [
        ["0", "running", "49"], ["1", "died", "39"], ["2", "died", "29"]
    ]  # fmt: skip
    assert all("train/loss 0.0" in row for row in rows)
    assert last.startswith("rank 2 of 3 stopped first, at step 29, ")
    assert all(terminal.columns_of(line) <= terminal.width() for line in rows)
    assert main(["top", "--once", "--tag", "rate", "--tag", "train/*"]) == 0
    assert "rate 0.1  train/loss 0.0333" in capsys.readouterr().out.splitlines()[3]
    assert main(["top", "--json"]) == 0
    ranks = json.loads(capsys.readouterr().out)
    assert [each["rank"] for each in ranks] == [0, 1, 2]
    assert [each["last_step"] for each in ranks] == [49, 39, 29]
    assert ranks[2]["values"] == {"train/loss": [29, 1 / 30], "rate": [29, 0.1]}
    assert {each["world_size"] for each in ranks} == {3}
    assert len({each["job"] for each in ranks}) == 1


def test_a_job_that_is_dead_is_shown_by_any_of_its_ranks(job, capsys):
    tracelet.stop_logging()
    dead = [run for run in find_runs(os.environ["TRACELET_DIR"])]
    assert main(["top", "--once"]) == 0
    assert "no run of" in capsys.readouterr().out
    for run in dead:
        assert main(["show", run.run_id, "--ranks"]) == 0
        told = capsys.readouterr().out
        assert "rank 2 of 3 stopped first, at step 29" in told
    assert main(["top", "--all", "--once"]) == 0
    assert capsys.readouterr().out.count("died") == 3  # and once in the last line
    assert main(["show", job._run.run_id, "--ranks"]) == 1
    assert "has ended" in capsys.readouterr().err


def test_one_without_its_ring_is_told_by_its_event_files(run_script):
    run_script(DIES.format(rank=2, steps=30), check=False)
    dead = find_runs(os.environ["TRACELET_DIR"])[0]
    before = ranks_of([dead])[0].pulse
    os.unlink(dead.ring_path)
    after = ranks_of([StoredRun(dead.path)])[0].pulse
    assert (after.last_step, after.last_point_s) == (29, before.last_point_s)
    assert after.values == {
        "train/loss": (29, pytest.approx(1 / 30)), "rate": (29, pytest.approx(0.1)),
    }  # fmt: skip


def test_a_rank_that_logs_no_more_is_stuck_and_one_far_back_is_behind():
    experiment = tracelet.start_logging("net", "tests", "tensorboard", {"log_dir": "log"})
    for step in range(50):
        experiment.log_metric("loss", step, step)
    (alive,) = find_runs(os.environ["TRACELET_DIR"])
    (view,) = ranks_of([alive])
    assert view.state == "running"
    (late,) = ranks_of([alive], view.pulse.last_point_s + 60)
    assert late.state == "stuck"
    slow = Pulse(100, view.pulse.last_point_s, 10.0, 0.1, {})
    patient = replace(view, pulse=slow, now_s=slow.last_point_s + 60)
    patient = ranks_view._judged(patient, [view])
    assert patient.state == "running"  # it logs every ten seconds
    ahead = replace(view, rank=1, pulse=replace(slow, last_step=103))
    assert ranks_view._judged(replace(view, pulse=slow), [ahead]).state == "behind"
    near = replace(ahead, pulse=replace(slow, last_step=101))
    assert ranks_view._judged(replace(view, pulse=slow), [near]).state == "running"


def test_runs_that_are_no_ranks_stand_alone(capsys):
    first = tracelet.start_logging("alone", "tests", "tensorboard", {"log_dir": "a"})
    first.log_metric("loss", 1.0, 7)
    (run,) = find_runs(os.environ["TRACELET_DIR"])
    (view,) = ranks_of([run])
    assert (view.rank, view.world_size, view.job) == (None, None, run.run_id)
    (_, line) = lines_of([view], [])
    assert line.split()[:3] == ["-", "running", "7"]
    run.manifest["job"] = 5  # of somebody else's making
    assert ranks_of([run])[0].rank is None
    run.manifest["job"] = {"id": "x", "rank": "2", "world_size": True}
    assert (ranks_of([run])[0].rank, ranks_of([run])[0].world_size) == (None, None)


def test_of_a_rank_that_ran_again_the_last_run_counts(monkeypatch, run_script, capsys):
    for steps in (10, 20):
        env = {**VARIABLES, "RANK": "1", "LOCAL_RANK": "1"}
        run_script(DIES.format(rank=1, steps=steps), env, check=False)
    set_rank(monkeypatch, "0")
    tracelet.start_logging("net", "tests", "tensorboard", {"log_dir": "log0"}).log_metric("a", 1, 1)
    assert main(["top", "--json"]) == 0
    assert [each["last_step"] for each in json.loads(capsys.readouterr().out)] == [1, 19]


def test_of_two_runs_of_one_second_the_later_one_counts():
    from types import SimpleNamespace

    def run(run_id, started_s):
        manifest = {"job": {"id": "x", "rank": 1}, "started_s": started_s}
        return SimpleNamespace(run_id=run_id, project="p", exp_name="e", manifest=manifest)

    leader = run("c", 1.0)
    leader.manifest["job"]["rank"] = 0
    runs = [run("a", 1.9), run("b", 1.5), leader]  # as their ids sort
    assert [each.run_id for each in ranks_view.of_one_job(leader, runs)] == ["c", "a"]


def test_without_points_nothing_is_known(tmp_path):
    assert pulse_of_files([str(tmp_path / "none")]) == Pulse()
    with pytest.raises(FileNotFoundError):
        pulse_of_ring(str(tmp_path / "none"))
    tracelet.start_logging("empty", "tests", "tensorboard")
    (run,) = scan_runs(os.environ["TRACELET_DIR"])[0]
    assert pulse_of_ring(run.ring_path) == Pulse()
    view = ranks_of([run])[0]
    assert (view.state, view.age_s) == ("running", None)
    assert first_stopped([view]) is None


def test_wall_times_that_are_none_and_one_point_alone_give_no_speed():
    experiment = tracelet.start_logging("odd", "tests", "tensorboard", {"log_dir": "log"})
    experiment.log_metric("once", 2.0, 3)
    (run,) = find_runs(os.environ["TRACELET_DIR"])
    pulse = pulse_of_ring(run.ring_path)
    assert (pulse.last_step, pulse.steps_per_s, pulse.interval_s) == (3, None, None)
    assert isinstance(RankView.as_json(ranks_of([run])[0])["values"], dict)


def test_what_the_machine_does_is_no_progress():
    """Its series has the last point nearly always: a rank that hung was never stuck."""
    experiment = tracelet.start_logging("m", "tests", "tensorboard", {"log_dir": "log"})
    (run,) = find_runs(os.environ["TRACELET_DIR"])
    experiment.log_metric("system/cpu", 0.5, 3600)
    assert pulse_of_ring(run.ring_path).last_step == 3600  # there is nothing else
    for step in range(5):
        experiment.log_metric("rate", step, step)
    for second in range(9):
        experiment.log_metric("system/cpu", 0.5, 3601 + second)
    (view,) = ranks_of([run])
    assert view.pulse.last_step == 4
    assert view.pulse.values == {"rate": (4, 4.0), "system/cpu": (3609, 0.5)}
    assert "rate 4" in lines_of([view], [])[1]
    assert "system/cpu 0.5" in lines_of([view], ["system/*"])[1]


def test_wall_times_of_the_users_own_tell_of_no_age():
    """An epoch's number as the wall time: the run was stuck since 1970."""
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    tracelet.start_logging("own", "tests", "tensorboard")
    writer = tensorboard.SummaryWriter("log")
    for step in range(20):
        writer.add_scalar("loss", 1.0, step, walltime=float(step))
    (run,) = find_runs(os.environ["TRACELET_DIR"])
    (view,) = ranks_of([run])
    assert (view.state, view.age_s, view.pulse.last_step) == ("running", None, 19)
    assert view.steps_per_s is None
    assert first_stopped([replace(view, state="died")]) is None
    later = replace(view, pulse=replace(view.pulse, last_point_s=view.now_s + 3600))
    assert later.age_s is None  # a clock that was set back since
    writer.add_scalar("lr", 1.0, 7, walltime=3.0)
    assert ranks_of([run])[0].pulse.last_step == 7  # the last one by its place, not its time


def left_run(name, **manifest):
    """Of a process that died; without a ring."""
    path = os.path.join(os.environ["TRACELET_DIR"], name)
    os.makedirs(path, exist_ok=True)
    write_manifest(
        path, {"format": 1, "run": name, "ring": "/nowhere", "state": "running", **manifest}
    )
    return path


def test_a_rank_that_is_no_number_has_a_row_of_its_own(capsys):
    """A manifest of somebody else's making: a list as its rank ended `top`."""
    for name, rank in (("a", [1]), ("b", {}), ("c", 1), ("d", None), ("e", 1)):
        left_run(name, job={"id": "x", "rank": rank})
    runs = find_runs(os.environ["TRACELET_DIR"])
    assert [run.run_id for run in of_one_job(runs[0], runs)] == ["a", "b", "e", "d"]
    assert main(["top", "--all", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5


def test_a_folder_that_goes_between_two_looks_at_it_ends_nothing(monkeypatch, capsys):
    left_run("a", state="finished")
    left_run("b")
    found = top.scan_runs

    def scan(*arguments, **options):
        runs = found(*arguments, **options)
        shutil.rmtree(runs[0][0].path)
        return runs

    monkeypatch.setattr(top, "scan_runs", scan)
    assert main(["top", "--all", "--json"]) == 0
    assert [each["run"] for each in json.loads(capsys.readouterr().out)] == ["b"]


def test_of_what_has_ended_nothing_is_read_a_second_time(monkeypatch):
    """Of 1,500 runs that were left each look took seconds, once a second."""
    for n in range(8):
        left_run(f"run{n}")
    read = []
    real = StoredRun.__init__, ranks_view._pulse_of
    monkeypatch.setattr(
        StoredRun, "__init__", lambda run, path: (real[0](run, path), read.append(path))[0]
    )
    monkeypatch.setattr(
        ranks_view, "_pulse_of", lambda run: (real[1](run), read.append(run.run_id))[0]
    )
    looks = top._Looks(os.environ["TRACELET_DIR"], True, 3)
    first = looks.look()
    assert [view.run_id for view in first] == ["run5", "run6", "run7"]  # the newest
    assert (looks.not_shown, len(read)) == (5, 8 + 3)
    read.clear()
    for _ in range(25):
        later = looks.look()
    assert read == []
    assert [view.run_id for view in later] == ["run5", "run6", "run7"]
    assert later[0].now_s > first[0].now_s
    changed = left_run("run6", exp_name="sent")
    shutil.rmtree(left_run("run7"))
    assert [view.name for view in looks.look()] == ["", "", "sent"]
    assert read == [changed, "run4", "run6"]


def test_one_that_goes_on_after_all_is_seen_within_some_looks(monkeypatch):
    left_run("run")
    looks = top._Looks(os.environ["TRACELET_DIR"], False)
    assert looks.look() == []
    monkeypatch.setattr(StoredRun, "is_alive", True)  # a forked child has begun to log
    found = [view.state for _ in range(20) for view in looks.look()]
    assert set(found) == {"running"}
