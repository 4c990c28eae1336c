"""A TensorBoard event, taken apart into what a tracker can show. Pure functions.

As ClearML's own TensorBoard binding does it (clearml/binding/frameworks/tensorflow_bind.py,
EventTrainsWriter.add_event, clearml 2.1.12), and a little more: files go as they are, without being
encoded anew; meshes and matrices have a form; what has none is named, so that it can be counted.
"""

from __future__ import annotations

import mimetypes
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from tracelet.backends import plots
from tracelet.backends.tensors import STRINGS, tensor_array
from tracelet.tensorboard_messages import LOGGED_PARAMS, PLOTLY_PLUGIN, compat
from tracelet.tensorboard_messages import messages as proto_messages


@dataclass(frozen=True)
class Sample:
    """A file among ClearML's debug samples. `default_title` is for a tag without "/"."""

    tag: str
    default_title: str
    extension: str
    data: bytes


@dataclass(frozen=True)
class Plot:
    tag: str
    figure: str
    """Plotly's JSON."""
    has_series: bool = False
    """Whether the tag is "title/series", and not a title as a whole."""


@dataclass(frozen=True)
class Scalar:
    tag: str
    value: float


@dataclass(frozen=True)
class Parameters:
    """Hyperparameters of the task, by "section/name"."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Configuration:
    """A text among the task's configuration objects."""

    name: str
    text: str


@dataclass(frozen=True)
class NoForm:
    """What ClearML has no form for."""

    what: str


Part = Union[Sample, Plot, Scalar, Parameters, Configuration, NoForm]

# Of other fields of an Event, and of a value that has metadata only: there is nothing to show.
_NO_FORM = {"graph_def": "graph", "meta_graph_def": "graph", "log_message": "log message"}
_SESSION_START = "_hparams_/session_start_info"
_MAGIC = {
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"\xff\xd8\xff": ".jpg",
    b"BM": ".bmp",
    b"RIFF": ".webp",
}
# torch's and tensorboardX' names of the tensors that make up a mesh.
_MESH = {
    "VERTEX": "vertices", "FACE": "faces", "COLOR": "colors",
    "1": "vertices", "2": "faces", "3": "colors",
}  # fmt: skip


def parts_of(payload: bytes) -> list[Part]:
    """What the bytes of an Event protobuf hold for ClearML; empty when that is nothing.

    Raises what protobuf raises for bytes that are none.
    """
    event = compat("event_pb2").Event.FromString(payload)
    field = event.WhichOneof("what")
    if field != "summary":
        return [NoForm(_NO_FORM[field])] if field in _NO_FORM else []
    figures: list[Part] = [
        Plot(value.tag, value.tensor.string_val[0].decode(), has_series=True)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == PLOTLY_PLUGIN
    ]
    if figures:
        return figures  # what else is in the event stands for them in TensorBoard
    parts: list[Part] = []
    meshes: dict[str, dict[str, Any]] = defaultdict(dict)
    for value in event.summary.value:
        if value.metadata.plugin_data.plugin_name == "mesh":
            tag, _, component = value.tag.rpartition("_")
            meshes[tag][_MESH.get(component, component)] = tensor_array(value.tensor)
        else:
            parts += _parts_of_value(value)
    return parts + [_plot(tag, plots.mesh(**mesh)) for tag, mesh in meshes.items()]


def _parts_of_value(value: Any) -> list[Part]:
    kind = value.WhichOneof("value")
    if value.metadata.summary_description == LOGGED_PARAMS:
        return []  # they are connected to the task
    if kind is None:
        return [_parameters(value)] if value.tag == _SESSION_START else []
    if kind == "simple_value":
        return [Scalar(value.tag, value.simple_value)]
    if kind == "image":
        return [_image(value.tag, value.image.encoded_image_string)]
    if kind == "audio":
        extension = _audio_extension(value.audio.content_type)
        return [_sample(value.tag, "Audio", extension, value.audio.encoded_audio_string)]
    if kind == "tensor":
        return _parts_of_tensor(value)
    return [NoForm("histogram that is no TensorBoard histogram")]


def _parts_of_tensor(value: Any) -> list[Part]:
    tensor, plugin = value.tensor, value.metadata.plugin_data.plugin_name
    if tensor.dtype in STRINGS:
        strings = list(tensor.string_val)
        if plugin == "custom_scalars":
            return [_layout(strings)]
        if plugin == "images":  # width and height come first
            return [_image(value.tag, each) for each in strings[2:]]
        if plugin == "audio":
            return [_sample(value.tag, "Audio", ".wav", each) for each in strings[:1]]
        return [Sample(value.tag, "Text", ".txt", b"\n".join(strings))]
    array = tensor_array(tensor)
    if array is None:
        return [NoForm("tensor of a type that is no number")]
    if array.ndim == 0:
        return [Scalar(value.tag, float(array))]
    if plugin == "pr_curves":
        return [_plot(value.tag, plots.precision_recall(array))]
    if array.ndim > 2:
        return [NoForm("tensor of more than 2 dimensions")]
    return [_plot(value.tag, plots.lines_or_heatmap(array))]


def _plot(tag: str, figure: str | None) -> Part:
    return NoForm("plot of very many numbers") if figure is None else Plot(tag, figure)


def _sample(tag: str, default_title: str, extension: str, data: bytes) -> Part:
    if not data:
        return NoForm("image or audio without content")
    return Sample(tag, default_title, extension, data)


def _image(tag: str, data: bytes) -> Part:
    found = [extension for magic, extension in _MAGIC.items() if data.startswith(magic)]
    return _sample(tag, "Images", found[0] if found else ".bin", data)


def _audio_extension(content_type: str) -> str:
    if content_type in ("", "audio/wav", "audio/x-wav"):  # not every system's table has the first
        return ".wav"
    return mimetypes.guess_extension(content_type) or f".{content_type.rpartition('/')[2]}"


def _parameters(value: Any) -> Part:
    messages = proto_messages("tensorboard.plugins.hparams.plugin_data_pb2", "plugin_hparams_pb2")
    data = messages.HParamsPluginData.FromString(value.metadata.plugin_data.content)
    found = {}
    for name, each in data.session_start_info.hparams.items():
        kind = each.WhichOneof("kind")
        if kind in ("number_value", "string_value", "bool_value"):
            found[f"TB_hparams/{name}"] = getattr(each, kind)
    return Parameters(found)


def _layout(strings: list[bytes]) -> Part:
    """A layout of the custom scalars tab, as text in lines."""
    messages = proto_messages("tensorboard.plugins.custom_scalar.layout_pb2", "layout_pb2")
    lines = []
    for category in messages.Layout.FromString(b"".join(strings)).category:
        lines.append(f"{category.title}:")
        for chart in category.chart:
            lines.append(f"  {chart.title}:")
            lines += [f"    - {tag}" for tag in chart.multiline.tag]
            for series in chart.margin.series:
                lines.append(f"    - {series.value} between {series.lower} and {series.upper}")
    return Configuration("custom_scalars", "\n".join([*lines, ""]))
