"""What became of a dead run's points, and how that is told: a table whose sums agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class SinkResult:
    """One sink's part. `before` + `sent` + `set_aside` + `not_finite` + `not_for_it` + `folded` +
    `missing` + `dropped` + `left` is the number of records that the run has accepted."""

    name: str
    before: int = 0
    """Records that it was done with when the process died."""
    sent: int = 0
    set_aside: Mapping[str, int] = field(default_factory=dict)
    """By reason; those of `failed` too."""
    failed: Mapping[str, int] = field(default_factory=dict)
    not_finite: int = 0
    not_for_it: int = 0
    """Of kinds that it does not take, or without a log folder, or whose call had not returned."""
    folded: int = 0
    missing: int = 0
    """Lost to damage, or not where they should be."""
    left: int = 0
    failure: str = ""
    """Why there are some left."""
    dropped: int = 0
    """Given up by the run while it lived, and told then: its journal was full."""

    @property
    def total(self) -> int:
        set_aside = sum(self.set_aside.values())
        done = self.before + self.sent + set_aside + self.not_finite + self.not_for_it
        return done + self.folded + self.missing + self.dropped + self.left


@dataclass
class UploadResult:
    """What became of the artifacts, models and calls that a dead run had not sent to a backend."""

    backend: str
    sent: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """What the server refuses for good, with its words; it is kept in the run's folder."""
    left: dict[str, str] = field(default_factory=dict)
    """What could not be sent, with the reason."""
    calls: int = 0
    """Of verbs like log_params."""


@dataclass
class Result:
    """What became of a run's points."""

    logged: int | None = None
    """Records that the run accepted; None when that can't be known: its ring is not there."""
    sinks: list[SinkResult] = field(default_factory=list)
    uploads: list[UploadResult] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Backends and sinks that lack points still, with the reason."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Points that found no place while the run lived, by reason."""
    notes: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Why the run is kept; empty when it is gone, or only what a server refused is there."""

    @property
    def delivered(self) -> dict[str, int]:
        return {sink.name: sink.sent for sink in self.sinks}

    @property
    def lost(self) -> int:
        return max((sink.missing for sink in self.sinks), default=0)


_COLUMNS = (
    ("before", "BEFORE"), ("sent", "SENT NOW"), ("set_aside", "SET ASIDE"),
    ("not_finite", "NOT FINITE"), ("folded", "FOLDED"), ("not_for_it", "NOT FOR IT"),
    ("dropped", "DROPPED"), ("missing", "MISSING"), ("left", "LEFT"),
)  # fmt: skip
_ALWAYS = ("before", "sent", "left")


def table_of(result: Result) -> list[str]:
    """The lines of the table; columns without a number in them are left out."""
    if not result.sinks:
        return []
    numbers = [{name: _count(getattr(sink, name)) for name, _ in _COLUMNS} for sink in result.sinks]
    shown = [
        (name, head)
        for name, head in _COLUMNS
        if name in _ALWAYS or any(row[name] for row in numbers)
    ]
    rows = [["SINK", "LOGGED", *(head for _, head in shown)]]
    for sink, row in zip(result.sinks, numbers):
        rows.append([sink.name, f"{sink.total:,}", *(f"{row[name]:,}" for name, _ in shown)])
    lines = _aligned(rows)
    for sink in result.sinks:
        lines += [f"  {sink.name}: {count:,} {why}" for why, count in sink.set_aside.items()]
    for each in result.uploads:
        if each.calls:
            lines.append(f"  {each.backend}: {each.calls:,} calls (log_params) sent")
        if each.sent or each.refused or each.left:
            lines.append(
                f"  {each.backend}: artifacts and models: {each.sent:,} sent, "
                f"{len(each.refused):,} refused, {len(each.left):,} left"
            )
        lines += [f"  {each.backend}: {what}: {why}" for what, why in each.refused.items()]
    full = "dropped by the run: its journal was full (option journal_overflow)"
    lines += [f"  {sink.name}: {sink.dropped:,} {full}" for sink in result.sinks if sink.dropped]
    lines += [f"  dropped by the run: {n:,} {why}" for why, n in result.dropped.items() if n]
    return lines


def _count(value: int | Mapping[str, int]) -> int:
    return value if isinstance(value, int) else sum(value.values())


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  "
        + "  ".join(
            text.rjust(width) if n else text.ljust(width)
            for n, (text, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
