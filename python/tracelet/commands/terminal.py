"""What is printed for people: colours on a terminal alone, no control characters, the width."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from tracelet.reading.export import name_of

_CODES = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}
_STATE_COLOURS = {
    "running": "green", "unsent": "yellow", "failed": "red", "killed": "red", "unreadable": "red",
    "stopped": "yellow",
}  # fmt: skip
_LEAST_WIDTH = 60
SERIES_HEAD = ("LAST", "LEAST", "GREATEST", "POINTS", "STEP")


def is_terminal() -> bool:
    return sys.stdout.isatty()


def has_colours() -> bool:
    """NO_COLOR, if it is not empty, and TERM=dumb switch them off."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str) -> str:
    code = _CODES.get(colour)
    return f"\x1b[{code}m{text}\x1b[0m" if code and has_colours() else text


def state_coloured(text: str) -> str:
    return coloured(text, _STATE_COLOURS.get(text.strip(), ""))


def width() -> int:
    return max(_LEAST_WIDTH, shutil.get_terminal_size((80, 24)).columns)


def printable(text: str) -> str:
    """A text from a file, without what would move a terminal's cursor or hide something."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "?" for each in text)


def columns_of(text: str) -> int:
    """How many columns of a terminal it takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) != 0 for each in text)


def cut(text: str, most: int, from_left: bool = False) -> str:
    """A text of at most so many columns; "…" stands for what is left out."""
    if columns_of(text) <= most:
        return text
    while text and columns_of(text) >= most:
        text = text[1:] if from_left else text[:-1]
    return f"…{text}" if from_left else f"{text}…"


def padded(text: str, to: int, is_number: bool = False) -> str:
    space = " " * max(0, to - columns_of(text))
    return space + text if is_number else text + space


def table(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> list[str]:
    """Aligned lines; the columns `numbers` to the right."""
    widths = [max(map(columns_of, column)) for column in zip(*rows)]
    return [
        "  ".join(
            padded(text, to, n in numbers) for n, (text, to) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def series_cells(entry: Mapping[str, Any]) -> list[str]:
    """What a summary says of one series, below SERIES_HEAD."""
    return [
        *(value(entry[each]) for each in ("last", "least", "greatest")),
        *(count(entry[each]) for each in ("points", "last_step")),
    ]


def print_series(rows: list[list[str]], numbers: Sequence[int]) -> None:
    """Prints a table of series below its heading; their names, in the first column, are cut where
    the terminal is too narrow."""
    others = sum(max(map(columns_of, column)) + 2 for column in list(zip(*rows))[1:])
    for row in rows:
        row[0] = cut(row[0], max(12, width() - others), from_left=True)
    head, *lines = table(rows, numbers)
    print(coloured(head, "bold"))
    print("\n".join(lines))


def json_text(value: Any) -> str:
    """JSON as every program reads it: it has no NaN and no infinity."""
    return json.dumps(_strict(value), allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return name_of(value)
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(each) for each in value]
    return value


def in_time(seconds: float) -> str:
    for unit, unit_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def clock(wall_time_s: float) -> str:
    """The time of day; a user may have given any number for it."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(wall_time_s))
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


def count(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number:,}" if abs(number) < 1_000_000 else f"{number / 1e6:,.1f}M"


def value(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"
