"""The last, least and greatest value of each series of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

from tracelet.writer_key import split_writer_key

Row = tuple[int, int, float, float, float, int, int]
"""As `_core.SeriesSummaries.read` gives them."""


@dataclass(frozen=True)
class SeriesSummary:
    """One series of scalars."""

    last: float
    least: float
    """Of the finite values; NaN where there is none, as is `greatest`."""
    greatest: float
    points: int
    last_step: int

    def as_json(self) -> dict[str, float | int | None]:
        """As `summary.json` has it: None for a least or greatest that there is not."""
        return {
            "last": self.last,
            "least": None if math.isnan(self.least) else self.least,
            "greatest": None if math.isnan(self.greatest) else self.greatest,
            "points": self.points,
            "last_step": self.last_step,
        }


def named(rows: Sequence[Row], text: Callable[[int], str]) -> dict[str, SeriesSummary]:
    """By tag; of those that several log folders have, all but the first are "FOLDER: TAG"."""
    writers = {writer_id for _, writer_id, *_ in rows if writer_id}
    folders = {writer_id: split_writer_key(text(writer_id))[0] for writer_id in writers}
    top = _common(folders)
    found: dict[str, SeriesSummary] = {}
    for tag_id, writer_id, last, least, greatest, points, last_step in rows:
        tag = text(tag_id)
        if tag in found and writer_id in folders:
            folder = folders[writer_id]
            tag = f"{os.path.relpath(folder, top) if top else folder}: {tag}"
        found[tag] = SeriesSummary(last, least, greatest, points, last_step)
    return found


def _common(folders: Mapping[int, str]) -> str:
    """What all folders are in; "" where there is no such one: URLs, several drives."""
    try:
        return os.path.commonpath(list(folders.values()))
    except ValueError:
        return ""
