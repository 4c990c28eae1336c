"""A stand-in for W&B's server on loopback: as much of its GraphQL and file_stream as wandb-core
asks for a run. Lines are kept at the places where they were put, as the server does."""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Run:
    def __init__(self):
        self.lines = {}
        self.config = {}
        self.exit_code = None
        self.name = ""

    def rows(self):
        assert sorted(self.lines) == list(range(len(self.lines)))
        return [self.lines[number] for number in sorted(self.lines)]

    @property
    def params(self):
        return {name: each["value"] for name, each in self.config.items() if name not in _OWN}


class WandbServer:
    def __init__(self):
        self.runs = {}
        self.has_lines = threading.Event()
        self._port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self):
        self.is_stopped = False
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), _handler_of(self))
        self._port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self):
        if self.is_stopped:
            return
        self.is_stopped = True
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(30)

    def environment(self, folder):
        """For a process that is logged in here."""
        return {
            "WANDB_BASE_URL": self.url, "WANDB_API_KEY": "a" * 40, "WANDB_MODE": "online",
            "HOME": str(folder), "NETRC": str(folder / "netrc"),
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.2",
        }  # fmt: skip

    def take_stream(self, name, body):
        run = self.runs[name]
        history = body.get("files", {}).get("wandb-history.jsonl")
        if history:
            for number, line in enumerate(history["content"], history["offset"]):
                run.lines[number] = json.loads(line)
            self.has_lines.set()
        if body.get("complete"):
            run.exit_code = body.get("exitcode")

    def answer(self, operation, variables):
        if operation in ("Viewer", "GetDefaultEntity"):
            viewer = {"id": "u", "entity": "me", "username": "me", "flags": "{}",
                      "teams": {"edges": []}}  # fmt: skip
            return {"viewer": viewer, "serverInfo": None}
        if operation == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            return {"model": {**_PROJECT, "bucket": run and _resumed(variables["name"], run)}}
        if operation == "Run":
            run = self.runs.get(variables["name"])
            found = run and _shown(variables["name"], run)
            return {"project": {"run": found}}
        if operation == "UpsertBucket":
            name, is_new = variables["name"], variables["name"] not in self.runs
            run = self.runs.setdefault(name, Run())
            run.name = variables.get("displayName") or run.name
            run.config = json.loads(variables.get("config") or "null") or run.config
            bucket = {
                "id": name, "name": name, "displayName": run.name, "sweepName": None,
                "historyLineCount": len(run.lines), "config": variables.get("config"),
                "project": _PROJECT,
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}
        return None


_OWN = ("_wandb", "tracelet_run")
_PROJECT = {"id": "p", "name": "tests", "entity": {"id": "e", "name": "me"}}


def _shown(name, run):
    """For `wandb.Api().run`."""
    resumed = _resumed(name, run)
    return {
        **{key: resumed[key] for key in ("id", "name", "displayName", "config", "summaryMetrics")},
        "projectId": 1, "state": "running" if run.exit_code is None else "finished",
        "historyLineCount": len(run.lines), "user": {"name": "me", "username": "me"},
    }  # fmt: skip


def _resumed(name, run):
    last = run.rows()[-1:]
    return {
        "id": name, "name": name, "displayName": run.name, "tags": [], "wandbConfig": '{"t": 1}',
        "summaryMetrics": json.dumps(last[0] if last else {}), "config": json.dumps(run.config),
        "historyLineCount": len(run.lines), "logLineCount": 0, "eventsLineCount": 0,
        "historyTail": json.dumps([json.dumps(each) for each in last]), "eventsTail": "[]",
    }  # fmt: skip


def _handler_of(server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if server.is_stopped:  # one of the connections that are open yet
                self.close_connection = True
                return
            asked = json.loads(body)
            if self.path.endswith("/file_stream"):
                server.take_stream(self.path.split("/")[-2], asked)
                self._send({"limits": {}})
                return
            operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            data = server.answer(operation and operation[1], asked.get("variables") or {})
            unknown = {"data": None, "errors": [{"message": "not in this stand-in"}]}
            self._send(unknown if data is None else {"data": data})

        def _send(self, content):
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    return Handler
