"""The last, least and greatest value of each series of a run."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Callable

from tracelet.writer_key import split_writer_key

Row = tuple[int, int, float, float, float, int, int]
"""As `_core.SeriesSummaries.read` gives them."""

_HANDLE = "(handle)"


@dataclass(frozen=True)
class SeriesSummary:
    """One series of scalars."""

    last: float
    least: float
    """Of the finite values; NaN where there is none, as is `greatest`."""
    greatest: float
    points: int
    last_step: int
    tag: str | None = field(default=None, compare=False)
    """As it was logged, where several writers have it: the name tells them apart then. Else None,
    and the tag is the name."""
    folder: str = field(default="", compare=False)
    """The writer's log folder, beside `tag`; "" for what the handle logs without one."""

    def as_json(self) -> dict[str, float | int | str | None]:
        """As `summary.json` has it: None for a least or greatest that there is not."""
        shared = {} if self.tag is None else {"tag": self.tag, "folder": self.folder}
        return {
            **shared,
            "last": self.last,
            "least": None if math.isnan(self.least) else self.least,
            "greatest": None if math.isnan(self.greatest) else self.greatest,
            "points": self.points,
            "last_step": self.last_step,
        }


def named(rows: Sequence[Row], text: Callable[[int], str]) -> dict[str, SeriesSummary]:
    """By name, see `series_names`. No two series ever have one name: one would be lost."""
    writers = {writer_id for _, writer_id, *_ in rows if writer_id}
    keys = {writer_id: split_writer_key(text(writer_id)) for writer_id in writers}
    tags = [text(tag_id) for tag_id, *_ in rows]
    origins = [keys.get(writer_id, ("", "")) for _, writer_id, *_ in rows]
    names = series_names([(tag, *origin) for tag, origin in zip(tags, origins)])
    counts = Counter(tags)
    found: dict[str, SeriesSummary] = {}
    for row, name, tag, (folder, _) in zip(rows, names, tags, origins):
        shared = (tag, folder) if counts[tag] > 1 else (None, "")
        found[name] = SeriesSummary(*row[2:], *shared)
    return found


def series_names(series: Sequence[tuple[str, str, str]]) -> list[str]:
    """A name for each (tag, log folder, file name's suffix): the first of a tag is called by it,
    the others are "FOLDER: TAG". Without a folder it is the handle's. All differ."""
    top = common_folder({folder for _, folder, _ in series if folder})
    found: dict[str, None] = {}
    for tag, folder, suffix in series:
        name = tag
        if tag in found:
            own = os.path.relpath(folder, top) if folder and top else folder or _HANDLE
            own = os.path.basename(folder) if own == os.curdir else own
            name = f"{own} ({suffix}): {tag}" if suffix else f"{own}: {tag}"
        wanted, number = name, 2
        while name in found:
            name, number = f"{wanted} ({number})", number + 1
        found[name] = None
    return list(found)


def common_folder(folders: Collection[str]) -> str:
    """What all folders are in; "" where there is no such one: URLs, several drives."""
    try:
        return os.path.commonpath(list(folders))
    except ValueError:
        return ""
