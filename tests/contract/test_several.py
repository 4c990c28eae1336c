"""Several backends at once: each has everything, and one that is away costs the others nothing."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from trackers import (
    EXAMPLES,
    Aim,
    ClearMLOffline,
    ClearMLServer,
    MLflow,
    TensorBoard,
    Trackio,
    Wandb,
)

for package in ("clearml", "mlflow", "trackio", "wandb", "aim", "torch", "tensorboard"):
    pytest.importorskip(package)
pytestmark = pytest.mark.slow

NAMES = ["clearml", "mlflow", "trackio", "wandb", "aim", "tensorboard"]
COUNT = 1_000
SLOW_S = 10.0
MODES = ["well", "dead", "refusing", "slow"]


@contextmanager
def made_as_asked(server, folder):
    """Sees to it that the server is as the script says in a file, until the block ends."""
    ends = threading.Event()

    def watch():
        is_up = True
        while not ends.wait(0.01):
            try:
                mode = (folder / "ask").read_text()
                (folder / "ask").unlink()
            except FileNotFoundError:
                continue
            server.faults.clear()
            if (mode != "dead") != is_up:
                is_up = not is_up
                server.start() if is_up else server.stop()
            if mode == "refusing":
                server.faults.add("400")
            if mode == "slow":
                server.faults.add("slow", delay=SLOW_S)
            (folder / "made").touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ends.set()
        watcher.join()


SCRIPT = f"""
    import json, os, time, tracelet

    def make_server(mode):
        with open("ask.new", "w") as file:
            file.write(mode)
        os.rename("ask.new", "ask")
        while not os.path.exists("made"):
            time.sleep(0.005)
        os.unlink("made")

    config = {{"log_dir": "events", "batch_max_age_s": 0.1}}
    experiment = tracelet.start_logging("several", "tests", {NAMES!r}, config)
    assert experiment.id == experiment.ids["clearml"], experiment.ids
    assert experiment.url == experiment.urls["clearml"], experiment.urls
    assert list(experiment.ids) == {NAMES[:-1]!r}, experiment.ids
    logged = 0
    for mode in {MODES!r}:
        make_server(mode)
        for step in range(logged, logged + {COUNT}):
            experiment.log_metric("train/loss", step * 0.5, step)
        logged += {COUNT}
        deadline_s = time.monotonic() + 100
        while any(experiment.stats.delivered[name] < logged for name in {NAMES[1:]!r}):
            assert time.monotonic() < deadline_s, experiment.stats
            time.sleep(0.005)
        if mode != "well":
            assert experiment.stats.delivered["clearml"] < logged, (mode, experiment.stats)
            assert not experiment.flush(0.1), (mode, experiment.stats)
        make_server("well")
        assert experiment.flush(100), experiment.stats
        delivered = experiment.stats.delivered
        assert [delivered[name] for name in {NAMES!r}] == [logged] * {len(NAMES)}, delivered
    tracelet.stop_logging(60)
    print("ids", json.dumps(dict(experiment.ids)))
"""


def said(output, word):
    (line,) = [each for each in output.splitlines() if each.startswith(f"{word} ")]
    return json.loads(line.partition(" ")[2])


def test_one_that_is_dead_refuses_or_is_slow_costs_the_others_nothing(
    clearml_server, run_script, tmp_path
):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with made_as_asked(clearml_server, tmp_path):
        environment = {**clearml_server.environment(), "MLFLOW_TRACKING_URI": uri}
        ids = said(run_script(SCRIPT, environment).stdout, "ids")
    expected = [(step, step * 0.5) for step in range(len(MODES) * COUNT)]
    for tracker in (
        ClearMLServer(tmp_path, clearml_server), MLflow(tmp_path), Trackio(tmp_path),
        Wandb(tmp_path), Aim(tmp_path), TensorBoard(tmp_path),
    ):  # fmt: skip
        found = tracker.scalars(ids.get(tracker.backend))
        assert found[tracker.tag("train/loss")] == expected, tracker.backend


# The page's complete program, with each backend in the place of its one word, and with all of them;
# then the example of several. In one process, which imports torch once.
ONE_WORD = f"""
    import json, os, sys, torch, tracelet
    made = {{}}
    program = open({str(Path(EXAMPLES) / "clearml" / "complete.py")!r}).read()
    example = open({str(Path(EXAMPLES) / "multi_backend.py")!r}).read()
    word = 'backend="clearml"'
    assert word in program
    for backend in [*{NAMES!r}, {NAMES!r}, "the example"]:
        folder = backend if isinstance(backend, str) else "all"
        os.makedirs(folder)
        os.chdir(folder)
        torch.manual_seed(0)
        sys.argv = ["program"] if folder == "the example" else ["program", "--epochs", "3"]
        code = program.replace(word, f"backend={{backend!r}}")
        names = {{"__name__": "__main__"}}
        exec(compile(example if folder == "the example" else code, folder, "exec"), names)
        experiment = names.get("exp") or names["experiment"]
        stats = experiment.stats
        assert (stats.pending, stats.dropped) == (0, {{}}), stats
        log_dir = os.path.abspath(names["writer"].log_dir)
        made[folder] = {{"ids": dict(experiment.ids), "log_dir": log_dir}}
        os.chdir("..")
    print("made", json.dumps(made))
"""


@pytest.fixture(scope="module")
def one_word(tmp_path_factory):
    """{what: {"ids", "log_dir"}}, and the trackers of each."""
    import os
    import subprocess
    import sys
    import textwrap

    folder = tmp_path_factory.mktemp("one-word")
    uri = f"sqlite:///{folder}/mlflow.db"
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": uri, "CLEARML_CACHE_DIR": str(folder / "clearml"),
        "OMP_NUM_THREADS": "1",  # more would wait for each other on a busy machine
        "TRACELET_DIR": str(folder / "tracelet-runs"),
    }  # fmt: skip
    for name in ("CLEARML_PROC_MASTER_ID", "TRAINS_PROC_MASTER_ID", "WANDB_SERVICE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ONE_WORD)], env=environment, cwd=folder,
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, said(done.stdout, "made")


def trackers_of(one_word, what, project):
    folder, made = one_word
    names = NAMES if what in ("all", "the example") else [what]
    log_dir = Path(made[what]["log_dir"])
    of = {
        "clearml": lambda: ClearMLOffline(folder),
        "mlflow": lambda: MLflow(folder),
        "trackio": lambda: Trackio(folder),
        "wandb": lambda: Wandb(folder),
        "aim": lambda: Aim(folder / what),  # the folder that the program runs in
        "tensorboard": lambda: TensorBoard(folder, log_dir),
    }
    for name in names:
        tracker = of[name]()
        tracker.project = project
        yield tracker, made[what]["ids"].get(name)


@pytest.mark.parametrize("what", [*NAMES, "all"])
def test_the_pages_program_arrives_alike_whichever_word_stands_there(what, one_word):
    _, made = one_word
    truth = TensorBoard(None, Path(made["tensorboard"]["log_dir"])).scalars(None)
    assert {tag: len(points) for tag, points in truth.items() if "loss" in tag} == {
        "batch/loss": 96, "epoch/loss": 3,
    }  # fmt: skip
    for tracker, run_id in trackers_of(one_word, what, "tutorials"):
        found = tracker.scalars(run_id)
        for tag in ("batch/loss", "epoch/loss"):
            points = found[tracker.tag(tag)]
            assert [step for step, _ in points] == [step for step, _ in truth[tag]]
            assert [value for _, value in points] == pytest.approx(
                [value for _, value in truth[tag]], rel=1e-6
            )
        params = tracker.params(run_id)
        if tracker.backend == "trackio":  # among its config
            assert params.pop("tags") == "['pytorch', 'tutorial', 'automated']"
        assert float(params.pop("training.final_loss")) == pytest.approx(
            truth["epoch/loss"][-1][1], rel=1e-6
        )
        assert params == {
            "model.type": "simple_mlp", "model.architecture": "784->128->10",
            "training.total_batches": "96",
        }  # fmt: skip
        metadata = json.loads(tracker.artifact(run_id, "metadata/training_metadata.json"))
        assert metadata["total_parameters"] == 101_770
        assert len(tracker.artifact(run_id, "models/model.pth")) > 4 * 101_770
        status = tracker.status(run_id) if tracker.has_status else "-"
        assert status in ("finished", "-")
        numbers = [len(found[tracker.tag(tag)]) for tag in ("batch/loss", "epoch/loss")]
        # `pytest -s` shows them as a table.
        print(
            f"\n{what:12} {tracker.backend:12} {numbers[0]:3} of 96 batch/loss, "
            f"{numbers[1]} of 3 epoch/loss, 4 of 4 parameters, 2 of 2 artifacts, {status}",
            end="",
        )


def test_the_example_of_several_backends_has_all_in_each(one_word):
    import math

    for tracker, run_id in trackers_of(one_word, "the example", "examples"):
        found = tracker.scalars(run_id)
        points = found[tracker.tag("train/loss")]
        assert [step for step, _ in points] == list(range(100))
        assert [value for _, value in points] == pytest.approx(
            [math.exp(-step / 25) for step in range(100)], rel=1e-6
        )
        assert found[tracker.tag("val/accuracy")] == [(99, 0.75)]
        assert tracker.params(run_id) == {"lr": "0.1", "model/depth": "3", "model/wide": "True"}
        labels = json.loads(tracker.artifact(run_id, "labels.json"))
        assert labels == {"classes": ["cat", "dog"]}
