"""Tensors to Plotly's JSON. Pure functions; each gives None for more numbers than a page shows."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

_Array = Any  # np.ndarray; its type parameters differ between numpy versions

# About 5 MB of JSON. ClearML's server takes 15 MB in a request, and a browser has to draw it.
_MOST_NUMBERS = 500_000


def precision_recall(rows: _Array) -> str | None:
    """A curve of the six rows of TensorBoard's plugin: TP, FP, TN, FN, precision, recall."""
    if rows.size > _MOST_NUMBERS:
        return None
    thresholds = np.linspace(0.0, 1.0, rows.shape[1])
    precision, recall = numbers(rows[4]), numbers(rows[5])
    hover = [
        f"threshold {threshold:.3f}<br>TP {tp:g}, FP {fp:g}, TN {tn:g}, FN {fn:g}"
        for threshold, tp, fp, tn, fn in zip(thresholds, *np.nan_to_num(rows[:4]))
    ]
    trace = {"type": "scatter", "mode": "lines", "x": recall, "y": precision, "text": hover}
    layout = {"xaxis": _titled("recall"), "yaxis": _titled("precision")}
    return _figure(trace, layout, rows.size)


def lines_or_heatmap(array: _Array) -> str | None:
    """A line over the index, or of (x, y) in two columns; any other matrix is a heatmap."""
    if array.ndim == 1:
        return _figure({"type": "scatter", "mode": "lines", "y": _few(array)}, {}, array.size)
    if array.shape[1] == 2:
        x, y = _few(array.T) or ([], [])
        return _figure({"type": "scatter", "mode": "lines", "x": x, "y": y}, {}, array.size)
    # Row 0 on top, as a matrix is written.
    layout = {"yaxis": {"autorange": "reversed"}}
    return _figure({"type": "heatmap", "z": _few(array)}, layout, array.size)


def mesh(vertices: _Array, faces: _Array | None = None, colors: _Array | None = None) -> str | None:
    """Triangles, or points when there are no faces; each argument is of shape (batch, n, 3)."""
    arrays = [array for array in (vertices, faces, colors) if array is not None]
    size = sum(array.size for array in arrays)
    if size > _MOST_NUMBERS:
        return None
    traces = []
    for index, points in enumerate(vertices):
        x, y, z = numbers(points.T)
        trace: dict[str, Any] = {"x": x, "y": y, "z": z}
        shades = None
        if colors is not None:
            shades = ["rgb({:d},{:d},{:d})".format(*map(int, color)) for color in colors[index]]
        if faces is not None:
            i, j, k = numbers(faces[index].T.astype(np.int64))
            trace.update(type="mesh3d", i=i, j=j, k=k)
            trace.update({"vertexcolor": shades} if shades else {})
        else:
            marker = {"size": 2, **({"color": shades} if shades else {})}
            trace.update(type="scatter3d", mode="markers", marker=marker)
        traces.append(trace)
    return _figure(traces, {"scene": {"aspectmode": "data"}}, size)


def numbers(array: _Array) -> list[Any]:
    """Nested lists of numbers for JSON: NaN and infinities are null, which is a gap in a plot."""
    if array.dtype.kind in "biu":
        return list((array.astype(np.int64) if array.dtype.kind == "b" else array).tolist())
    if array.ndim > 1:
        return [numbers(row) for row in array]
    if array.dtype.itemsize < 8:
        # By way of the shortest decimal that is this number: 0.1, not 0.10000000149011612.
        array = array.astype(np.float32).astype("U32").astype(np.float64)
    return [value if math.isfinite(value) else None for value in array.tolist()]


def _few(array: _Array) -> list[Any] | None:
    return numbers(array) if array.size <= _MOST_NUMBERS else None


def _titled(text: str) -> dict[str, Any]:
    return {"title": {"text": text}}


def _figure(traces: Any, layout: dict[str, Any], size: int) -> str | None:
    if size > _MOST_NUMBERS:
        return None
    data = traces if isinstance(traces, list) else [traces]
    return json.dumps({"data": data, "layout": layout}, allow_nan=False, separators=(",", ":"))
