"""Images, text, audio, plots and parameters on ClearML: offline, online, on bad days."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import tracelet
from readers import event_files, quick_events, session_events

pytest.importorskip("clearml")
torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

SAMPLE, PLOT = "training_debug_image", "plot"

CALLS = """
        import io
        import numpy as np, torch
        from PIL import Image
        from torch.utils.tensorboard import SummaryWriter
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

        def gif():
            frames = [Image.new("L", (8, 8), color) for color in (0, 128, 255)]
            file = io.BytesIO()
            frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
            return file.getvalue()

        def calls(folder):
            random = np.random.default_rng(7)
            writer = SummaryWriter(folder)
            for step in range(3):
                noise = random.integers(0, 255, (3, 20, 30), dtype=np.uint8)
                writer.add_image("val/inputs/one", noise, step)
            writer.add_images("grid", random.random((4, 3, 8, 8)), 5)
            large = random.integers(0, 255, (3, 1500, 1500), dtype=np.uint8)
            writer.add_image("large", large, 5)  # lies in a file on its way
            boxes = np.array([[2, 2, 9, 9]])
            writer.add_image_with_boxes("boxes/ü ?", noise, boxes, 5)
            video = Summary.Value(tag="video", image=Summary.Image(encoded_image_string=gif()))
            writer.file_writer.add_summary(Summary(value=[video]), 5)
            writer.add_text("notes", "# one\\n\\n**grün** |", 4)
            writer.add_text("empty", "", 4)
            writer.add_audio("sound/a", torch.sin(torch.arange(800.0))[None], 6, 8000)
            writer.add_pr_curve("pr", np.arange(50) % 2, random.random(50), 6)
            writer.add_mesh("shape", torch.rand(1, 5, 3), global_step=6)
            writer.add_tensor("line", torch.arange(5.0) / 10, 6)
            writer.add_hparams({"lr": 0.25, "opt": "sgd"}, {"acc": 0.5}, run_name="trial")
            writer.add_custom_scalars({"loss": {"both": ["Multiline", ["a", "b"]]}})
            named = SummaryMetadata(display_name="shown")
            values = [
                Summary.Value(tag="train/x", simple_value=1.25, metadata=named),
                Summary.Value(tag="train/y", simple_value=2.5),
            ]
            writer.file_writer.add_summary(Summary(value=values), 8)
            bad = Summary.Value(tag="bad", simple_value=float("nan"), metadata=named)
            writer.file_writer.add_summary(Summary(value=[bad]), 8)
            writer.add_graph(torch.nn.Linear(2, 2), torch.zeros(1, 2))
            writer.file_writer.add_event(Event(file_version="brain.Event:2"))
            writer.close()
"""
EVENTS = 22  # of CALLS, that are neither scalar nor histogram
FILES = {
    ("val", "inputs_one"): 3, ("Images", "grid"): 1, ("Images", "large"): 1,
    ("boxes", "ü ?"): 1, ("Images", "video"): 1, ("notes", "text_summary"): 1,
    ("empty", "text_summary"): 1, ("sound", "a"): 1,
}  # fmt: skip


def logged_files(folder):
    """(metric, variant, step) to the bytes that the event file of the same run has."""
    found = {}
    for path in event_files(folder):
        for event in quick_events(path):
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                if kind == "image":
                    data, default = value.image.encoded_image_string, "Images"
                elif kind == "audio":
                    data, default = value.audio.encoded_audio_string, "Audio"
                elif value.metadata.plugin_data.plugin_name == "text":
                    (data,), default = value.tensor.string_val, "Text"
                else:
                    continue
                title, _, series = value.tag.partition("/")
                name = (title, series.replace("/", "_")) if series else (default, title)
                found[(*name, event.step)] = data
    return found


def check_samples(samples, read, expected):
    """The samples' files have the bytes of the events, each a name and a key of its own."""
    by_name = {}
    for event in samples:
        name = event["metric"], event["variant"], event["iter"]
        assert unquote(event["url"]).endswith(event["key"])
        by_name[name] = read(event)
    assert by_name == expected
    assert len({event["key"] for event in samples}) == len(samples) == len(expected)
    assert Counter((event["metric"], event["variant"]) for event in samples) == FILES


def check_plots(plots):
    by_name = {(event["metric"], event["iter"]): json.loads(event["plot_str"]) for event in plots}
    assert {name: figure["data"][0]["type"] for name, figure in by_name.items()} == {
        ("pr", 6): "scatter", ("shape", 6): "scatter3d", ("line", 6): "scatter",
    }  # fmt: skip
    assert by_name["line", 6]["data"][0]["y"] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert len(by_name["pr", 6]["data"][0]["y"]) == 127
    assert {event["variant"] for event in plots} == {""}


def check_task(task):
    parameters = task["hyperparams"]["TB_hparams"]
    assert {name: item["value"] for name, item in parameters.items()} == {
        "lr": "0.25", "opt": "sgd",
    }  # fmt: skip
    text = "loss:\n  both:\n    - a\n    - b\n"
    assert task["configuration"]["custom_scalars"]["value"] == text


def check_stats(stats):
    assert stats.delivered["clearml-media"] == EVENTS - 2
    assert stats.dropped == {"no form on clearml: graph": 1}
    assert (stats.not_finite, stats.pending) == (1, 0)


def task_id(server, name):
    (task,) = [id for id, task in server.tasks.items() if task["name"] == name]
    return task


def stored_file(server):
    def read(event):
        assert event["url"].startswith(server.files_url + "/")
        return server.files[unquote(event["url"][len(server.files_url) + 1 :])]

    return read


def samples_of(server, task):
    return server.events(task, SAMPLE)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """An offline session of CALLS: (its folder, the event file's folder, the run's stats)."""
    folder = tmp_path_factory.mktemp("media")
    scope = {}
    exec(textwrap.dedent(CALLS), scope)
    experiment = tracelet.start_logging("media", "tests", config={"tags": ["kept"]})
    url = experiment.url
    scope["calls"](folder / "log")
    tracelet.stop_logging()
    return Path(url), folder / "log", experiment.stats


def test_an_offline_session_has_each_kind(session):
    folder, log, stats = session
    events = session_events(folder)
    samples = [event for event in events if event["type"] == SAMPLE]
    check_samples(samples, lambda event: Path(event["url"]).read_bytes(), logged_files(log))
    for event in samples:  # where the SDK looks for them at the import
        assert folder / "data" / event["key"] == Path(event["url"])
    check_plots([event for event in events if event["type"] == PLOT])
    check_task(json.loads((folder / "task.json").read_text()))
    scalars = {(e["metric"], e["variant"]): e["value"] for e in events if "value" in e}
    assert scalars["train", "x"] == 1.25
    assert scalars["train", "y"] == 2.5
    check_stats(stats)


def test_the_sdk_replays_a_session_whole(session, clearml_server, run_script):
    folder, log, _ = session
    run_script(
        f"""
        from clearml import Task
        Task.import_offline_session({str(folder) + ".zip"!r})
        """,
        env=clearml_server.environment(),
    )
    task = task_id(clearml_server, "media")
    samples = samples_of(clearml_server, task)
    check_samples(samples, stored_file(clearml_server), logged_files(log))
    check_plots(clearml_server.events(task, PLOT))
    check_task(clearml_server.tasks[task])
    assert clearml_server.scalars(task)["train", "x"] == {8: 1.25}
    assert clearml_server.schema_violations == []


@pytest.mark.slow
def test_a_server_gets_each_kind_in_the_sdks_own_form(clearml_server, run_script, tmp_path):
    done = run_script(
        CALLS
        + """
        import dataclasses, json, tracelet
        config = {"auto_resource_monitoring": False}
        experiment = tracelet.start_logging("online", "tests", config=config)
        calls("log")
        experiment.flush()
        from clearml import Task
        logger = Task.current_task().get_logger()
        logger.report_image("theirs", "image", 3, image=np.zeros((4, 4, 3), np.uint8))
        logger.report_media("theirs", "text", 3, stream="text", file_extension=".txt")
        tracelet.stop_logging()
        print("STATS" + json.dumps(dataclasses.asdict(experiment.stats)))
        """,
        env=clearml_server.environment(),
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("STATS")]
    check_stats(tracelet.Stats(**json.loads(line[5:])))
    task = task_id(clearml_server, "online")
    samples = samples_of(clearml_server, task)
    theirs = [event for event in samples if event["metric"] == "theirs"]
    ours = [event for event in samples if event["metric"] != "theirs"]
    check_samples(ours, stored_file(clearml_server), logged_files(tmp_path / "log"))
    check_plots(clearml_server.events(task, PLOT))
    check_task(clearml_server.tasks[task])
    assert clearml_server.scalars(task)["train", "y"] == {8: 2.5}
    assert clearml_server.schema_violations == []
    assert len(theirs) == 2
    stray = {"method"}  # the SDK's own HTTP method, see EventSchema
    for event in ours + theirs:
        assert set(event) - stray == set(theirs[0]) - stray
        folder = event["key"].split("/")[:3]
        assert folder == ["tests", f"online.{task}", "metrics"]
        assert unquote(event["url"]) == f"{clearml_server.files_url}/{event['key']}"
        assert event["timestamp"] > 1.7e12
    assert clearml_server.tasks[task]["status"] == "completed"


TAGS = ["x", "a/x", "a/b/x", "a/b/c/x", "a/b/c/d/x", "/lead", "trail/", "with space/ü"]


@pytest.mark.slow
def test_names_are_those_of_clearmls_own_tensorboard_binding(run_script, tmp_path):
    calls = f"""
        for folder in ("logs/one", "logs/deep/two"):
            writer = SummaryWriter(folder)
            for tag in {TAGS!r}:
                writer.add_image("image/" + tag, np.zeros((3, 4, 4), np.uint8), 1)
                writer.add_text("text/" + tag, "words", 1)
                writer.add_audio(tag, np.zeros((1, 10)), 1)
            writer.close()
"""
    done = run_script(
        """
        import numpy as np
        from torch.utils.tensorboard import SummaryWriter
        from clearml import Task
        Task._report_subprocess_enabled = False
        task = Task.init("tests", "theirs", auto_resource_monitoring=False)
        print(task.get_offline_mode_folder())
"""
        + calls
        + "        task.close()\n"
    )
    theirs = next(line for line in done.stdout.splitlines() if Path(line).is_dir())
    experiment = tracelet.start_logging("ours", "tests")
    ours = experiment.url
    exec(textwrap.dedent(calls), {"SummaryWriter": SummaryWriter, "np": np})
    tracelet.stop_logging()
    names = [
        {(e["metric"], e["variant"], e["key"].rpartition(".")[2]) for e in session_events(folder)
         if e["type"] == SAMPLE} for folder in (theirs, ours)
    ]  # fmt: skip
    assert len(names[0]) == len(names[1]) == 2 * 3 * len(TAGS)
    encoded = {(metric, variant, "jpg") for metric, variant, kind in names[1] if kind == "png"}
    assert {name for name in names[1] if name[2] != "png"} | encoded == {
        (metric, variant, "jpg" if kind in ("jpeg", "png") else kind)
        for metric, variant, kind in names[0]
    }


@pytest.mark.slow
def test_an_outage_of_the_file_server_holds_back_no_scalar_and_loses_no_image(
    clearml_server, run_script, tmp_path
):
    """Away at first; then a fifth of all uploads and requests fail, in every way there is."""
    clearml_server.stop_files()
    for mode in ("400", "401", "500", "502", "503", "close before", "close after", "half answer"):
        clearml_server.faults.add(mode, probability=0.025, endpoints=("events.add_batch",))
        if mode not in ("400", "401"):
            clearml_server.file_faults.add(mode, probability=0.03, endpoints=None)
    seen = []

    def watch():
        while not (tmp_path / "logged").exists():
            time.sleep(0.02)
        deadline_s = time.monotonic() + 60
        task = task_id(clearml_server, "outage")
        while time.monotonic() < deadline_s:
            points = clearml_server.scalars(task).get(("loss", "loss"), {})
            plots = clearml_server.events(task, PLOT)
            if len(points) == len(plots) == 40:
                break
            time.sleep(0.02)
        seen.append((len(points), len(plots), len(clearml_server.files)))
        clearml_server.start()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    done = run_script(
        """
        import numpy as np, torch, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging(
            "outage", "tests",
            config={"batch_max_age_s": 0.05, "auto_resource_monitoring": False},
        )
        writer = SummaryWriter("log")
        for step in range(40):
            writer.add_image("image", np.full((3, 4, 4), step, np.uint8), step)
            writer.add_scalar("loss", step, step)
            writer.add_tensor("line", torch.full([3], float(step)), step)
        open("logged", "w").close()
        tracelet.stop_logging(timeout_s=60)
        print(experiment.stats)
        """,
        env=clearml_server.environment(),
    )
    thread.join(5)
    assert seen == [(40, 40, 0)], "all scalars and plots while no file could be uploaded"
    assert "'clearml-media': 80" in done.stdout, done.stdout + done.stderr
    assert "dropped={}" in done.stdout
    assert len(clearml_server.file_faults.injected) >= 3
    task = task_id(clearml_server, "outage")
    samples = samples_of(clearml_server, task)
    expected = logged_files(tmp_path / "log")
    assert {event["iter"] for event in samples} == set(range(40)) == {key[2] for key in expected}
    assert len(samples) == len(clearml_server.files) == 40  # what was sent again is no other
    read = stored_file(clearml_server)
    for event in samples:
        assert read(event) == expected["Images", "image", event["iter"]]
    assert len(clearml_server.events(task, PLOT)) == 40


@pytest.mark.slow
def test_what_is_refused_is_set_aside_alone(clearml_server, run_script, tmp_path):
    """One event that the API refuses, one file that is too large, one that always fails."""
    clearml_server.refuses = lambda event: event["type"] == PLOT and event["iter"] == 7
    clearml_server.file_faults.add("413", endpoints=["Images_a_00000003.png"])
    clearml_server.file_faults.add("500", endpoints=["Images_b_00000000.png"])
    run_script(
        """
        import numpy as np, torch, tracelet
        from torch.utils.tensorboard import SummaryWriter
        experiment = tracelet.start_logging("refused", "tests")
        writer = SummaryWriter("log")
        writer.add_image("b", np.zeros((3, 4, 4), np.uint8), 0)
        for step in range(10):
            writer.add_image("a", np.full((3, 4, 4), step, np.uint8), step)
            writer.add_tensor("line", torch.full([3], float(step)), step)
        assert experiment.flush(60)
        tracelet.stop_logging()
        stats = experiment.stats
        assert stats.dropped == {"refused by clearml": 3}, stats
        assert stats.delivered["clearml-media"] == 18, stats
        """,
        env=clearml_server.environment(),
    )
    task = task_id(clearml_server, "refused")
    stored = {(event["metric"], event["iter"]) for event in samples_of(clearml_server, task)}
    assert stored == {("Images", step) for step in range(10) if step != 3}
    plots = {event["iter"] for event in clearml_server.events(task, PLOT)}
    assert plots == set(range(10)) - {7}
    (folder,) = (tmp_path / "tracelet-runs").iterdir()
    lines = (folder / "set_aside-clearml-media.jsonl").read_text().splitlines()
    points = {(p["tag"], p["step"]): p["answer"] for p in map(json.loads, lines)}
    assert set(points) == {("b", 0), ("a", 3), ("line", 7)}
    assert "(500)" in points["b", 0]
    assert "(413)" in points["a", 3]
    assert "this event" in points["line", 7]


@pytest.mark.slow
def test_a_slow_file_server_costs_neither_calls_nor_memory(clearml_server, run_script):
    """300 images of 200 kB, of which it takes a few; the stop keeps its deadline all the same."""
    clearml_server.file_faults.add("slow", delay=0.15, endpoints=None)
    done = run_script(
        """
        import json, time, threading, numpy as np, torch, tracelet
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import image
        from tensorboard.compat.proto.summary_pb2 import Summary

        def anonymous_mb():
            with open("/proc/self/status") as status:
                line = next(line for line in status if line.startswith("RssAnon"))
            return int(line.split()[1]) / 1024

        def without_a_core_s():  # ready to run, on a machine that is busy with something else
            with open("/proc/thread-self/schedstat") as file:
                return int(file.read().split()[1]) / 1e9

        config = {
            "batch_max_age_s": 0.1, "batch_max_bytes": 1 << 20, "auto_resource_monitoring": False,
        }
        experiment = tracelet.start_logging("slow", "tests", config=config)
        writer = SummaryWriter("log")
        noise = np.random.default_rng(1).integers(0, 255, (260, 260, 3), dtype=np.uint8)
        one = image("a", noise, dataformats="HWC")
        size = len(one.value[0].image.encoded_image_string)
        assert size > 200_000
        writer.file_writer.add_summary(one, 0)
        assert experiment.flush(20)
        before = anonymous_mb()
        most, longest_s = 0, 0
        start = time.monotonic()
        for step in range(1, 300):
            call = time.monotonic() - without_a_core_s()
            writer.file_writer.add_summary(Summary.FromString(one.SerializeToString()), step)
            longest_s = max(longest_s, time.monotonic() - without_a_core_s() - call)
            most = max(most, anonymous_mb())
        took_s = time.monotonic() - start
        then = experiment.stats
        while experiment.stats.pending and time.monotonic() - start < 2:
            most = max(most, anonymous_mb())
            time.sleep(0.05)
        start = time.monotonic()
        tracelet.stop_logging(timeout_s=1)
        most = max(most, anonymous_mb())
        print("FOUND" + json.dumps({
            "growth_mb": most - before, "took_s": took_s, "longest_s": longest_s,
            "stop_s": time.monotonic() - start, "pending": experiment.stats.pending,
            "delivered_then": then.delivered, "dropped": experiment.stats.dropped,
        }))
        """,
        env=clearml_server.environment(),
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    found = json.loads(line[5:])
    print(found)
    assert found["delivered_then"]["clearml-media"] < 100
    assert found["took_s"] < 300 * 0.15 / 10
    assert found["longest_s"] < 0.5
    assert found["growth_mb"] < 45, "60 MB are on their way"
    assert found["stop_s"] < 4
    assert found["pending"] > 100
    assert found["dropped"] == {}
    assert "can't take points" not in done.stderr
    assert "are kept in" in done.stderr
    task = task_id(clearml_server, "slow")
    assert clearml_server.tasks[task]["status"] == "completed"
