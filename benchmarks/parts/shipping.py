"""What happens behind the call: CPU time per point, stop_logging, the drainer's share of the GIL.

The ClearML SDK zips the offline session when its task is closed; that is counted apart.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Entrant, Rounds, Settings, column, interleave, summarise, worker
from benchmarks.report import Figure, Part

_TRACELET = "benchmarks.workers.tracelet_writer:TraceletWriter"
_POINTS_PER_S = 1_000_000


def run(settings: Settings) -> Part:
    points = settings.pick(1_000_000, 20_000)
    rng = settings.rng("shipping")
    entrants = [
        Entrant("points", lambda: _ship(settings, points), settings.pick(5, 1)),
        Entrant("no points", lambda: _ship(settings, 0), settings.pick(3, 1)),
    ]
    shipped = interleave(entrants, settings.pick(5, 1), rng, warm_up=False)
    pace = Entrant("paced", lambda: _pace(settings), settings.pick(3, 1))
    paced = interleave([pace], pace.rounds, rng, warm_up=False)["paced"]
    return Part(
        name="shipping",
        figures=_figures(shipped["points"], shipped["no points"], points, paced),
        notes=[
            "CPU per point is of the whole process, stop_logging included; net is without what the "
            "same loop takes with an empty method.",
            _check(shipped["points"], paced),
        ],
        rounds={"shipped": shipped, "paced": paced},
    )


def _ship(settings: Settings, points: int) -> dict[str, Any]:
    with worker(settings, _TRACELET, zip_session=True) as made:
        made.call("run_loop", shape="positional", calls=settings.pick(20_000, 1_000))
        made.settle()
        measured: dict[str, Any] = made.call("ship", points=points)
        measured["arrived"] = made.call("arrived")
    return measured


def _pace(settings: Settings) -> dict[str, Any]:
    """In a new process each time: its files are gone before a disk must take them."""
    duration_s = settings.pick(5, 1)
    with worker(settings, _TRACELET) as made:
        measured: dict[str, Any] = made.call(
            "paced", points_per_s=_POINTS_PER_S, duration_s=duration_s
        )
        made.call("close")
        measured["arrived"] = made.call("arrived")
    return measured


def _figures(
    points_rounds: Rounds, idle_rounds: Rounds, points: int, paced: Rounds
) -> list[Figure]:
    def per_point_us(rounds: Rounds, *keys: str) -> Any:
        """The first key without the others, in us per point."""
        first, *rest = keys
        each = (r[first] - sum(r[key] for key in rest) for r in rounds.values())
        return summarise(seconds / points * 1e6 for seconds in each)

    net = per_point_us(points_rounds, "cpu_s", "empty_cpu_s")
    stop_s = summarise(column(points_rounds, "stop_s").values())
    share = summarise(column(paced, "gil_percent").values())
    return [
        Figure("CPU per point, net", "us", net, at_least=1.5, aim=0.5),
        Figure("CPU per point, raw", "us", per_point_us(points_rounds, "cpu_s")),
        Figure("CPU of a run without points, by as many", "us", per_point_us(idle_rounds, "cpu_s")),
        Figure(
            "CPU of the SDK's zip per point, not in these",
            "us",
            per_point_us(points_rounds, "zip_cpu_s"),
        ),
        Figure(
            f"the loop of {points:,} add_scalar",
            "s",
            summarise(column(points_rounds, "loop_s").values()),
        ),
        Figure("stop_logging right after it, without the zip", "s", stop_s, at_least=1.5, aim=0.4),
        Figure(
            "stop_logging without points, without the zip",
            "s",
            summarise(column(idle_rounds, "stop_s").values()),
        ),
        Figure("the SDK's zip in it", "s", summarise(column(points_rounds, "zip_wall_s").values())),
        Figure("drainer's share of the GIL, paced", "%", share, at_least=10, aim=2),
        Figure(
            "points a second reached there (1,000,000 wanted)",
            "",
            summarise(column(paced, "points_per_s").values()),
        ),
    ]


def _check(shipped: Rounds, paced: Rounds) -> str:
    """Whether all points that were sent are in the files."""
    checked = [*shipped.values(), *paced.values()]
    for each in checked:
        if any(count != each["sent"] for count in each["arrived"].values()):
            return f"POINTS ARE MISSING: {each['sent']:,} sent, arrived: {each['arrived']}."
    sent = sum(each["sent"] for each in checked)
    return f"All of the {sent:,} points sent are in the session's metrics.jsonl and event files."
