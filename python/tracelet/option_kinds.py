"""What an option may be: type, range and finiteness, as one object from which all else follows.

The check of a value, the words of its error, the reading of an environment variable and the table
in docs/options.md come from it, so none can say what another does not.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from tracelet.errors import ConfigurationError, OptionTypeError
from tracelet.safe_names import shortened

LONGEST_WAIT_S = 365 * 86_400.0
"""A wait of a year is one without an end: longer ones, inf included, become it. What threads and
the clock of the ring can hold ends at some 292 years."""
LONGEST_NAME = 200
_SHOWN_CHARACTERS = 60
_TRUE = {"1", "true", "yes", "on", "y"}
_FALSE = {"0", "false", "no", "off", "n", ""}

_log = logging.getLogger("tracelet")

Check = Callable[[str, Any], None]


def describe(value: Any) -> str:
    """A value for a message: short, and without a call of its own `repr`, which may fail.

    Of a container its type alone: what is in it may be large, or a secret.
    """
    if value is None:
        return "None"
    kind = type(value).__name__
    kind = f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"
    if not isinstance(value, (bool, int, float, str, bytes)):
        return kind
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"an int of {value.bit_length()} bits"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return f"{describe_text(value)} ({kind})"
    plain = next(base for base in (int, float, bytes) if isinstance(value, base))
    return f"{_cut(plain.__repr__(value))} ({kind})"


def describe_text(text: str) -> str:
    """A text in quotes, short, and in ASCII where it can't be printed."""
    return _cut(ascii(text) if _unfit(text) else str.__repr__(text))


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"


def parse_boolean(text: str) -> bool:
    """Raises ValueError for a text that is neither."""
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError(text)


class Kind:
    """One kind of option. `wanted` ends the sentence "must be ..."."""

    wanted: str

    def check(self, name: str, value: Any) -> Any:
        """The value as the program uses it.

        Raises OptionTypeError or ConfigurationError, naming the option, what was given and the fix.
        """
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """The value that a text stands for. Raises ValueError; `check` is still to be asked."""
        raise NotImplementedError

    def wrong_type(self, name: str, value: Any) -> OptionTypeError:
        return OptionTypeError(f"{name} must be {self.wanted}, not {describe(value)}")

    def wrong_value(self, name: str, value: Any) -> ConfigurationError:
        return ConfigurationError(f"{name} must be {self.wanted}, not {describe(value)}")


@dataclass(frozen=True)
class Seconds(Kind):
    """A time; inf and all beyond a year are a year."""

    least: float = 0.0
    zero: str = ""
    """What 0 means, where that is something of its own."""

    @property
    def wanted(self) -> str:  # type: ignore[override]
        zero = f"; 0: {self.zero}" if self.zero else ""
        return f"a number of seconds, {self.least:g} or more{zero}"

    def check(self, name: str, value: Any) -> float:
        number = _number(value)
        if number is None:
            raise self.wrong_type(name, value)
        if not number >= self.least:  # also for NaN
            raise self.wrong_value(name, value)
        return min(number, LONGEST_WAIT_S)

    def parse(self, text: str) -> float:
        return float(text)


@dataclass(frozen=True)
class Count(Kind):
    """A whole number within a range."""

    least: int
    most: int
    unit: str = ""
    zero: str = ""
    """What 0 means, where that is something of its own."""
    is_power_of_two: bool = False

    @property
    def wanted(self) -> str:  # type: ignore[override]
        kind = "a power of two" if self.is_power_of_two else "an int"
        unit = f" {self.unit}" if self.unit else ""
        zero = f"; 0: {self.zero}" if self.zero else ""
        return f"{kind} from {self.least} to {self.most}{unit}{zero}"

    def check(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(type(value), "__index__"):
            raise self.wrong_type(name, value)
        number = int(value.__index__())
        if not self.least <= number <= self.most:
            raise self.wrong_value(name, value)
        if self.is_power_of_two and number & (number - 1):
            raise self.wrong_value(name, value)
        return number

    def parse(self, text: str) -> int:
        return int(text)


@dataclass(frozen=True)
class Text(Kind):
    """A str without NUL and lone surrogates: no file, server or tag table takes those."""

    what: str = "a str"
    may_be_blank: bool = True

    @property
    def wanted(self) -> str:  # type: ignore[override]
        return self.what if self.may_be_blank else f"{self.what} that is not empty or blank"

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.wrong_type(name, value)
        if unfit := _unfit(value):
            raise ConfigurationError(f"{name} must be text without {unfit}, not {describe(value)}")
        if not self.may_be_blank and not value.strip():
            raise self.wrong_value(name, value)
        return str(value)

    def parse(self, text: str) -> str:
        return text


@dataclass(frozen=True)
class Choice(Kind):
    """One of some words."""

    choices: Sequence[str]

    @property
    def wanted(self) -> str:  # type: ignore[override]
        return f"one of {', '.join(map(repr, self.choices))}"

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.wrong_type(name, value)
        if value not in self.choices:
            near = nearest(value, self.choices)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ConfigurationError(f"{name} must be {self.wanted}, not {describe(value)}{hint}")
        return str(value)

    def parse(self, text: str) -> str:
        return text.strip()


@dataclass(frozen=True)
class Name(Text):
    """A name that people see and files get: not blank, and not longer than both can stand."""

    what: str = "a name (a str)"
    may_be_blank: bool = False

    def check(self, name: str, value: Any) -> str:
        text = super().check(name, value)
        if len(text) <= LONGEST_NAME:
            return text
        short = shortened(text, LONGEST_NAME)
        _log.warning(
            "tracelet: %s has %d characters and is shortened to %r: at most %d are taken",
            name, len(text), short, LONGEST_NAME,
        )  # fmt: skip
        return short


@dataclass(frozen=True)
class Folder(Kind):
    """A path: a str or an os.PathLike; "~" is the home folder. With `is_fixed` it is that of the
    working folder at the start, also once the program has left that (Hydra does)."""

    wanted: str = "a path, as str or os.PathLike"
    is_fixed: bool = False

    def check(self, name: str, value: Any) -> str:
        path = os.path.expanduser(path_text(name, value, self))
        return os.path.abspath(path) if self.is_fixed else path

    def parse(self, text: str) -> str:
        return text


def path_text(name: str, value: Any, kind: Kind | None = None) -> str:
    """A path as str. Raises as a Kind's `check`."""
    kind = kind or Folder()
    if not isinstance(value, (str, os.PathLike)):
        raise kind.wrong_type(name, value)
    path = os.fspath(value)
    text = os.fsdecode(path) if isinstance(path, bytes) else path
    if unfit := _unfit(text):
        raise ConfigurationError(f"{name} must be a path without {unfit}, not {describe(text)}")
    if not text.strip():
        raise ConfigurationError(f"{name} must be a path that is not empty, not {describe(text)}")
    return text


@dataclass(frozen=True)
class Flag(Kind):
    """True or False."""

    wanted: str = "True or False"

    def check(self, name: str, value: Any) -> bool:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        raise self.wrong_type(name, value)

    def parse(self, text: str) -> bool:
        return parse_boolean(text)


@dataclass(frozen=True)
class Texts(Kind):
    """Several strings, in order."""

    wanted: str = 'a list of str, like ["baseline"]'

    def check(self, name: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise self.wrong_type(name, value)
        each = Text(what=f"in {name} each")
        for entry in value:
            if not isinstance(entry, str):
                raise OptionTypeError(f"{name} must be {self.wanted}; it holds {describe(entry)}")
            each.check(name, entry)
        return tuple(value)

    def parse(self, text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class Table(Kind):
    """A mapping whose keys are str; `entries` looks at what is in it."""

    wanted: str = "a mapping"
    entries: Callable[[str, Mapping[str, Any]], None] | None = None

    def check(self, name: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.wrong_type(name, value)
        for key in value:
            if not isinstance(key, str):
                raise OptionTypeError(f"{name} must have str for keys, not {describe(key)}")
        if self.entries is not None:
            self.entries(name, value)
        return dict(value)

    def parse(self, text: str) -> Any:
        return json.loads(text)


@dataclass(frozen=True)
class Either(Kind):
    """The first of several kinds that takes the value; `also` looks at it once more."""

    kinds: Sequence[Kind]
    words: str = ""
    also: Check | None = None

    @property
    def wanted(self) -> str:  # type: ignore[override]
        return self.words or " or ".join(kind.wanted for kind in self.kinds)

    def check(self, name: str, value: Any) -> Any:
        for kind in self.kinds:
            try:
                checked = kind.check(name, value)
            except OptionTypeError:
                continue
            if self.also is not None:
                self.also(name, checked)
            return checked
        raise self.wrong_type(name, value)

    def parse(self, text: str) -> Any:
        is_table = text.lstrip().startswith("{")
        kinds = [kind for kind in self.kinds if isinstance(kind, Table)] if is_table else self.kinds
        # Any text is a Text: those come last.
        for kind in sorted(kinds or self.kinds, key=lambda each: isinstance(each, (Text, Folder))):
            try:
                return kind.parse(text)
            except ValueError:
                continue
        raise ValueError(text)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that a typo was probably meant to be."""
    import difflib

    found = difflib.get_close_matches(str(word)[:200], list(known), n=1)
    return found[0] if found else None


def _number(value: Any) -> float | None:
    """A number of Python's or numpy's; None for another thing."""
    if isinstance(value, (bool, str, bytes)):
        return None
    if isinstance(value, float):
        return float(value)
    if hasattr(type(value), "__index__"):
        whole = value.__index__()
        return (
            float(whole)
            if abs(whole) < 1 << 1000
            else math.copysign(math.inf, 1 if whole > 0 else -1)
        )
    # numpy's scalars and Decimal; nothing that has more than one value.
    if hasattr(type(value), "__float__") and getattr(value, "ndim", 0) == 0:
        try:
            return float(value)
        except (TypeError, ValueError):
            return None
    return None


def _unfit(text: str) -> str:
    """What is in a text that no file and no server takes, in words; "" for nothing."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "lone surrogates (half a character, as from undecodable bytes)"
    return ""
