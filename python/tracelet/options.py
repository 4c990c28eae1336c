"""Every option of a run, its default, and where it may be set.

What is given to `start_logging` wins over the environment, the environment over the default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tracelet import environment
from tracelet.errors import ConfigurationError, OptionTypeError
from tracelet.option_kinds import (
    Choice,
    Count,
    Either,
    Flag,
    Folder,
    Kind,
    Name,
    Seconds,
    Table,
    Text,
    Texts,
    describe,
    describe_text,
    nearest,
    path_text,
)
from tracelet.places import RUNS_DIR, default_runs_dir
from tracelet.safe_names import file_name

TASK_TYPES = (
    "training", "testing", "inference", "data_processing", "application", "monitor",
    "controller", "optimizer", "service", "qc", "custom",
)  # fmt: skip
_RULE_KEYS = ("every_steps", "every_s", "reduce")
_DOCKER_KEYS = {"image", "arguments", "setup_bash_script"}
REDUCTIONS = ("mean", "last", "min_max")
RANK_RULES = ("first", "each")
JOURNAL_OVERFLOWS = ("block", "drop_oldest", "drop_new")
WHEN_UNREACHABLE = ("offline", "raise")
TENSORBOARD_MODES = ("native", "passthrough", "off")


_LARGEST_NUMBER = 1 << 62


def _check_rules(name: str, rules: Mapping[str, Any]) -> None:
    for pattern, rule in rules.items():
        _check_rule(f"{name}[{pattern!r}]", rule)


def _check_rule(where: str, rule: Any) -> None:
    if not isinstance(rule, Mapping):
        raise ConfigurationError(f'{where} must be like {{"every_steps": 100, "reduce": "mean"}}')
    for key in rule:
        if key not in _RULE_KEYS:
            near = nearest(str(key), _RULE_KEYS)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ConfigurationError(f"{where} has no {key!r}: {', '.join(_RULE_KEYS)}{hint}")
    if ("every_steps" in rule) == ("every_s" in rule):
        raise ConfigurationError(f"{where} needs one of every_steps and every_s")
    every = rule.get("every_steps", rule.get("every_s"))
    is_number = isinstance(every, (int, float)) and not isinstance(every, bool)
    if not is_number or not 0 < every < _LARGEST_NUMBER:
        raise ConfigurationError(f"{where}: the window must be positive, not {describe(every)}")
    if "every_steps" in rule and every != int(every):
        raise ConfigurationError(f"{where}: every_steps must be an int, not {describe(every)}")
    if rule.get("reduce", "mean") not in REDUCTIONS:
        raise ConfigurationError(
            f"{where}: reduce must be one of {', '.join(REDUCTIONS)}, not "
            f"{describe(rule['reduce'])}"
        )


def _check_ranks(name: str, rules: Mapping[str, Any]) -> None:
    for pattern, rule in rules.items():
        if not isinstance(rule, str) or rule not in RANK_RULES:
            raise ConfigurationError(
                f"{name}[{pattern!r}] must be one of {', '.join(RANK_RULES)}, not {describe(rule)}"
            )


def _check_docker(name: str, docker: Mapping[str, Any]) -> None:
    if not docker.get("image") or set(docker) - _DOCKER_KEYS:
        raise ConfigurationError(
            f"{name} takes {', '.join(sorted(_DOCKER_KEYS))} and needs 'image'; it has "
            f"{', '.join(sorted(docker)) or 'nothing'}"
        )


def _check_continued(name: str, value: Any) -> None:
    if isinstance(value, int) and value not in (0, 1):
        raise ConfigurationError(
            f"{name}={value!r}: tracelet shifts no iteration; give True, False or a task's id, and "
            "log the steps you mean"
        )


@dataclass(frozen=True)
class _Backends(Kind):
    """One name or several."""

    wanted: str = 'a name or a list of names, like "clearml"'

    def check(self, name: str, value: Any) -> tuple[str, ...]:
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, (list, tuple)):
            raise self.wrong_type(name, value)
        for each in given:
            if not isinstance(each, str):
                raise OptionTypeError(
                    f"{name} must be {self.wanted}, not a list with {describe(each)}"
                )
        names = tuple(dict.fromkeys(each.strip() for each in given))
        if not names or "" in names:
            raise ConfigurationError(
                f'{name} must name a backend: "clearml", or "tensorboard" for event files alone; '
                f"it is {'empty' if not any(names) else 'partly empty'}"
            )
        return names

    def parse(self, text: str) -> str:
        return text


@dataclass(frozen=True)
class _Place(Folder):
    """Where files go: a path or a URL, which is left as it is."""

    wanted: str = "a URL or a path"

    def check(self, name: str, value: Any) -> str:
        return path_text(name, value, self)


def _option(kind: Kind, default: Any = None) -> Any:
    """An option: what it may be, and what it is where nothing is said. All else follows."""
    return field(default=default, metadata={"kind": kind})


_FLAG_OR_TABLE = Either((Flag(), Table()))


@dataclass(frozen=True)
class Options:
    """The options of one run. Units are in the names; bytes and seconds throughout."""

    # Who and where.
    exp_name: str = _option(Name())
    """The experiment's name; default: the script's name."""
    project: str = _option(Text("a name (a str)"), "Default Project")
    """The project's name; "A/B" nests on ClearML."""
    backend: tuple[str, ...] = _option(_Backends(), ("clearml",))
    """The sinks besides the event files: "clearml", "mlflow", "wandb", "aim", "trackio",
    "tensorboard" (event files alone), names given to `register_sink`. Where none is named, here or
    by the variable: "clearml" where ClearML's SDK is installed and set up, else "tensorboard"."""
    log_dir: str | None = _option(Folder())
    """Folder of the event file for `Experiment.log_metric`. None: no event file for those points,
    unless "tensorboard" is a backend: it takes the first SummaryWriter's folder, or runs/EXP_NAME
    before there is one."""
    tensorboard: str = _option(Choice(TENSORBOARD_MODES), "native")
    """Who writes the event files of the SummaryWriters. "native": tracelet, in its drainer.
    "passthrough": torch's (and tensorboardX') own writer as ever, at its cost, some 100 us an
    add_scalar; the backends get everything too. "off": nobody; calls cost what native ones do."""
    runs_dir: str = _option(Folder(is_fixed=True), RUNS_DIR)
    """Where each run has its folder (also `TRACELET_DIR`). Where no home folder can be written:
    tracelet-UID/runs among the temporary files, which is told."""
    history_dir: str | None = _option(Folder(is_fixed=True))
    """Where a small record of each run that has ended stays, for `tracelet runs` and `tracelet
    show`: name, project, points, last values, parameters (without secrets), where everything is.
    Default: ~/.tracelet/history, or "history" in the folder that `runs_dir` names."""
    history_runs: int = _option(Count(0, 100_000, "runs", zero="no record is kept"), 1_000)
    """How many of them stay; the oldest go first, also beyond 16 MiB in all."""

    quiet: bool = _option(Flag(), False)
    """No line on stderr at the run's start (where it goes) and at its end (what arrived). Ranks
    that do not lead say nothing in any case. Warnings are not touched: they go through `logging`,
    by the logger "tracelet"."""

    # What a run is told of by itself.
    environment: bool = _option(Flag(), True)
    """What the run runs in is noted: git commit, branch and remote; command line, packages, Python,
    machine, GPUs. Without secrets, and no process is started for it; see "Environment" in
    docs/monitor.md. For `tracelet show` and MLflow; ClearML and W&B find it out themselves."""
    git_diff: bool = _option(Flag(), False)
    """With it, whether files are changed, and what `git diff HEAD` says, its first 64 KiB. It holds
    whatever the files hold, a secret too, and the program git is started for it, by the leading
    rank: so it is off."""

    system_metrics: bool = _option(Flag(), False)
    """CPUs, memory, disk, network and NVIDIA GPUs are logged as series "system/...", their step the
    seconds since the start; needs the package psutil: pip install 'tracelet[system]'. Off, since
    they are points as all others are: they are counted, and are in the event files. By local rank 0
    alone, and not where each backend does it itself (ClearML, unless `auto_resource_monitoring` is
    off)."""
    system_interval_s: float = _option(Seconds(least=0.1), 1.0)
    """How often; disk and network every 10 s at most."""

    console: bool = _option(Flag(), False)
    """What the process prints, in the run: a file `console.log` among its artifacts, line by line
    in the run's folder until then, so that a kill loses none. Off, since nobody can tell a secret
    in it. Not where each backend does it itself (ClearML, unless `auto_connect_streams` is off)."""

    # The pipeline.
    ring_slots: int = _option(Count(16, 1 << 24, "slots", is_power_of_two=True), 1 << 17)
    """Points the ring holds, of 64 bytes each; a power of two. At 1,000,000 points a second the
    default is 131 ms of them."""
    ring_dir: str | None = _option(Folder(is_fixed=True))
    """Folder of the ring's file; default: shared memory where a ring takes no more than 2 % of what
    is free, else the run's folder. Never one of a network file system: tracelet-UID among the
    temporary files then."""
    full_ring_timeout_s: float = _option(Seconds(zero="no wait"), 10.0)
    """How long a call may wait for room in a full ring before its point is dropped and counted."""
    payload_bytes: int = _option(Count(1 << 16, 1 << 30, "bytes"), 16 << 20)
    """Room for the histograms and events (images, text ...) on their way from the ring, besides its
    slots: a histogram takes some hundred bytes to some thousand, and can't be larger; an event of
    more than a quarter of it goes by a file in the run's folder."""
    journal_limit_bytes: int = _option(Count(1 << 20, _LARGEST_NUMBER, "bytes"), 4 << 30)
    """What the journal may take on disk while a backend stays away: 64 bytes a scalar. 1 MiB or
    more."""
    journal_overflow: str = _option(Choice(JOURNAL_OVERFLOWS), "block")
    """What happens then. "block": the drainer waits for room once, `full_ring_timeout_s`, while the
    ring fills and calls wait; then new points are dropped until there is room. "drop_new": they are
    dropped at once. "drop_oldest": the oldest ones are, a segment at a time. Counted under "journal
    full", with one warning; event files keep every point."""
    drain_interval_s: float = _option(Seconds(least=0.001), 0.25)
    """The drainer wakes this often, and whenever the ring is half full."""
    batch_max_points: int = _option(Count(1, 1 << 24, "points"), 20_000)
    """A request to a server holds at most so many points ..."""
    batch_max_bytes: int = _option(Count(1, 1 << 30, "bytes"), 8 << 20)
    """... and about so many bytes ..."""
    batch_max_age_s: float = _option(Seconds(zero="no wait"), 2.0)
    """... and waits at most so long for more of them."""
    stop_timeout_s: float = _option(Seconds(least=0.001), 30.0)
    """How long `stop_logging` may take."""
    start_timeout_s: float = _option(Seconds(least=0.001), 30.0)
    """How long `start_logging` may wait for a backend's server; see `on_unreachable`. One that is
    not reached at all is given up after a third of it."""
    on_unreachable: str = _option(Choice(WHEN_UNREACHABLE), "offline")
    """What happens then. "offline": the run goes on without that server, to its end, in an offline
    session that `tracelet sync` sends later; other backends are not touched. "raise": BackendError.
    Wrong credentials are an error at once, in either case."""
    exit_timeout_s: float = _option(Seconds(least=0.001), 30.0)
    """How long the end of the process may take without `stop_logging`, the hooks of the backends'
    SDKs included; on SIGTERM 10 s at most, as schedulers kill soon after."""
    journal_sync_interval_s: float = _option(
        Seconds(zero="whenever the operating system does"), 1.0
    )
    """What waits for a sink is on disk, and synced to it this often: what a loss of power may take.
    The death of the process takes none of it. 0: whenever the operating system does."""
    aggregate: Mapping[str, Mapping[str, Any]] = _option(
        Table("a mapping of tag patterns to rules", _check_rules)
    )
    """Tag pattern (as in fnmatch) to {"every_steps": n or "every_s": seconds, "reduce": "mean",
    "last" or "min_max"}: those points are folded before they are shipped; the event file keeps
    every point. The first pattern that matches counts. Default: nothing is folded."""

    # Several ranks of a job.
    ranks: Mapping[str, str] = _option(
        Table('a mapping of tag patterns to "first" or "each"', _check_ranks)
    )
    """Makes one run of the ranks of a job, on one node: tag pattern (as in fnmatch) to what the
    backends get of a tag that several ranks log. "first": the points of the lowest rank that logs
    it; the others' are in their own event files, and counted. "each": all, a series for each rank,
    "loss/rank 3". The first pattern that matches counts, and a tag that none matches is "first".
    Default: each rank has a run of its own. See docs/processes.md."""
    rank_window_s: float = _option(Seconds(zero="no wait"), 10.0)
    """How long the points of a tag wait for a lower rank's when another rank than the leading one
    was the first to log it. Nothing in the training waits."""

    # Histograms.
    histogram_threads: int = _option(Count(0, 256, "threads", zero="it chooses"), 0)
    """Threads `add_histogram` may use for one call. 0: it chooses, see `tracelet.histogram`."""
    histogram_view_interval_s: float = _option(Seconds(zero="with each batch"), 60.0)
    """How often ClearML gets a series' histograms over time anew; the last ones come at the end."""

    # ClearML's task: the arguments of Task.init, as the SDK documents them, and what is set on it.
    task_name: str | None = _option(Name())
    """The task's name, where it is to differ from exp_name. Arguments of start_logging win over
    variables: config's task_name, exp_name, TRACELET_TASK_NAME, TRACELET_EXP_NAME,
    CLEARML_TASK_NAME, the script's name."""
    task_type: str = _option(Choice(TASK_TYPES), "training")
    """One of TASK_TYPES."""
    tags: Sequence[str] | None = _option(Texts())
    output_uri: str | bool | None = _option(Either((Flag(), _Place())))
    """Where artifacts and models go: a URL or folder; True and None: the file server. With None,
    models that ClearML's own bindings catch are registered where they lie, without an upload."""
    auto_connect_frameworks: bool | Mapping[str, Any] = _option(_FLAG_OR_TABLE, True)
    """As in Task.init; its TensorBoard part is always off, that is what tracelet does."""
    auto_connect_arg_parser: bool | Mapping[str, bool] = _option(_FLAG_OR_TABLE, True)
    auto_resource_monitoring: bool | Mapping[str, Any] = _option(_FLAG_OR_TABLE, True)
    auto_connect_streams: bool | Mapping[str, bool] = _option(_FLAG_OR_TABLE, True)
    continue_last_task: bool | str | int = _option(
        Either(
            (Flag(), Count(-_LARGEST_NUMBER, _LARGEST_NUMBER), Name("a task's id")),
            "True, False or a task's id", _check_continued,
        ),
        False,
    )  # fmt: skip
    """True or 0: goes on with the last task of this project and name; a task's id: with that one.
    Points keep the steps they are logged with, those of a step that is there are overwritten.
    Other than in Task.init no iteration is shifted, and a number above 0 is refused."""
    reuse_last_task_id: bool | str = _option(Either((Flag(), Name("a task's id"))), False)
    """As in Task.init, but off by default: True resets the last task of this name and uses it."""
    random_seed: bool | int = _option(Either((Count(0, (1 << 32) - 1), Flag())), False)
    """What the SDK seeds random, numpy and torch with at the start: a number; True: its own default
    (1337, or Task.set_random_seed); False: they are left alone, also by Task.init, whose default
    makes the runs of a sweep alike, and the dropout of all ranks."""
    comment: str | None = _option(Text())
    """The task's description."""
    docker: str | Mapping[str, Any] | None = _option(
        Either((Name("an image's name"), Table("a mapping with 'image'", _check_docker)))
    )
    """What an agent runs the task in: an image, or {"image", "arguments", "setup_bash_script"}."""
    child_task: bool = _option(Flag(), False)
    """When the process has a current ClearML task of another name: whether the run gets a task of
    its own, as its child, or logs to the current one. Default: it gets one in a `with
    tracelet.logging` block with a name."""

    # Other trackers: what is for one alone.
    mlflow: Mapping[str, Any] | None = _option(Table())
    """MLflow's: {"tracking_uri", "experiment", "run_id"}. Default: the active run's, else those of
    MLflow's own variables, else a new run in sqlite:///mlflow.db, experiment by `project`."""
    wandb: Mapping[str, Any] | None = _option(Table())
    """W&B's, as in wandb.init: {"entity", "mode", "dir", "group", "job_type", "id", "resume",
    "console", "system_metrics"}. Default: the active run's, else those of W&B's own variables; its
    capture of the console and of system metrics is off."""

    aim: Mapping[str, Any] | None = _option(Table())
    """Aim's: {"repo", "experiment", "run_hash"}. Default: a new run in the repository that Aim
    finds (the folder `.aim` here or above, else a new one here), experiment by `project`."""

    @property
    def handle_log_dir(self) -> str:
        """The folder of what is logged by the handle, without a SummaryWriter; "" for none."""
        log_dir = self.log_dir
        if log_dir is None and "tensorboard" in self.backend:
            log_dir = os.path.join("runs", file_name(self.exp_name))
        return "" if log_dir is None else os.path.abspath(log_dir)


OPTION_NAMES = frozenset(each.name for each in fields(Options))
_CALL_ARGUMENTS = ("exp_name", "project", "backend")
# Arguments of Task.init that are no options, and what to do instead.
_REFUSED = {
    "project_name": "is start_logging's argument `project`",
    "deferred_init": "can't be used: tracelet needs the task's id at once",
    **{name: f"is an argument of start_logging itself: start_logging({name}=...)"
       for name in _CALL_ARGUMENTS},
}  # fmt: skip
_KINDS: dict[str, Kind] = {each.name: each.metadata["kind"] for each in fields(Options)}


def resolve_options(
    exp_name: str | None,
    project: str | None,
    backend: str | Sequence[str] | None,
    config: Mapping[str, Any] | None,
) -> Options:
    """The options of a run from `start_logging`'s arguments, the environment and the defaults.

    Raises ConfigurationError (a ValueError; a TypeError too for a wrong type) that names the
    option, what was given and the fix.
    """
    given = _given(exp_name, project, backend, config)
    values: dict[str, Any] = {}
    for name, kind in _KINDS.items():
        if given.get(name) is not None:
            values[name] = kind.check(name, given[name])
        # An exp_name that is an argument is not to lose against a variable.
        elif not (name == "task_name" and exp_name is not None):
            value = from_environment(name)
            if value is not None:
                values[name] = value
    environment.warn_of_unknown_variables(list(_KINDS))
    values.setdefault("exp_name", _default_exp_name())
    if "runs_dir" not in values:
        values["runs_dir"] = default_runs_dir()
    values.setdefault("aggregate", {})
    values.setdefault("ranks", {})
    options = Options(**values)
    _check_together(options)
    return options


def from_environment(name: str) -> Any:
    """The value that the environment gives an option, or None. Raises ConfigurationError."""
    found = environment.option_text(name)
    if found is None:
        return None
    variable, text = found
    kind = _KINDS[name]
    try:
        value = kind.parse(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{variable}={describe_text(text)}: {name} must be {kind.wanted}"
        ) from error
    return kind.check(f"{variable}={describe_text(text)}: {name}", value)


def check_seconds(name: str, value: Any) -> float:
    """A time-out given to a call. Raises as `resolve_options` does."""
    return Seconds().check(name, value)


def _given(
    exp_name: str | None,
    project: str | None,
    backend: str | Sequence[str] | None,
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    if config is not None and not isinstance(config, Mapping):
        raise OptionTypeError(f"config must be a mapping of options, not {describe(config)}")
    given = dict(config or {})
    known = [name for name in _KINDS if name not in _CALL_ARGUMENTS]
    for key in given:
        if key in _REFUSED:
            raise ConfigurationError(f"config has no option {key!r}: it {_REFUSED[key]}")
        if key not in known:
            near = nearest(key, known) if isinstance(key, str) else None
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigurationError(f"config has no option {describe(key)}; {hint}")
    given.update(exp_name=exp_name, project=project, backend=backend)
    return given


def _default_exp_name() -> str:
    script = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    name = file_name(script)  # the script's name may be anything
    return name if len(name) >= 3 else "experiment"


def _check_together(options: Options) -> None:
    """What two options must agree on."""
    if options.tensorboard != "native" and set(options.backend) <= {"tensorboard"}:
        raise ConfigurationError(
            f"tensorboard={options.tensorboard!r} leaves a run without another backend nothing to "
            "do: choose 'native', or name a backend besides 'tensorboard'"
        )
