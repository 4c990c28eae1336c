"""The start on ClearML by a clock and a server that are played: what is repeated, and how long."""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
from functools import partial
from types import SimpleNamespace

import pytest

pytest.importorskip("clearml")

import requests
from clearml.backend_api.utils import TLSv1HTTPAdapter
from tracelet.backends.clearml import server_checks as checks
from tracelet.backends.clearml import start as module
from tracelet.backends.clearml.create_once import CreateOnce, query
from tracelet.backends.clearml.start import (
    OfflineStandIn,
    ServerAwayError,
    StartDeadline,
    Work,
    _reason,
    abandon_task,
    end_with_process,
    go_online,
    in_time,
    let_process_end,
)


class Clock:
    def __init__(self):
        self.now_s = 1_000.0
        self.pauses = []

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        assert seconds >= 0
        assert len(self.pauses) < 1_000
        self.pauses.append(seconds)
        self.now_s += max(seconds, 0.001)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)

    def in_time(work, timeout_s):
        if timeout_s <= 0:
            raise TimeoutError
        return work()

    monkeypatch.setattr(module, "in_time", in_time)
    return clock


def answer(status=200, **content):
    return SimpleNamespace(
        status_code=status, content=b"", text="words " * 100, json=lambda: content
    )


class Adapter:
    max_retries = "theirs"


class Server:
    """Gives its answers one by one, the last one again and again."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def __call__(self, adapter, request, *args, **options):
        self.asked.append(request)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(found):
            found = found()
        if isinstance(found, BaseException):
            raise found
        return found


REFUSED = requests.ConnectionError("Connection refused")


def request_of(url="http://host/api/tasks.get_all", body=b"{}"):
    made = requests.Request("POST", url, data=body).prepare()
    return made


def deadline_of(server, timeout_s=30.0, **more):
    made = StartDeadline(timeout_s, **more)
    made._send = server
    return made


def ask(deadline, request=None, **options):
    adapter = Adapter()
    return deadline._request(adapter, request or request_of(), **options)


def test_a_server_that_comes_back_is_waited_for_with_pauses_that_grow(clock):
    good = answer()
    server = Server(answer(503), REFUSED, answer(502), answer(500), answer(429), answer(504), good)
    assert ask(deadline_of(server, 300.0)) is good
    assert clock.pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


def test_a_host_that_refuses_is_away_after_a_third_of_the_time(clock):
    server = Server(REFUSED)
    with pytest.raises(ServerAwayError, match="connection refused"):
        ask(deadline_of(server, 30.0))
    assert 10.0 <= clock.now_s - 1_000 < 10.1


def test_one_that_is_sick_or_has_answered_before_gets_all_of_the_time(clock):
    with pytest.raises(ServerAwayError, match="it answers 503"):
        ask(deadline_of(Server(answer(503)), 30.0))
    assert 30.0 <= clock.now_s - 1_000 < 30.1
    deadline = deadline_of(Server(answer(404)), 30.0)
    assert ask(deadline).status_code == 404  # an answer, whatever it is
    deadline._send = Server(REFUSED)
    start_s = clock.now_s
    with pytest.raises(ServerAwayError):
        ask(deadline)
    assert 30.0 <= clock.now_s - start_s < 30.1


def test_the_time_begins_anew_with_each_answer_where_that_is_said(clock):
    for is_renewed, wanted_s in ((True, 30.0), (False, 10.0)):
        deadline = deadline_of(Server(answer()), 30.0, is_renewed=is_renewed)
        clock.now_s += 20.0
        ask(deadline)
        assert deadline.left_s == pytest.approx(wanted_s)


def test_without_an_answer_in_time_it_is_given_up(clock):
    deadline = deadline_of(Server(answer()), 30.0)
    clock.now_s += 30.0
    with pytest.raises(ServerAwayError, match="no answer in 30 s"):
        ask(deadline)


def test_a_sick_server_is_asked_with_pauses_up_to_the_end_of_the_time(clock):
    """Behind a third of the time it was asked again and again, without any."""
    server = Server(answer(503))
    with pytest.raises(ServerAwayError, match="it answers 503"):
        ask(deadline_of(server, 60.0))
    assert 20 < len(server.asked) < 40
    assert max(clock.pauses) == 2.0
    assert len([pause for pause in clock.pauses if pause < 0.2]) <= 2


def test_a_long_wait_is_told_of_once(clock, caplog):
    with pytest.raises(ServerAwayError):
        ask(deadline_of(Server(answer(503)), 30.0))
    assert caplog.text.count("ClearML's server can't be used now (it answers 503)") == 1
    caplog.clear()
    ask(deadline_of(Server(answer(503), answer()), 30.0))
    assert caplog.text == ""


def test_the_bytes_of_an_answer_are_waited_for_too_but_for_a_stream(clock):
    read = []

    class Answer:
        status_code = 200

        @property
        def content(self):
            read.append(1)
            return b""

    deadline = deadline_of(Server(Answer()))
    ask(deadline, stream=True)
    assert read == []
    ask(deadline)
    assert read == [1]


def test_what_was_made_and_what_was_refused_is_noted(clock):
    made = answer(data={"id": 7})
    deadline = deadline_of(Server(made))
    ask(deadline, request_of("http://host/v2/tasks.create?x=1"))
    assert deadline.made_task_id == "7"
    deadline = deadline_of(Server(answer(meta=1)))
    ask(deadline, request_of("http://host/v2/tasks.create"))
    ask(deadline, request_of("http://host/v2/events.add_batch"))
    assert (deadline.made_task_id, deadline.refused) == (None, [])
    deadline._send = Server(answer(400))
    ask(deadline, request_of("http://host/v2/events.add_batch"))
    ask(deadline, request_of("http://host/v2/other"))
    assert [words[:10] for words in deadline.refused] == ["400: words"]
    assert len(deadline.refused[0]) == 305


def test_requests_of_this_thread_are_bounded_and_those_of_others_are_not(clock, monkeypatch):
    asked = []
    monkeypatch.setattr(
        TLSv1HTTPAdapter, "send", lambda self, request, *a, **o: asked.append(request) or answer()
    )
    go, ended = threading.Event(), threading.Event()
    adapter = TLSv1HTTPAdapter()
    theirs = adapter.max_retries

    def other():
        go.wait(30)
        adapter.send("theirs")
        ended.set()

    thread = threading.Thread(target=other)
    thread.start()
    before = TLSv1HTTPAdapter.send
    deadline = StartDeadline(30.0)
    with deadline:
        adapter.send(request_of())
        assert adapter.max_retries.total == 0
        clock.now_s += 40.0
        go.set()
        assert ended.wait(30)
        with pytest.raises(ServerAwayError):
            adapter.send(request_of())
    thread.join()
    assert TLSv1HTTPAdapter.send is before
    assert adapter.max_retries is theirs
    assert asked.count("theirs") == 1


def test_an_inherited_send_is_inherited_again(clock, monkeypatch):
    class Adapter(requests.adapters.HTTPAdapter):
        pass

    from clearml.backend_api import utils

    monkeypatch.setattr(utils, "TLSv1HTTPAdapter", Adapter)
    with StartDeadline(1.0):
        assert "send" in vars(Adapter)
    assert "send" not in vars(Adapter)


# ---- The request that makes a task.


CREATE = "http://host/v2/tasks.create"


def create(**body):
    return request_of(CREATE, json.dumps({"name": "n.", "project": "p", **body}).encode())


def test_a_task_whose_answer_was_lost_is_looked_for_before_another_is_made(clock):
    creation = CreateOnce("token")
    creation.is_unsure = False
    mark = "(tracelet-start: token)"
    found = SimpleNamespace(
        status_code=200, content=b"",
        json=lambda: {"data": {"tasks": [{"id": 3, "comment": "x"}, {"id": 4, "comment": mark}]},
                      "meta": {"endpoint": {"name": "tasks.get_all"}}},
    )  # fmt: skip
    server = Server(requests.Timeout("timed out"), found)
    ask(deadline_of(server, 30.0, creation=creation), create(comment="mine"))
    first, question = server.asked
    assert json.loads(first.body)["comment"] == f"mine {mark}"
    assert question.url.endswith("/tasks.get_all")
    asked = json.loads(question.body)
    assert (asked["name"], asked["project"]) == (r"^n\.$", ["p"])
    assert json.loads(found._content) == {
        "data": {"id": "4"}, "meta": {"endpoint": {"name": "tasks.create"}},
    }  # fmt: skip


def test_where_none_was_made_another_is_and_of_a_sick_server_nothing_is_known(clock):
    creation = CreateOnce()
    assert creation.is_unsure is False
    assert len(creation.token) == 12
    assert CreateOnce("x").is_unsure is True
    none = answer(data={"tasks": []}, meta={})
    server = Server(answer(502), answer(500), none, answer(data={"id": 1}))
    deadline = deadline_of(server, 30.0, creation=creation)
    ask(deadline, create())
    kinds = [request.url.rpartition(".")[2] for request in server.asked]
    assert kinds == ["create", "get_all", "get_all", "create"]
    assert creation.is_unsure is False
    assert deadline.made_task_id == "1"


def test_a_mark_is_set_once_and_a_task_without_it_is_another():
    creation = CreateOnce("t")
    marked = creation.marked(create())
    assert json.loads(marked.body)["comment"] == "(tracelet-start: t)"
    assert creation.marked(marked) is marked
    assert creation.is_meant(marked)
    assert not creation.is_meant(request_of())
    assert creation.is_meant(request_of(CREATE + "?a=b"))
    other = SimpleNamespace(id=5, comment="(tracelet-start: t)")
    assert creation.find([{"id": 1}, {"id": 2, "comment": None}, other]) == "5"
    assert creation.find([]) is None
    empty = creation.marked(request_of(CREATE, b""))
    assert json.loads(empty.body) == {"comment": "(tracelet-start: t)"}
    asked = query("a*b", None)
    assert asked["name"] == r"^a\*b$"
    assert "project" not in asked
    assert (asked["page"], asked["search_hidden"], asked["order_by"]) == (0, True, ["-created"])


# ---- What is done in time.


def test_work_is_waited_for_as_long_as_is_said():
    assert in_time(lambda: 5, 30.0) == 5
    with pytest.raises(KeyError):
        in_time(lambda: {}["x"], 30.0)
    for timeout_s in (0.0, -1.0):
        with pytest.raises(TimeoutError):
            in_time(lambda: pytest.fail("not begun"), timeout_s)
    hold = threading.Event()
    work = Work(lambda: hold.wait(60))
    assert work._thread.daemon
    with pytest.raises(TimeoutError):
        work.result(-1.0)
    hold.set()
    assert work.result(60.0) is True


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("[Errno 111] Connection refused", "connection refused"),
        ("Failed to resolve 'x'", "its name can't be resolved"),
        ("[Errno -2] Name or service not known", "its name can't be resolved"),
        ("Read timed out.", "no answer"), ("certificate verify failed", "its certificate is not"),
        ("Network is unreachable", "the network is unreachable"), ("odd", "ValueError: odd"),
    ],
)  # fmt: skip
def test_why_a_request_failed_is_told_in_a_few_words(words, reason):
    assert _reason(ValueError(words)).startswith(reason)
    assert len(_reason(ValueError("x" * 900))) == 200


# ---- What is done to the SDK's task.


class TaskClass:
    def __init__(self, is_offline=False):
        self.calls = []
        self._is_offline = is_offline

    def set_offline(self, value):
        self.calls.append(value)
        self._is_offline = value

    def is_offline(self):
        return self._is_offline


def test_offline_mode_stands_in_for_one_run(monkeypatch):
    for before in ("0", None):
        if before is None:
            monkeypatch.delenv("CLEARML_OFFLINE_MODE")
        else:
            monkeypatch.setenv("CLEARML_OFFLINE_MODE", before)
        task_class = TaskClass()
        stand_in = OfflineStandIn(task_class, "made", "token")
        os.environ["CLEARML_OFFLINE_MODE"] = "1"  # as the SDK does
        assert (stand_in.made_task_id, stand_in.token) == ("made", "token")
        assert task_class.calls == [True]
        stand_in.end()
        stand_in.end()
        assert os.environ.get("CLEARML_OFFLINE_MODE") == before


def test_sessions_that_were_made_offline_are_connected(monkeypatch):
    connected = []

    class Session:
        def __init__(self, name):
            self.name = name

        def _connect(self):
            connected.append(self.name)

    old, new = Session("old"), Session("new")
    old._Session__host = "x"
    from clearml.backend_api import Session as Sdks

    monkeypatch.setattr(Sdks, "_get_all_active_sessions", lambda: [old, new])
    task_class = TaskClass(is_offline=True)
    go_online(task_class)
    assert (task_class.calls, connected) == ([False], ["new"])
    task_class = TaskClass()
    go_online(task_class)
    assert task_class.calls == []


def test_a_task_ends_as_its_process_does():
    for failure, given, wanted in (
        (KeyboardInterrupt(), None, 2), (KeyboardInterrupt(), 15, 15), (ValueError(), None, None),
        (None, None, None),
    ):  # fmt: skip
        ended: list[int] = []
        task = SimpleNamespace(
            _Task__exit_hook=SimpleNamespace(signal=given), _at_exit=partial(ended.append, 1)
        )
        end_with_process(task, failure)
        assert (task._Task__exit_hook.signal, ended) == (wanted, [1])
    task = SimpleNamespace(_at_exit=lambda: None)
    end_with_process(task, KeyboardInterrupt())


def test_hooks_that_join_the_sdks_threads_are_taken_off(monkeypatch):
    off = []
    monkeypatch.setattr(atexit, "unregister", off.append)

    class Handler(logging.Handler):
        pass

    class Theirs(logging.Handler):
        def flush(self):
            raise AssertionError

    Theirs.__module__ = "clearml.backend_interface.logger"
    mine, theirs = Handler(), Theirs()
    task = SimpleNamespace(_at_exit="hook")
    let_process_end(task)
    assert off == ["hook"]
    theirs.flush()
    theirs.close()
    assert "flush" not in vars(mine)


def test_a_task_that_was_not_made_is_forgotten(monkeypatch):
    abandon_task(SimpleNamespace())
    off, ended = [], []
    monkeypatch.setattr(atexit, "unregister", off.append)

    def fail():
        raise RuntimeError

    task = SimpleNamespace(
        _at_exit="hook", _dev_worker=SimpleNamespace(unregister=fail),
        _resource_monitor=SimpleNamespace(stop=lambda: ended.append("monitor")),
    )  # fmt: skip
    task_class = SimpleNamespace(_Task__main_task=task, _Task__forked_proc_main_pid=1)
    for value, left in ((f"{os.getpid()}:abc", ""), ("1:abc", "1:abc")):
        monkeypatch.setenv("CLEARML_PROC_MASTER_ID", value)
        task_class._Task__main_task = task
        abandon_task(task_class)
        assert os.environ.get("CLEARML_PROC_MASTER_ID", "") == left
    assert task._at_exit_called is True
    assert off == ["hook"] * 2
    assert ended == ["monitor"] * 2
    assert task_class._Task__main_task is None
    assert task_class._Task__forked_proc_main_pid is None


# ---- What `tracelet doctor` says of the servers.


@pytest.mark.parametrize(
    ("given", "is_ok", "words"),
    [
        (answer(200, meta={"result_msg": "OK"}), True, "answers 200 in"),
        (answer(401, meta={"result_msg": "no"}), False, "refuses these credentials: no"),
        (answer(403, meta={"result_msg": "no"}), False, "refuses these credentials"),
        (answer(500, meta={"result_msg": "ill"}), False, "answers 500"),
        (answer(200), False, "but not as an API server"),
        (requests.ConnectTimeout("x"), False, "no answer"),
        (requests.exceptions.SSLError("x"), False, "its certificate is not trusted"),
        (requests.exceptions.InvalidURL("x"), False, "InvalidURL"),
    ],
)
def test_an_api_server_is_judged_by_its_answer(monkeypatch, given, is_ok, words):
    asked = []

    def get(url, **options):
        asked.append((url, options))
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr(requests, "get", get)
    check = checks._api_server("http://host", {"auth": ("k", "s")}, 3.0, False)
    assert check.is_ok is is_ok
    assert words in check.found
    assert bool(check.fix) is not is_ok
    assert asked == [("http://host/auth.login",
                      {"timeout": 3.0, "verify": False, "auth": ("k", "s")})]  # fmt: skip


def test_a_server_that_asks_for_credentials_is_there_when_none_were_given(monkeypatch):
    monkeypatch.setattr(requests, "get", lambda url, **_: answer(401, meta={"result_msg": "no"}))
    assert checks._api_server("http://host", {}, 3.0, True).is_ok


def test_how_long_an_api_server_took_is_told_in_milliseconds(monkeypatch):
    monkeypatch.setattr(requests, "get", lambda url, **_: answer(200, meta={"result_msg": "OK"}))
    clock = SimpleNamespace(monotonic=iter([10.0, 14.0]).__next__)
    monkeypatch.setattr(checks, "time", clock)
    found = checks._api_server("http://host", {}, 3.0, True).found
    assert found == "http://host answers 200 in 4000 ms"


def test_a_file_server_is_judged_by_its_answer(monkeypatch):
    for status, is_ok in ((200, True), (405, True), (499, True), (500, False), (502, False)):
        monkeypatch.setattr(requests, "get", lambda url, status=status, **_: answer(status))
        check = checks._files_server("https://host", 3.0, True)
        assert (check.is_ok, bool(check.fix)) == (is_ok, not is_ok)

    def fail(url, **_):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "get", fail)
    check = checks._files_server("http://host", 3.0, True)
    assert not check.is_ok
    assert "can't be reached" in check.found
    assert "CLEARML_FILES_HOST" in check.fix
    assert checks._files_server("s3://bucket", 3.0, True).is_ok
