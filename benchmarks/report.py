"""Figures with their targets, and the forms they are reported in: text, JSON, Markdown, a plot."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import environments
from benchmarks.harness import ROOT, Summary, ratios, summarise

RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
PLOT = ROOT / "docs" / "bench-scalars.png"
README, DOCUMENT = ROOT / "README.md", ROOT / "docs" / "performance.md"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"

_FRONT_PAGE = "scalars"
_FRONT_COLUMNS = {  # as a newcomer reads them
    "Contender": "One scalar by",
    "Per call": "Time in the call (median)",
    "Min to max": "Least to greatest",
    "Slowdown vs Tracelet": "Slowdown vs Tracelet",
}
_MEASURED = ("cpp", "python", "benchmarks/*.py", "CMakeLists.txt", "pyproject.toml")
_PACKAGES = ("tracelet", "clearml", "torch", "tensorboard", "tensorboardX", "numpy")
_CONTENDER_COLUMNS = (
    "Contender",
    "Per call",
    "Min to max",
    "Slowdown vs Tracelet",
    "Per point with close",
    "CPU per point",
    "Sent",
    "Arrived",
)


@dataclass(frozen=True)
class Figure:
    """One measured number and what it should be."""

    label: str
    unit: str
    measured: Summary
    at_least: float | None = None
    aim: float | None = None
    higher_is_better: bool = False

    @property
    def verdict(self) -> str:
        """By the median; empty for a figure without a target."""
        if self.at_least is None or self.aim is None:
            return ""
        sign = -1 if self.higher_is_better else 1
        if sign * self.measured.median <= sign * self.aim:
            return "pass, aim met"
        return "pass" if sign * self.measured.median <= sign * self.at_least else "SHORT"


@dataclass
class Part:
    """What one of the files of this package measured."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    table: list[dict[str, str]] = field(default_factory=list)
    """Rows by column; all rows have the same columns."""
    costs_ns: dict[str, Summary] = field(default_factory=dict)
    """For the plot: ns per call by contender."""
    notes: list[str] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    """Names of pictures in docs/, for the document there."""
    rounds: Any = None
    """What was measured in each round, for the JSON file."""


def machine_facts(settings_of_run: Mapping[str, Any]) -> dict[str, Any]:
    """What one has to know to judge the numbers."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {**{name: _version(name) for name in _PACKAGES}, **environments.versions()},
        **settings_of_run,
    }


def as_record(part: Part, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A part as JSON holds it; the reports below are made from this form."""
    figures = [{**asdict(figure), "verdict": figure.verdict} for figure in part.figures]
    return {**asdict(part), "figures": figures, "facts": dict(facts)}


def write_json(path: Path, records: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": 1, "parts": records}, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The records of a file, none when it isn't there."""
    return dict(json.loads(path.read_text())["parts"]) if path.exists() else {}


def markdown(records: Mapping[str, Any]) -> str:
    """The tables: figures against their targets, then those of the parts."""
    rows = []
    for record in records.values():
        for figure in record["figures"]:
            measured = figure["measured"]
            rows.append(
                {
                    "Figure": figure["label"],
                    "Measured": _number(measured["median"], figure["unit"]),
                    "Min to max": f"{short(measured['low'])} to {short(measured['high'])}",
                    "Wanted": _limit(figure, "at_least"),
                    "Aim": _limit(figure, "aim"),
                    "": figure["verdict"],
                }
            )
    pieces = [_facts_line(records), _table(rows)]
    for record in records.values():
        if record["table"]:
            pieces.append(_table(record["table"]))
    names = [name for record in records.values() for name in record.get("plots", ())]
    pieces += [f"![{name}]({name})" for name in names]
    notes = [note for record in records.values() for note in record["notes"]]
    pieces.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(pieces).rstrip() + "\n"


def brief_markdown(records: Mapping[str, Any]) -> str:
    """For the front page: what a call costs with each contender."""
    if _FRONT_PAGE not in records:
        return ""
    record = records[_FRONT_PAGE]
    rows = [
        {shown: row[name] for name, shown in _FRONT_COLUMNS.items()}
        for row in record["table"]
        if row["Per call"]
    ]
    return f"{_table(rows)}\n\n{_facts_line({_FRONT_PAGE: record})}\n"


def update_documents(records: Mapping[str, Any]) -> list[Path]:
    """Puts the tables between the markers of the documents that have them."""
    updated = []
    for path, text in ((README, brief_markdown(records)), (DOCUMENT, markdown(records))):
        document = path.read_text() if path.exists() else ""
        if START in document and END in document:
            before, _, rest = document.partition(START)
            after = rest.partition(END)[2]
            path.write_text(f"{before}{START}\n{text}{END}{after}")
            updated.append(path)
    return updated


def plot(costs_ns: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Time of a call by contender, median with min and max, on a log scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted(costs_ns, key=lambda name: costs_ns[name]["median"], reverse=True)
    medians = [costs_ns[name]["median"] for name in names]
    below = [costs_ns[name]["median"] - costs_ns[name]["low"] for name in names]
    above = [costs_ns[name]["high"] - costs_ns[name]["median"] for name in names]
    colors = ["#1f77b4" if name.startswith("Tracelet") else "#b0b0b0" for name in names]
    figure, axes = pyplot.subplots(figsize=(9, 0.45 * len(names) + 1.4))
    axes.barh(names, medians, xerr=[below, above], color=colors, capsize=3, log=True)
    for index, median in enumerate(medians):
        axes.text(
            1.0, index, f"  {_in_ns(median)}", va="center", transform=axes.get_yaxis_transform()
        )
    axes.set_xlim(left=10)
    axes.xaxis.set_major_formatter(lambda value, _: _in_ns(value))
    axes.set_xlabel("time in the call (each step of the scale is 10 times as long)")
    axes.set_title("What one add_scalar costs the training loop")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _facts_line(records: Mapping[str, Any]) -> str:
    lines = {}
    for name, record in records.items():
        facts = record["facts"]
        packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
        line = (
            f"Measured {facts['date']} at commit {facts['commit']}: {facts['cpu']}, "
            f"{facts['cores']} cores, Python {facts['python']}, {packages}; "
            f"seed {facts['seed']}, load average at the start {facts['load_average']:.1f}."
        )
        lines.setdefault(line, []).append(name)
    if len(lines) == 1:
        return next(iter(lines))
    return "\n".join(f"- {', '.join(names)}: {line}" for line, names in lines.items())


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    header = list(rows[0])
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in header]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
        return f"| {' | '.join(padded)} |".rstrip()

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(header), rule, *(line(list(row.values())) for row in rows)])


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{short(value)}{unit}" if unit in ("x", "%") else f"{short(value)} {unit}"


def _limit(figure: Mapping[str, Any], name: str) -> str:
    """ "at most" over an upper limit; empty where there is none."""
    if figure[name] is None:
        return ""
    word = "at least" if figure["higher_is_better"] else "at most"
    return f"{word} {_number(figure[name], figure['unit'])}"


def _in_ns(value: float) -> str:
    for unit, factor in (("ms", 1e6), ("us", 1e3)):
        if value >= factor:
            return f"{short(value / factor)} {unit}"
    return f"{short(value)} ns"


def contender_row(
    name: str,
    cost_ns: Mapping[int, float],
    ours_ns: Mapping[int, float],
    account: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """A row of the contenders' table: cost of a call by round, and `Contender.account`."""
    row = dict.fromkeys(_CONTENDER_COLUMNS, "")
    row["Contender"] = name
    if cost_ns:
        cost = summarise(cost_ns.values())
        row["Per call"] = _in_ns(cost.median)
        row["Min to max"] = f"{_in_ns(cost.low)} to {_in_ns(cost.high)}"
        row["Slowdown vs Tracelet"] = f"{short(ratios(cost_ns, ours_ns).median)}x"
    if account:
        row["Per point with close"] = f"{short(account['total_us'])} us"
        row["CPU per point"] = f"{short(account['cpu_us'])} us"
        row["Sent"] = f"{account['sent']:,}"
        arrived = account["arrived"].items()
        row["Arrived"] = ", ".join(f"{sink} {count:,}" for sink, count in arrived)
    return row


def _commit() -> str:
    return _git("describe", "--always", "--abbrev=10") + ("-dirty" if is_dirty() else "")


def is_dirty() -> bool:
    """Whether what is measured here is in no commit."""
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", *_MEASURED))


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
