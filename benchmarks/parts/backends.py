"""What backends cost: several at once over one, one that is dead beside others, and CPU per point
against each tracker's own call."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

from benchmarks import loops
from benchmarks.contender import cpu_time_s
from benchmarks.harness import Entrant, Settings, column, interleave, ratios, worker
from benchmarks.report import Figure, Part

_TRACKERS = ("clearml", "mlflow", "trackio", "wandb", "aim")
_TAGS = [f"tag {number}" for number in range(20)]
_DICT = dict.fromkeys(_TAGS, loops.VALUE)
_TIMEOUT_S = 600.0
_LEAST_AND_AIM = {
    "mlflow": (3.0, 3.4),
    "trackio": (1.5, 4.0),
    "wandb": (0.9, 1.1),
    "aim": (1.0, 1.5),
}


def run(settings: Settings) -> Part:
    installed = [name for name in _TRACKERS if importlib.util.find_spec(name)]
    together = [*installed, "tensorboard"]
    calls, delays, cpu = _calls(settings, together), _delays(settings, together), {}
    figures = [
        Figure(
            f"add_scalar with {len(together)} backends, over one",
            "x",
            ratios(column(calls["all"], "call_ns"), column(calls["one"], "call_ns")),
            at_least=1.05,
            aim=1.0,
        ),
        Figure(
            "time until the others have 1,000 points while one is dead, over without it",
            "x",
            ratios(column(delays["dead"], "delay_s"), column(delays["without"], "delay_s")),
        ),
    ]
    for name in installed:
        if name == "clearml":
            continue  # the part `scalars` has its own call
        cpu[name] = made = _cpu(settings, name)
        least, aim = _LEAST_AND_AIM[name]
        figures.append(
            Figure(
                f"CPU per point: {name}'s own call with a dict of {len(_TAGS)}, over ours",
                "x",
                ratios(column(made["theirs"], "cpu_us"), column(made["ours"], "cpu_us")),
                at_least=least,
                aim=aim,
                higher_is_better=True,
            )
        )
    return Part(
        name="backends",
        figures=figures,
        notes=[
            f"Backends: {', '.join(together)}, each in this machine's own files; the dead one is a "
            "remote sink that raises ConnectionError. CPU is of the whole process and its "
            "children, from the first call to the end of the run."
        ],
        rounds={"calls": calls, "delays": delays, "cpu": cpu},
    )


def _calls(settings: Settings, together: list[str]) -> Any:
    calls = settings.pick(50_000, 1_000)
    with (
        worker(settings, "benchmarks.parts.backends:Ours", backends=["tensorboard"]) as one,
        worker(settings, "benchmarks.parts.backends:Ours", backends=together) as several,
    ):
        rounds = settings.pick(15, 2)
        entrants = [
            Entrant(name, lambda made=made: _settled(made, calls), rounds)
            for name, made in (("one", one), ("all", several))
        ]
        return interleave(entrants, rounds, settings.rng("backends"))


def _settled(made: Any, calls: int) -> dict[str, float]:
    measured: dict[str, float] = made.call("calls", calls=calls)
    made.settle()
    return measured


def _delays(settings: Settings, together: list[str]) -> Any:
    with (
        worker(settings, "benchmarks.parts.backends:Ours", backends=together) as without,
        worker(settings, "benchmarks.parts.backends:Ours", backends=[*together, "dead"]) as dead,
    ):
        rounds = settings.pick(15, 2)
        entrants = [
            Entrant(name, lambda made=made: made.call("delay", backends=together), rounds)
            for name, made in (("without", without), ("dead", dead))
        ]
        return interleave(entrants, rounds, settings.rng("delays"))


def _cpu(settings: Settings, name: str) -> Any:
    def measure(target: str, **options: Any) -> dict[str, float]:
        with worker(settings, f"benchmarks.parts.backends:{target}", **options) as made:
            return made.call("account", steps=steps)

    # MLflow's own call takes milliseconds.
    steps = settings.pick(500 if name == "mlflow" else 5_000, 20)
    rounds = settings.pick(3, 1)
    entrants = [
        Entrant("ours", lambda: measure("Ours", backends=[name]), rounds),
        Entrant("theirs", lambda: measure("Theirs", name=name), rounds),
    ]
    return interleave(entrants, rounds, settings.rng(name), warm_up=False)


class _Dead:
    """A remote sink that takes nothing."""

    name = "dead"
    is_remote = True
    takes_every_point = True

    def write(self, batch: Any) -> Any:
        raise ConnectionError("dead")

    def close(self, process_is_ending: bool) -> None:
        pass


def _in_folder(folder: Path) -> None:
    os.chdir(folder)
    os.environ.update(
        CLEARML_OFFLINE_MODE="1", CLEARML_CACHE_DIR=str(folder / "clearml"),
        MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db", MLFLOW_DISABLE_TELEMETRY="true",
        TRACKIO_DIR=str(folder / "trackio"), HF_HUB_OFFLINE="1",
        GRADIO_ANALYTICS_ENABLED="False", WANDB_MODE="offline", WANDB_SILENT="true",
    )  # fmt: skip


class Ours:
    """The worker: a run with these backends."""

    def __init__(self, folder: Path, backends: list[str]) -> None:
        _in_folder(folder)
        import tracelet
        from torch.utils.tensorboard import SummaryWriter

        self._tracelet = tracelet
        tracelet.register_sink("dead", lambda info: _Dead())
        config = {"stop_timeout_s": _TIMEOUT_S, "batch_max_age_s": 0.1}
        self._experiment = tracelet.start_logging("bench", "bench", backends, config)
        self._writer = SummaryWriter(str(folder / "events"))
        self._step = 0

    def calls(self, calls: int) -> dict[str, float]:
        spent_ns = loops.positional(self._writer, loops.TAG, loops.VALUE, self._step, calls)
        self._step += calls
        return {"call_ns": spent_ns / calls}

    def delay(self, backends: list[str]) -> dict[str, float]:
        """Until each of these has the points."""
        start_s = time.perf_counter()
        self.calls(1_000)
        stats = self._experiment.stats
        while any(stats.delivered.get(name, 0) < self._step for name in backends):
            if time.perf_counter() - start_s > _TIMEOUT_S:
                raise TimeoutError(f"{stats}")
            time.sleep(0.002)
            stats = self._experiment.stats
        return {"delay_s": time.perf_counter() - start_s}

    def settle(self) -> None:
        if not self._experiment.flush(_TIMEOUT_S):
            raise TimeoutError("flush")

    def account(self, steps: int) -> dict[str, float]:
        before_s = cpu_time_s()
        loops.tags_in_turn(self._writer, _TAGS, loops.VALUE, 0, steps * len(_TAGS))
        self._tracelet.stop_logging()
        delivered = self._experiment.stats.delivered
        spent_s = cpu_time_s() - before_s
        if any(each != steps * len(_TAGS) for each in delivered.values() if each):
            raise RuntimeError(f"not all arrived: {delivered}")
        return {"cpu_us": spent_s / (steps * len(_TAGS)) * 1e6}


class Theirs:
    """The worker: the tracker as its users call it, a dict a step."""

    def __init__(self, folder: Path, name: str) -> None:
        _in_folder(folder)
        self._name = name
        if name == "mlflow":
            import mlflow

            mlflow.set_experiment("bench")
            mlflow.start_run()
            self._log, self._end = mlflow.log_metrics, mlflow.end_run
        elif name == "wandb":
            import wandb

            settings = wandb.Settings(console="off", x_disable_stats=True)  # as ours
            run = wandb.init(project="bench", settings=settings)
            self._log, self._end = run.log, run.finish
        elif name == "aim":
            import aim

            run = aim.Run(  # as ours
                experiment="bench", system_tracking_interval=None, capture_terminal_logs=False
            )
            self._log, self._end = run.track, run.close
        else:
            import trackio

            trackio.init(project="bench", name="bench", embed=False)
            self._log, self._end = trackio.log, trackio.finish

    def account(self, steps: int) -> dict[str, float]:
        before_s = cpu_time_s()
        for step in range(steps):
            self._log(_DICT, step=step)
        self._end()
        return {"cpu_us": (cpu_time_s() - before_s) / (steps * len(_TAGS)) * 1e6}
