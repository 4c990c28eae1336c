"""The start of a run on ClearML, which ends in time: online, or offline when the server is away.

The SDK repeats a request hundreds of times, with pauses of up to two minutes, wherever it has one:
when it makes its session, in Task.init, in the import of its own models. Here each of them is tried
by us instead, with one deadline for all of the start.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from typing import Any, Callable, Generic, TypeVar

from tracelet.backends.clearml.create_once import CreateOnce

_log = logging.getLogger("tracelet")

_T = TypeVar("_T")

# A server that is being started, or sick, says so; it may be well a moment later.
_NOT_NOW = (429, 500, 502, 503, 504)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0
# Of the time, while no request was ever answered: a host that refuses is away, not slow.
_PATIENCE = 1 / 3
_SILENT_S = 4.0  # a start that takes longer says what it waits for
_OFFLINE = "CLEARML_OFFLINE_MODE"


class ServerAwayError(SystemExit):
    """The server did not do in time what the start needs.

    It passes through the SDK, which catches every Exception and repeats, and a thread of the SDK
    ends by it without a word. It never leaves this package.
    """


class StartDeadline:
    """Bounds the SDK's requests while a task is made. One at a time in a process.

    As a context manager: of the thread that entered it, and of those started since, each request
    raises ServerAwayError once the time is over. Other threads are left alone: they belong to a
    task that is there already.
    """

    def __init__(
        self, timeout_s: float, is_renewed: bool = False, creation: CreateOnce | None = None
    ) -> None:
        """`is_renewed`: the time begins anew with each answer. `creation`: of the task to make."""
        self.timeout_s = timeout_s
        self.creation = creation or CreateOnce()
        self._is_renewed = is_renewed
        self.refused: list[str] = []
        """What the server answered to points that it did not take."""
        self.deadline_s = time.monotonic() + timeout_s
        self._patience_s = self.deadline_s - timeout_s * (1 - _PATIENCE)
        self._others: set[int | None] = set()
        self._retries: dict[Any, Any] = {}  # adapters, and what they have for `max_retries`
        self._was_answered = False
        self._has_told = False
        self.made_task_id: str | None = None
        """The task that the server has made, as long as nobody else knows of it."""

    def __enter__(self) -> StartDeadline:
        from clearml.backend_api import utils

        self._adapter_class = utils.TLSv1HTTPAdapter
        self._send = self._adapter_class.send
        self._own_send = vars(self._adapter_class).get("send")
        this = threading.get_ident()
        self._others = {thread.ident for thread in threading.enumerate() if thread.ident != this}
        deadline = self

        def send(adapter: Any, request: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() in deadline._others:
                return deadline._send(adapter, request, *args, **options)
            return deadline._request(adapter, request, *args, **options)

        self._adapter_class.send = send
        return self

    def __exit__(self, *_: object) -> None:
        if self._own_send is None:
            del self._adapter_class.send  # it is inherited
        else:
            self._adapter_class.send = self._own_send
        for adapter, retries in self._retries.items():
            adapter.max_retries = retries

    @property
    def left_s(self) -> float:
        return self.deadline_s - time.monotonic()

    def _request(self, adapter: Any, request: Any, *args: Any, **options: Any) -> Any:
        """The answer to one request, tried again until the time is over."""
        import requests
        from urllib3.util import Retry

        self._retries.setdefault(adapter, adapter.max_retries)
        adapter.max_retries = Retry(0, read=False)

        def send(asked: Any) -> Any:
            answer = self._send(adapter, asked, *args, **options)
            if not options.get("stream"):
                answer.content  # noqa: B018  here, where a deadline holds: its bytes may dribble
            return answer

        def attempt() -> Any:
            creation = self.creation
            return self._create(request, send) if creation.is_meant(request) else send(request)

        pause_s, why = _FIRST_PAUSE_S, ""
        while True:
            try:
                answer = in_time(attempt, self.left_s)
            except TimeoutError:
                raise ServerAwayError(why or f"no answer in {self.timeout_s:g} s") from None
            except requests.RequestException as error:
                why = _reason(error)
                if not self._was_answered and time.monotonic() >= self._patience_s:
                    raise ServerAwayError(why) from None
            else:
                if answer.status_code not in _NOT_NOW:
                    self._was_answered = True
                    if self._is_renewed:
                        self.deadline_s = time.monotonic() + self.timeout_s
                    self._note_answer(request, answer)
                    return answer
                why = f"it answers {answer.status_code}"
            self._tell(why)
            # Up to the end of the patience, and no later, for it is looked at then. Behind it there
            # is a pause as well: a server that says 503 is not asked without one.
            patience_s = self._patience_s - time.monotonic()
            most_s = self.left_s if self._was_answered or patience_s <= 0 else patience_s
            time.sleep(max(0.0, min(pause_s, most_s, self.left_s)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _create(self, request: Any, send: Callable[[Any], Any]) -> Any:
        """The answer to tasks.create: a task that was made by a request whose answer was lost is
        looked for before another one is made."""
        creation = self.creation
        if creation.is_unsure:
            found = send(creation.question(request))
            if found.status_code != 200:
                return found
            if (answer := creation.answer(found)) is not None:
                return answer
        creation.is_unsure = True
        answer = send(creation.marked(request))
        creation.is_unsure = answer.status_code in _NOT_NOW  # of a proxy that waited no longer
        return answer

    def _tell(self, why: str) -> None:
        is_long = self.timeout_s - self.left_s >= _SILENT_S
        if is_long and not self._has_told:
            self._has_told = True
            _log.warning(
                "tracelet: ClearML's server can't be used now (%s); waiting for it, for %.0f s at "
                "most (option start_timeout_s)", why, max(0.0, self.left_s),
            )  # fmt: skip

    def _note_answer(self, request: Any, answer: Any) -> None:
        path = str(request.url).partition("?")[0]
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if path.endswith("/tasks.create"):
                self.made_task_id = str(answer.json()["data"]["id"])
        if path.endswith("/events.add_batch") and answer.status_code != 200:
            self.refused.append(f"{answer.status_code}: {answer.text[:300]}")


class Work(Generic[_T]):
    """Something that is done by a thread, which is left behind when it takes too long: looking up a
    host's name, for one, knows no time-out."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._work = work
        self._outcome: list[Any] = []
        self._thread = threading.Thread(target=self._run, name="tracelet-request", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.extend((True, self._work()))
        except BaseException as error:
            self._outcome.extend((False, error))

    def result(self, timeout_s: float) -> _T:
        """What it returned or raised; TimeoutError when that takes longer."""
        self._thread.join(max(0.0, timeout_s))
        if len(self._outcome) < 2:
            raise TimeoutError
        is_done, result = self._outcome
        if is_done:
            return result  # type: ignore[no-any-return]
        raise result


def in_time(work: Callable[[], _T], timeout_s: float) -> _T:
    """What `work` returns or raises; TimeoutError when that takes longer."""
    if timeout_s <= 0:
        raise TimeoutError
    return Work(work).result(timeout_s)


def _reason(error: Exception) -> str:
    """Why a request failed, in a few words: the SDK's libraries nest five exceptions."""
    words = str(error)
    for sign, reason in (
        ("refused", "connection refused"),
        ("resolve", "its name can't be resolved"),
        ("Name or service", "its name can't be resolved"),
        ("timed out", "no answer"),
        ("certificate", "its certificate is not trusted"),
        ("unreachable", "the network is unreachable"),
    ):
        if sign in words:
            return reason
    return f"{type(error).__name__}: {words}"[:200]


def api_host() -> str:
    """The API server's address, as far as it may be shown."""
    from clearml.backend_api import Session

    return str(Session.get_api_server_host()).rpartition("@")[2]


def go_online(task_class: Any) -> None:
    """Ends offline mode, and connects sessions that were made in it: requests are sent."""
    from clearml.backend_api import Session

    if task_class.is_offline():
        task_class.set_offline(False)
    for session in list(Session._get_all_active_sessions()):
        if not hasattr(session, "_Session__host"):
            session._connect()


class OfflineStandIn:
    """Offline mode for one run, because the server is away; as it was before by `end`."""

    def __init__(self, task_class: Any, made_task_id: str | None, token: str | None) -> None:
        self.made_task_id = made_task_id
        """A task that the server has made before it was given up: the session goes into it."""
        self.token = token
        """Of one that it may have made (CreateOnce)."""
        self._before = os.environ.get(_OFFLINE)
        task_class.set_offline(True)

    def end(self) -> None:
        """The SDK itself stays offline until a run or a command of ours needs it: what it has
        bound to the session's task (argparse) would wait for an answer for ever."""
        if self._before is None:
            os.environ.pop(_OFFLINE, None)
        else:
            os.environ[_OFFLINE] = self._before


def end_with_process(task: Any, failure: BaseException | None) -> None:
    """Ends the current task as the SDK's hook at the end of the process would: completed, failed or
    stopped. The hook itself does nothing afterwards."""
    hooks = getattr(task, "_Task__exit_hook", None)
    if hooks is not None and hooks.signal is None and isinstance(failure, KeyboardInterrupt):
        hooks.signal = signal.SIGINT  # stopped by hand, or by a scheduler
    task._at_exit()


def let_process_end(task: Any) -> None:
    """Takes the hooks of the SDK off the end of the process that join its threads: its own, and the
    closing of its log handler, by the standard library."""
    atexit.unregister(task._at_exit)
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        handler: Any = reference()
        if handler is not None and type(handler).__module__.startswith("clearml."):
            handler.flush = handler.close = lambda *_, **__: None


def abandon_task(task_class: Any) -> None:
    """Makes the SDK forget a task whose Task.init did not come to its end, or that can't be closed.

    Its threads would wait for the server for hours, and its hook at the end of the process, too.
    """
    task = getattr(task_class, "_Task__main_task", None)
    if task is None:
        return
    task._at_exit_called = True  # its shutdown returns at once
    atexit.unregister(task._at_exit)
    for monitor, end in (("_dev_worker", "unregister"), ("_resource_monitor", "stop")):
        with contextlib.suppress(Exception):
            getattr(getattr(task, monitor), end)()
    with contextlib.suppress(Exception):
        from clearml.backend_interface.logger import StdStreamPatch

        StdStreamPatch.remove_std_logger()
    task_class._Task__main_task = None
    task_class._Task__forked_proc_main_pid = None
    from clearml.config.defs import PROC_MASTER_ID_ENV_VAR

    # Else Task.current_task(), of a process that seems to have been started by one with a task,
    # makes a new task.
    if str(PROC_MASTER_ID_ENV_VAR.get() or "").partition(":")[0] == str(os.getpid()):
        PROC_MASTER_ID_ENV_VAR.set("")
