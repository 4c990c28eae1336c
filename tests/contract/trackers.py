"""The trackers of the contract suite: how a run is logged to each, and read back by its own means.

`status` is in the words of the suite: "finished", "failed", "killed"; None where there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

from readers import event_file_scalars, session_scalars

EXAMPLES = str(Path(__file__).parents[2] / "examples")


class Tracker:
    """`backend` as in start_logging; `imports` is run before, in a script of its own."""

    backend = ""
    imports = ""
    kept_not_finite = False  # whether NaN and infinity are held as they are
    has_status = True
    has_to_be_configured = ""
    none = "None"  # how it shows that

    project = "tests"

    def __init__(self, folder):
        self.folder = folder
        self.config = {}

    def scalars(self, run_id):
        """{tag: [(step, value), ...]} in the order of the steps."""
        raise NotImplementedError

    def params(self, run_id):
        """As texts."""
        raise NotImplementedError

    def artifact(self, run_id, name):
        """Its bytes."""
        raise NotImplementedError

    def status(self, run_id):
        return None

    def described(self, run_id):
        """Tags and notes; here of one that has no form for them but parameters."""
        params = self.params(run_id)
        return params["tags"].split(", "), params["notes"]

    def tag(self, tag):
        return tag


class TensorBoard(Tracker):
    backend = "tensorboard"
    kept_not_finite = True
    has_status = False

    def __init__(self, folder, log_dir=None):
        super().__init__(folder)
        self._log_dir = log_dir or folder / "events"
        self.config = {"log_dir": str(self._log_dir)}

    def scalars(self, run_id):
        return {
            tag: sorted((step, value) for step, value, _ in points)
            for tag, points in event_file_scalars(self._log_dir).items()
            if "/text_summary" not in tag and "_hparams_" not in tag
        }

    def _text(self, tag):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self._log_dir), size_guidance={"tensors": 0})
        events.Reload()
        return events.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()

    def described(self, run_id):
        return self._text("tags").split(", "), self._text("notes")

    def params(self, run_id):
        text = self._text("params")
        rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
        return {row[0]: row[1] if len(row) > 1 else "" for row in rows}

    def artifact(self, run_id, name):
        return (self._log_dir / "artifacts" / name).read_bytes()


class ClearML(Tracker):
    """What both of ClearML's forms share: a tag is a metric and a variant there."""

    backend = "clearml"
    none = ""  # as the SDK has it

    def tag(self, tag):
        metric, _, variant = tag.partition("/")
        return f"{metric}/{variant or metric}"


class ClearMLOffline(ClearML):
    """A session's folder, as the SDK's import reads it."""

    has_status = False  # a session has none

    def scalars(self, run_id):
        points = session_scalars(self._session(run_id))
        return {
            f"{metric}/{variant}": last_by_step((step, value) for step, value, _ in each)
            for (metric, variant), each in points.items()
        }

    def params(self, run_id):
        content = json.loads((self._session(run_id) / "task.json").read_text())
        section = content["hyperparams"]["General"]
        return {name: each["value"] for name, each in section.items()}

    def artifact(self, run_id, name):
        content = json.loads((self._session(run_id) / "task.json").read_text())
        (found,) = [each for each in content["execution"]["artifacts"] if each["key"] == name]
        paths = (self._session(run_id) / "data").rglob(Path(found["uri"]).name)
        (path,) = [path for path in paths if path.is_file()]
        return path.read_bytes()

    def described(self, run_id):
        content = json.loads((self._session(run_id) / "task.json").read_text())
        return content["tags"], content["comment"]

    def _session(self, run_id):
        roots = [Path(os.environ["CLEARML_CACHE_DIR"]), self.folder / "clearml"]
        found = [path for root in roots for path in root.rglob(f"*{run_id}*") if path.is_dir()]
        return found[0]


class ClearMLServer(ClearML):
    """The loopback server: what it has stored. For scripts of their own: the SDK of this process is
    offline."""

    def __init__(self, folder, server):
        super().__init__(folder)
        self.server = server

    def scalars(self, run_id):
        found = self.server.scalars(run_id)
        return {
            f"{metric}/{variant}": sorted(points.items())
            for (metric, variant), points in found.items()
            if not metric.startswith(":monitor")
        }

    def params(self, run_id):
        section = self.server.tasks[run_id]["hyperparams"]["General"]
        return {name: each["value"] for name, each in section.items()}

    def artifact(self, run_id, name):
        artifacts = self.server.tasks[run_id]["execution"]["artifacts"]
        (found,) = [each for each in artifacts if each["key"] == name]
        return self.server.files[urlsplit(found["uri"]).path.lstrip("/")]

    def status(self, run_id):
        status = self.server.tasks[run_id]["status"]
        return {"completed": "finished", "stopped": "killed"}.get(status, status)


def last_by_step(points):
    """As a tracker that overwrites by coordinate has them."""
    return sorted(dict(points).items())


class JsonLines(Tracker):
    backend = "json_lines"
    imports = f"import sys; sys.path.insert(0, {EXAMPLES!r}); import json_lines_backend"
    kept_not_finite = True

    def _rows(self, run_id, name):
        path = self.folder / "json-lines" / run_id / name
        return [json.loads(line) for line in path.read_text().splitlines()]

    def scalars(self, run_id):
        points = defaultdict(list)
        for row in self._rows(run_id, "points.jsonl"):
            points[row["tag"]].append((row["step"], row["value"]))
        return {tag: sorted(each) for tag, each in points.items()}

    def params(self, run_id):
        merged = {}
        for row in self._rows(run_id, "params.jsonl"):
            merged.update({name: str(value) for name, value in row.items()})
        return merged

    def artifact(self, run_id, name):
        return (self.folder / "json-lines" / run_id / Path(name).name).read_bytes()

    def status(self, run_id):
        return self._rows(run_id, "status.jsonl")[-1]


class MLflow(Tracker):
    """Straight into a database, or with `uri` to a server."""

    backend = "mlflow"

    def __init__(self, folder, uri=None):
        super().__init__(folder)
        self.uri = uri or f"sqlite:///{folder}/mlflow.db"
        self.config = {"mlflow": {"tracking_uri": self.uri}}
        self.has_to_be_configured = uri or ""

    @property
    def _client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def described(self, run_id):
        tags = self._client.get_run(run_id).data.tags
        # Those of the user: others say what the run runs in.
        own = [name for name in tags if not name.startswith(("mlflow.", "tracelet."))]
        return own, tags["mlflow.note.content"]

    def scalars(self, run_id):
        names = self._client.get_run(run_id).data.metrics
        return {
            name: sorted((m.step, m.value) for m in self._client.get_metric_history(run_id, name))
            for name in names
        }

    def params(self, run_id):
        return dict(self._client.get_run(run_id).data.params)

    def artifact(self, run_id, name):
        return Path(self._client.download_artifacts(run_id, name)).read_bytes()

    def status(self, run_id):
        return self._client.get_run(run_id).info.status.lower()


class Trackio(Tracker):
    """Its local database, in the folder that TRACKIO_DIR named when it was imported."""

    backend = "trackio"
    kept_not_finite = True
    has_status = False

    def _rows(self, run_id):
        from trackio.sqlite_storage import SQLiteStorage

        return SQLiteStorage.get_logs(self.project, run_id=run_id)

    def scalars(self, run_id):
        points = defaultdict(list)
        for row in self._rows(run_id):
            for name in row.keys() - {"step", "timestamp"}:
                points[name].append((row["step"], row[name]))
        return {name: sorted(each, key=lambda p: p[0]) for name, each in points.items()}

    def params(self, run_id):
        from trackio.sqlite_storage import SQLiteStorage

        config = SQLiteStorage.get_run_config(self.project, run_id=run_id)
        return {name: str(value) for name, value in config.items()}

    def described(self, run_id):
        from trackio.sqlite_storage import SQLiteStorage

        config = SQLiteStorage.get_run_config(self.project, run_id=run_id)
        return config["tags"], config["comment"]

    def artifact(self, run_id, name):
        from tracelet.backends.artifact import flat_name
        from trackio import cas
        from trackio.sqlite_storage import SQLiteStorage

        found = SQLiteStorage.get_artifact_manifest(self.project, flat_name(name), None)
        (entry,) = found["manifest"]
        return Path(cas.blob_path(self.project, entry["digest"])).read_bytes()


class Wandb(Tracker):
    """Its own files of a run, as wandb-core writes them offline."""

    backend = "wandb"
    kept_not_finite = True

    def __init__(self, folder):
        super().__init__(folder)
        self.config = {"wandb": {"dir": str(folder)}}

    def records(self, run_id):
        """Of all files of the run, in the order in which they were begun."""
        from tracelet.backends.wandb.log_file import LogFile
        from wandb.proto.wandb_internal_pb2 import Record

        paths = self.folder.rglob(f"run-{run_id}.wandb")
        for path in sorted(paths, key=lambda path: path.stat().st_ctime):
            for data in LogFile(str(path)).new_records():
                yield Record.FromString(data)

    def rows(self, run_id):
        """[(W&B's step, {column: value})], each step once: it ignores an old one."""
        rows, last = [], -1
        for record in self.records(run_id):
            if not record.HasField("history"):
                continue
            step = record.history.step.num
            assert step > last
            last = step
            row = {}
            for item in record.history.item:
                place, path = row, list(item.nested_key) or [item.key]
                for key in path[:-1]:
                    place = place.setdefault(key, {})
                place[path[-1]] = json.loads(item.value_json)
            rows.append((step, row))
        return rows

    def scalars(self, run_id):
        points = defaultdict(list)
        for _, row in self.rows(run_id):
            for name, value in row.items():
                if name[0] != "_" and name != "global_step" and not isinstance(value, dict):
                    points[name].append((row["global_step"], float(value)))
        return {name: sorted(each, key=lambda p: p[0]) for name, each in points.items()}

    def described(self, run_id):
        run = [record.run for record in self.records(run_id) if record.HasField("run")][-1]
        return list(run.tags), run.notes

    def config_of(self, run_id):
        found = {}
        for record in self.records(run_id):
            update = record.run.config.update if record.HasField("run") else record.config.update
            for item in update:
                name = item.key or "/".join(item.nested_key)
                if name != "_wandb":
                    found[name] = json.loads(item.value_json)
        return found

    def params(self, run_id):
        def flat(name, value):
            if not isinstance(value, dict):
                return {name: str(value)}
            found = {}
            for key, each in value.items():
                found.update(flat(f"{name}/{key}" if name else key, each))
            return found

        return flat("", self.config_of(run_id))

    def artifact(self, run_id, name):
        from tracelet.backends.wandb.names import artifact_name

        made = [r.artifact for r in self.records(run_id) if r.HasField("artifact")]
        (found,) = [each for each in made if each.name == artifact_name(name)]
        (entry,) = found.manifest.contents
        return Path(entry.local_path).read_bytes()

    def status(self, run_id):
        codes = [r.exit.exit_code for r in self.records(run_id) if r.HasField("exit")]
        status = {0: "finished", 1: "failed", 137: "killed"}
        return status[codes[-1]] if codes else "killed"


class Aim(Tracker):
    """A repository of its own, by the SDK: a run that is opened for writing, since one that is not
    shows nothing before it is indexed."""

    backend = "aim"
    kept_not_finite = True

    def __init__(self, folder):
        super().__init__(folder)
        self.config = {"aim": {"repo": str(folder)}}

    @contextlib.contextmanager
    def run(self, run_id):
        import aim

        run = aim.Run(
            run_id, repo=str(self.folder), system_tracking_interval=None,
            capture_terminal_logs=False,
        )  # fmt: skip
        try:
            yield run
        finally:
            run.close()

    def scalars(self, run_id):
        found = {}
        with self.run(run_id) as run:
            for metric in run.metrics():
                rows = metric.dataframe(include_run=False)
                assert metric.name not in found
                found[metric.name] = list(zip(rows["step"].tolist(), rows["value"].tolist()))
        return {name: sorted(each, key=lambda p: p[0]) for name, each in found.items()}

    def params(self, run_id):
        def flat(value, name=""):
            if not isinstance(value, dict):
                return {name: str(value)}
            found = {}
            for key, each in value.items():
                found.update(flat(each, f"{name}/{key}" if name else key))
            return found

        with self.run(run_id) as run:
            return flat({name: each for name, each in run[...].items() if name != "tracelet"})

    def described(self, run_id):
        with self.run(run_id) as run:
            return list(run.tags), run.description

    def artifact(self, run_id, name):
        with self.run(run_id) as run:
            found = run.artifacts[name]
            return Path(found.download(str(self.folder / "downloaded" / name))).read_bytes()

    def status(self, run_id):
        with self.run(run_id) as run:
            return run["tracelet", "status"]


class MLflowServer:
    """A real one, on loopback, on SQLite."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process = None

    def start(self, timeout_s=180.0):
        log = open(self._folder / "server.log", "ab")  # noqa: SIM115
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
                str(self.port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{self._folder}/server.db",
                "--artifacts-destination", str(self._folder / "artifacts"),
            ],
            cwd=self._folder, stdout=log, stderr=log, start_new_session=True,
            # No runners of jobs: ten processes that no test asks for.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        log.close()
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                time.sleep(0.2)
        raise AssertionError("mlflow server did not start in time")

    def stop(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None
