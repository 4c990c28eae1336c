"""Tags to ClearML's (metric, variant), as ClearML's own TensorBoard binding names them.

Source: clearml/binding/frameworks/tensorflow_bind.py, EventTrainsWriter.tag_splitter, _add_scalar
and _get_add_scalars_event_tag (clearml 2.1.12). Beyond it, what its server would refuse or confuse
is given another form that a person still recognises; the reasons are with each rule.
"""

from __future__ import annotations

import hashlib
import re

# Elasticsearch refuses a keyword of more bytes, and the server the whole batch with it.
_LONGEST_NAME_BYTES = 32_766
_SHORTENED_CHARACTERS = 1_000
# The server's JSON-lines parser turns such strings into dates and then fails the whole batch.
# Wider than its rule: a name that is put in parentheses without need does no harm.
_DATE_OR_TIME = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}:\d{2}:\d{2}.*", re.DOTALL)
_HISTOGRAMS = "Histograms"  # the binding's title for a tag without "/"
_INVALID_TAG_CHARACTERS = re.compile(r"[^-/\w\.]")


class SeriesNames:
    """Gives each (log folder, tag) its names, no two of them the same to the server.

    The names depend on the order in which series first appear, as the binding's do.
    """

    def __init__(self) -> None:
        self._owner: dict[str, tuple[str, str]] = {}

    def name(self, log_dir: str, tag: str) -> tuple[str, str]:
        """(metric, variant) of a scalar's series; `log_dir` is empty without a SummaryWriter."""
        metric, variant = split_tag(tag)
        variant = _add_scalars_entry(log_dir, tag) or variant
        return self._unique(log_dir, tag, metric, variant, "{writer}: {variant}")

    def histogram_name(self, log_dir: str, tag: str, suffix: str = "") -> tuple[str, str]:
        """(metric, variant) of a histogram's plots, which are a name space of their own.

        One `SeriesNames` is for scalars or for plots. `suffix` tells the plots of a series apart.
        """
        *title, series = tag.split("/")
        metric = "_".join(title) or _HISTOGRAMS
        # Not the series of a tag that has the suffix itself.
        key = f"{tag}\0{suffix}" if suffix else tag
        return self._unique(log_dir, key, metric, f"{series}{suffix}", "{variant} :{writer}")

    def _unique(
        self, log_dir: str, tag: str, metric: str, variant: str, form: str
    ) -> tuple[str, str]:
        """`form` is how the binding tells two writers' series apart."""
        metric, variant = safe_name(metric), safe_name(variant)
        series = (log_dir, tag)
        differs = self._what_differs(log_dir, metric, variant)
        variants = [
            variant,
            form.format(variant=variant, writer=differs),
            form.format(variant=variant, writer=log_dir),
            form.format(variant=tag.replace("\0", ""), writer=log_dir),
        ]
        candidates = [(metric, safe_name(each)) for each in variants]
        for candidate in candidates:
            if self._owner.setdefault(_server_key(*candidate), series) == series:
                return candidate
        digest = hashlib.sha256(f"{log_dir}\0{tag}".encode()).hexdigest()[:16]
        return metric, f"{variant} [{digest}]"

    def _what_differs(self, log_dir: str, metric: str, variant: str) -> str:
        other_dir, _ = self._owner.get(_server_key(metric, variant), ("", ""))
        others = set(other_dir.split("/"))
        return "/".join(part for part in log_dir.split("/") if part not in others)


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
