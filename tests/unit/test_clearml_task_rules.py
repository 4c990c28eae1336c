"""A run's ClearML task by an SDK that is played: how it is made, what it is told, how it ends."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("clearml")

from tracelet.backends import kept
from tracelet.backends.clearml import open_task as opening
from tracelet.backends.clearml import samples
from tracelet.backends.clearml import task as module
from tracelet.backends.clearml.open_task import (
    _init_arguments,
    _random_seed,
    _resume_arguments,
    _set_up,
    _without_tensorboard,
    open_task,
)
from tracelet.backends.clearml.samples import Place, SampleStore
from tracelet.backends.clearml.start import ServerAwayError
from tracelet.backends.clearml.task import ClearMLTask, use_threads
from tracelet.backends.kept import KeptLines
from tracelet.errors import BackendError, ConfigurationError
from tracelet.options import Options

OPTIONS = Options(backend=("clearml",), project="project", exp_name="experiment")


class Task:
    """The SDK's, as far as it is used."""

    is_off = False
    main = None
    seeds = [3]  # noqa: RUF012
    known = ("there",)
    error = None

    def __init__(self, **arguments):
        self.arguments = arguments
        self.id = "t1"
        self.name = arguments.get("task_name", "mine")
        self.did = []
        self._reporter = SimpleNamespace(_max_iteration=5)
        self._edit_lock = SimpleNamespace(acquire=lambda timeout: True, release=lambda: None)
        self.initial = 0

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **named: self.did.append((name, *arguments, *named.items()))

    log = None

    def get_parameters(self):
        return {}

    def _get_task_property(self, name, raise_on_error):
        return None

    def get_initial_iteration(self):
        return self.initial

    def get_offline_mode_folder(self):
        return "/session"

    def get_output_log_web_page(self):
        return None

    def get_tags(self):
        return ["theirs"]

    @classmethod
    def is_offline(cls):
        return cls.is_off

    @classmethod
    def current_task(cls):
        return cls.main

    @classmethod
    def init(cls, **arguments):
        if cls.error:
            raise cls.error
        return cls(**arguments)

    @classmethod
    def get_task(cls, task_id):
        if task_id not in cls.known:
            raise ValueError(task_id)

    @staticmethod
    def get_random_seed(cls):
        return cls.seeds[-1]

    @classmethod
    def set_random_seed(cls, seed):
        cls.seeds.append(seed)


@pytest.fixture
def sdk(monkeypatch):
    class Own(Task):
        seeds = [3]  # noqa: RUF012
        main = None

    monkeypatch.setattr(opening, "load_task_class", lambda: Own)
    monkeypatch.setattr(opening, "go_online", lambda task_class: None)
    monkeypatch.setattr(opening, "_is_remote", lambda: False)
    monkeypatch.setattr(opening, "api_host", lambda: "host")

    class Binding:
        def put_back(self):
            Own.seeds.append("binding back")

    monkeypatch.setattr(opening, "OwnBinding", Binding)
    return Own


# ---- Made.


def test_a_new_task_is_ours_and_made_with_the_options(sdk):
    options = replace(
        OPTIONS, tags=("a",), task_type="testing", output_uri="s3://x", comment="c", docker="image"
    )
    made = open_task(options)
    assert (made.is_owned, made.is_offline, made.output_uri) == (True, False, "s3://x")
    assert made.parent is None
    assert made.own_binding is None
    given = made.task.arguments
    assert (given["project_name"], given["task_name"]) == ("project", "experiment")
    assert (given["tags"], given["task_type"]) == (["a"], "testing")
    assert given["auto_connect_frameworks"] == {"tensorboard": False}
    assert made.task.did == [("set_comment", "c"), ("set_base_docker", ("docker_image", "image"))]
    assert vars(sdk)["_report_subprocess_enabled"] is False
    assert _init_arguments(OPTIONS, False)["tags"] is None


def test_the_current_task_is_logged_to_and_stays_the_users(sdk):
    sdk.main = sdk._Task__main_task = sdk()
    made = open_task(OPTIONS)
    assert made.task is sdk.main
    assert made.is_owned is False
    assert made.own_binding is not None
    assert open_task(replace(OPTIONS, child_task=True, exp_name="mine")).task is sdk.main


def test_a_start_that_fails_leaves_the_sdk_as_it_was(sdk):
    sdk.error = RuntimeError("no")
    with pytest.raises(BackendError):
        open_task(OPTIONS)
    assert "_report_subprocess_enabled" not in vars(sdk)
    assert sdk.seeds[-1] == 3
    sdk.error = ServerAwayError("away")
    with pytest.raises(BackendError, match=r"ClearML's server host is away \(away\), for"):
        open_task(replace(OPTIONS, on_unreachable="raise"))


@pytest.mark.parametrize("is_unsure", [True, False])
def test_while_the_server_is_away_the_run_is_offline_and_knows_what_may_have_been_made(
    sdk, monkeypatch, caplog, is_unsure
):
    order = []

    class StandIn:
        def __init__(self, task_class, made_task_id, token):
            order.append(("stand in", made_task_id, token))
            sdk.is_off, sdk.error = True, None

        def end(self):
            order.append("end")

    class Away(opening.StartDeadline):
        def __exit__(self, *what):
            self.made_task_id = "made"
            self.creation.token, self.creation.is_unsure = "token", is_unsure
            return super().__exit__(*what)

    monkeypatch.setattr(opening, "StartDeadline", Away)
    monkeypatch.setattr(opening, "OfflineStandIn", StandIn)
    monkeypatch.setattr(opening, "abandon_task", lambda cls: order.append("abandon"))
    monkeypatch.setattr(opening, "mend_offline_models", lambda: order.append("mend"))
    sdk.error = ServerAwayError("away")
    made = open_task(OPTIONS)
    assert (made.is_offline, made.is_owned, type(made.stand_in)) == (True, True, StandIn)
    assert order == ["abandon", ("stand in", "made", "token" if is_unsure else None), "mend"]
    assert "this run goes on offline, until its end. It is kept in /session" in caplog.text

    def fail():
        raise RuntimeError("no")

    monkeypatch.setattr(opening, "mend_offline_models", fail)
    sdk.is_off, sdk.error = False, ServerAwayError("away")
    with pytest.raises(RuntimeError):
        open_task(OPTIONS)
    assert order[-1] == "end"


def test_a_process_without_a_task_of_its_own_is_told_so(sdk, monkeypatch):
    monkeypatch.setattr(sdk, "init", classmethod(lambda cls, **_: object()))
    with pytest.raises(BackendError, match="CLEARML_PROC_MASTER_ID"):
        open_task(OPTIONS)


def test_a_task_to_go_on_with_must_be_there_where_that_can_be_asked(sdk, monkeypatch):
    gone = replace(OPTIONS, continue_last_task="gone")
    with pytest.raises(ConfigurationError, match="there is no such task"):
        open_task(gone)
    open_task(replace(OPTIONS, continue_last_task="there"))
    open_task(replace(OPTIONS, continue_last_task=True))
    monkeypatch.setattr(opening, "_is_remote", lambda: True)
    assert open_task(gone).is_remote is True
    sdk.is_off = True
    assert open_task(gone).is_remote is False


@pytest.mark.parametrize(
    ("wanted", "reuse", "is_offline", "arguments"),
    [
        (False, False, False, (False, False)), (False, "id", True, (False, "id")),
        (True, False, False, (0, True)), (True, "id", False, (0, "id")),
        ("task", False, False, (0, "task")), (True, False, True, (False, False)),
    ],
)  # fmt: skip
def test_going_on_never_shifts_the_iterations(wanted, reuse, is_offline, arguments):
    options = replace(OPTIONS, continue_last_task=wanted, reuse_last_task_id=reuse)
    found = _resume_arguments(options, is_offline)
    given = (found["continue_last_task"], found["reuse_last_task_id"])
    assert given == arguments
    assert [type(each) for each in given] == [type(each) for each in arguments]


def test_the_offset_of_an_agents_task_is_taken_off_and_docker_is_told_in_full():
    task = Task()
    _set_up(task, OPTIONS)
    assert task.did == []
    task.initial = 7
    docker = {"image": "i", "arguments": "a", "setup_bash_script": "s"}
    _set_up(task, replace(OPTIONS, docker=docker))
    assert task.did == [
        ("set_initial_iteration", 0),
        ("set_base_docker", ("docker_image", "i"), ("docker_arguments", "a"),
         ("docker_setup_bash_script", "s")),
    ]  # fmt: skip


def test_the_seed_is_the_runs_for_as_long_as_the_task_is_made(sdk):
    for seed, seen in ((True, [3]), (False, [3, None, 3]), (7, [3, 7, 3])):
        sdk.seeds[:] = [3]
        with pytest.raises(KeyError), _random_seed(sdk, seed):
            raise KeyError
        assert sdk.seeds == seen


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (True, {"tensorboard": False}), (False, False), ({}, False),
        ({"pytorch": "*.pt", "tensorboard": True}, {"pytorch": "*.pt", "tensorboard": False}),
    ],
)  # fmt: skip
def test_the_binding_of_tensorboard_is_off_whatever_else_is_on(given, wanted):
    assert _without_tensorboard(given) == wanted


def test_the_sdk_reports_by_threads_while_it_is_asked_to():
    class Class:
        pass

    use_threads(Class, False)
    use_threads(Class, True)
    assert Class._report_subprocess_enabled is False
    use_threads(Class, False)
    assert "_report_subprocess_enabled" not in vars(Class)


# ---- Told.


def task_of(**changes):
    return ClearMLTask(Task(), **{"is_owned": True, "is_offline": False, **changes})


def test_where_a_task_is_to_be_seen():
    assert task_of().url == ""
    assert task_of(is_offline=True).url == "/session"
    assert task_of(is_offline=True, stand_in=SimpleNamespace()).url is None
    assert task_of().id == "t1"
    assert task_of(stand_in="stand-in").goal == "stand-in"


def test_the_iteration_of_the_sdk_only_grows():
    made = task_of()
    for step, wanted in ((3, 5), (9, 9), (8, 9)):
        made.note_iteration(step)
        assert made.task._reporter._max_iteration == wanted
    made.task._reporter = None
    made.note_iteration(99)
    made.task._reporter = SimpleNamespace()
    made.note_iteration(99)


def test_parameters_are_sent_online_and_connected_offline():
    flat = {"lr": 0.1, "model.acc": 0.5}
    online = task_of()
    assert online.last_upload is None
    items = online.take_params(flat, flat)
    assert set(items) == set(flat)
    assert online.task.did == []
    assert online.last_upload.name == "the models' metadata"
    offline = task_of(is_offline=True)
    assert offline.take_params(flat, flat) == {}
    assert offline.task.did == [("connect", flat)]
    sent = []
    online._params_edits = SimpleNamespace(
        set_params=lambda items: sent.append(items) or {"a": "b"}
    )
    assert online.send_params(items) == {"a": "b"}
    assert sent == [list(items.values())]


def test_tags_and_notes_are_set_in_a_session_and_sent_online():
    about = {"tags": ["mine"], "notes": "n"}
    online, offline = task_of(), task_of(is_offline=True)
    assert online.take_description(about) is about
    assert offline.take_description(about) == {}
    assert offline.task.did == [("set_tags", ["theirs", "mine"]), ("set_comment", "n")]
    offline.task.did.clear()
    offline.take_description({})
    assert offline.task.did == []


def test_what_events_hold_of_parameters_is_set_or_an_error():
    offline, online = task_of(is_offline=True), task_of()
    offline.update_params({"a/b": 1})
    offline.set_configuration("n", "t")
    assert offline.task.did == [
        ("update_parameters", {"a/b": 1}), ("set_configuration_object", "n", ("config_text", "t")),
    ]  # fmt: skip
    refused, did = [{}], []
    online._edits = SimpleNamespace(
        set_params=lambda items: refused[0],
        set_configuration=lambda *pair: did.append(pair),
    )
    online.update_params({"a/b": 1})
    online.set_configuration("n", "t")
    assert (did, online.task.did) == ([("n", "t")], [])
    refused[0] = {"b": "no"}
    with pytest.raises(BackendError, match="did not take the parameters"):
        online.update_params({"a/b": 1})


# ---- Ended.


class Part:
    """A parent, a binding or a stand-in."""

    def __init__(self, order, name):
        self.put_back = self.end = lambda: order.append(name)
        self.task = f"{name}'s task"


@pytest.fixture
def ends(monkeypatch):
    order = []
    monkeypatch.setattr(module, "end_with_process", lambda task, why: order.append(("end", task)))
    monkeypatch.setattr(module, "let_process_end", lambda task: order.append(("let", task)))
    monkeypatch.setattr(module, "abandon_task", lambda cls: order.append("abandon"))
    monkeypatch.setattr(module, "use_threads", lambda cls, wanted: order.append(("fork", wanted)))
    monkeypatch.setattr(Task, "close", lambda self: order.append("close"), raising=False)
    monkeypatch.setattr(Task, "_offline_output_models", [], raising=False)
    return order


def test_a_task_of_the_users_is_not_closed_but_with_the_process(ends):
    made = task_of(is_owned=False)
    made.close(False)
    assert ends == []
    made.close(True)
    assert ends == [("end", made.task)]


def test_a_task_of_ours_is_closed_or_ended_with_the_process(ends):
    made = task_of(stand_in=Part(ends, "stand-in"))
    made.close(False)
    assert ends == ["close", ("fork", False), "stand-in"]
    ends.clear()
    made.close(True)
    assert ends == [("end", made.task)]


def test_a_child_is_closed_before_its_parent_and_that_is_put_back(ends):
    made = task_of(parent=Part(ends, "parent"), own_binding=Part(ends, "binding"))
    made.give_back()  # it is off until the child is closed
    assert ends == []
    made.close(False)
    assert ends == ["close", ("fork", False), "parent", "binding"]
    ends.clear()
    made.close(True)
    assert ends[-1] == ("end", "parent's task")
    assert ends[0] == "close"
    ends.clear()
    task_of(own_binding=Part(ends, "binding")).give_back()
    task_of().give_back()
    assert ends == ["binding"]


def test_a_close_that_fails_puts_all_back_none_the_less(ends, monkeypatch):
    def fail(self):
        raise OSError("away")

    monkeypatch.setattr(Task, "close", fail)
    made = task_of(parent=Part(ends, "parent"), own_binding=Part(ends, "binding"))
    with pytest.raises(OSError, match="away"):
        made.close(False)
    assert ends == [("fork", False), "parent", "binding"]


def test_a_task_that_can_not_be_closed_is_left_when_it_is_the_current_one(ends, monkeypatch):
    made = task_of(parent=Part(ends, "parent"), own_binding=Part(ends, "binding"))
    made.leave()
    assert ends == []
    monkeypatch.setattr(Task, "main", made.task)
    made.leave()
    assert ends == ["abandon", ("fork", False), "parent", "binding"]
    ends.clear()
    made.is_owned = False
    made.leave()
    assert ends == []
    made.let_process_end()
    assert ends == [("let", made.task), ("let", "parent's task")]


@pytest.mark.parametrize(
    ("failure", "is_offline", "did"),
    [
        (ValueError("x" * 900), False, "mark_failed"), (KeyboardInterrupt(), False, "stopped"),
        (SystemExit(1), False, "mark_failed"), (SystemExit(0), False, None), (None, False, None),
        (ValueError(), True, None),
    ],
)  # fmt: skip
def test_a_run_that_did_not_end_well_is_failed_or_stopped(ends, failure, is_offline, did):
    made = task_of(is_offline=is_offline)
    if failure is not None:
        made.note_failure(failure)
    made.close(False)
    assert [each[0] for each in made.task.did] == ([did] if did else [])
    if did:
        _, force, (name, reason) = made.task.did[0]
        assert (force, name) == (("force", True), "status_reason")
        assert reason.startswith(type(failure).__name__)
        assert len(reason) <= 500


# ---- Where samples go.


def test_samples_on_this_machine_reach_the_disk_behind_the_notes_of_their_places(
    tmp_path, monkeypatch
):
    """An image that a loss of power took counted as delivered."""
    synced, refuses = [], []

    def sync(path):
        if refuses:
            raise OSError(refuses.pop(), "refused")
        synced.append(os.path.relpath(path, tmp_path))

    monkeypatch.setattr(samples, "sync_file", sync)
    monkeypatch.setattr(samples, "sync_names", lambda path: synced.append("names"))
    monkeypatch.setattr(kept, "sync_file", sync)
    logger = SimpleNamespace(
        get_default_upload_destination=lambda: f"file://{tmp_path}",
        get_default_debug_sample_history=lambda: 100,
    )
    task = SimpleNamespace(
        task=SimpleNamespace(
            get_logger=lambda: logger, _get_output_destination_suffix=lambda extra: "p/t.1/metrics"
        )
    )
    store = SampleStore(task, KeptLines(str(tmp_path), "samples.jsonl"))
    store.sync()
    assert synced == []
    place = store.place(1, 0, "m", "v", ".png")
    store.upload(b"PNG", place)
    (file,) = tmp_path.rglob("*.png")
    assert file.read_bytes() == b"PNG"
    refuses += [5, 5]
    for _ in range(2):  # the notes first; what failed is synced the next time
        with pytest.raises(OSError, match="refused"):
            store.sync()
    assert synced == []
    store.sync()
    assert synced == ["samples.jsonl", str(file.relative_to(tmp_path)), "names"]
    store.sync()
    assert len(synced) == 3
    store.upload(b"PNG", place)
    refuses.append(5)
    with pytest.raises(OSError, match="refused"):
        store.sync()
    store.sync()
    assert synced[3:] == synced[1:3]
    store.close()


def test_a_sample_on_a_server_is_no_file_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "sync_file", lambda path: pytest.fail(path))
    places = KeptLines(str(tmp_path), "samples.jsonl")
    store = SampleStore(SimpleNamespace(task=SimpleNamespace()), places)
    store._destination = "s3://bucket"
    store._storage = SimpleNamespace(
        _apply_url_substitutions=lambda url: url, upload_from_stream=lambda *_, **__: "there"
    )
    assert store.upload(b"PNG", Place("s3://bucket", "k", "s3://bucket/k")) == "there"
    store.sync()


def test_a_sample_that_is_given_again_has_its_place_again(tmp_path, monkeypatch):
    from clearml.backend_interface.metrics.events import MediaEvent

    monkeypatch.setattr(MediaEvent, "_metric_counters", {})
    logger = SimpleNamespace(
        get_default_upload_destination=lambda: "s3://bucket/",
        get_default_debug_sample_history=lambda: 3,
    )
    task = SimpleNamespace(
        task=SimpleNamespace(
            get_logger=lambda: logger, _get_output_destination_suffix=lambda extra: "/p/t.1/metrics"
        )
    )
    store = SampleStore(task, KeptLines(str(tmp_path), "samples.jsonl"))
    places = [store.place(sequence, 0, "m", "v", ".png") for sequence in range(1, 6)]
    assert len({place.key for place in places}) == 3  # numbered over and over again
    assert places[0].destination == "s3://bucket"
    assert places[0].url.startswith("s3://bucket/p/t.1/metrics/")
    assert places[0].key.endswith(".png")
    long = store.place(6, 0, "x" * 200, "y" * 200, ".png")
    assert len(long.key.rpartition("/")[2]) < 255
    store.close()
    MediaEvent._metric_counters.clear()
    with open(tmp_path / "samples.jsonl", "a") as file:  # damaged: each costs itself
        file.write('[1]\n[9, 0, ["x"], "m_v", 1]\n["1", 0, null, "m_v", 9]\n')
    again = SampleStore(task, KeptLines(str(tmp_path), "samples.jsonl"))
    assert [again.place(sequence, 0, "m", "v", ".png") for sequence in range(1, 6)] == places
    after = again.place(7, 0, "m", "v", ".png")
    assert after.key == places[2].key  # goes on behind the last, and writes over the oldest
    again.forget_delivered()
    again.close()
