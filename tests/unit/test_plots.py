"""Tensors as Plotly's JSON: gaps, limits, and what each kind of tensor becomes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tracelet.backends import plots


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(plots, "_MOST_NUMBERS", 12)


def figure(text):
    made = json.loads(text)
    return made["data"], made["layout"]


def test_numbers_are_the_shortest_and_what_is_not_finite_is_a_gap():
    assert plots.numbers(np.array([0.1, np.nan, np.inf], np.float32)) == [0.1, None, None]
    assert plots.numbers(np.array([[0.1], [-np.inf]])) == [[0.1], [None]]
    assert plots.numbers(np.array([True, False])) == [1, 0]
    assert not isinstance(plots.numbers(np.array([True]))[0], bool)
    assert plots.numbers(np.array([1, 2**63], np.uint64)) == [1, 2**63]


def test_a_vector_is_a_line_two_columns_are_points_and_the_rest_a_heatmap():
    (line,), _ = figure(plots.lines_or_heatmap(np.arange(3)))
    assert line == {"type": "scatter", "mode": "lines", "y": [0, 1, 2]}
    (line,), _ = figure(plots.lines_or_heatmap(np.array([[1, 2], [3, 4], [5, 6]])))
    assert (line["type"], line["x"], line["y"]) == ("scatter", [1, 3, 5], [2, 4, 6])
    (heat,), layout = figure(plots.lines_or_heatmap(np.arange(3).reshape(1, 3)))
    assert (heat["type"], heat["z"]) == ("heatmap", [[0, 1, 2]])
    assert layout == {"yaxis": {"autorange": "reversed"}}


def test_more_numbers_than_a_page_shows_are_none(few):
    for shape, fits in (((12,), True), ((13,), False), ((6, 2), True), ((7, 2), False),
                        ((4, 3), True), ((13, 1), False)):  # fmt: skip
        assert (plots.lines_or_heatmap(np.zeros(shape)) is not None) == fits
    assert plots.precision_recall(np.zeros((6, 2))) is not None
    assert plots.precision_recall(np.zeros((6, 3))) is None
    assert plots.mesh(np.zeros((1, 4, 3))) is not None
    assert plots.mesh(np.zeros((1, 4, 3)), colors=np.zeros((1, 1, 3), int)) is None


def test_a_curve_names_its_thresholds():
    rows = np.array([[1, 2], [3, 4], [5, 6], [7, np.nan], [0.5, 0.25], [1.0, np.nan]])
    (curve,), layout = figure(plots.precision_recall(rows))
    assert (curve["type"], curve["mode"]) == ("scatter", "lines")
    assert (curve["y"], curve["x"]) == ([0.5, 0.25], [1.0, None])
    assert curve["text"] == [
        "threshold 0.000<br>TP 1, FP 3, TN 5, FN 7", "threshold 1.000<br>TP 2, FP 4, TN 6, FN 0",
    ]  # fmt: skip
    assert layout["xaxis"] == {"title": {"text": "recall"}}
    assert layout["yaxis"] == {"title": {"text": "precision"}}


def test_a_mesh_has_triangles_where_there_are_faces_and_points_where_there_are_none():
    corners = np.arange(18.0).reshape(2, 3, 3)
    colors = np.array([[[1, 2, 3]] * 3, [[4, 5, 6]] * 3])
    faces = np.array([[[0, 1, 2]], [[2, 1, 0]]], np.int32)
    points, layout = figure(plots.mesh(corners, colors=colors))
    assert [each["type"] for each in points] == ["scatter3d"] * 2
    assert points[1]["x"] == [9, 12, 15]
    assert points[0]["marker"] == {"size": 2, "color": ["rgb(1,2,3)"] * 3}
    assert points[0]["mode"] == "markers"
    assert layout == {"scene": {"aspectmode": "data"}}
    triangles, _ = figure(plots.mesh(corners, faces, colors))
    assert [(each["i"], each["j"], each["k"]) for each in triangles] == [
        ([0], [1], [2]), ([2], [1], [0]),
    ]  # fmt: skip
    assert triangles[1]["vertexcolor"] == ["rgb(4,5,6)"] * 3
    assert "vertexcolor" not in figure(plots.mesh(corners, faces))[0][0]
    assert figure(plots.mesh(corners))[0][0]["marker"] == {"size": 2}
