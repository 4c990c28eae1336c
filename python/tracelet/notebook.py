"""A run as a notebook shows it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracelet.experiment import Experiment

_MOST_SERIES = 20


def as_html(experiment: Experiment) -> str:
    """Everything is escaped: names, tags and folders may be anything."""
    stats = experiment.stats
    state = "goes on" if experiment.is_active else "has ended"
    rows = [(escape(name), _link(url)) for name, url in experiment.urls.items()]
    rows.append(("points", f"{stats.accepted:,} logged, {stats.pending:,} on their way"))
    rows += [(f"to {escape(name)}", f"{count:,}") for name, count in stats.delivered.items()]
    rows += [(f"dropped: {escape(why)}", f"{count:,}") for why, count in stats.dropped.items()]
    series = list(experiment.summary.items())
    rows += [
        (escape(tag), f"{each.last:.6g} at step {each.last_step:,}")
        for tag, each in series[:_MOST_SERIES]
    ]
    if len(series) > _MOST_SERIES:
        rows.append(("", f"and {len(series) - _MOST_SERIES:,} more series"))
    cells = "".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in rows)
    return f"<b>{escape(experiment.name)}</b> {state}<table>{cells}</table>"


def _link(url: str) -> str:
    """A page as a link; a folder as text."""
    if not url.startswith(("http://", "https://")):
        return escape(url)
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a>'
