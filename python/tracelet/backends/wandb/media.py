"""Histograms and events as W&B's own types. Its images need pillow, its plots plotly."""

from __future__ import annotations

import html
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from tracelet.backends import parts
from tracelet.histograms import Histogram

_MOST_BINS = 512
_VIDEOS = (".gif", ".mp4", ".webm", ".ogg")


@dataclass(frozen=True)
class Form:
    """A value of W&B's own type, made when its row is sent."""

    make: Callable[[str], Any]
    """Given a folder for its file, which is there until the row is logged."""


def histogram_form(found: Histogram) -> Form:
    def make(folder: str) -> Any:
        import wandb

        histogram = found.folded(_MOST_BINS)
        return wandb.Histogram(np_histogram=histogram)

    return Form(make)


def values_of(
    found: Sequence[parts.Part],
) -> tuple[list[tuple[str, Any]], dict[str, Any], str]:
    """Of an event's parts: tags with values, parameters, and the reason why one has no form, or
    ""."""
    values: list[tuple[str, Any]] = []
    params: dict[str, Any] = {}
    reason = ""
    for part in found:
        if isinstance(part, parts.Scalar):
            values.append((part.tag, part.value))
        elif isinstance(part, parts.Parameters):
            params.update(part.values)
        elif isinstance(part, parts.Configuration):
            params[part.name] = part.text
        else:
            value, what = _form_of(part)
            if value is None or isinstance(part, parts.NoForm):
                reason = f"no form on wandb: {what}"
            else:
                values.append((part.tag, value))
    return values, params, reason


def _form_of(part: parts.Plot | parts.Sample | parts.NoForm) -> tuple[Form | None, str]:
    """A part's form, or None and what it lacks."""
    if isinstance(part, parts.Plot):
        figure = part.figure
        if not _has("plotly"):
            return None, "plot without plotly"
        return Form(lambda folder: _plot(figure)), ""
    if not isinstance(part, parts.Sample):
        return None, str(part.what)
    if part.default_title == "Text":
        data = part.data
        return Form(lambda folder: _text(data)), ""
    kind = "Audio" if part.default_title == "Audio" else "Image"
    kind = "Video" if part.extension in _VIDEOS else kind
    if kind == "Image" and not _has("PIL"):
        return None, "image without pillow"
    return _file_form(kind, part.data, part.extension), ""


def _file_form(kind: str, data: bytes, extension: str) -> Form:
    def make(folder: str) -> Any:
        import wandb

        descriptor, path = tempfile.mkstemp(extension, dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return getattr(wandb, kind)(path)

    return Form(make)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _plot(figure: str) -> Any:
    import plotly.io
    import wandb

    return wandb.Plotly(plotly.io.from_json(figure, skip_invalid=True))


def _text(data: bytes) -> Any:
    import wandb

    text = html.escape(data.decode("utf-8", "replace"))
    return wandb.Html(f'<pre style="white-space: pre-wrap">{text}</pre>', inject=False,
                      data_is_not_path=True)  # fmt: skip
