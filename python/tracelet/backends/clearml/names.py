"""Tags to ClearML's (metric, variant), as ClearML's own TensorBoard binding names them.

Source: clearml/binding/frameworks/tensorflow_bind.py, EventTrainsWriter.tag_splitter, _add_scalar
and _get_add_scalars_event_tag (clearml 2.1.12). Beyond it, what its server would refuse or confuse
is given another form that a person still recognises; the reasons are with each rule.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Callable

from tracelet.backends.kept import KeptLines

# Elasticsearch refuses a keyword of more bytes, and the server the whole batch with it.
_LONGEST_NAME_BYTES = 32_766
_SHORTENED_CHARACTERS = 1_000
# The server's JSON-lines parser turns such strings into dates and then fails the whole batch.
# Wider than its rule: a name that is put in parentheses without need does no harm.
_DATE_OR_TIME = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}:\d{2}:\d{2}.*", re.DOTALL)
_KINDS = ("scalars", "plots", "samples", "configurations")
_HISTOGRAMS = "Histograms"  # the binding's title for a tag without "/"
_INVALID_TAG_CHARACTERS = re.compile(r"[^-/\w\.]")


# (metric, variant) of a series whose own names another writer has.
_VARIANT_LAST = ("{metric}", "{writer}: {variant}")
_VARIANT_FIRST = ("{metric}", "{variant} :{writer}")
_METRIC_FIRST = ("{metric} {writer}", "{variant}")


class SeriesNames:
    """Gives each (log folder, tag) its names, no two of them the same to the server.

    The names depend on the order in which series first appear, as the binding's do.
    """

    def __init__(self, keep: Callable[[str, str, str], object] = lambda *_: None) -> None:
        """`keep(log_dir, tag, key)` is told of each name that is given, before it is used."""
        self._owner: dict[str, tuple[str, str]] = {}
        self._keep = keep

    def restore(self, log_dir: str, tag: str, key: str) -> None:
        """Gives a series the name that `keep` was told."""
        self._owner[key] = (log_dir, tag)

    def name(self, log_dir: str, tag: str) -> tuple[str, str]:
        """(metric, variant) of a scalar's series; `log_dir` is empty without a SummaryWriter."""
        metric, variant = split_tag(tag)
        variant = _add_scalars_entry(log_dir, tag) or variant
        return self._unique(log_dir, tag, metric, variant, _VARIANT_LAST)

    def histogram_name(self, log_dir: str, tag: str, suffix: str = "") -> tuple[str, str]:
        """(metric, variant) of a histogram's plots, which are a name space of their own.

        One `SeriesNames` is for scalars or for plots. `suffix` tells the plots of a series apart.
        """
        *title, series = tag.split("/")
        metric = "_".join(title) or _HISTOGRAMS
        # Not the series of a tag that has the suffix itself.
        key = f"{tag}\0{suffix}" if suffix else tag
        return self._unique(log_dir, key, metric, f"{series}{suffix}", _VARIANT_FIRST)

    def sample_name(self, log_dir: str, tag: str, default_title: str) -> tuple[str, str]:
        """(metric, variant) of a debug sample: of up to three parts of the tag the variant."""
        parts = tag.split("/")
        in_variant = max(1, min(3, len(parts) - 1))
        metric = "_".join(parts[:-in_variant]) or default_title
        return self._unique(log_dir, tag, metric, "_".join(parts[-in_variant:]), _METRIC_FIRST)

    def plot_name(self, log_dir: str, tag: str) -> tuple[str, str]:
        """(metric, variant) of any other plot: the whole tag, and nothing."""
        return self._unique(log_dir, tag, tag, "", _METRIC_FIRST)

    def _unique(
        self, log_dir: str, tag: str, metric: str, variant: str, form: tuple[str, str]
    ) -> tuple[str, str]:
        """`form` is how the binding tells two writers' series apart."""
        plain = safe_name(metric), safe_name(variant)
        if self._take(plain, log_dir, tag):
            return plain
        differs = self._what_differs(log_dir, *plain)
        others = ((differs, variant), (log_dir, variant), (log_dir, tag.replace("\0", "")))
        for writer, name in others:
            words = {"metric": metric, "variant": name, "writer": writer}
            candidate = safe_name(form[0].format(**words)), safe_name(form[1].format(**words))
            if self._take(candidate, log_dir, tag):
                return candidate
        digest = hashlib.sha256(f"{log_dir}\0{tag}".encode()).hexdigest()[:16]
        return plain[0], f"{plain[1]} [{digest}]"

    def _take(self, name: tuple[str, str], log_dir: str, tag: str) -> bool:
        """Whether the name is this series' own; it becomes so when it is nobody's."""
        series = (log_dir, tag)
        key = _server_key(*name)
        # One step, for two sinks share an object, each on its own thread.
        owner = self._owner.setdefault(key, series)
        if owner is series:  # new
            self._keep(log_dir, tag, key)
        return owner == series

    def _what_differs(self, log_dir: str, metric: str, variant: str) -> str:
        other_dir, _ = self._owner.get(_server_key(metric, variant), ("", ""))
        others = set(other_dir.split("/"))
        return "/".join(part for part in log_dir.split("/") if part not in others)


@dataclass(frozen=True)
class TaskNames:
    """The names of a task's series: scalars, plots and debug samples are name spaces of their own.

    The sinks of a task share them, so that what comes by two lanes is told apart too.
    """

    scalars: SeriesNames = field(default_factory=SeriesNames)
    plots: SeriesNames = field(default_factory=SeriesNames)
    samples: SeriesNames = field(default_factory=SeriesNames)
    configurations: SeriesNames = field(default_factory=SeriesNames)
    lines: KeptLines | None = None
    """Where they are kept, for the sink that closes last to close."""

    @classmethod
    def kept_in(cls, lines: KeptLines) -> TaskNames:
        """Those that lines of [kind, log folder, tag, key] tell of, and new ones, told there."""

        def kept(kind: str) -> SeriesNames:
            return SeriesNames(partial(lines.append, kind))

        made = {kind: kept(kind) for kind in _KINDS}
        names = cls(**made, lines=lines)
        for kind, log_dir, tag, key in lines.read(str, str, str, str):
            if kind in made:  # else damaged
                made[kind].restore(log_dir, tag, key)
        return names


def split_tag(tag: str) -> tuple[str, str]:
    """(title, series): split at the last "/"; the tag is both when it has none."""
    *title, series = tag.split("/")
    return "_".join(title) or tag, series


def safe_name(name: str) -> str:
    """The name itself, or a form of it that the server takes."""
    if _DATE_OR_TIME.fullmatch(name):
        return f"({name})"
    if len(name.encode()) > _LONGEST_NAME_BYTES:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        return f"{name[:_SHORTENED_CHARACTERS]}… [{digest}]"
    return name


def _add_scalars_entry(log_dir: str, main_tag: str) -> str:
    """The key of an `add_scalars` entry, found in its folder's name as the binding finds it."""
    folder = _INVALID_TAG_CHARACTERS.sub("_", log_dir).rpartition("/")[2]
    rest = folder.replace(main_tag, "", 1)
    return rest[1:] if main_tag and rest.startswith("_") else ""


def _server_key(metric: str, variant: str) -> str:
    # The server's event id joins the two by "-", so ("a-b", "c") and ("a", "b-c") are one to it.
    return f"{metric}-{variant}"
