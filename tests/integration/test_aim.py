"""Runs in Aim's own repository, beside what tests/contract asks of every backend."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
import tracelet
from tracelet.errors import BackendError, ConfigurationError
from tracelet.runs.stored_run import find_runs

aim = pytest.importorskip("aim")


NO_CONTEXT = aim.storage.context.Context({})


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """One for all: Aim takes some seconds to make it."""
    return str(tmp_path_factory.mktemp("aim"))


def start(repo, name="aim", **config):
    return tracelet.start_logging(name, "tests", "aim", {"aim": {"repo": repo}, **config})


@pytest.fixture
def opened(repo):
    """A run of the repository's, opened by Aim."""
    runs = []

    def open_run(run_hash):
        runs.append(
            aim.Run(run_hash, repo=repo, system_tracking_interval=None, capture_terminal_logs=False)
        )
        return runs[-1]

    yield open_run
    for run in runs:
        run.close()


def last_of(sequence):
    steps, values = sequence.data.items_list()
    (value,) = values[0] if isinstance(values[0], list) else values
    return list(steps), value


def points(run, name):
    rows = run.get_metric(name, NO_CONTEXT).dataframe(include_run=False)
    return list(zip(rows["step"].tolist(), rows["value"].tolist()))


def test_histograms_images_sounds_and_text_have_aims_own_types(repo, opened, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("plotly")
    from torch.utils.tensorboard import SummaryWriter

    experiment = start(repo)
    writer = SummaryWriter(str(tmp_path / "log"))
    writer.add_scalar("weights", 0.25, 1)  # the same tag as of the histogram
    assert experiment.flush(60)
    writer.add_histogram("weights", np.concatenate([np.zeros(10), np.full(5, 2.0)]), 1)
    writer.add_image("image", np.full((3, 4, 5), 0.5, np.float32), 2)
    writer.add_text("text", "*words*", 3)
    writer.add_audio("sound", np.zeros((1, 80), np.float32), 4, sample_rate=8_000)
    writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.5, 0.9]), 5)
    assert experiment.flush(60)
    tracelet.stop_logging()
    assert experiment.stats.lanes["aim-media"].set_aside == {}
    run = opened(experiment.id)
    assert points(run, "weights") == [(1, 0.25)]
    kinds = ("metric", "distributions", "images", "texts", "audios", "figures")
    found = run.collect_sequence_info(kinds, skip_last_value=True).values()
    names = {each["name"] for kind in found for each in kind}
    (other,) = [name for name in names if "weights" in name and name != "weights"]
    steps, histogram = last_of(run.get_distribution_sequence(other, NO_CONTEXT))
    assert steps == [1]
    counts, edges = histogram.to_np_histogram()
    assert counts.sum() == pytest.approx(15)
    assert len(edges) == len(counts) + 1 <= 513
    assert edges[0] <= 0 < 2 <= edges[-1]
    steps, image = last_of(run.get_image_sequence("image", NO_CONTEXT))
    assert (steps, image.size, image.format) == ([2], (5, 4), "PNG")
    (name,) = [name for name in names if name.startswith("text")]
    steps, text = last_of(run.get_text_sequence(name, NO_CONTEXT))
    assert (steps, text.data) == ([3], "*words*")
    steps, sound = last_of(run.get_audio_sequence("sound", NO_CONTEXT))
    assert (steps, sound.get().read(4)) == ([4], b"RIFF")
    steps, figure = last_of(run.get_figure_sequence("curve", NO_CONTEXT))
    assert steps == [5]
    assert "recall" in figure.data


def test_points_have_their_own_times(repo, opened, tmp_path):
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    experiment = start(repo)
    writer = SummaryWriter(str(tmp_path / "log"))
    begin_s = time.time()
    for step, walltime in enumerate([1.6e9, 1e300, -5.0, 1.7e9]):
        writer.add_scalar("a", 0.5, step, walltime=walltime)
    tracelet.stop_logging(60)
    metric = opened(experiment.id).get_metric("a", NO_CONTEXT)
    rows = metric.dataframe(include_run=False)
    times = {step: time.timestamp() for step, time in zip(rows["step"], rows["time"])}
    assert (times[0], times[3]) == (1.6e9, 1.7e9)
    assert all(begin_s <= times[step] <= time.time() for step in (1, 2))


def test_parameters_are_added_to_those_that_are_there(repo, opened):
    experiment = start(repo)
    experiment.log_params({"lr": 0.1, "model": {"depth": 3}, "large": 1 << 70, "none": None})
    assert experiment.flush(60)
    experiment.log_params({"lr": 0.2, "lr/warmup": 5, "model": {"width": [1, 2]}})
    tracelet.stop_logging(60)
    assert experiment.stats.not_taken == {}
    assert {name: each for name, each in opened(experiment.id)[...].items()} == {
        "lr": 0.2, "lr/warmup": 5, "model": {"depth": 3, "width": [1, 2]}, "large": str(1 << 70),
        "none": None, "tracelet": {"status": "finished"},
    }  # fmt: skip


def test_a_run_is_gone_on_with_by_its_hash(repo, opened):
    first = start(repo, "first", tags=["a"])
    first.log_metric("a", 0.5, 1)
    tracelet.stop_logging(60)
    config = {"aim": {"repo": repo, "run_hash": first.id}}
    second = tracelet.start_logging("second", "tests", "aim", config)
    assert second.id == first.id
    second.log_metric("a", 1.0, 2)
    tracelet.stop_logging(60)
    run = opened(first.id)
    assert points(run, "a") == [(1, 0.5), (2, 1.0)]
    assert (run.name, run.experiment, run.tags) == ("first", "tests", ["a"])
    config = {"aim": {"repo": repo, "run_hash": "0" * 24}}
    with pytest.raises(BackendError, match="0" * 24):
        tracelet.start_logging("none", "tests", "aim", config)
    assert tracelet.get_active_experiment() is None


def test_a_run_that_was_made_just_now_is_gone_on_with(repo):
    """Aim remembers for half a second which runs there are, and knew nothing of that one."""
    for _ in range(2):  # the first one makes the repository
        first = start(repo)
        aim.Repo.from_path(repo).run_exists("0" * 24)  # from here on it remembers
        tracelet.stop_logging(60)
    config = {"aim": {"repo": repo, "run_hash": first.id}}
    second = tracelet.start_logging("second", "tests", "aim", config)
    assert second.id == first.id


def test_a_series_that_aim_refuses_is_counted_and_holds_up_none(repo, opened):
    first = start(repo)
    first.log_image("mixed", np.zeros((4, 4, 3), np.uint8), 0)
    tracelet.stop_logging(60)
    config = {"aim": {"repo": repo, "run_hash": first.id}}
    second = tracelet.start_logging("second", "tests", "aim", config)
    for step in range(3):
        second.log_metric("mixed", 0.5, step)  # an image in Aim
        second.log_metric("well", 0.5, step)
    assert second.flush(60)
    tracelet.stop_logging()
    assert second.stats.lanes["aim"].set_aside == {"refused by aim": 3}
    assert second.stats.delivered["aim"] == 3
    assert points(opened(first.id), "well") == [(0, 0.5), (1, 0.5), (2, 0.5)]


def test_points_are_written_where_aim_hides_failures_and_queues(repo, monkeypatch, opened):
    """`enable_safe_mode` turns failures into lines of a log; a variable has a thread of Aim's
    write later."""
    from aim.ext.exception_resistant import disable_safe_mode, enable_safe_mode
    from aim.sdk.tracker import RunTracker

    monkeypatch.setenv("__AIM_ENABLE_TRACKING_THREAD__", "1")
    enable_safe_mode()
    try:
        experiment = start(repo, batch_max_age_s=0.05)
        take, calls = RunTracker._add_value, []

        def fails_at_first(self, *arguments):
            calls.append(arguments)
            if len(calls) < 3:
                raise OSError("no space left")
            take(self, *arguments)

        monkeypatch.setattr(RunTracker, "_add_value", fails_at_first)
        experiment.log_metric("a", 0.5, 1)
        assert experiment.flush(60)
        tracelet.stop_logging()
    finally:
        disable_safe_mode()
    assert experiment.stats.retried >= 1
    monkeypatch.undo()
    assert points(opened(experiment.id), "a") == [(1, 0.5)]


def test_without_aims_inside_points_go_by_its_public_call(repo, monkeypatch, opened):
    from tracelet.backends.aim import run as module

    monkeypatch.setattr(module.inspect, "signature", lambda _: (_ for _ in ()).throw(TypeError))
    experiment = start(repo)
    experiment.log_metric("a", 0.5, 7)
    tracelet.stop_logging(60)
    assert points(opened(experiment.id), "a") == [(7, 0.5)]


@pytest.mark.slow
def test_a_forked_child_ends_no_run_of_its_parents(repo, run_script, opened):
    done = run_script(f"""
        import os, tracelet
        config = {{"aim": {{"repo": {repo!r}}}}}
        experiment = tracelet.start_logging("forks", "tests", "aim", config)
        experiment.log_metric("a", 0.5, 1)
        assert experiment.flush(60)
        (run,) = [b._run for b in experiment._run._live.backends if b.name == 'aim']
        lock = os.path.join({repo!r}, ".aim", "locks", run.hash + ".softlock")
        child = os.fork()
        if child == 0:
            from aim.ext.cleanup import AutoClean
            AutoClean._cleanup()  # Aim's hook at the exit
            os._exit(0)  # Aim's library crashes at any other exit of a forked child
        assert os.waitpid(child, 0)[1] == 0
        assert os.path.exists(lock)
        assert run.sdk.active
        experiment.log_metric("a", 1.0, 2)
        tracelet.stop_logging(60)
        print(run.hash)
    """)
    run = opened(done.stdout.split()[-1])
    assert points(run, "a") == [(1, 0.5), (2, 1.0)]


KILLED = """
    import os, signal, tracelet
    experiment = tracelet.start_logging("killed", "tests", "aim", {{"aim": {{"repo": {repo!r}}}}})
    experiment.log_metric("a", 0.5, 1)
    assert experiment.flush(60)
    experiment.log_metric("a", 1.0, 2)
    print(experiment.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("held", "is_forced"), [("1-2-3.5", True), ("1-2-4.5", False), ("", False)]
)
def test_the_lock_that_a_dead_process_has_left_is_broken_and_no_other(
    held, is_forced, monkeypatch, tmp_path
):
    """Its number may be a living process' by now; the text has the time, too."""
    from tracelet.backends.aim import backend
    from tracelet.options import Options

    asked = {}

    def open_run(*arguments, **named):
        asked.update(named)
        raise BackendError("seen")

    monkeypatch.setattr(backend, "check_own", lambda *_: None)
    monkeypatch.setattr(backend, "lock_text", lambda *_: held)
    monkeypatch.setattr(backend, "open_run", open_run)
    kept = {"repo": str(tmp_path), "hash": "abc", "lock": "1-2-3.5"}
    info = backend.RunInfo(Options(), "id", str(tmp_path), reopen=kept)
    with pytest.raises(BackendError, match="seen"):
        backend.AimBackend.reopened(info)
    assert asked == {"is_forced": is_forced}


def test_a_run_in_no_repository_of_this_users_is_not_written_to(tmp_path):
    from tracelet.backends.aim.run import check_own

    inner = tmp_path / ".aim" / "meta" / "chunks"
    inner.mkdir(parents=True)
    (inner / "link").symlink_to(tmp_path)
    (inner / "well").mkdir()
    check_own(str(tmp_path), "well")
    for run_hash in ("link", "none", "../../.."):
        with pytest.raises(BackendError, match="is not in"):
            check_own(str(tmp_path), run_hash)


@pytest.mark.slow
def test_sigterm_ends_the_run_and_says_so(repo, run_script, opened):
    done = run_script(KILLED.format(repo=repo).replace("SIGKILL", "SIGTERM"), check=False)
    assert done.returncode == -signal.SIGTERM, done.stderr
    run = opened(done.stdout.split()[-1])
    assert points(run, "a") == [(1, 0.5), (2, 1.0)]
    assert find_runs(os.environ["TRACELET_DIR"]) == []


def test_options_are_checked_before_anything_is_made(tmp_path):
    for options, words in (
        ({"repos": "x"}, "did you mean 'repo'"),
        ({"repo": 5}, "must be a str, not"),
        ({"repo": "aim://host:1"}, "must be a folder"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            tracelet.start_logging("none", "tests", "aim", {"aim": options})
    assert tracelet.get_active_experiment() is None
