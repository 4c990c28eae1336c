"""The processes of this machine's jobs: how far each has come, and which of them stopped."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracelet.commands import terminal
from tracelet.commands.terminal import cut, printable
from tracelet.errors import TraceletError
from tracelet.monitor import SYSTEM_PREFIX
from tracelet.ranks.meeting import ranks_that_live
from tracelet.reading.pulse import Pulse, pulse_of_files, pulse_of_ring, pulses_of_ranks
from tracelet.runs.ledgers import EVENT_FILES, noted_paths
from tracelet.runs.stored_run import StoredRun

_STUCK_AFTER_S = 10.0  # and ten of its usual pauses
_STUCK_AFTER_PAUSES = 10
_BEHIND_S = 10.0
_CLOCKS_APART_S = 60.0  # of the hosts of a job
_HEADER = ("RANK", "STATE", "STEP", "STEPS/S", "LAST POINT", "PENDING", "LAST VALUE", "RUN")
_NUMBERS = (0, 2, 3, 4, 5)
_RED = ("stuck", "behind", "died")


@dataclass(frozen=True)
class RankView:
    """One run, as a rank of its job or alone."""

    run_id: str
    name: str
    job: str
    """The same for all ranks; a run that is no rank of anything has a job of its own."""
    rank: int | None
    world_size: int | None
    host: str
    pid: int | None
    state: str
    """As `tracelet runs` has it; but "died" of one whose process did not end it, and "stuck" or
    "behind" of one that goes on."""
    pending: int | None
    pulse: Pulse
    now_s: float
    started_s: float = 0.0

    @property
    def age_s(self) -> float | None:
        """Since its last point; None where its wall time is of no clock: the user's own (the number
        of an epoch), or from before the run, or to come."""
        last_s = self.pulse.last_point_s
        first_s, end_s = self.started_s - _CLOCKS_APART_S, self.now_s + _CLOCKS_APART_S
        if last_s is None or not first_s <= last_s <= end_s:
            return None
        return max(0.0, self.now_s - last_s)

    @property
    def steps_per_s(self) -> float | None:
        return None if self.age_s is None else self.pulse.steps_per_s

    def as_json(self) -> dict[str, Any]:
        pulse = self.pulse
        return {
            "run": self.run_id, "name": self.name, "job": self.job, "rank": self.rank,
            "world_size": self.world_size, "host": self.host, "pid": self.pid,
            "state": self.state, "pending": self.pending, "last_step": pulse.last_step,
            "last_point_s": pulse.last_point_s, "age_s": self.age_s,
            "steps_per_s": self.steps_per_s,
            "values": {tag: list(each) for tag, each in pulse.values.items()},
        }  # fmt: skip


def of_one_job(run: StoredRun, runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The run, and the last one of each other rank of its job in the same experiment."""
    job = _job_of(run)
    if job is None:
        return [run]
    # Not by their ids: those of one second are in no order.
    in_order = sorted(runs, key=lambda each: _seconds(each.manifest.get("started_s")))
    by_rank = {_rank_or_id(each): each for each in in_order if _job_of(each) == job}
    by_rank[_rank_or_id(run)] = run
    return list(by_rank.values())


def ranks_of(
    runs: Sequence[StoredRun],
    now_s: float | None = None,
    known: Mapping[str, RankView] | None = None,
) -> list[RankView]:
    """By job, the oldest first, and rank. One that ends while it is looked at is left out; of those
    that are `known` by their ids nothing is read."""
    now_s = time.time() if now_s is None else now_s
    views = []
    for run in runs:
        before = None if known is None else known.get(run.run_id)
        with unless_gone(run):
            if run.manifest.get("is_of_ranks"):
                views += _views_of_ranks(run, now_s)
            else:
                views.append(replace(before, now_s=now_s) if before else _view_of(run, now_s))
    jobs = _by_job(views)  # the oldest first
    return [
        _judged(view, job)
        for job in jobs.values()
        for view in sorted(job, key=lambda view: view.rank or 0)
    ]


@contextlib.contextmanager
def unless_gone(run: StoredRun) -> Iterator[None]:
    """Around a look at a run, which may end, and its folder go, at any time: that is no error."""
    try:
        yield
    except (OSError, TraceletError):
        if os.path.isdir(run.path):
            raise


def _by_job(views: Sequence[RankView]) -> dict[str, list[RankView]]:
    jobs: dict[str, list[RankView]] = {}
    for view in views:
        jobs.setdefault(view.job, []).append(view)
    return jobs


def _rank_or_id(run: StoredRun) -> int | str:
    rank = _number(_place_of(run).get("rank"))
    return run.run_id if rank is None else rank


def first_stopped(views: Sequence[RankView]) -> RankView | None:
    """Of one job's ranks the one that was the first to log nothing more while it had not ended;
    None where all go on. One without points stopped before the others; one whose wall times are of
    no clock can't be compared."""
    stopped = [
        view for view in views
        if view.state in ("stuck", "died")
        and (view.pulse.last_point_s is None or view.age_s is not None)
    ]  # fmt: skip
    return min(stopped, key=lambda view: view.pulse.last_point_s or 0.0, default=None)


def _view_of(run: StoredRun, now_s: float) -> RankView:
    manifest, place = run.manifest, _place_of(run)
    return RankView(
        run.run_id,
        run.exp_name,
        _job_of(run) or run.run_id,
        _number(place.get("rank")),
        _number(place.get("world_size")),
        str(manifest.get("host", "")),
        _number(manifest.get("pid")),
        "died" if _has_died(run) else run.shown_state,
        run.pending(),
        _pulse_of(run),
        now_s,
        _seconds(manifest.get("started_s")),
    )


def _views_of_ranks(run: StoredRun, now_s: float) -> list[RankView]:
    """Of all ranks that log, or have logged, into one run."""
    whole, place = _view_of(run, now_s), _place_of(run)
    leading = (whole.rank or 0) - (_number(place.get("local_rank")) or 0)
    try:
        pulses = pulses_of_ranks(run.ring_path)
    except (OSError, RuntimeError):
        return [whole]
    by_rank = {leading if rank is None else rank: pulse for rank, pulse in pulses.items()}
    lives = ranks_that_live(run.path)
    views = []
    for rank in sorted({*by_rank, *lives}):
        state = "running" if lives.get(rank) else "died" if rank in lives else "finished"
        views.append(
            replace(
                whole,
                rank=rank,
                pid=whole.pid if rank == whole.rank else None,
                state=state,
                pulse=by_rank.get(rank, Pulse()),
            )
        )
    return views or [whole]


def _place_of(run: StoredRun) -> Mapping[str, Any]:
    """Which rank of which job it is; empty for one that is none."""
    place = run.manifest.get("job")
    return place if isinstance(place, Mapping) else {}


def _job_of(run: StoredRun) -> str | None:
    job = str(_place_of(run).get("id") or "")
    return f"{job} {run.project}/{run.exp_name}" if job else None


def _has_died(run: StoredRun) -> bool:
    return run.state == "unsent" and run.manifest.get("state") == "running"


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e12 else 0.0


def _pulse_of(run: StoredRun) -> Pulse:
    try:
        return pulse_of_ring(run.ring_path)
    except (OSError, RuntimeError):
        return pulse_of_files(noted_paths(os.path.join(run.path, EVENT_FILES)))


def _judged(view: RankView, job: Sequence[RankView]) -> RankView:
    """What the state of one that goes on is beside the others of its job."""
    pulse, age_s = view.pulse, view.age_s
    if view.state != "running" or age_s is None or pulse.last_step is None:
        return view
    if age_s > max(_STUCK_AFTER_S, _STUCK_AFTER_PAUSES * (pulse.interval_s or 0.0)):
        return replace(view, state="stuck")
    ahead = max(each.pulse.last_step or 0 for each in job) - pulse.last_step
    if view.steps_per_s and ahead / view.steps_per_s > _BEHIND_S:
        return replace(view, state="behind")
    return view


def print_ranks(views: Sequence[RankView], patterns: Sequence[str]) -> None:
    """A table, and which rank of each job stopped first."""
    for line in lines_of(views, patterns):
        print(line)


def lines_of(views: Sequence[RankView], patterns: Sequence[str]) -> list[str]:
    """As `print_ranks` prints it; in the width of the terminal, with colours where it has some."""
    rows = [_HEADER, *(_row(view, patterns) for view in views)]
    lines = terminal.table(rows, _NUMBERS)
    shown = [terminal.coloured(cut(lines[0], terminal.width()), "bold")]
    for line, view in zip(lines[1:], views):
        is_red = view.state in _RED
        line = cut(line, terminal.width())
        shown.append(terminal.coloured(line, "red") if is_red else line)
    for ranks in _by_job(views).values():
        first = first_stopped(ranks)
        if first is not None and len(ranks) > 1:
            age_s = first.age_s
            ago = "" if age_s is None else f", {terminal.in_time(age_s)} ago"
            shown.append(
                f"rank {_rank(first)} of {first.world_size or len(ranks)} stopped first, at step "
                f"{terminal.count(first.pulse.last_step)}{ago} ({first.state}, {first.run_id})"
            )
    return shown


def _rank(view: RankView) -> str:
    return "-" if view.rank is None else str(view.rank)


def _row(view: RankView, patterns: Sequence[str]) -> tuple[str, ...]:
    pulse, age_s = view.pulse, view.age_s
    speed = "" if view.steps_per_s is None else f"{view.steps_per_s:.3g}"
    return (
        _rank(view), view.state, terminal.count(pulse.last_step), speed,
        "" if age_s is None else f"{terminal.in_time(age_s)} ago",
        "?" if view.pending is None else f"{view.pending:,}", _values(pulse, patterns),
        view.run_id,
    )  # fmt: skip


def _values(pulse: Pulse, patterns: Sequence[str]) -> str:
    """Of the tags that were asked for; by default the shortest that is a loss, else the last."""
    values = pulse.values
    tags = [tag for pattern in patterns for tag in values if fnmatch.fnmatchcase(tag, pattern)]
    if not patterns and values:
        losses = sorted((tag for tag in values if "loss" in tag.lower()), key=len)
        logged = [tag for tag in values if not tag.startswith(SYSTEM_PREFIX)] or list(values)
        tags = losses[:1] or [max(logged, key=lambda tag: values[tag][0])]
    return "  ".join(
        f"{printable(tag)} {terminal.value(values[tag][1])}" for tag in dict.fromkeys(tags)
    )
