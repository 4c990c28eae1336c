"""Forked and spawned processes beside a run: their points arrive, the run is the parent's alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from readers import event_file_scalars, session_scalars

pytest.importorskip("clearml")
pytest.importorskip("torch")

FORKS = """
    import os, signal, sys, tracelet
    from torch.utils.tensorboard import SummaryWriter
    experiment = tracelet.start_logging("forks", "tests")
    writer = SummaryWriter("log")
    ends = {"_exit": lambda: os._exit(0), "exit": lambda: sys.exit(3),
            "kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "raise": lambda: 1 / 0}
    codes = []
    for number, (name, end) in enumerate(ends.items()):
        writer.add_scalar("parent", number, number)
        pid = os.fork()
        if pid == 0:
            assert tracelet.get_active_experiment() is experiment and not experiment.is_active
            for step in range(1_000):
                writer.add_scalar("child/" + name, step, step)
            end()
        codes.append(os.waitpid(pid, 0)[1])
        assert tracelet.get_active_experiment() is experiment
    print("codes", codes, flush=True)
    if os.fork() == 0:
        tracelet.stop_logging()  # in a child: its own capture alone
        os._exit(0)
    os.wait()
    writer.add_scalar("parent", 4, 4)
    assert experiment.flush(30)
    print(experiment.url)
    tracelet.stop_logging()
    print(experiment.stats)
"""


def expected_of_forks() -> dict[str, list[tuple[int, float]]]:
    child = [(step, float(step)) for step in range(1_000)]
    return {
        "parent": [(step, float(step)) for step in range(5)],
        **{f"child/{name}": child for name in ("_exit", "exit", "kill", "raise")},
    }


@pytest.mark.slow
def test_forked_children_log_into_the_run_and_end_as_they_like(run_script, tmp_path):
    done = run_script(FORKS)
    assert "codes [0, 768, 9, 256]" in done.stdout
    assert "pending=0" in done.stdout
    assert "dropped={}" in done.stdout
    scalars = event_file_scalars(tmp_path / "log")
    points = {tag: [(step, value) for step, value, _ in each] for tag, each in scalars.items()}
    assert points == expected_of_forks()
    session = next(line for line in done.stdout.splitlines() if Path(line).is_dir())
    assert {name[1]: len(each) for name, each in session_scalars(session).items()} == {
        "parent": 5, "_exit": 1_000, "exit": 1_000, "kill": 1_000, "raise": 1_000,
    }  # fmt: skip
    assert list((tmp_path / "tracelet-runs").iterdir()) == []


@pytest.mark.slow
def test_forked_children_leave_the_task_on_the_server_running(clearml_server, run_script):
    done = run_script(FORKS, env=clearml_server.environment())
    assert "pending=0" in done.stdout
    (task,) = [id for id, each in clearml_server.tasks.items() if each["name"] == "forks"]
    stored = clearml_server.scalars(task)
    for name in ("_exit", "exit", "kill", "raise"):
        assert stored["child", name] == {step: float(step) for step in range(1_000)}
    assert stored["parent", "parent"] == {step: float(step) for step in range(5)}
    ends = [r.endpoint for r in clearml_server.request_log
            if r.endpoint in ("tasks.completed", "tasks.failed", "tasks.stopped")]  # fmt: skip
    assert ends == ["tasks.completed"]  # once, by the parent
    assert clearml_server.tasks[task]["status"] == "completed"


@pytest.mark.slow
def test_a_child_that_logs_on_after_the_run_has_ended_is_told_and_its_points_are_counted(
    run_script, tmp_path
):
    """Each call of the child is in the store, or counted: the ring is closed at one instant."""
    done = run_script(
        """
        import os, select, time, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("ends", "tests", backend="tensorboard")
        writer = SummaryWriter("log")
        writer.add_scalar("parent", 0, 0)
        reader, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(end)
            step = 0
            while not select.select([reader], [], [], 0)[0]:
                for _ in range(20):
                    writer.add_scalar("child", step, step)
                    step += 1
                time.sleep(0.0005)
            dropped = experiment.stats.dropped
            print("child", step, dropped["run ended"], flush=True)
            os._exit(0)
        os.close(reader)
        time.sleep(0.3)
        start = time.monotonic()
        tracelet.stop_logging()
        print("took", time.monotonic() - start)
        print(experiment.stats, flush=True)
        time.sleep(0.1)
        os.close(end)
        os.waitpid(pid, 0)
        """
    )
    _, logged, dropped = next(
        line.split() for line in done.stdout.splitlines() if line.startswith("child")
    )
    stored = event_file_scalars(tmp_path / "log")["child"]
    assert int(dropped) > 0
    assert len(stored) == int(logged) - int(dropped) > 0
    assert [step for step, *_ in stored] == list(range(len(stored)))
    assert float(next(x.split()[1] for x in done.stdout.splitlines() if x.startswith("took"))) < 5
    assert "pending=0" in done.stdout
    assert done.stderr.count("logs into a run that has ended") == 1
    assert list((tmp_path / "tracelet-runs").iterdir()) == []


def test_what_a_child_drops_is_in_its_parents_stats(run_script):
    done = run_script(
        """
        import os, threading, tracelet
        go_on = threading.Event()
        class Slow:
            name, is_remote, takes_every_point = "slow", False, False
            def write(self, batch):
                go_on.wait()
                return tracelet.Delivery(len(batch))
            def close(self, process_is_ending):
                pass
        tracelet.register_sink("slow", lambda info: Slow())
        config = {"ring_slots": 64, "full_ring_timeout_s": 0.1, "tensorboard": "off"}
        experiment = tracelet.start_logging("drops", "tests", backend="slow", config=config)
        from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter("log")
        pid = os.fork()
        if pid == 0:
            for step in range(100):
                writer.add_scalar("child", step, step)
            os._exit(0)
        os.waitpid(pid, 0)
        go_on.set()
        tracelet.stop_logging()
        print(experiment.stats)
        """
    )
    assert "accepted=64" in done.stdout
    assert "dropped={'ring full': 36}" in done.stdout
    assert "points are being dropped (ring full), 36 so far" in done.stderr


MULTIPROCESSING = """
    import multiprocessing, sys, torch, tracelet
    from torch.utils.data import DataLoader, Dataset
    from torch.utils.tensorboard import SummaryWriter

    def work(name):
        writer = SummaryWriter("log")
        for step in range(500):
            writer.add_scalar(name, step, step)

    class Logged(Dataset):
        def __len__(self):
            return 40
        def __getitem__(self, index):
            writer.add_scalar("loader", index, index)
            return index

    if __name__ == "__main__":
        experiment = tracelet.start_logging("workers", "tests", backend="tensorboard")
        writer = SummaryWriter("log")
        for method in ("fork", "forkserver", "spawn"):
            context = multiprocessing.get_context(method)
            workers = [context.Process(target=work, args=(f"{method}/{i}",)) for i in range(2)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(60)
            print(method, [worker.exitcode for worker in workers], flush=True)
        loader = DataLoader(Logged(), batch_size=4, num_workers=2, persistent_workers=False)
        seen = sorted(int(index) for batch in loader for index in batch)
        assert seen == list(range(40)), seen
        assert tracelet.get_active_experiment() is experiment
        writer.add_scalar("parent", 1.0, 1)
        assert experiment.flush(30)
        tracelet.stop_logging()
        print(experiment.stats)
"""


@pytest.mark.slow
def test_multiprocessing_and_dataloader_workers(run_script, tmp_path):
    (tmp_path / "train.py").write_text(
        "\n".join(line[4:] for line in MULTIPROCESSING.splitlines()), encoding="utf-8"
    )
    done = run_script("import runpy; runpy.run_path('train.py', run_name='__main__')")
    for method in ("fork", "forkserver", "spawn"):
        assert f"{method} [0, 0]" in done.stdout, done.stdout + done.stderr
    scalars = event_file_scalars(tmp_path / "log")
    assert sorted(step for step, _, _ in scalars["loader"]) == list(range(40))
    for method in ("fork", "forkserver", "spawn"):
        for number in (0, 1):
            found = [step for step, _, _ in scalars[f"{method}/{number}"]]
            assert found == list(range(500)), method
    assert len(scalars["parent"]) == 1
    assert "pending=0" in done.stdout


@pytest.mark.slow
def test_children_killed_while_they_write_stall_nothing(run_script, tmp_path):
    """Also those that die inside a push, which the core's own tests hit for certain."""
    done = run_script(
        """
        import os, random, signal, sys, time, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("killed", backend="tensorboard")
        writer = SummaryWriter("log")
        seed = random.randrange(2**32)
        print("seed", seed)
        rng = random.Random(seed)
        for number in range(60):
            pid = os.fork()
            if pid == 0:
                add, tag = writer.add_scalar, f"child/{number}"
                for step in range(2_000):
                    add(tag, step, step)
                signal.pause()
            time.sleep(rng.uniform(0.0, 0.01))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            writer.add_scalar("parent", number, number)
        assert experiment.flush(60)
        tracelet.stop_logging()
        stats = experiment.stats
        print(stats)
        assert stats.pending == 0
        assert set(stats.dropped) <= {"producer died"}, stats
        assert sum(stats.dropped.values()) <= 60
        assert stats.accepted == stats.delivered["tensorboard"] + sum(stats.dropped.values())
        """,
    )
    scalars = event_file_scalars(tmp_path / "log")
    assert [step for step, _, _ in scalars["parent"]] == list(range(60)), done.stdout
    for tag, points in scalars.items():
        assert [step for step, _, _ in points] == list(range(len(points))), tag


@pytest.mark.slow
def test_a_point_of_a_dead_producer_is_counted_and_told_once(run_script):
    done = run_script(
        """
        import os, tracelet
        config = {"log_dir": "log"}
        experiment = tracelet.start_logging("dead", backend="tensorboard", config=config)
        ring = experiment._run.ring
        for number in range(3):
            if os.fork() == 0:
                # As a push that is killed when it has claimed its slot: head has moved on.
                with open(ring.path, "r+b") as file:
                    file.seek(HEAD_OFFSET)
                    head = int.from_bytes(file.read(8), "little") & ((1 << 42) - 1)
                    file.seek(HEAD_OFFSET)
                    file.write((os.getpid() << 42 | head + 1).to_bytes(8, "little"))
                os._exit(0)
            os.wait()
            experiment.log_metric("a", number, number)
        tracelet.stop_logging(timeout_s=10)
        print(experiment.stats)
        """.replace("HEAD_OFFSET", "64"),
    )
    assert "accepted=6" in done.stdout
    assert "delivered={'tensorboard': 3}" in done.stdout
    assert "'producer died': 3" in done.stdout
    assert "pending=0" in done.stdout
    assert done.stderr.count("was killed inside a call that logs") == 1
