"""Every public method of SummaryWriter called once and more, for torch's files and ours alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from readers import events

WALL_TIME = 1000.0  # given times lie below 1e6; what a writer takes from the clock, above


def log_scalars(writer: Any) -> None:
    writer.add_scalar("loss", 0.5, 1, walltime=WALL_TIME)
    writer.add_scalar("loss", torch.tensor(0.25), 2, WALL_TIME, new_style=True)
    writer.add_scalar("loss", 1 / 3, 3, WALL_TIME, new_style=True, double_precision=True)
    writer.add_scalar("without step", 1.0)
    writer.add_scalars("group/of two", {"a": 1.0, "b": 2.0}, 4, walltime=WALL_TIME)
    writer.add_scalars("group/of two", {"a": 3.0}, 5)


def log_histograms(writer: Any) -> None:
    values = np.random.default_rng(0).normal(size=1000)
    writer.add_histogram("weights", values, 1, walltime=WALL_TIME)
    writer.add_histogram("weights", torch.tensor(values), 2, bins="auto", walltime=WALL_TIME)
    writer.add_histogram("weights", values, 3, bins=[-1.0, 0.0, 1.0], max_bins=2)
    writer.add_histogram_raw(
        "raw", 0.0, 3.0, 3, 4.5, 9.0, [1.0, 2.0, 3.0], [1, 0, 2], 4, walltime=WALL_TIME
    )


def log_images(writer: Any) -> None:
    pixels = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))
    writer.add_image("image", pixels, 1, walltime=WALL_TIME)
    writer.add_image("image", pixels.permute(1, 2, 0).numpy(), 2, WALL_TIME, dataformats="HWC")
    writer.add_image("image", pixels[0], 3, WALL_TIME, dataformats="HW")
    writer.add_image("image", (pixels * 255).to(torch.uint8), 4)
    writer.add_images("images", pixels.expand(5, 3, 16, 24), 5, WALL_TIME)
    writer.add_images("images", pixels.permute(1, 2, 0).expand(2, 16, 24, 3), 6, WALL_TIME, "NHWC")
    boxes = torch.tensor([[2.0, 2.0, 9.0, 9.0], [1.0, 4.0, 12.0, 14.0]])
    writer.add_image_with_boxes("boxes", pixels, boxes, 7, WALL_TIME, rescale=2)
    writer.add_image_with_boxes("boxes", pixels, boxes, 8, labels=["cat", "dog"])


def log_figures(writer: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = []
    for number in range(3):
        figure, axes = plt.subplots(figsize=(1, 1))
        axes.plot([number, 1, 3])
        figures.append(figure)
    writer.add_figure("figure", figures[0], 1, close=True, walltime=WALL_TIME)
    writer.add_figure("figures", figures[1:], 2, close=False, walltime=WALL_TIME)
    assert not plt.fignum_exists(figures[0].number)
    assert plt.fignum_exists(figures[1].number)
    plt.close("all")


def log_media(writer: Any) -> None:
    frames = (torch.arange(2 * 4 * 3 * 8 * 8).reshape(2, 4, 3, 8, 8) % 255).to(torch.uint8)
    writer.add_video("video", frames, 1, fps=2, walltime=WALL_TIME)  # without moviepy: no value
    sound = torch.sin(torch.arange(400) / 5).reshape(1, -1)
    writer.add_audio("audio", sound, 2, sample_rate=8000, walltime=WALL_TIME)
    writer.add_text("text", "**bold** ünï 😀", 3, walltime=WALL_TIME)
    writer.add_text("text", "", 4)
    writer.add_tensor("tensor", torch.arange(6.0).reshape(2, 3), 5, walltime=WALL_TIME)
    writer.add_tensor("tensor", torch.ones(2, dtype=torch.bfloat16), 6)


def log_curves(writer: Any) -> None:
    labels = np.array([0, 1, 1, 0, 1])
    predictions = np.array([0.1, 0.9, 0.8, 0.3, 0.4])
    writer.add_pr_curve("pr", labels, torch.tensor(predictions), 1, 10, walltime=WALL_TIME)
    writer.add_pr_curve_raw(
        "pr raw", [3, 2], [2, 1], [0, 1], [0, 1], [0.6, 0.7], [1.0, 0.5], 2, 2, walltime=WALL_TIME
    )
    writer.add_custom_scalars({"charts": {"both": ["Multiline", ["loss", "other"]]}})
    writer.add_custom_scalars_multilinechart(["loss", "other"], "category", "title")
    writer.add_custom_scalars_marginchart(["loss", "low", "high"], "category", "title")


def log_mesh(writer: Any) -> None:
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    colors = torch.randint(0, 255, vertices.shape, generator=torch.Generator().manual_seed(2))
    faces = torch.tensor([[[0, 1, 2], [0, 2, 3]]])
    config = {"material": {"cls": "PointsMaterial", "size": 0.1}}
    writer.add_mesh("mesh", vertices, colors, faces, config, 1, walltime=WALL_TIME)
    writer.add_mesh("points", vertices)


def log_graph(writer: Any) -> None:
    torch.manual_seed(0)
    writer.add_graph(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), torch.ones(1, 2))


def log_embedding(writer: Any) -> None:
    points = torch.arange(12.0).reshape(4, 3)
    pictures = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    writer.add_embedding(points, ["a", "b", "c", "d"], pictures, 1, tag="embedding")
    rows = [["a", "1"], ["b", "2"], ["c", "3"], ["d", "4"]]
    writer.add_embedding(points, rows, None, 2, "embedding", ["letter", "number"])


def log_hparams(writer: Any) -> None:
    chosen = {"lr": 0.1, "layers": 3, "name": "adam", "nesterov": True}
    writer.add_hparams(chosen, {"accuracy": 0.5, "loss": torch.tensor(1.5)}, run_name="first")
    writer.add_hparams({"lr": 0.2}, {"loss": 2.5}, {"lr": [0.1, 0.2]}, "second", global_step=7)


def log_through_file_writer(writer: Any) -> None:
    from tensorboard.compat.proto import event_pb2, histogram_pb2, summary_pb2
    from torch.utils.tensorboard.summary import image, scalar

    file_writer = writer.file_writer
    file_writer.add_summary(scalar("direct", 1.5), 1, walltime=WALL_TIME)
    file_writer.add_summary(image("direct", np.zeros((1, 3, 4, 4))), np.int64(2), WALL_TIME)
    several = summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, simple_value=i) for i, tag in enumerate("ab")]
    )
    file_writer.add_summary(several, 3, WALL_TIME)
    file_writer.add_summary(summary_pb2.Summary(), 4, WALL_TIME)
    # What no method of torch makes but a protobuf can hold: it is written as it is.
    odd = histogram_pb2.HistogramProto(
        min=-0.0, max=float("nan"), num=-1.5, bucket_limit=[3, 1, 2], bucket=[0.5, -1, 1e300]
    )
    uneven = histogram_pb2.HistogramProto(bucket_limit=[1, 2, 3], bucket=[1])
    for histo in (odd, uneven, histogram_pb2.HistogramProto()):
        value = summary_pb2.Summary.Value(tag="odd", histo=histo)
        file_writer.add_summary(summary_pb2.Summary(value=[value]), 5, WALL_TIME)
    node = summary_pb2.Summary.Value(tag="node", node_name="n", simple_value=2.5)
    file_writer.add_summary(summary_pb2.Summary(value=[node]), 6, WALL_TIME)
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    file_writer.add_event(event_pb2.Event(session_log=start), 7, WALL_TIME)
    file_writer.add_event(event_pb2.Event(step=8))
    message = event_pb2.LogMessage(level=event_pb2.LogMessage.INFO, message="hello")
    file_writer.add_event(event_pb2.Event(log_message=message), 9, WALL_TIME)
    file_writer.flush()


SESSIONS = {
    each.__name__[4:]: each
    for each in (
        log_scalars, log_histograms, log_images, log_figures, log_media, log_curves, log_mesh,
        log_graph, log_embedding, log_hparams, log_through_file_writer,
    )
}  # fmt: skip


def all_files(folder: Any) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in sorted(names))


def events_by_folder(root: Any) -> dict[str, list[Any]]:
    """Events of all files below `root`, without the version headers, in order by file name.

    Folders whose files have no events are left out: torch makes a file before there is one.
    """
    found: dict[str, list[Any]] = {}
    for path in all_files(root):
        if "tfevents" not in path.name:
            continue
        loaded = events(path)
        assert loaded[0].file_version == "brain.Event:2"
        assert loaded[0].HasField("source_metadata")
        if loaded[1:]:
            found.setdefault(str(path.parent.relative_to(root)), []).extend(loaded[1:])
    return found


def bytes_of_other_files(root: Any) -> dict[str, bytes]:
    """What lies beside event files, as add_embedding's tables and pictures."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in all_files(root)
        if "tfevents" not in path.name
    }


def assert_same_events(ours: Any, theirs: Any) -> None:
    """That two folders hold the same events, in the same order."""
    our_events, their_events = events_by_folder(ours), events_by_folder(theirs)
    assert sorted(our_events) == sorted(their_events)
    for folder, expected in their_events.items():
        found = our_events[folder]
        for number, (mine, wanted) in enumerate(zip(found, expected)):
            _align(mine, wanted)
            assert mine.SerializeToString(deterministic=True) == wanted.SerializeToString(
                deterministic=True
            ), f"{folder}: event {number}: {str(mine)[:300]} is not {str(wanted)[:300]}"
        assert len(found) == len(expected), folder


def _align(mine: Any, wanted: Any) -> None:
    """Makes equal what may differ: times from the clock, the rounding of a histogram's sums."""
    if wanted.wall_time > 1e6:
        assert abs(mine.wall_time - wanted.wall_time) < 120
        mine.wall_time = wanted.wall_time
    for our_value, their_value in zip(mine.summary.value, wanted.summary.value):
        if our_value.HasField("histo") and their_value.HasField("histo"):
            for name in ("sum", "sum_squares"):
                ours, theirs = (getattr(v.histo, name) for v in (our_value, their_value))
                if abs(ours - theirs) <= 1e-12 * abs(theirs):
                    setattr(our_value.histo, name, theirs)
