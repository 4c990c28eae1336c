"""log_image, log_text, log_figure, log_table: on ClearML, and in the event file if there is one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tracelet
from readers import event_files, events, session_events, session_plots

pytest.importorskip("clearml")
pytest.importorskip("tensorboard")
Image = pytest.importorskip("PIL.Image")


def samples(session):
    """(metric, variant, step) to the file of a debug sample."""
    found = {}
    for event in session_events(session):
        if event["type"] == "training_debug_image":
            path = event["url"].replace("file://", "")
            found[event["metric"], event["variant"], event["iter"]] = Path(path).read_bytes()
    return found


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def log_all(experiment):
    red = np.zeros((2, 5, 3), np.uint8)
    red[..., 0] = 200
    experiment.log_image("val/array", red, 3)
    experiment.log_image("val/floats", red.transpose(2, 0, 1) / 255, 4, dataformats="CHW")
    experiment.log_image("val/pil", Image.fromarray(red))
    experiment.log_text("notes/first", "# what happened", 5)
    experiment.log_table("tables/rows", [["name", "value"], ["a|b", np.float32(0.5)], ["c", None]])
    experiment.log_table("tables/columns", {"x": [1, 2], "y": [float("nan"), "z"]}, 6)
    experiment.log_figure("plots/plotly", {"data": [{"y": [1, 2]}], "layout": {}}, 7)
    return red


def test_on_clearml_without_an_event_file():
    experiment = tracelet.start_logging("manual", "tests")
    red = log_all(experiment)
    session = experiment.url
    assert experiment.flush(20)
    stats = experiment.stats
    tracelet.stop_logging()
    found = samples(session)
    for name, step in [("array", 3), ("floats", 4), ("pil", 0)]:
        assert np.abs(picture(found["val", name, step]).astype(int) - red).max() <= 1, name
    (text,) = [data for (_, _, step), data in found.items() if step == 5]
    assert text == b"# what happened"
    assert len(found) == 4
    plots = {event["variant"]: event for event in session_plots(session)}
    rows = json.loads(plots["rows"]["plot_str"])["data"][0]
    assert rows["header"]["values"] == ["name", "value"]
    assert rows["cells"]["values"] == [["a|b", "c"], [0.5, ""]]
    columns = json.loads(plots["columns"]["plot_str"])["data"][0]
    assert columns["cells"]["values"] == [[1, 2], ["nan", "z"]]
    assert plots["columns"]["iter"] == 6
    assert json.loads(plots["plotly"]["plot_str"])["data"][0]["y"] == [1, 2]
    assert stats.dropped == {}
    assert stats.delivered["clearml-media"] == 7


def test_in_the_event_file_too(tmp_path):
    experiment = tracelet.start_logging(
        "manual", "tests", backend="tensorboard", config={"log_dir": str(tmp_path / "log")}
    )
    red = log_all(experiment)
    tracelet.stop_logging()
    (path,) = event_files(tmp_path / "log")
    values = {
        (value.tag, value.metadata.plugin_data.plugin_name): (event.step, value)
        for event in events(path)
        for value in event.summary.value
    }
    step, value = values["val/array", ""]
    assert step == 3
    assert np.array_equal(picture(value.image.encoded_image_string), red)
    step, value = values["notes/first/text_summary", "text"]
    assert (step, value.tensor.string_val[0]) == (5, b"# what happened")
    table = values["tables/rows/text_summary", "text"][1].tensor.string_val[0].decode()
    assert table.splitlines()[2] == "| a\\|b | 0.5 |"


def test_matplotlib_figures_and_tensors():
    matplotlib = pytest.importorskip("matplotlib")
    torch = pytest.importorskip("torch")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    experiment = tracelet.start_logging("figures", "tests")
    figure = pyplot.figure(figsize=(2, 1), dpi=50)
    experiment.log_figure("a/figure", figure, 1)
    experiment.log_image("a/tensor", torch.ones(3, 4, 3) * 0.5, 1)  # 3 channels either way: CHW
    experiment.log_image("a/grey", torch.ones(4, 6), 1)
    session = experiment.url
    assert experiment.flush(20)
    tracelet.stop_logging()
    found = samples(session)
    assert picture(found["a", "figure", 1]).shape[:2] == (50, 100)
    assert picture(found["a", "tensor", 1]).shape == (4, 3, 3)
    assert picture(found["a", "tensor", 1]).max() == 127
    assert picture(found["a", "grey", 1]).shape == (4, 6)
    pyplot.close(figure)


WRONG = [
    ("log_image", np.zeros((2, 2, 2, 2)), TypeError, "picture of shape"),
    ("log_image", np.zeros((9, 9, 9), np.uint8), ValueError, "9 channels"),
    ("log_image", "absent.png", FileNotFoundError, "absent.png"),
    ("log_image", b"no image", ValueError, "no image file"),
    ("log_text", 5, TypeError, "must be a str"),
    ("log_figure", object(), TypeError, "neither"),
    ("log_table", [[1, 2], [3]], TypeError, "rows of one length"),
    ("log_table", {"a": [1], "b": []}, ValueError, "differ in length"),
    ("log_table", {"a": range(20_000)}, ValueError, "at most 10000"),
]


def test_what_is_wrong_is_an_error_at_the_call_naming_it():
    experiment = tracelet.start_logging("wrong", "tests")
    for method, value, kind, words in WRONG:
        with pytest.raises(kind, match=words):
            getattr(experiment, method)("my/name", value)
    with pytest.raises(TypeError, match="step must be an int"):
        experiment.log_text("a", "b", step="3")
    with pytest.raises(TypeError, match="name must be a str"):
        experiment.log_text("", "b")
    tracelet.stop_logging()
    assert experiment.stats.accepted == 0
    with pytest.raises(tracelet.TraceletError, match="log_text: this run has ended"):
        experiment.log_text("a", "b")
