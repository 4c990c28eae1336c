"""Events to what ClearML shows, without ClearML: parts, tensors, plots, names, probe."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tracelet.backends.clearml.names import SeriesNames
from tracelet.backends.clearml.probe import Probe
from tracelet.backends.clearml.storage import is_verdict
from tracelet.backends.parts import (
    Configuration,
    NoForm,
    Parameters,
    Plot,
    Sample,
    Scalar,
    parts_of,
)
from tracelet.backends.plots import lines_or_heatmap, mesh, numbers, precision_recall
from tracelet.backends.tensors import tensor_array

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
from google.protobuf.message import DecodeError  # noqa: E402
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, TaggedRunMetadata  # noqa: E402
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # noqa: E402
from torch.utils.tensorboard import summary as torch_summary  # noqa: E402

try:
    from tensorboardX import summary as x_summary
except ImportError:
    x_summary = None

SUMMARIES = [
    pytest.param(torch_summary, id="torch"),
    pytest.param(
        x_summary, id="tensorboardX", marks=pytest.mark.skipif(x_summary is None, reason="absent")
    ),
]


def parts(summary):
    event = Event(summary=Summary.FromString(summary.SerializeToString()))
    return parts_of(event.SerializeToString())


def data_of(plot):
    (trace,) = json.loads(plot.figure)["data"]
    return trace


@pytest.mark.parametrize("package", SUMMARIES)
def test_samples_are_the_bytes_of_the_event(package):
    image = package.image("a/b", np.zeros((3, 4, 4), np.uint8), dataformats="CHW")
    (part,) = parts(image)
    assert part == Sample("a/b", "Images", ".png", image.value[0].image.encoded_image_string)
    (text,) = parts(package.text("note", "grün\n# head"))
    assert text == Sample("note/text_summary", "Text", ".txt", "grün\n# head".encode())
    if package is torch_summary:  # tensorboardX' needs the package soundfile
        audio = package.audio("snd", torch.zeros(1, 10))
        (sound,) = parts(audio)
        assert sound == Sample("snd", "Audio", ".wav", audio.value[0].audio.encoded_audio_string)


@pytest.mark.parametrize(
    ("data", "extension"),
    [
        (b"\x89PNG\r\n", ".png"), (b"GIF89a", ".gif"), (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"RIFF0000WEBP", ".webp"), (b"BM00", ".bmp"), (b"what?", ".bin"),
    ],
)  # fmt: skip
def test_an_images_file_is_named_by_its_content(data, extension):
    value = Summary.Value(tag="x", image=Summary.Image(encoded_image_string=data))
    assert parts(Summary(value=[value])) == [Sample("x", "Images", extension, data)]


@pytest.mark.parametrize(
    ("content_type", "extension"),
    [("", ".wav"), ("audio/x-wav", ".wav"), ("audio/mpeg", ".mp3"), ("audio/x-none", ".x-none")],
)
def test_an_audios_file_is_named_by_its_type(content_type, extension):
    audio = Summary.Audio(content_type=content_type, encoded_audio_string=b"sound")
    value = Summary.Value(tag="x", audio=audio)
    assert parts(Summary(value=[value])) == [Sample("x", "Audio", extension, b"sound")]


def test_images_of_a_tensor_are_its_strings_but_for_their_size():
    value = Summary.Value(tag="x")
    value.metadata.plugin_data.plugin_name = "images"
    value.tensor.dtype = 7
    value.tensor.string_val.extend([b"4", b"4", b"\x89PNG1", b"\x89PNG2"])
    assert [part.data for part in parts(Summary(value=[value]))] == [b"\x89PNG1", b"\x89PNG2"]


@pytest.mark.parametrize("package", SUMMARIES)
def test_a_precision_recall_curve_keeps_its_numbers(package):
    labels, predictions = np.array([0, 1, 1, 0, 1]), np.array([0.1, 0.9, 0.4, 0.6, 0.7])
    summary = package.pr_curve("pr", labels, predictions, 11)
    rows = np.array(summary.value[0].tensor.float_val, np.float32).reshape(6, 11)
    (plot,) = parts(summary)
    assert isinstance(plot, Plot)
    trace = data_of(plot)
    assert np.array_equal(np.float32(trace["y"]), rows[4])
    assert np.array_equal(np.float32(trace["x"]), rows[5])
    assert trace["text"][3] == "threshold 0.300<br>TP {:g}, FP {:g}, TN {:g}, FN {:g}".format(
        *rows[:4, 3]
    )
    assert trace["text"][-1].startswith("threshold 1.000")


@pytest.mark.parametrize("package", SUMMARIES)
def test_hyperparameters_and_layouts(package):
    metadata_only, start, end = package.hparams({"lr": 0.1, "opt": "sgd"}, {"acc": 1.0})
    assert parts(metadata_only) == parts(end) == []
    assert parts(start) == [Parameters({"TB_hparams/lr": 0.1, "TB_hparams/opt": "sgd"})]
    layout = {"loss": {"both": ["Multiline", ["a", "b/c"]], "band": ["Margin", ["m", "l", "u"]]}}
    (configuration,) = parts(package.custom_scalars(layout))
    text = "loss:\n  both:\n    - a\n    - b/c\n  band:\n    - m between l and u\n"
    assert configuration == Configuration("custom_scalars", text)


@pytest.mark.parametrize("package", SUMMARIES)
@pytest.mark.parametrize("has_faces", [True, False])
@pytest.mark.parametrize("has_colors", [True, False])
def test_a_mesh_is_one_plot(package, has_faces, has_colors):
    vertices = np.arange(12, dtype=np.float32).reshape(1, 4, 3) / 8
    colors = np.arange(12).reshape(1, 4, 3) if has_colors else None
    faces = np.array([[[0, 1, 2], [1, 2, 3]]]) if has_faces else None
    (plot,) = parts(package.mesh("shape", vertices, colors, faces, {}))
    trace = data_of(plot)
    assert plot.tag == "shape"
    assert [trace["x"], trace["y"], trace["z"]] == vertices[0].T.tolist()
    shades = ["rgb(0,1,2)", "rgb(3,4,5)", "rgb(6,7,8)", "rgb(9,10,11)"]
    if has_faces:
        assert trace["type"] == "mesh3d"
        assert [trace["i"], trace["j"], trace["k"]] == [[0, 1], [1, 2], [2, 3]]
        assert trace.get("vertexcolor") == (shades if has_colors else None)
    else:
        assert trace["type"] == "scatter3d"
        assert trace["marker"].get("color") == (shades if has_colors else None)


def test_several_values_and_those_with_a_display_name():
    values = [
        Summary.Value(tag="a", simple_value=1.5),
        Summary.Value(tag="b", simple_value=2.5, metadata=SummaryMetadata(display_name="B")),
        Summary.Value(tag="c", histo={}),
    ]
    a, b, c = parts(Summary(value=values))
    assert (a, b) == (Scalar("a", 1.5), Scalar("b", 2.5))
    assert isinstance(c, NoForm)
    assert parts(torch_summary.scalar("new", 3.0, new_style=True)) == [Scalar("new", 3.0)]


def test_what_has_no_form_is_named_and_what_shows_nothing_is_nothing():
    assert parts_of(Event(graph_def=b"x").SerializeToString()) == [NoForm("graph")]
    assert parts_of(Event(meta_graph_def=b"x").SerializeToString()) == [NoForm("graph")]
    deep = torch_summary.tensor_proto("t", torch.zeros(2, 2, 2))
    assert parts(deep) == [NoForm("tensor of more than 2 dimensions")]
    wave = torch_summary.tensor_proto("t", torch.zeros(3, dtype=torch.complex64))
    assert parts(wave) == [NoForm("tensor of a type that is no number")]
    nothing = [
        Event(file_version="brain.Event:2"), Event(session_log=SessionLog(status=1)), Event(),
        Event(tagged_run_metadata=TaggedRunMetadata(tag="t")), Event(summary=Summary()),
    ]  # fmt: skip
    assert [parts_of(event.SerializeToString()) for event in nothing] == [[]] * 5
    with pytest.raises(DecodeError):
        parts_of(b"\xff\xff\xff no event")


TYPES = ["half", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64"]


@pytest.mark.parametrize("dtype", [*TYPES, "bool"])
@pytest.mark.parametrize("values", [[1.0, 0.0, 1.5, 100.0], [0.0, 0.0], [3.0], []], ids=str)
def test_a_tensors_values_in_each_type(dtype, values):
    tensor = torch.tensor(values).to(getattr(torch, dtype))
    summary = torch_summary.tensor_proto("t", tensor)
    array = tensor_array(summary.value[0].tensor)
    assert array.shape == tensor.shape
    assert array.astype(float).tolist() == tensor.to(torch.float64).tolist()


def test_a_tensor_may_be_bytes_or_one_value_for_all():
    proto = torch_summary.tensor_proto("t", torch.zeros(2, 3)).value[0].tensor
    proto.ClearField("float_val")
    proto.tensor_content = np.arange(6, dtype=np.float32).tobytes()
    assert tensor_array(proto).tolist() == [[0, 1, 2], [3, 4, 5]]
    proto.tensor_content = b""
    proto.float_val.append(7)
    assert tensor_array(proto).tolist() == [[7, 7, 7]] * 2
    proto.float_val.append(7)
    with pytest.raises(ValueError, match="reshape"):
        tensor_array(proto)


def test_lines_and_heatmaps():
    def trace_of(array):
        return json.loads(lines_or_heatmap(np.array(array, np.float32)))["data"][0]

    assert trace_of([1, 2, 0.1])["y"] == [1.0, 2.0, 0.1]
    pairs = trace_of([[1, 10], [2, 20], [3, 30]])
    assert (pairs["type"], pairs["x"], pairs["y"]) == ("scatter", [1, 2, 3], [10, 20, 30])
    matrix = trace_of([[1, 2, 3], [4, 5, math.nan]])
    assert (matrix["type"], matrix["z"]) == ("heatmap", [[1, 2, 3], [4, 5, None]])
    assert trace_of(np.zeros((0, 2)))["x"] == []


def test_numbers_are_short_exact_and_json():
    values = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    assert np.array_equal(np.float32(numbers(values)), values)
    assert max(len(repr(value)) for value in numbers(values)) < 16
    assert numbers(np.array([math.nan, -math.inf, 1.0])) == [None, None, 1.0]
    assert numbers(np.array([True, False])) == [1, 0]
    assert numbers(np.array([2**63], np.uint64)) == [2**63]


def test_plots_of_very_many_numbers_are_not_made():
    big = np.zeros(500_001, np.float32)
    assert lines_or_heatmap(big) is None
    assert lines_or_heatmap(np.zeros((250_001, 2))) is None
    assert lines_or_heatmap(np.zeros((1000, 501))) is None
    assert precision_recall(np.zeros((6, 100_000))) is None
    assert mesh(np.zeros((1, 200_000, 3))) is None
    assert parts(torch_summary.tensor_proto("t", torch.zeros(500_001))) == [
        NoForm("plot of very many numbers")
    ]


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("x", ("Images", "x")), ("a/x", ("a", "x")), ("a/b/x", ("a", "b_x")),
        ("a/b/c/x", ("a", "b_c_x")), ("a/b/c/d/x", ("a_b", "c_d_x")),
        ("eval/2026-01-01", ("eval", "(2026-01-01)")), ("", ("Images", "")),
    ],
)  # fmt: skip
def test_sample_names(tag, name):
    assert SeriesNames().sample_name("/logs/one", tag, "Images") == name


def test_two_writers_samples_and_plots_differ_in_the_metric():
    names = SeriesNames()
    assert names.sample_name("/logs/one", "a/x", "Images") == ("a", "x")
    assert names.sample_name("/logs/two", "a/x", "Images") == ("a two", "x")
    assert names.sample_name("/logs/one", "a/x", "Images") == ("a", "x")
    assert names.sample_name("/logs/two/one", "a/x", "Images") == ("a /logs/two/one", "x")
    plots = SeriesNames()
    assert plots.plot_name("/logs/one", "val/pr") == ("val/pr", "")
    assert plots.plot_name("/logs/two", "val/pr") == ("val/pr two", "")


def test_which_uploads_fail_for_good():
    words = "Failed uploading object a (413): b to http://127.0.0.1:1 ({}): no"
    assert is_verdict(ValueError(words.format(413)))
    assert is_verdict(ValueError(words.format(400)))
    for status in (401, 404, 429, 500, 502):
        assert not is_verdict(ValueError(words.format(status)))
    assert not is_verdict(ConnectionError("(413)"))


def test_a_probe_tells_who_is_to_blame():
    is_up, given = True, []

    def give(*arguments):
        if not is_up:
            raise ConnectionError
        given.append(arguments)

    probe = Probe(give)
    assert not probe.passes()  # there is nothing to compare with
    assert probe.is_away
    probe.begin_attempt()
    assert not probe.is_away
    probe.remember(5 << 20, "large")
    assert not probe.passes()
    probe.begin_attempt()
    probe.remember(10, "small", 1)
    assert probe.passes()
    assert given == [("small", 1)]
    is_up = False
    assert not probe.passes()
    assert probe.is_away
