"""What does add_scalar cost the training loop: against an empty method, against the others?

A timed burst of Tracelet's fits the ring, and the ring is emptied before the next: that is the
cost of the call alone. The sustained cost, with far more points than the ring holds, is a line of
its own.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import (
    Entrant,
    Rounds,
    Settings,
    Worker,
    column,
    interleave,
    ratios,
    summarise,
    worker,
    workers,
)
from benchmarks.report import Figure, Part, contender_row

_OURS = "Tracelet"
_OURS_KEYWORD = "Tracelet, global_step="
_OURS_MANY = "Tracelet, 200,000 points"
_TORCH = "torch SummaryWriter"
_TRACELET = "benchmarks.workers.tracelet_writer:TraceletWriter"

_ACCOUNT_POINTS = 2_000


@dataclass(frozen=True)
class Rival:
    """Another way to log scalars, and how much of it the rounds bear."""

    name: str
    target: str
    calls: int
    rounds: int
    options: dict[str, Any] = field(default_factory=dict)
    environment: str | None = None
    """Its own, by name in environments.py."""


# In its default mode ClearML's SDK stalls its caller in steps of 0.1 s at each 100 events.
_RIVALS = (
    Rival(_TORCH, "benchmarks.rivals.writers:TorchWriter", 2_000, 25),
    Rival("tensorboardX", "benchmarks.rivals.writers:TensorboardXWriter", 2_000, 25),
    Rival("ClearML report_scalar", "benchmarks.rivals.writers:ClearMLLogger", 300, 4),
    Rival(
        "ClearML report_scalar, thread mode",
        "benchmarks.rivals.writers:ClearMLLogger",
        2_000,
        12,
        {"in_threads": True},
    ),
    Rival("torch + ClearML's binding", "benchmarks.rivals.writers:ClearMLBinding", 300, 4),
    Rival("torch + pure-Python backend", "benchmarks.rivals.writers:PurePython", 300, 6),
    Rival("wandb, offline", "benchmarks.rivals.trackers:Wandb", 1_000, 12, environment="wandb"),
    Rival("trackio", "benchmarks.rivals.trackers:Trackio", 2_000, 12, environment="trackio"),
    Rival("aim", "benchmarks.rivals.trackers:Aim", 1_000, 12, environment="aim"),
    Rival("mlflow, SQLite", "benchmarks.rivals.trackers:Mlflow", 100, 6, environment="mlflow"),
    Rival(
        "mlflow, SQLite, asynchronous",
        "benchmarks.rivals.trackers:Mlflow",
        200,
        6,
        {"synchronous": False},
        environment="mlflow",
    ),
)


def run(settings: Settings) -> Part:
    made = {_OURS: Worker(settings, _TRACELET)}
    for rival in _RIVALS:
        made[rival.name] = Worker(settings, rival.target, rival.environment, **rival.options)
    with workers(made, required=_OURS) as (ready, missing):
        bursts = _measure_bursts(settings, ready)
        accounts = _account_for_at_once(ready) if settings.quick else {}
    if not settings.quick:
        accounts = _measure_accounts(settings, list(ready))
    sustained = _measure_sustained(settings)

    costs_ns = {name: summarise(column(each, "call").values()) for name, each in bursts.items()}
    empty_ns = summarise(column(bursts[_OURS], "empty").values())
    return Part(
        name="scalars",
        figures=_figures(bursts, sustained),
        costs_ns={"empty Python method": empty_ns, **costs_ns},
        table=_table(bursts, accounts),
        notes=[
            *missing,
            '"Per point with close" and the columns after it are from one run in a process of its '
            "own: so many points in a loop, then the end of logging; CPU time of all threads and "
            "child processes.",
        ],
        rounds={"bursts": bursts, "sustained": sustained, "accounts": accounts},
    )


def _measure_bursts(settings: Settings, ready: dict[str, Worker]) -> dict[str, Rounds]:
    rng = settings.rng("scalars")
    empty_calls = settings.pick(50_000, 1_000)
    total_rounds = settings.pick(51, 2)

    def entrant(name: str, worker: Worker, shape: str, calls: int, rounds: int) -> Entrant:
        def measure() -> dict[str, Any]:
            empty_first = rng.random() < 0.5
            measured: dict[str, Any] = worker.call(
                "burst", shape=shape, calls=calls, empty_calls=empty_calls, empty_first=empty_first
            )
            worker.settle()
            return measured

        return Entrant(name, measure, rounds)

    ours, calls = ready[_OURS], settings.pick(50_000, 1_000)
    entrants = [
        entrant(_OURS, ours, "positional", calls, total_rounds),
        entrant(_OURS_KEYWORD, ours, "keyword", calls, total_rounds),
    ]
    for rival in _RIVALS:
        if rival.name in ready:
            calls = settings.pick(rival.calls, 20)
            entrants.append(
                entrant(rival.name, ready[rival.name], "positional", calls, rival.rounds)
            )
    return interleave(entrants, total_rounds, rng)


def _account_for_at_once(ready: dict[str, Worker]) -> dict[str, dict[str, Any]]:
    """As `_measure_accounts`, quickly, with numbers that mean nothing."""
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda each: each.call("account", points=100), ready.values())
        return dict(zip(ready, made))


def _measure_accounts(settings: Settings, names: list[str]) -> dict[str, dict[str, Any]]:
    """What a few points cost with the end of logging, in a new process for each contender."""
    ours = {"zip_session": True}
    runs = [
        (_OURS, _TRACELET, None, ours, _ACCOUNT_POINTS),
        (_OURS_MANY, _TRACELET, None, ours, 100 * _ACCOUNT_POINTS),
        *(
            (each.name, each.target, each.environment, each.options, _ACCOUNT_POINTS)
            for each in _RIVALS
            if each.name in names
        ),
    ]
    accounts = {}
    for name, target, environment, options, points in runs:
        with worker(settings, target, environment, **options) as made:
            accounts[name] = made.call("account", points=points)
    return accounts


def _measure_sustained(settings: Settings) -> Rounds:
    """In a new process each round: its 0.2 KB a point are gone before a disk must take them."""
    calls, warm_up = settings.pick(3_000_000, 20_000), settings.pick(200_000, 1_000)

    def measure() -> dict[str, Any]:
        with worker(settings, _TRACELET) as made:
            made.call("run_loop", shape="positional", calls=warm_up)
            made.settle()
            measured: dict[str, Any] = made.call("sustained", calls=calls)
            return measured

    rounds = settings.pick(5, 1)
    entrant = Entrant("sustained", measure, rounds)
    return interleave([entrant], rounds, settings.rng("sustained"), warm_up=False)["sustained"]


def _figures(bursts: dict[str, Rounds], sustained: Rounds) -> list[Figure]:
    figures = []
    for name, label in ((_OURS, "positional"), (_OURS_KEYWORD, "`global_step=`")):
        call_ns, empty_ns = column(bursts[name], "call"), column(bursts[name], "empty")
        ratio = ratios(call_ns, empty_ns)
        figures += [
            Figure(f"add_scalar, {label}", "ns", summarise(call_ns.values())),
            Figure(f"empty method, {label}", "ns", summarise(empty_ns.values())),
            Figure(f"add_scalar by empty method, {label}", "x", ratio, at_least=1.3, aim=0.8),
        ]
    if _TORCH in bursts:
        ratio = ratios(column(bursts[_TORCH], "call"), column(bursts[_OURS], "call"))
        label = "unpatched torch SummaryWriter by Tracelet, positional"
        figures.append(Figure(label, "x", ratio, 1_000, 2_000, higher_is_better=True))
    call_ns, empty_ns = column(sustained, "call"), column(sustained, "empty")
    label = f"{next(iter(sustained.values()))['calls']:,} in one go"
    bare_ns = column(bursts[_OURS], "bare_loop")
    return [
        *figures,
        Figure(f"add_scalar, {label}", "ns", summarise(call_ns.values())),
        Figure(f"add_scalar by empty method, {label}", "x", ratios(call_ns, empty_ns)),
        Figure("the bare loop, part of all of these", "ns", summarise(bare_ns.values())),
    ]


def _table(bursts: dict[str, Rounds], accounts: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    ours_ns = column(bursts[_OURS], "call")
    empty_ns = column(bursts[_OURS], "empty")
    rows = [contender_row("empty Python method", empty_ns, ours_ns)]
    for name in dict.fromkeys([_OURS, _OURS_KEYWORD, *accounts, *bursts]):
        call_ns = column(bursts[name], "call") if name in bursts else {}
        rows.append(contender_row(name, call_ns, ours_ns, accounts.get(name)))
    return rows
