"""Which strings the real server turns into dates while it parses a JSON line.

The API server parses each line with ``rapidjson.Decoder(datetime_mode=DM_ISO8601 |
DM_NAIVE_IS_UTC)``, which decodes every string value (not the keys) of one of the forms below.
Compared with python-rapidjson 1.25 on made-up strings, its oddities included: after a fraction
the sign of an offset may be any character, and a month or day zero is recognised but cannot be
built. With a time such a date fails the whole parse; alone, as a value in an object, it crashes
the process (so did versions 1.10 and 1.20).
"""

from __future__ import annotations

import re
from calendar import isleap
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import Any, Union

from .errors import ServerCrashError

Moment = Union[date, datetime, time]

_DATE = re.compile(r"(\d{4})-(0\d|1[0-2])-(\d\d)", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d):([0-5]\d)", re.ASCII)
_OFFSET = r"([01]\d|2[0-3]):([0-5]\d)"
# What may follow the seconds. The last form is the odd one: its fraction may be empty, but a digit
# must follow the dot, and any one character may stand where a sign belongs.
_TAIL = re.compile(
    rf"Z?|([+-]){_OFFSET}|\.(\d{{1,9}})Z?|\.(?=\d)(?:(\d{{0,9}})([\x00-\x7f]))?{_OFFSET}",
    re.ASCII,
)
_LONGEST = 35
_SHORTEST = 8


@lru_cache(maxsize=65536)
def decode(text: str) -> str | Moment:
    """The date, time or both that `text` stands for, or `text` itself.

    Raises ValueError where the server's parser fails on it, ServerCrashError where the parser dies.
    """
    if not _SHORTEST <= len(text) <= _LONGEST:
        return text
    day = _DATE.match(text)
    if day is None:
        return _decode_time(text) or text
    year, month, day_of_month = map(int, day.groups())
    if year == 0 or day_of_month > _days(year, month):
        return text
    rest = text[day.end() :]
    if not rest:
        if month == 0 or day_of_month == 0:
            raise ServerCrashError(text)
        return date(year, month, day_of_month)
    clock = _decode_time(rest[1:]) if rest[0] in "T " else None
    if clock is None:
        return text
    return datetime.combine(date(year, month, day_of_month), clock)


def decode_all(value: Any) -> Any:
    """`value` with every string in it decoded, in lists and objects too; keys are left alone."""
    if isinstance(value, str):
        return decode(value)
    if isinstance(value, list):
        return [decode_all(item) for item in value]
    if isinstance(value, dict):
        return {key: decode_all(item) for key, item in value.items()}
    return value


def _decode_time(text: str) -> time | None:
    clock = _TIME.match(text)
    tail = clock and _TAIL.fullmatch(text, clock.end())
    if not clock or not tail:
        return None
    sign, hours, minutes, fraction, odd_fraction, odd_sign, odd_hours, odd_minutes = tail.groups()
    microseconds = int((fraction or odd_fraction or "").ljust(6, "0")[:6])
    zone = timezone.utc
    if (sign or odd_sign) in ("+", "-"):
        offset = timedelta(hours=int(hours or odd_hours), minutes=int(minutes or odd_minutes))
        zone = timezone(offset if (sign or odd_sign) == "+" else -offset)
    hour, minute, second = map(int, clock.groups())
    return time(hour, minute, second, microseconds, zone)


def _days(year: int, month: int) -> int:
    """Days of a month as rapidjson counts them: month zero is given February's."""
    if month in (4, 6, 9, 11):
        return 30
    if month in (0, 2):
        return 29 if isleap(year) else 28
    return 31
