"""Images, texts, figures and tables logged by hand, as the events that go through the ring."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracelet.errors import TraceletError
from tracelet.tensorboard_messages import PLOTLY_PLUGIN, compat

_LONGEST_TABLE = 10_000  # cells of one column; ClearML's page draws no more in a reasonable time
_CHANNELS = (1, 3, 4)
_WHITEST = 2.0  # rounding, and most ways to normalize, stay below
_MOST_TOLD = 1_000
_told: set[str] = set()  # pictures whose range was told, of this process
_log = logging.getLogger("tracelet")


def text_event(name: str, text: Any, step: int | None) -> Any:
    if not isinstance(text, str):
        raise TypeError(f"log_text: {name!r}: the text must be a str, not {type(text).__name__}")
    return event_of([_text_value(name, text)], step)


def image_event(name: str, image: Any, step: int | None, dataformats: str | None) -> Any:
    """Raises TypeError or ValueError for what is no image, FileNotFoundError for a path."""
    width, height, data = _encoded(name, image, dataformats)
    return event_of([image_value(name, width, height, data)], step)


def figure_event(name: str, figure: Any, step: int | None) -> Any:
    """A matplotlib figure (or pyplot) as an image, a Plotly figure as it is."""
    if hasattr(figure, "gcf"):
        figure = figure.gcf()
    if hasattr(figure, "savefig"):
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return image_event(name, stream.getvalue(), step, None)
    if hasattr(figure, "to_json"):
        return event_of([_plotly_value(name, figure.to_json())], step)
    if isinstance(figure, Mapping) and "data" in figure:
        return event_of([_plotly_value(name, json.dumps(figure))], step)
    raise TypeError(
        f"log_figure: {name!r} is a {type(figure).__name__}, neither a matplotlib nor a Plotly "
        "figure"
    )


def table_event(name: str, table: Any, step: int | None) -> Any:
    """A table as one for Plotly, and in Markdown for TensorBoard."""
    header, columns = _columns_of(name, table)
    for column in columns:
        if len(column) > _LONGEST_TABLE:
            raise ValueError(
                f"log_table: {name!r} has {len(column)} rows, at most {_LONGEST_TABLE} are shown; "
                "log_artifact keeps large ones"
            )
    figure = {
        "data": [
            {"type": "table", "header": {"values": header}, "cells": {"values": columns}},
        ],
        "layout": {"title": {"text": name}},
    }
    rows = [header, ["---"] * len(header), *map(list, zip(*columns))]
    lines = ("| " + " | ".join(_cell_text(cell) for cell in row) + " |" for row in rows)
    return event_of([_text_value(name, "\n".join(lines)), _plotly_value(name, json.dumps(figure))],
                  step)  # fmt: skip


def event_of(values: list[Any], step: int | None) -> Any:
    if step is not None and (isinstance(step, bool) or not hasattr(step, "__index__")):
        raise TypeError(f"step must be an int, not {step!r}")
    summary = messages("summary_pb2").Summary(value=values)
    return messages("event_pb2").Event(
        summary=summary, step=0 if step is None else int(step), wall_time=time.time()
    )


def messages(name: str) -> Any:
    try:
        return compat(name)
    except ImportError as error:
        raise TraceletError(
            "images, texts, figures and tables need TensorBoard's messages: pip install tensorboard"
        ) from error


def _tensor_value(tag: str, plugin: str, text: str) -> Any:
    summary, tensor = messages("summary_pb2"), messages("tensor_pb2")
    plugin_data = summary.SummaryMetadata.PluginData(plugin_name=plugin)
    return summary.Summary.Value(
        tag=tag,
        metadata=summary.SummaryMetadata(plugin_data=plugin_data),
        tensor=tensor.TensorProto(dtype="DT_STRING", string_val=[text.encode()]),
    )


def _text_value(name: str, text: str) -> Any:
    return _tensor_value(f"{name}/text_summary", "text", text)  # the tag that torch gives it


def _plotly_value(name: str, figure: str) -> Any:
    return _tensor_value(name, PLOTLY_PLUGIN, figure)


def image_value(name: str, width: int, height: int, data: bytes) -> Any:
    summary = messages("summary_pb2").Summary
    image = summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)
    return summary.Value(tag=name, image=image)


def _encoded(name: str, image: Any, dataformats: str | None) -> tuple[int, int, bytes]:
    """Width, height and the bytes of an image file."""
    from PIL import Image

    if isinstance(image, (str, os.PathLike)):
        if not os.path.exists(image):
            raise FileNotFoundError(f"log_image: there is no file {os.fspath(image)!r}")
        with open(image, "rb") as file:
            image = file.read()
    if isinstance(image, (bytes, bytearray)):
        try:
            with Image.open(io.BytesIO(image)) as opened:
                return opened.width, opened.height, bytes(image)
        except Exception as error:
            raise ValueError(f"log_image: {name!r} is no image file: {error}") from error
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_pixels(name, image, dataformats))
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return image.width, image.height, stream.getvalue()


def _pixels(name: str, image: Any, dataformats: str | None) -> Any:
    """An array of shape (H, W) or (H, W, C), uint8."""
    is_tensor = hasattr(image, "detach")
    array = array_of(image)
    if array.dtype.kind not in "uifb" or array.ndim not in (2, 3):
        raise TypeError(
            f"log_image: {name!r} must be a picture of shape (H, W), (H, W, C) or (C, H, W), a PIL "
            f"image or a path, not {type(image).__name__} of shape {array.shape}"
        )
    if array.ndim == 3:
        form = (dataformats or _form_of(array.shape, is_tensor)).upper()
        if sorted(form) != sorted("CHW"):
            raise ValueError(f"log_image: dataformats must be 'HWC', 'CHW' or so, not {form!r}")
        array = array.transpose([form.index(axis) for axis in "HWC"])
        if array.shape[2] not in _CHANNELS:
            raise ValueError(f"log_image: {name!r} has {array.shape[2]} channels: 1, 3 or 4 are")
        array = array[:, :, 0] if array.shape[2] == 1 else array
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "f" and array.size and np.nanmax(array) > _WHITEST:
        _tell_of_range(name, float(np.nanmax(array)))
    scale = 255.0 if array.dtype.kind in "fb" else 1.0  # floats from 0 to 1, as for add_image
    return np.clip(np.nan_to_num(array.astype(np.float64)) * scale, 0, 255).astype(np.uint8)


def array_of(given: Any) -> Any:
    """A numpy array, also of a tensor; floats that numpy lacks (bfloat16) as float32."""
    if not hasattr(given, "detach"):
        return np.asarray(given)
    tensor = given.detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:
        if not tensor.is_floating_point():
            raise
        return np.asarray(tensor.float())


def _tell_of_range(name: str, most: float) -> None:
    if name in _told or len(_told) >= _MOST_TOLD:
        return
    _told.add(name)
    _log.warning(
        "tracelet: log_image: %r has floats up to %g and will be white where they exceed 1: floats "
        "are from 0 to 1; give values from 0 to 255 as uint8", name, most,
    )  # fmt: skip


def _form_of(shape: tuple[int, ...], is_tensor: bool) -> str:
    """A tensor's channels come first, an array's last, unless only the other can be."""
    first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
    return "CHW" if first and (is_tensor or not last) else "HWC"


def _columns_of(name: str, table: Any) -> tuple[list[Any], list[list[Any]]]:
    """Header and columns of a DataFrame, a mapping of columns, or rows of which the first names
    them."""
    if hasattr(table, "columns") and hasattr(table, "itertuples"):
        header = [str(each) for each in table.columns]
        return header, [_cells(table.iloc[:, number]) for number in range(len(header))]
    if isinstance(table, Mapping):
        columns = [_cells(column) for column in table.values()]
        if len({len(column) for column in columns}) > 1:
            raise ValueError(f"log_table: the columns of {name!r} differ in length")
        return [str(each) for each in table], columns
    if isinstance(table, np.ndarray):
        table = table.tolist()
    if isinstance(table, Sequence) and not isinstance(table, str) and table:
        rows = [list(row) for row in table]
        if len({len(row) for row in rows}) == 1:
            return [str(each) for each in rows[0]], [_cells(column) for column in zip(*rows[1:])]
    raise TypeError(
        f"log_table: {name!r} must be a DataFrame, a mapping of columns, or rows of one length, "
        "the first of which is the header"
    )


def _cells(column: Any) -> list[Any]:
    return [_cell(each) for each in column]


def _cell(value: Any) -> Any:
    """A value that JSON has."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, (int, str)) else "" if value is None else str(value)


def _cell_text(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
