"""Histograms as people see them: TensorBoard's tab and ClearML's plots, as pictures.

TRACELET_TEST_PICTURES names a folder that the pictures are kept in.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tracelet
from tensorboard_server import ask, tensorboard, wait_for

from visual.browser import chromium, colored_columns, screenshot

plotly = pytest.importorskip("plotly")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

EPOCHS = 60


def log_a_training(log_dir: Path) -> None:
    """The user's page's loop over a model whose weights drift apart."""
    from torch.utils.tensorboard import SummaryWriter

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    writer = SummaryWriter(str(log_dir))
    for epoch in range(EPOCHS):
        for name, param in model.named_parameters():
            writer.add_histogram(f"layers/{name}", param, epoch)
        with torch.no_grad():
            for param in model.parameters():
                param.add_(torch.randn_like(param) * 0.03)
    writer.close()


def test_tensorboards_histogram_tab_shows_a_run_that_goes_on(tmp_path):
    chromium()
    tracelet.start_logging(exp_name="view", project="tests", backend="tensorboard")
    try:
        log_a_training(tmp_path / "logs")
        with tensorboard(tmp_path / "logs") as url:
            wait_for(lambda: "layers/0.weight" in ask(url, "plugin/histograms/tags")["."])
            png = tmp_path / "tensorboard-histograms.png"
            screenshot(f"{url}/?darkMode=false#histograms", png)
    finally:
        tracelet.stop_logging()
    # The ridges are in oranges below the header's; the second card is that of a wide bell.
    ridges = colored_columns(png, range(180, 256), range(50, 150), range(10, 90))
    assert sum(1 for count in ridges[380:660] if count > 40) > 150


def figures(session: Path) -> dict[tuple[str, int], str]:
    """The plots of an offline session, by (variant, iteration)."""
    plots = {}
    for line in (session / "metrics.jsonl").read_text().splitlines():
        for event in json.loads(line):
            if event["type"] == "plot":
                plots[event["variant"], event["iter"]] = event["plot_str"]
    return plots


def picture(figure_json: str, png: Path) -> None:
    import plotly.io

    # Checks every key and value against plotly's schema.
    figure = plotly.io.from_json(figure_json)
    html = png.with_suffix(".html")
    figure.update_layout(width=900, height=600)
    figure.write_html(html, include_plotlyjs=True)
    screenshot(html.as_uri(), png, width=920, height=620)


@pytest.fixture(scope="module")
def clearml_plots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clearml")
    experiment = tracelet.start_logging(exp_name="view", project="tests", backend="clearml")
    try:
        log_a_training(folder / "logs")
        session = Path(experiment.url)
    finally:
        tracelet.stop_logging()
    return figures(session)


def test_clearmls_plot_of_a_step_is_a_bell(clearml_plots, tmp_path):
    figure = clearml_plots["0.weight", EPOCHS - 1]
    assert sum(json.loads(figure)["data"][0]["y"]) == 32 * 64
    png = tmp_path / "clearml-step.png"
    picture(figure, png)
    # plotly's first colour, #636efa: bars from one side of the plot to the other, highest inside.
    bars = colored_columns(png, range(89, 110), range(100, 121), range(240, 256))
    columns = [x for x, count in enumerate(bars) if count > 0]
    assert columns[-1] - columns[0] > 500
    thirds = [max(bars[columns[0] + part * 170 :][:170]) for part in range(3)]
    assert thirds[1] > 3 * max(bars[columns[0]], bars[columns[-1]])
    assert max(thirds) > 250


def test_clearmls_view_over_time_shows_the_weights_drift_apart(clearml_plots, tmp_path):
    figure = clearml_plots["0.weight over time", 0]
    assert len(figure) < 64 << 10
    [heatmap] = json.loads(figure)["data"]
    assert all(sum(row) == 32 * 64 for row in heatmap["z"])
    assert heatmap["y"][0] == 0
    assert heatmap["y"][-1] == EPOCHS - 1
    png = tmp_path / "clearml-over-time.png"
    picture(figure, png)
    # Viridis runs from dark violet to yellow: both are there, the yellow in the middle columns.
    violet = colored_columns(png, range(55, 80), range(0, 40), range(70, 110))
    yellow = colored_columns(png, range(200, 256), range(200, 240), range(0, 80))
    assert sum(violet) > 50_000
    # The colour bar at the right is not meant.
    brightest = max(range(700), key=lambda x: yellow[x])
    assert 250 < brightest < 550
