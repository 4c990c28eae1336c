"""TensorBoard's tabs, as pages and as answers of its HTTP API, while the run is still writing.

TRACELET_TEST_PICTURES names a folder that the pictures are kept in.
"""

from __future__ import annotations

import io
import os

import pytest
import tracelet
from PIL import Image
from tensorboard_server import ask, tensorboard, wait_for

from visual.browser import chromium, colored_columns, screenshot

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402

pytestmark = pytest.mark.slow

PICTURES_ARE_KEPT = "TRACELET_TEST_PICTURES" in os.environ
STEPS = 30
SENTENCE = "The quick brown fox."
PURPLE = range(140, 155), range(45, 60), range(222, 238)  # the second trial's, in time series
ORANGE = range(250, 256), range(107, 117), range(60, 75)
BLUE_NODE = range(180, 195), range(190, 205), range(214, 228)
TEXT = range(25, 60), range(30, 75), range(30, 90)


def log_a_training(writer):
    x = torch.linspace(-3, 3, 2000)
    labels = np.arange(200) % 2
    scores = np.clip(labels * 0.3 + np.random.default_rng(0).random(200) * 0.7, 0, 1)
    stripes = torch.zeros(3, 64, 64)
    for step in range(STEPS):
        writer.add_scalar("loss", 1 / (step + 1), step)
        writer.add_scalars("sides", {"left": -step, "right": step}, step)
        writer.add_histogram("weights", x * (1 + step / 10), step)
        stripes[:, :, step * 2 : step * 2 + 1] = 1
        stripes[0] = 1
        writer.add_image("stripes", stripes, step)
        writer.add_text("sentence", f"**{step}** {SENTENCE}", step)
        writer.add_pr_curve("curve", labels, scores, step)
    for number in range(3):
        chosen = {"lr": 0.1 * (number + 1), "optimizer": "adam"}
        writer.add_hparams(chosen, {"accuracy": 0.5 + number / 10}, run_name=f"trial{number}")
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    writer.add_graph(model, torch.zeros(1, 4))
    writer.add_mesh("mesh", torch.rand(1, 100, 3))
    layout = {"charts": {"all": ["Multiline", ["loss"]]}}
    writer.add_custom_scalars(layout)
    writer.flush()


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """TensorBoard's address, and the writer, of a run that goes on."""
    from torch.utils.tensorboard import SummaryWriter

    chromium()
    folder = tmp_path_factory.mktemp("tabs")
    tracelet.start_logging("tabs", "tests", backend="tensorboard")
    writer = SummaryWriter(folder / "log" / "run")
    try:
        log_a_training(writer)
        with tensorboard(folder / "log") as url:
            wait_for(lambda: "mesh" in str(ask(url, "plugin/mesh/tags")))
            yield url
    finally:
        tracelet.stop_logging()


@pytest.fixture(autouse=True)
def _own_folder():
    """Not each test's own here: the run is the module's."""


def picture(url, tab, tmp_path):
    png = tmp_path / f"tab-{tab}.png"
    screenshot(f"{url}/?darkMode=false#{tab}", png)
    return png


def test_the_run_is_still_active(live):
    assert tracelet.get_active_experiment() is not None
    logged = ask(live, "plugins_listing")
    for plugin in ("scalars", "images", "text", "histograms", "pr_curves", "hparams", "graphs"):
        assert logged[plugin]["enabled"], plugin


def test_scalars(live, tmp_path):
    points = ask(live, "plugin/scalars/scalars", run="run", tag="loss")
    assert [step for _, step, _ in points] == list(range(STEPS))
    assert points[3][2] == 0.25
    sides = ask(live, "plugin/scalars/scalars", run="run/sides_left", tag="sides")
    assert sides[-1][2] == -STEPS + 1
    # This page draws its lines in a worker, which a picture may come before: the points of its
    # first table are what is looked for, and a line of the same points on the page of charts.
    dots = colored_columns(picture(live, "timeseries", tmp_path), *PURPLE)
    assert sum(dots[310:345]) > 40
    lines = colored_columns(picture(live, "custom_scalars", tmp_path), *ORANGE)
    assert sum(count > 0 for count in lines[400:]) > 80


def test_images(live, tmp_path):
    images = ask(live, "plugin/images/images", run="run", tag="stripes", sample=0)
    assert images[-1]["step"] == STEPS - 1
    png = ask(live, f"plugin/images/individualImage?{images[-1]['query']}")
    assert Image.open(io.BytesIO(png)).size == (64, 64)
    red = colored_columns(
        picture(live, "images", tmp_path), range(250, 256), range(0, 5), range(0, 5)
    )
    assert sum(red) > 500


def test_text(live, tmp_path):
    texts = ask(live, "plugin/text/text", run="run", tag="sentence/text_summary")
    assert texts[-1]["step"] == STEPS - 1
    assert f"<strong>{STEPS - 1}</strong> {SENTENCE}" in texts[-1]["text"]
    letters = colored_columns(
        picture(live, "text", tmp_path), range(0, 40), range(0, 40), range(0, 40)
    )
    assert sum(letters[390:590]) > 500


def test_histograms(live, tmp_path):
    histograms = ask(live, "plugin/histograms/histograms", run="run", tag="weights")
    assert [step for _, step, _ in histograms] == list(range(STEPS))
    assert all(sum(bucket[2] for bucket in buckets) == 2000 for _, _, buckets in histograms)
    if PICTURES_ARE_KEPT:  # test_histogram_views.py looks at this page
        picture(live, "histograms", tmp_path)


def test_pr_curves(live, tmp_path):
    curves = ask(live, "plugin/pr_curves/pr_curves", run="run", tag="curve")["run"]
    assert curves[-1]["step"] == STEPS - 1
    assert max(curves[-1]["precision"]) == 1.0
    lines = colored_columns(picture(live, "pr_curves", tmp_path), *ORANGE)
    assert sum(count > 0 for count in lines[380:]) > 80


def test_hparams(live, tmp_path):
    experiment = ask(live, "plugin/hparams/experiment?request=%7B%7D")
    assert {each["name"] for each in experiment["hparamInfos"]} == {"lr", "optimizer"}
    assert {each["name"]["tag"] for each in experiment["metricInfos"]} == {"accuracy"}
    rows = colored_columns(picture(live, "hparams", tmp_path), *TEXT)
    assert sum(rows[290:]) > 300


def test_graphs(live, tmp_path):
    graph = ask(live, "plugin/graphs/graph", run="run").decode()
    assert "Sequential/Linear[0]" in graph
    assert "aten::linear" in graph
    nodes = colored_columns(picture(live, "graphs", tmp_path), *BLUE_NODE)
    assert sum(nodes[360:]) > 3000


def test_meshes_and_custom_scalars(live):
    assert "mesh" in ask(live, "plugin/mesh/tags")["run"]
    layout = ask(live, "plugin/custom_scalars/layout")
    assert layout["category"][0]["title"] == "charts"
