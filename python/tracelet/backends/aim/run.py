"""The SDK's run: made, gone on with, written to and closed.

What is used of Aim's inside (3.29) is used here, and is done without where it is another one.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import inspect
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

from tracelet.backends.aim.params import ParamTree, storable
from tracelet.backends.deadline import within
from tracelet.errors import BackendError, SinkUnavailableError
from tracelet.fork import renew_at_fork
from tracelet.runs.ownership import is_own_folder

REFUSED = "refused by aim"
OURS = "tracelet"
"""What we tell of a run, among its parameters."""
_END_TIME_S = 253_402_300_800.0  # a wall time beyond it is none
_MEMORY_OF_RUNS_S = 0.6  # 0.5 in Aim 3.29 (`Repo._all_run_hashes`)
_LOCAL_S = 120.0  # a new repository takes seconds, and a slow disk longer
_REFUSALS = (ValueError, TypeError, OverflowError)

Track = Callable[[Mapping[str, Any], int, float], None]


def open_run(
    repo: str | None, run_hash: str | None, timeout_s: float, *, is_forced: bool = False
) -> AimRun:
    """A new run, or with a hash one that is gone on with. `is_forced`: whoever has its lock is
    dead. Raises BackendError."""

    def make_once() -> Any:
        import aim

        return aim.Run(
            run_hash, repo=repo, force_resume=is_forced, system_tracking_interval=None,
            capture_terminal_logs=False, log_system_params=False,
        )  # fmt: skip

    def make() -> Any:
        from aim.sdk.errors import MissingRunError

        try:
            return make_once()
        except MissingRunError:  # or one that is as young as Aim's memory of which there are
            time.sleep(_MEMORY_OF_RUNS_S)
            return make_once()

    timeout_s = max(timeout_s, _LOCAL_S)
    return AimRun(within("aim", timeout_s, "open the run", make, lambda late: late.close()))


def check_own(repo: str, run_hash: str) -> None:
    """A run's folder may be made up: it names a repository of this user's that has the run, or
    nothing is written there. Raises BackendError."""
    inner = os.path.join(repo, _inner_name())
    chunk = os.path.join(inner, "meta", "chunks", run_hash)
    is_name = run_hash == os.path.basename(run_hash) and run_hash not in ("", ".", "..")
    if not (is_name and is_own_folder(inner) and is_own_folder(chunk)):
        raise BackendError(f"aim: the run {run_hash} is not in {repo}, or is another user's")


def lock_text(repo: str, run_hash: str) -> str:
    """What the file says by which a process holds a run: machine, process and time. Empty where
    there is none, or Aim has it elsewhere."""
    path = os.path.join(repo, _inner_name(), "locks", f"{run_hash}.softlock")
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(1_000)
    except (OSError, ValueError):
        return ""


def _inner_name() -> str:
    from aim.sdk.configs import get_aim_repo_name

    return str(get_aim_repo_name())


class AimRun:
    """One run of the SDK's, which is not made for several threads: any thread may call this one.

    Each write has been given to the system when it returns, so a killed process loses none.
    """

    def __init__(self, sdk: Any) -> None:
        self.sdk = sdk  # None once it is closed
        self.hash = str(sdk.hash)
        self.repo = os.path.abspath(sdk.repo.root_path)
        self._track: Any = _track_of(sdk)
        self._lock = threading.RLock()
        self._params: ParamTree | None = None
        self._pid = os.getpid()
        renew_at_fork(self)

    def renew_in_child(self) -> None:
        self._lock = threading.RLock()
        if self.sdk is not None and self._pid != os.getpid():
            # Else the SDK notes the parent's run as ended there, and lets go of its lock.
            self._forget()
            self._keep_for_good()

    def _containers(self) -> list[Any]:
        """Aim's databases that are open for this run."""
        pool = self.sdk.repo.container_pool
        return [container for config, container in list(pool.items()) if config.sub == self.hash]

    def _forget(self) -> None:
        """Has neither the garbage collector nor the exit end the run."""
        with contextlib.suppress(Exception):  # Aim's inside may be another one
            self.sdk._resources.finalizer.detach()
            for container in self._containers():
                container._resources.finalizer.detach()

    def _keep_for_good(self) -> None:
        """In a forked child a database's end is a segmentation fault: its threads are not there."""
        with contextlib.suppress(Exception):  # Aim's inside may be another one
            for container in self._containers():
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(container._resources._db))

    def track(self, values: Mapping[str, Any], step: int, wall_time_s: float) -> list[str]:
        """Writes values of one step, by name. Returns the names of those that Aim refuses for good.
        Raises SinkUnavailableError."""
        with self._lock, self._as_unavailable():
            try:
                self._track(values, step, wall_time_s)
                return []
            except _REFUSALS:
                if len(values) == 1:
                    return list(values)
        return [name for name in values if self.track({name: values[name]}, step, wall_time_s)]

    def set_params(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        """Adds parameters ("a/b" is b below a). Returns those that are refused, with the reason.
        Raises SinkUnavailableError."""
        refused: dict[str, str] = {}
        with self._lock, self._as_unavailable():
            if self._params is None:
                self._params = ParamTree(self.sdk.get(..., {}) or {})
            for name, value in params.items():
                try:
                    self.sdk.set(self._params.place(name), storable(value))
                except _REFUSALS as error:
                    refused[name] = str(error)
        return refused

    def tell(self, name: str, value: Any) -> None:
        """Notes something of ours. Raises SinkUnavailableError."""
        with self._lock, self._as_unavailable():
            self.sdk.set((OURS, name), value)

    def told(self, name: str) -> Any:
        with self._lock, self._as_unavailable():
            return self.sdk.get((OURS, name))

    def describe(self, about: Mapping[str, Any]) -> None:
        """Sets tags and notes, as `Description` has them; others' tags stay. Also "name" and
        "experiment". Raises SinkUnavailableError."""
        with self._lock, self._as_unavailable():
            for ours, theirs in (
                ("name", "name"), ("experiment", "experiment"), ("notes", "description"),
            ):  # fmt: skip
                if ours in about:
                    setattr(self.sdk, theirs, about[ours])
            wanted = dict.fromkeys(about.get("tags", ()))
            for tag in {*about.get("gone", ())} - wanted.keys():
                self.sdk.remove_tag(tag)
            for tag in wanted:
                if tag and tag not in self.sdk.tags:
                    self.sdk.add_tag(tag)

    def put_artifact(self, path: str, name: str) -> None:
        """Copies a file to the run's artifacts, under its name there. Raises SinkUnavailableError,
        OSError."""
        with self._lock:
            if self.sdk.artifacts_uri is None:
                folder = os.path.join(self.sdk.repo.path, "artifacts")
                self.sdk.set_artifacts_uri(f"file://{folder}")
            _unguarded(self.sdk, "log_artifact")(self.sdk, path, name, block=True)

    def close(self) -> None:
        """Its files are closed when nobody holds the SDK's run any more: then another process may
        open it."""
        with self._lock:
            sdk = self.sdk
            if sdk is None:
                return
            try:
                sdk.close()
            finally:
                self.sdk = self._track = self._params = None

    def let_process_end(self) -> None:
        """Aim's hook at the exit waits without a limit for a thread that closes every run: this one
        hangs in it. What it lacks is in tracelet's folder, for `tracelet sync`."""
        if self.sdk is None:
            return
        with contextlib.suppress(Exception):  # Aim's inside may be another one
            from aim.ext.cleanup import AutoClean

            self._forget()
            AutoClean.stop_signal.set()

    @contextlib.contextmanager
    def _as_unavailable(self) -> Any:
        try:
            yield
        except (SinkUnavailableError, *_REFUSALS):
            raise
        except Exception as error:  # the disk is full, the database locked
            with contextlib.suppress(Exception):  # else its session stays in the failed transaction
                self.sdk.props._session.rollback()
            raise SinkUnavailableError(f"aim's repository: {error!s:.300}") from error


def _track_of(sdk: Any) -> Track:
    """What takes a point's own time: `Run.track` puts that of its call in, and may leave the point
    to a thread of Aim's, or log its failure and return (`enable_safe_mode`)."""
    inner = getattr(getattr(sdk, "_tracker", None), "_track", None)
    with contextlib.suppress(TypeError, ValueError):
        if list(inspect.signature(inner).parameters)[:4] == ["value", "track_time", "name", "step"]:  # type: ignore[arg-type]
            return lambda values, step, time_s: inner(values, _time_of(time_s), step=step)  # type: ignore[misc]
    outer = _unguarded(sdk, "track")
    return lambda values, step, time_s: outer(sdk, values, step=step)


def _unguarded(sdk: Any, name: str) -> Callable[..., Any]:
    """A method without what turns its exceptions into lines of a log."""
    method = getattr(type(sdk), name)
    return getattr(method, "__wrapped__", method)  # type: ignore[no-any-return]


def _time_of(wall_time_s: float) -> float:
    """That of now for what is no time of the years 1970 to 9999: Aim could not show the series."""
    if 0 < wall_time_s < _END_TIME_S:
        return wall_time_s
    return datetime.datetime.now(datetime.timezone.utc).timestamp()
