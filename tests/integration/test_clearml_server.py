"""The loopback ClearML server itself: the unmodified SDK against it, and its rules one by one.

The rules are those of `shared/clearml.md`, "What the real server answers", by number.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clearml_server import ClearMLServer, FaultMode, fixtures

server = fixtures.clearml_server

NOW = 1_700_000_000_000


class Client:
    """Requests by hand, over one kept connection."""

    def __init__(self, server: ClearMLServer) -> None:
        self.server = server
        self.host = server.url.partition("//")[2]
        self.connection = http.client.HTTPConnection(self.host, timeout=10)
        self.token = self.login()

    def login(self) -> str:
        pair = f"{self.server.auth.access_key}:{self.server.auth.secret_key}"
        basic = base64.b64encode(pair.encode()).decode()
        _, answer = self.send("auth.login", b"", Authorization=f"Basic {basic}")
        return answer["data"]["token"]

    def send(
        self, endpoint: str, body: Any, *, version: str = "2.23", **headers: str
    ) -> tuple[int, Any]:
        """(status, the parsed answer or its text)"""
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        if "Authorization" not in headers:
            headers["Authorization"] = f"Bearer {self.token}"
        self.connection.request("GET", f"/v{version}/{endpoint}", body, headers)
        response = self.connection.getresponse()
        text = response.read().decode()
        self.retry_after = response.getheader("Retry-After")
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def add_batch(self, body: Any, **headers: str) -> tuple[int, int, Any]:
        """(status, subcode, data, or the message of what failed)"""
        headers.setdefault("Content_Type", "application/json-lines")
        status, answer = self.send("events.add_batch", body, **headers)
        meta = answer["meta"]
        data = answer["data"] if status == 200 else meta["result_msg"]
        return status, meta["result_subcode"], data

    def add(self, *events: dict[str, Any]) -> tuple[int, int, Any]:
        return self.add_batch(lines(*events))


def lines(*events: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, events)).encode()


@pytest.fixture
def client(server: ClearMLServer) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.connection.close()


@pytest.fixture
def task(server: ClearMLServer) -> str:
    return server.add_task()


def scalar(task: str, iteration: Any = 0, value: Any = 0.5, **fields: Any) -> dict[str, Any]:
    return {
        "type": "training_stats_scalar",
        "task": task,
        "metric": "loss",
        "variant": "train",
        "iter": iteration,
        "value": value,
        "timestamp": NOW,
        **fields,
    }


# The unmodified SDK, in processes of its own: clearml freezes its environment when imported.


def run_sdk(script: str, folder: Path, **environment: str) -> str:
    """Runs `script` and returns what it printed after its last "RESULT "."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    own = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("CLEARML_", "TRAINS_"))
    }
    result = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        env={
            **own,
            "HOME": str(folder),
            "CLEARML_CACHE_DIR": str(folder / "cache"),
            "CLEARML_LOG_LEVEL": "ERROR",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.rpartition("RESULT ")[2].strip()


ONLINE_RUN = """
    from clearml import OutputModel, Task

    task = Task.init(
        "loopback project", "online run", tags=["one"], output_uri=True,
        auto_connect_frameworks=False, auto_resource_monitoring=False,
    )
    task.connect({"rate": 0.1})
    logger = task.get_logger()
    for i in range(20):
        logger.report_scalar("loss", "train", value=i / 4, iteration=i)
    logger.report_histogram("weights", "layer", values=[1, 2, 3], iteration=1)
    print("a line on the console")
    task.upload_artifact("table", {"answer": 42}, wait_on_upload=True)
    with open("weights.bin", "wb") as file:
        file.write(bytes(range(256)) * 20)
    OutputModel(task=task, name="the model").update_weights(
        "weights.bin", auto_delete_file=False
    )
    task.close()

    again = Task.get_task(project_name="loopback project", task_name="online run")
    assert again.id == task.id
    assert again.get_status() == "completed"
    assert again.artifacts["table"].get() == {"answer": 42}
    assert again.get_last_iteration() == 19
    assert again.get_last_scalar_metrics()["loss"]["train"]["max"] == 4.75
    assert again.get_reported_scalars()["loss"]["train"]["y"][-1] == 4.75
    print("RESULT", task.id)
"""


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ClearMLServer, str]]:
    """A server after one online run of the SDK, and the id of its task."""
    with ClearMLServer() as server:
        folder = tmp_path_factory.mktemp("online")
        yield server, run_sdk(ONLINE_RUN, folder, **server.environment())


def test_sdk_online_run_is_answered_without_a_complaint(online: tuple[ClearMLServer, str]) -> None:
    server, _ = online
    assert server.schema_violations == []
    assert server.unknown_endpoints == []
    assert server.internal_errors == []
    assert {record.status for record in server.request_log} == {200}


def test_sdk_online_events_arrive(online: tuple[ClearMLServer, str]) -> None:
    server, task = online
    assert server.scalars(task) == {("loss", "train"): {i: i / 4 for i in range(20)}}
    assert all(stamp > NOW for stamp in server.timestamps(task)["loss", "train"].values())
    [plot] = server.events(task, "plot")
    assert (plot["metric"], plot["variant"], plot["iter"]) == ("weights", "layer", 1)
    assert any("a line on the console" in line["msg"] for line in server.logs(task))
    assert server.write_count == server.stored_count(task) == server.stored_count()
    batches = [record for record in server.request_log if record.endpoint == "events.add_batch"]
    assert sum(record.events for record in batches) == server.stored_count()
    assert all(record.size_bytes > 100 for record in batches)


def test_sdk_online_task_artifact_and_model_arrive(online: tuple[ClearMLServer, str]) -> None:
    server, identifier = online
    task = server.tasks[identifier]
    assert (task["name"], task["status"], task["tags"]) == ("online run", "completed", ["one"])
    assert server.projects[task["project"]]["name"] == "loopback project"
    assert task["hyperparams"]["General"]["rate"]["value"] == "0.1"
    [artifact] = task["execution"]["artifacts"]
    assert artifact["key"] == "table"
    [model] = server.models.values()
    assert model["name"] == "the model"
    contents = list(server.files.values())
    assert b'{\n    "answer": 42\n}' in contents or b'{"answer": 42}' in contents
    assert bytes(range(256)) * 20 in contents


OFFLINE_RUN = """
    from clearml import Task

    Task.set_offline(True)
    task = Task.init(
        "loopback project", "offline run",
        auto_connect_frameworks=False, auto_resource_monitoring=False,
    )
    for i in range(10):
        task.get_logger().report_scalar("loss", "train", value=i / 4, iteration=i)
    task.upload_artifact("table", {"answer": 42}, wait_on_upload=True)
    folder = task.get_offline_mode_folder()
    task.close()
    print("RESULT", folder)
"""


@pytest.mark.slow
def test_sdk_imports_an_offline_session(server: ClearMLServer, tmp_path: Path) -> None:
    config = tmp_path / "clearml.conf"
    config.write_text("sdk { development { report_use_subprocess: false } }")
    session = run_sdk(OFFLINE_RUN, tmp_path, CLEARML_CONFIG_FILE=str(config))
    imported = f"""
        from clearml import Task

        print("RESULT", Task.import_offline_session({session + ".zip"!r}))
    """
    task = run_sdk(imported, tmp_path, **server.environment())
    assert server.scalars(task) == {("loss", "train"): {i: i / 4 for i in range(10)}}
    assert server.tasks[task]["status"] == "completed"
    assert [item["key"] for item in server.tasks[task]["execution"]["artifacts"]] == ["table"]
    assert server.schema_violations == []
    assert server.unknown_endpoints == []


def send_by_sdk(server: ClearMLServer, event: dict[str, Any], folder: Path) -> list[str]:
    """Sends `event` twice through one SDK session; returns the status and data of each answer."""
    script = f"""
        import json
        from clearml.backend_api import Session

        session = Session()
        for _ in range(2):
            [answer] = session.send_request_batch(
                "events", "add_batch", version="2.23", data=[json.dumps({event!r})]
            )
            print(answer.status_code, answer.json()["data"].get("added"))
    """
    return run_sdk(script, folder, **server.environment()).splitlines()


def test_sdk_session_renews_its_token(server: ClearMLServer, tmp_path: Path) -> None:
    server.faults.add("401", times=1)
    answers = send_by_sdk(server, scalar(server.add_task()), tmp_path)
    # On a 401 the SDK logs in again, but its retry carries the old token: the next call succeeds.
    assert answers == ["401 None", "200 1"]
    endpoints = [record.endpoint for record in server.request_log]
    assert endpoints == ["auth.login", "events.add_batch", "auth.login"] + ["events.add_batch"] * 2


@pytest.mark.slow
def test_sdk_session_resends_what_got_no_answer(server: ClearMLServer, tmp_path: Path) -> None:
    task = server.add_task()
    lost = ["close before", "close after", "half answer", "503"]
    for mode in lost:
        server.faults.add(mode, times=1)
    assert send_by_sdk(server, scalar(task), tmp_path) == ["200 1", "200 1"]
    assert [mode for _, mode in server.faults.injected] == [FaultMode(mode) for mode in lost]
    # Two answers were lost on their way after the event had been stored.
    assert (server.stored_count(task), server.write_count) == (1, 4)


def test_schemas_are_read_without_importing_clearml() -> None:
    script = """
        import sys
        from clearml_server.schemas import request_validator
        assert request_validator("tasks", "edit", "2.23") is not None
        assert "clearml" not in sys.modules
    """
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    subprocess.run(command, env=environment, check=True, timeout=30)


# Authentication, routing, schemas.


def test_credentials_and_tokens_are_checked(server: ClearMLServer, client: Client) -> None:
    wrong = base64.b64encode(b"somebody:else").decode()
    assert client.send("auth.login", b"", Authorization=f"Basic {wrong}")[0] == 401
    assert client.send("tasks.get_all", b"{}", Authorization="")[0] == 401
    assert client.send("tasks.get_all", b"{}", Authorization="Bearer made.up.token")[0] == 401
    assert client.send("tasks.get_all", b"{}")[0] == 200
    server.auth.expire()
    assert client.send("tasks.get_all", b"{}")[0] == 401
    client.token = client.login()
    assert client.send("tasks.get_all", b"{}")[0] == 200


def test_a_token_carries_what_the_sdk_reads(client: Client) -> None:
    claims = client.token.split(".")[1]
    payload = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert payload["exp"] > time.time()
    assert tuple(map(int, payload["api_version"].split("."))) >= (2, 23)
    assert {"server_version", "feature_set"} <= payload.keys()


def test_a_body_against_its_schema_is_recorded_and_refused(
    server: ClearMLServer, client: Client
) -> None:
    status, answer = client.send("tasks.create", b'{"name": 3, "type": "training"}')
    assert (status, answer["meta"]["result_subcode"]) == (400, 12)
    [violation] = server.schema_violations
    assert (violation.endpoint, violation.version) == ("tasks.create", "2.23")
    assert violation.message.startswith("name: ")


def test_an_unknown_endpoint_is_recorded(server: ClearMLServer, client: Client) -> None:
    assert client.send("queues.get_all", b"{}")[0] == 404
    assert server.unknown_endpoints == ["queues.get_all"]


def test_short_names_are_refused(client: Client) -> None:  # rule 11
    for endpoint, body in (
        ("projects.create", {"name": " ab "}),
        ("tasks.create", {"name": "ab", "type": "training"}),
    ):
        status, answer = client.send(endpoint, json.dumps(body))
        assert (status, answer["meta"]["result_subcode"]) == (400, 800)
        assert "String value is too short" in answer["meta"]["result_msg"]


def test_a_stopped_server_comes_back_with_its_port_and_data(
    server: ClearMLServer, client: Client, task: str
) -> None:
    client.add(scalar(task))
    server.stop()
    with pytest.raises(ConnectionError):
        client.add(scalar(task))
    client.connection.close()
    server.start()
    assert client.add(scalar(task, 1))[0] == 200
    assert server.scalars(task) == {("loss", "train"): {0: 0.5, 1: 0.5}}


# events.add_batch


def test_a_batch_is_stored_and_counted(server: ClearMLServer, client: Client, task: str) -> None:
    answer = client.add(scalar(task, 1, 0.25), scalar(task, 2, 0.125, worker="w", method="get"))
    assert answer == (200, 0, {"added": 2, "errors": 0, "errors_info": {}})
    assert server.scalars(task) == {("loss", "train"): {1: 0.25, 2: 0.125}}
    assert server.timestamps(task) == {("loss", "train"): {1: NOW, 2: NOW}}
    assert server.tasks[task]["last_iteration"] == 2
    assert server.schema_violations == []
    record = server.request_log[-1]
    assert (record.endpoint, record.status, record.events) == ("events.add_batch", 200, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"value": "NaN"},
        {"value": "1.5"},
        {"value": [1]},
        {"value": {}},
        {"iter": "x"},
        {"iter": "3.5"},
        {"iter": [1]},
        {"metric": 5},
        {"metric": ["loss"]},
        {"variant": 5},
    ],
    ids=lambda fields: str(fields)[:24],
)
def test_rule_1_an_exception_loses_the_whole_batch(
    server: ClearMLServer, client: Client, task: str, fields: dict[str, Any]
) -> None:
    # In the middle of plain ones too, where the server takes the short way.
    plain = [scalar(task, i) for i in range(10)]
    status, subcode, _ = client.add(*plain, {**scalar(task), **fields}, *plain)
    assert (status, subcode) == (500, 0)
    assert server.stored_count() == 0
    assert len(server.schema_violations) == 1


def test_rule_1_mixed_timestamps_of_one_metric(
    server: ClearMLServer, client: Client, task: str
) -> None:
    words = {"timestamp": "1700000000000"}
    assert client.add(scalar(task), scalar(task, 1, variant="b", **words))[0] == 500
    assert client.add(scalar(task, **words), scalar(task, 1))[0] == 500
    assert server.stored_count() == 0
    assert client.add(scalar(task), scalar(task, 1, metric="other", **words))[0] == 200
    assert client.add(scalar(task, **words), scalar(task, 1, **words))[0] == 200


DATE_LIKE = [
    "2026-01-01",
    "2026-01-01 10:00:00",
    "2026-01-01T00:00:00Z",
    "12:30:00",
    "12:30:00.5Z",
    "2024-02-29T10:00:00.123456+01:00",
]
NOT_DATE_LIKE = [
    "12:30",
    "20260101",
    "24:00:00",
    "2026-13-01",
    "val 2026-01-01",
    "2026-02-29",
    "2026-01-01 ",
    "0000-01-01",
]


@pytest.mark.parametrize("name", DATE_LIKE)
@pytest.mark.parametrize("field", ["metric", "variant"])
def test_rule_2_names_like_dates_lose_the_batch(
    server: ClearMLServer, client: Client, task: str, field: str, name: str
) -> None:
    assert client.add(scalar(task), scalar(task, 1, **{field: name}))[:2] == (500, 0)
    plot = {"type": "plot", "task": task, "metric": "m", "variant": "v", "plot_str": name}
    assert client.add(scalar(task), plot)[:2] == (500, 0)
    assert server.stored_count() == 0


@pytest.mark.parametrize("name", NOT_DATE_LIKE)
def test_rule_2_other_names_are_safe(
    server: ClearMLServer, client: Client, task: str, name: str
) -> None:
    assert client.add(scalar(task, metric=name), scalar(task, variant=name))[0] == 200
    assert server.scalars(task).keys() == {(name, "train"), ("loss", name)}


def test_rule_2_console_lines_are_rewritten_and_plain_json_is_not(
    server: ClearMLServer, client: Client, task: str
) -> None:
    def line(text: str) -> dict[str, Any]:
        return {"type": "log", "task": task, "msg": text, "level": "info", "timestamp": NOW}

    assert client.add(line("2026-01-01 10:00:00"), line("2026-01-01"), line("hi"))[0] == 200
    messages = [event["msg"] for event in server.logs(task)]
    assert messages == ["2026-01-01T10:00:00+00:00", "2026-01-01", "hi"]
    # elasticsearch-py has no way to write a bare time.
    assert client.add(line("12:30:00"))[:2] == (500, 100)
    body = json.dumps(scalar(task, metric="2026-01-01"))
    assert client.send("events.add", body, Content_Type="application/json")[0] == 200
    assert ("2026-01-01", "train") in server.scalars(task)


def test_rule_2_dates_that_do_not_exist(server: ClearMLServer, client: Client, task: str) -> None:
    """Month or day zero: with a time it fails the parse, alone it kills the server's process."""
    assert client.add(scalar(task), scalar(task, metric="2026-00-10 10:00:00"))[:2] == (400, 0)
    for name in ("2026-00-10", "2026-01-00"):
        with pytest.raises((OSError, http.client.HTTPException)):
            client.add(scalar(task), scalar(task, metric=name))
        client.connection.close()
        assert server.request_log[-1].status is None
    assert server.stored_count() == 0


LONGEST_NAME = "x" * 32_766


@pytest.mark.parametrize(
    "fields",
    [
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": -1e39},
        {"value": 10**40},
        {"value": True},
        {"metric": LONGEST_NAME + "x"},
        {"variant": "é" * 16_384},
    ],
    ids=lambda fields: str(fields)[:24],
)
def test_rule_3_refused_documents_stop_the_batch_at_their_chunk(
    server: ClearMLServer, client: Client, task: str, fields: dict[str, Any]
) -> None:
    events = [scalar(task, i) for i in range(1200)]
    events[700].update(fields)
    status, subcode, message = client.add(*events)
    assert (status, subcode) == (500, 100)
    assert "1 document(s) failed to index" in message
    stored = server.scalars(task)["loss", "train"]
    assert stored.keys() == {i for i in range(1000) if i != 700}
    assert server.tasks[task]["last_iteration"] == 0
    assert server.tasks[task]["last_metrics"] == {}


def test_rule_3_the_largest_that_is_taken(server: ClearMLServer, client: Client, task: str) -> None:
    events = scalar(task, 0, 3.4028235e38), scalar(task, 1, metric=LONGEST_NAME)
    assert client.add(*events)[0] == 200
    assert server.stored_count(task) == 2


def test_rule_4_iterations(server: ClearMLServer, client: Client, task: str) -> None:
    events = [scalar(task, 2**63 - 1), scalar(task, 2**63), scalar(task, 0), scalar(task, -(2**64))]
    status, subcode, message = client.add(*events)
    assert (status, subcode) == (500, 100)
    assert "2 document(s) failed to index" in message
    assert server.scalars(task)["loss", "train"].keys() == {2**63 - 1, 0}

    missing = scalar(task, metric="missing")
    del missing["iter"]
    assert client.add(scalar(task, 3.7), scalar(task, "5"), missing)[0] == 200
    assert server.scalars(task)["loss", "train"].keys() == {2**63 - 1, 0, 3, 5}
    assert server.scalars(task)["missing", "train"].keys() == {None}


@pytest.mark.parametrize(
    "bad",
    [
        b'{"type": "training',
        b"",
        b"   ",
        b'{"value": 1e400}',
        rb'{"metric": "\ud800"}',
        b"\xef\xbb\xbf{}",
        b'{"metric": "\xff"}',
        b"{} {}",
        b"[1]",
        b"3",
    ],
)
def test_rule_5_a_malformed_line_loses_the_batch(
    server: ClearMLServer, client: Client, task: str, bad: bytes
) -> None:
    good = lines(scalar(task))
    assert client.add_batch(b"\n".join([good, bad, good]))[:2] == (400, 0)
    assert server.stored_count() == 0


def test_rule_5_line_ends_and_pairs_of_surrogates(
    server: ClearMLServer, client: Client, task: str
) -> None:
    body = lines(scalar(task, metric="\U0001f600"), scalar(task, metric="a\u2028b"))
    assert b"\\ud83d\\ude00" in body
    assert client.add_batch(body.replace(b"\n", b"\r\n") + b"\n")[0] == 200
    unescaped = json.dumps(scalar(task, metric="a\u2028c"), ensure_ascii=False).encode()
    assert client.add_batch(unescaped)[0] == 200
    names = {metric for metric, _ in server.scalars(task)}
    assert names == {"\U0001f600", "a\u2028b", "a\u2028c"}


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json-lines; charset=utf-8", "text/plain"]
)
def test_rule_5_the_content_type_is_exact(
    server: ClearMLServer, client: Client, task: str, content_type: str
) -> None:
    two = lines(scalar(task), scalar(task, 1))
    assert client.add_batch(two, Content_Type=content_type)[0] == 400
    assert server.stored_count() == 0


def test_rule_5_encodings(server: ClearMLServer, client: Client, task: str) -> None:
    headers = {"Content_Type": "application/json-lines", "Content_Encoding": "gzip"}
    status, text = client.send("events.add_batch", b"\x1f\x8b", **headers)
    assert (status, type(text)) == (415, str)
    # An iterable body is sent chunked.
    chunked = iter([lines(scalar(task)) + b"\n", lines(scalar(task, 1))])
    assert client.add_batch(chunked)[0] == 200
    assert server.stored_count(task) == 2


def test_rule_6_wrong_tasks(server: ClearMLServer, client: Client, task: str) -> None:
    status, _, data = client.add(scalar(task), scalar("nobody"), scalar(task, 1))
    assert status == 200
    assert data == {"added": 2, "errors": 1, "errors_info": {"Invalid task id nobody": 1}}
    assert client.add(scalar("nobody"))[:2] == (400, 131)
    assert client.add({**scalar(task), "type": "no such type"})[:2] == (400, 131)
    assert client.add_batch(b"")[:2] == (400, 17)


@pytest.mark.parametrize("status", ["completed", "failed", "stopped", "in_progress"])
def test_rule_6_finished_tasks_take_events(
    server: ClearMLServer, client: Client, status: str
) -> None:
    assert client.add(scalar(server.add_task(status=status)))[0] == 200


def test_rule_6_published_and_deleted_tasks_do_not(
    server: ClearMLServer, client: Client, task: str
) -> None:
    client.send("tasks.publish", json.dumps({"task": task}))
    assert client.add(scalar(task))[:2] == (400, 131)
    assert client.add(scalar(task, allow_locked=True))[0] == 200
    assert client.add(scalar(task), scalar(task, allow_locked=True))[:2] == (400, 12)
    client.send("tasks.delete", json.dumps({"task": task}))
    assert client.add(scalar(task, allow_locked=True))[:2] == (400, 131)


def test_rule_7_added_counts_lines(server: ClearMLServer, client: Client, task: str) -> None:
    _, _, data = client.add(*(scalar(task, 1, value) for value in (1.0, 2.0, 3.0)))
    assert data["added"] == 3
    assert server.scalars(task) == {("loss", "train"): {1: 3.0}}
    assert (server.stored_count(task), server.write_count) == (1, 3)

    other = server.add_task()
    pair = (
        scalar(other, metric="a-b", variant="c"),
        scalar(other, metric="a", variant="b-c"),
    )
    assert client.add(*pair)[2]["added"] == 2
    assert server.scalars(other).keys() == {("a", "b-c")}


def test_rule_8_resending_inflates_only_the_summary(
    server: ClearMLServer, client: Client, task: str
) -> None:
    def summary() -> dict[str, Any]:
        [variants] = server.tasks[task]["last_metrics"].values()
        [series] = variants.values()
        return dict(series)

    batch = [scalar(task, i, float(i)) for i in range(4)]
    client.add(*batch)
    first, stored = summary(), server.events(task)
    assert (first["count"], first["mean_value"], first["value"]) == (4, 1.5, 3.0)
    assert (first["min_value"], first["max_value"]) == (0.0, 3.0)
    client.add(*batch)
    assert server.events(task) == stored
    assert summary() == {**first, "count": 8}


def test_rule_8_console_lines_are_stored_again(
    server: ClearMLServer, client: Client, task: str
) -> None:
    line = {"type": "log", "task": task, "msg": "hello", "level": "info"}
    client.add(line)
    client.add(line)
    assert [event["msg"] for event in server.logs(task)] == ["hello", "hello"]


def test_rule_9_the_summary_holds_2000_series(
    server: ClearMLServer, client: Client, task: str
) -> None:
    client.add(*(scalar(task, metric=f"metric {i}") for i in range(2100)))
    assert len(server.tasks[task]["last_metrics"]) == 2000
    assert server.stored_count(task) == 2100


def test_rule_10_all_digits_are_kept(server: ClearMLServer, client: Client, task: str) -> None:
    client.add(scalar(task, 0, 0.12345678901234567))
    assert server.scalars(task)["loss", "train"][0] == 0.12345678901234567


def test_a_line_against_the_schema_is_recorded_but_answered_as_the_server_does(
    server: ClearMLServer, client: Client, task: str
) -> None:
    plain = [scalar(task, i) for i in range(10)]
    assert client.add(*plain, scalar(task, 3.7), *plain)[0] == 200
    [violation] = server.schema_violations
    assert violation.endpoint == "events.add_batch"
    assert violation.body["iter"] == 3.7


# Faults


@pytest.mark.parametrize("mode", ["400", "413", "429", "500", "502", "503"])
def test_a_fault_answers_its_status_and_stores_nothing(
    server: ClearMLServer, client: Client, task: str, mode: str
) -> None:
    server.faults.add(mode, times=1, retry_after=7)
    headers = {"Content_Type": "application/json-lines"}
    status, answer = client.send("events.add_batch", lines(scalar(task)), **headers)
    assert status == int(mode)
    # What the proxy answers is no JSON.
    assert isinstance(answer, str) == (mode in ("413", "502", "503"))
    assert (client.retry_after == "7") == (mode == "429")
    assert server.stored_count() == 0
    assert server.request_log[-1].fault is FaultMode(mode)
    assert client.add(scalar(task))[0] == 200


def test_fault_401_lasts_until_the_next_login(
    server: ClearMLServer, client: Client, task: str
) -> None:
    server.faults.add("401", times=1)
    assert client.add(scalar(task))[0] == 401
    assert client.add(scalar(task))[0] == 401
    client.token = client.login()
    assert client.add(scalar(task))[0] == 200


@pytest.mark.parametrize(
    ("mode", "stored"), [("close before", 0), ("close after", 1), ("half answer", 1)]
)
def test_faults_that_lose_the_answer(
    server: ClearMLServer, client: Client, task: str, mode: str, stored: int
) -> None:
    server.faults.add(mode, times=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        client.add(scalar(task))
    assert server.stored_count(task) == stored
    assert server.request_log[-1].status is None
    client.connection.close()
    assert client.add(scalar(task))[0] == 200
    assert server.write_count == stored + 1


def test_fault_slow_answers_late(server: ClearMLServer, client: Client, task: str) -> None:
    server.faults.add("slow", times=1, delay=0.3)
    start = time.monotonic()
    assert client.add(scalar(task))[0] == 200
    assert 0.3 <= time.monotonic() - start < 3


def test_faults_hit_the_endpoints_and_the_share_they_are_told_to(
    server: ClearMLServer, client: Client, task: str
) -> None:
    server.faults.add("500", probability=0.5)
    server.faults.add("400", endpoints=["tasks.get_all"])
    assert client.send("tasks.get_all", b"{}")[0] == 400
    assert client.send("tasks.get_by_id", json.dumps({"task": task}))[0] == 200
    statuses = [client.add(scalar(task, i))[0] for i in range(60)]
    assert 15 < statuses.count(500) < 45
    assert set(statuses) == {200, 500}
    server.faults.clear()
    assert client.send("tasks.get_all", b"{}")[0] == 200


# Speed


def test_a_request_costs_no_delayed_acknowledgement(client: Client) -> None:
    times_s = []
    for _ in range(20):
        start = time.monotonic()
        client.send("tasks.get_all", b"{}")
        times_s.append(time.monotonic() - start)
    assert min(times_s) < 0.03  # it is 0.04 for each one where there is such a wait


def test_a_large_batch_is_taken_whole(server: ClearMLServer, client: Client, task: str) -> None:
    size = 30_000
    body = lines(*(scalar(task, i, i / 7, variant=f"v{i % 50}") for i in range(size)))
    assert client.add_batch(body)[2]["added"] == size
    assert server.stored_count(task) == size


TWO_PROCESSES = """
    import os, sys, tracelet
    from clearml import Task
    from clearml.backend_api.services import tasks

    task = Task.init(project_name="forks", task_name="forks")
    tracelet.start_logging("forks")

    def is_answered():
        asked = (task.session.send(tasks.GetByIdRequest(task=task.id)) for _ in range(100))
        return all(answer.ok() and answer.response.task.id == task.id for answer in asked)

    assert task.session.send(tasks.GetByIdRequest(task=task.id)).ok()  # a connection is open
    child = os.fork()
    if not child:
        os._exit(not is_answered())
    assert is_answered()
    assert os.waitpid(child, 0)[1] == 0
    tracelet.stop_logging()
"""


@pytest.mark.slow
def test_two_processes_of_a_fork_do_not_mix_their_requests(clearml_server, run_script):
    run_script(TWO_PROCESSES, env={**clearml_server.environment(), "CLEARML_LOG_LEVEL": "CRITICAL"})
    assert {each.status for each in clearml_server.request_log} == {200}
