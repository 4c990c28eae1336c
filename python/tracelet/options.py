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
from tracelet.errors import ConfigurationError

TASK_TYPES = (
    "training", "testing", "inference", "data_processing", "application", "monitor",
    "controller", "optimizer", "service", "qc", "custom",
)  # fmt: skip
REDUCTIONS = ("mean", "last", "min_max")
JOURNAL_OVERFLOWS = ("block", "drop_oldest", "drop_new")
TENSORBOARD_MODES = ("native", "passthrough", "off")


def _option(kind: str, default: Any = None) -> Any:
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class Options:
    """The options of one run. Units are in the names; bytes and seconds throughout."""

    # Who and where.
    exp_name: str = _option("str")
    """The experiment's name; default: the script's name."""
    project: str = _option("str", "Default Project")
    """The project's name; "A/B" nests on ClearML."""
    backend: tuple[str, ...] = _option("list", ("clearml",))
    """The sinks besides the event files: "clearml", "tensorboard" (event files alone), names given
    to `register_sink`."""
    log_dir: str | None = _option("str")
    """Folder of the event file for `Experiment.log_metric`. None: no event file for those points,
    unless "tensorboard" is the backend, which takes runs/EXP_NAME."""
    tensorboard: str = _option("str", "native")
    """Who writes the event files of the SummaryWriters. "native": tracelet, in its drainer.
    "passthrough": torch's (and tensorboardX') own writer as ever, at its cost, some 100 us an
    add_scalar; the backends get everything too. "off": nobody; calls cost what native ones do."""
    runs_dir: str = _option("str", "~/.tracelet/runs")
    """Where each run has its folder (also `TRACELET_DIR`)."""

    # The pipeline.
    ring_slots: int = _option("int", 1 << 17)
    """Points the ring holds, of 64 bytes each; a power of two. At 1,000,000 points a second the
    default is 131 ms of them."""
    ring_dir: str | None = _option("str")
    """Folder of the ring's file; default: shared memory when it has room, else the run's folder."""
    full_ring_timeout_s: float = _option("float", 10.0)
    """How long a call may wait for room in a full ring before its point is dropped and counted."""
    payload_bytes: int = _option("int", 16 << 20)
    """Room for the histograms and events (images, text ...) on their way from the ring, besides its
    slots: a histogram takes some hundred bytes to some thousand, and can't be larger; an event of
    more than a quarter of it goes by a file in the run's folder."""
    journal_limit_bytes: int = _option("int", 4 << 30)
    """What the journal may take on disk while a backend stays away: 64 bytes a scalar. 1 MiB or
    more."""
    journal_overflow: str = _option("str", "block")
    """What happens then. "block": the drainer waits for room once, `full_ring_timeout_s`, while the
    ring fills and calls wait; then new points are dropped until there is room. "drop_new": they are
    dropped at once. "drop_oldest": the oldest ones are, a segment at a time. Counted under "journal
    full", with one warning; event files keep every point."""
    drain_interval_s: float = _option("float", 0.25)
    """The drainer wakes this often, and whenever the ring is half full."""
    batch_max_points: int = _option("int", 20_000)
    """A request to a server holds at most so many points ..."""
    batch_max_bytes: int = _option("int", 8 << 20)
    """... and about so many bytes ..."""
    batch_max_age_s: float = _option("float", 2.0)
    """... and waits at most so long for more of them."""
    stop_timeout_s: float = _option("float", 30.0)
    """How long `stop_logging` may take."""
    exit_timeout_s: float = _option("float", 30.0)
    """How long the flush may take when the process ends without `stop_logging`."""
    journal_sync_interval_s: float = _option("float", 1.0)
    """What waits for a sink is on disk, and synced to it this often: what a loss of power may take.
    The death of the process takes none of it. 0: whenever the operating system does."""
    aggregate: Mapping[str, Mapping[str, Any]] = _option("mapping")
    """Tag pattern (as in fnmatch) to {"every_steps": n or "every_s": seconds, "reduce": "mean",
    "last" or "min_max"}: those points are folded before they are shipped; the event file keeps
    every point. The first pattern that matches counts. Default: nothing is folded."""

    # Histograms.
    histogram_threads: int = _option("int", 0)
    """Threads `add_histogram` may use for one call. 0: it chooses, see `tracelet.histogram`."""
    histogram_view_interval_s: float = _option("float", 60.0)
    """How often ClearML gets a series' histograms over time anew; the last ones come at the end."""

    # ClearML's task: the arguments of Task.init, as the SDK documents them, and what is set on it.
    task_name: str | None = _option("str")
    """The task's name, where it is to differ from exp_name. Arguments of start_logging win over
    variables: config's task_name, exp_name, TRACELET_TASK_NAME, TRACELET_EXP_NAME,
    CLEARML_TASK_NAME, the script's name."""
    task_type: str = _option("str", "training")
    """One of TASK_TYPES."""
    tags: Sequence[str] | None = _option("list")
    output_uri: str | bool | None = _option("bool or str")
    """Where artifacts and models go: a URL or folder; True and None: the file server. With None,
    models that ClearML's own bindings catch are registered where they lie, without an upload."""
    auto_connect_frameworks: bool | Mapping[str, Any] = _option("bool or mapping", True)
    """As in Task.init; its TensorBoard part is always off, that is what tracelet does."""
    auto_connect_arg_parser: bool | Mapping[str, bool] = _option("bool or mapping", True)
    auto_resource_monitoring: bool | Mapping[str, Any] = _option("bool or mapping", True)
    auto_connect_streams: bool | Mapping[str, bool] = _option("bool or mapping", True)
    continue_last_task: bool | str | int = _option("bool or str", False)
    """True or 0: goes on with the last task of this project and name; a task's id: with that one.
    Points keep the steps they are logged with, those of a step that is there are overwritten.
    Other than in Task.init no iteration is shifted, and a number above 0 is refused."""
    reuse_last_task_id: bool | str = _option("bool or str", False)
    """As in Task.init, but off by default: True resets the last task of this name and uses it."""
    random_seed: bool | int = _option("bool or int", True)
    """What the SDK seeds random, numpy and torch with at the start: a number; True: its own default
    (1337, or Task.set_random_seed); False: they are left alone."""
    comment: str | None = _option("str")
    """The task's description."""
    docker: str | Mapping[str, Any] | None = _option("str or mapping")
    """What an agent runs the task in: an image, or {"image", "arguments", "setup_bash_script"}."""
    child_task: bool = _option("bool", False)
    """When the process has a current ClearML task of another name: whether the run gets a task of
    its own, as its child, or logs to the current one. Default: it gets one in a `with
    tracelet.logging` block with a name."""

    @property
    def handle_log_dir(self) -> str:
        """The folder of what is logged by the handle, without a SummaryWriter; "" for none."""
        log_dir = self.log_dir
        if log_dir is None and "tensorboard" in self.backend:
            log_dir = os.path.join("runs", self.exp_name)
        return "" if log_dir is None else os.path.abspath(log_dir)


OPTION_NAMES = frozenset(each.name for each in fields(Options))
_LEAST_PAYLOAD_BYTES = 1 << 16
_LEAST_JOURNAL_BYTES = 1 << 20
_CALL_ARGUMENTS = ("exp_name", "project", "backend")
# Arguments of Task.init that are no options, and what to do instead.
_REFUSED = {
    "project_name": "is start_logging's argument `project`",
    "deferred_init": "can't be used: tracelet needs the task's id at once",
    **{name: f"is an argument of start_logging itself: start_logging({name}=...)"
       for name in _CALL_ARGUMENTS},
}  # fmt: skip
_DOCKER_KEYS = {"image", "arguments", "setup_bash_script"}


def resolve_options(
    exp_name: str | None,
    project: str | None,
    backend: str | Sequence[str] | None,
    config: Mapping[str, Any] | None,
) -> Options:
    """The options of a run from `start_logging`'s arguments, the environment and the defaults.

    Raises ConfigurationError (a ValueError) naming the option and the fix, TypeError for a
    `config` that is no mapping.
    """
    given = _given(exp_name, project, backend, config)
    values: dict[str, Any] = {}
    for each in fields(Options):
        value = given.get(each.name)
        # An exp_name that is an argument is not to lose against a variable.
        is_named = each.name == "task_name" and exp_name is not None
        if value is None and not is_named:
            value = environment.read_option(each.name, each.metadata["kind"])
        if value is not None:
            values[each.name] = value
    values.setdefault("exp_name", _default_exp_name())
    values["backend"] = _backends(values.get("backend", Options.backend))
    values["runs_dir"] = os.path.expanduser(str(values.get("runs_dir", Options.runs_dir)))
    values["aggregate"] = values.get("aggregate") or {}
    options = Options(**values)
    _check(options)
    return options


def _given(
    exp_name: str | None,
    project: str | None,
    backend: str | Sequence[str] | None,
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"config must be a mapping of options, not {type(config).__name__}")
    given = dict(config or {})
    known = [each.name for each in fields(Options) if each.name not in _CALL_ARGUMENTS]
    for key in given:
        if key in _REFUSED:
            raise ConfigurationError(f"config has no option {key!r}: it {_REFUSED[key]}")
        if key not in known:
            import difflib

            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigurationError(f"config has no option {key!r}; {hint}")
    given.update(exp_name=exp_name, project=project, backend=backend)
    return given


def _default_exp_name() -> str:
    script = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    return script if len(script) >= 3 else "experiment"


def _backends(backend: Any) -> tuple[str, ...]:
    names = backend.split(",") if isinstance(backend, str) else backend
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"backend must be a name or a list of names, not {backend!r}")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _check(options: Options) -> None:
    for name in ("exp_name", "project"):
        if not isinstance(getattr(options, name), str):
            raise TypeError(f"{name} must be a str, not {getattr(options, name)!r}")
    if options.task_type not in TASK_TYPES:
        raise ConfigurationError(
            f"task_type {options.task_type!r} is not one of {', '.join(TASK_TYPES)}"
        )
    if options.tensorboard not in TENSORBOARD_MODES:
        raise ConfigurationError(
            f"tensorboard must be one of {', '.join(TENSORBOARD_MODES)}, not "
            f"{options.tensorboard!r}"
        )
    if options.tensorboard != "native" and set(options.backend) <= {"tensorboard"}:
        raise ConfigurationError(
            f"tensorboard={options.tensorboard!r} leaves a run without another backend nothing to "
            "do: choose 'native', or name a backend besides 'tensorboard'"
        )
    if options.ring_slots < 16 or options.ring_slots & (options.ring_slots - 1):
        raise ConfigurationError(
            f"ring_slots must be a power of two, 16 or more, not {options.ring_slots}"
        )
    if options.payload_bytes < _LEAST_PAYLOAD_BYTES:
        raise ConfigurationError(
            f"payload_bytes must be {_LEAST_PAYLOAD_BYTES} or more, not {options.payload_bytes}"
        )
    if options.histogram_threads < 0:
        raise ConfigurationError(
            f"histogram_threads must be 0 (it chooses) or more, not {options.histogram_threads}"
        )
    if options.journal_overflow not in JOURNAL_OVERFLOWS:
        raise ConfigurationError(
            f"journal_overflow must be one of {', '.join(JOURNAL_OVERFLOWS)}, not "
            f"{options.journal_overflow!r}"
        )
    if options.journal_limit_bytes < _LEAST_JOURNAL_BYTES:
        raise ConfigurationError(
            f"journal_limit_bytes must be {_LEAST_JOURNAL_BYTES} or more, not "
            f"{options.journal_limit_bytes}"
        )
    for name in ("drain_interval_s", "batch_max_points", "batch_max_bytes", "stop_timeout_s"):
        if not getattr(options, name) > 0:
            raise ConfigurationError(f"{name} must be positive, not {getattr(options, name)!r}")
    _check_clearml(options)
    if not options.journal_sync_interval_s >= 0:
        raise ConfigurationError(
            f"journal_sync_interval_s must be 0 (never) or more, not "
            f"{options.journal_sync_interval_s!r}"
        )
    for pattern, rule in options.aggregate.items():
        _check_rule(pattern, rule)


def _check_clearml(options: Options) -> None:
    tags = options.tags
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags or ()):
        raise TypeError(f'tags must be a list of str, like ["baseline"], not {tags!r}')
    number = options.continue_last_task
    if isinstance(number, int) and number not in (0, 1):
        raise ConfigurationError(
            f"continue_last_task={number!r}: tracelet shifts no iteration; give True, False or a "
            "task's id, and log the steps you mean"
        )
    for name in ("frameworks", "arg_parser", "streams"):
        value = getattr(options, f"auto_connect_{name}")
        if not isinstance(value, (bool, Mapping)):
            raise TypeError(f"auto_connect_{name} must be a bool or a mapping, not {value!r}")
    docker = options.docker
    if isinstance(docker, Mapping) and (not docker.get("image") or set(docker) - _DOCKER_KEYS):
        raise ConfigurationError(
            f"docker takes {', '.join(sorted(_DOCKER_KEYS))} and needs 'image': {dict(docker)!r}"
        )
    if docker is not None and not isinstance(docker, (str, Mapping)):
        raise TypeError(f"docker must be an image's name or a mapping, not {docker!r}")


def _check_rule(pattern: str, rule: Any) -> None:
    where = f"aggregate[{pattern!r}]"
    if not isinstance(rule, Mapping):
        raise ConfigurationError(f'{where} must be like {{"every_steps": 100, "reduce": "mean"}}')
    unknown = set(rule) - {"every_steps", "every_s", "reduce"}
    if unknown:
        raise ConfigurationError(f"{where} has no {unknown.pop()!r}: every_steps, every_s, reduce")
    if ("every_steps" in rule) == ("every_s" in rule):
        raise ConfigurationError(f"{where} needs one of every_steps and every_s")
    every = rule.get("every_steps", rule.get("every_s"))
    is_number = isinstance(every, (int, float)) and not isinstance(every, bool)
    if not is_number or every <= 0 or ("every_steps" in rule and every != int(every)):
        raise ConfigurationError(f"{where}: the window must be positive, not {every!r}")
    if rule.get("reduce", "mean") not in REDUCTIONS:
        raise ConfigurationError(
            f"{where}: reduce must be one of {', '.join(REDUCTIONS)}, not {rule['reduce']!r}"
        )
