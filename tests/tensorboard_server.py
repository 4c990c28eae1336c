"""TensorBoard itself, started on a folder, and what its HTTP API answers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable
from urllib.error import URLError
from urllib.parse import urlencode

_TIMEOUT_S = 60


@contextmanager
def tensorboard(log_dir: Any, fast: bool = False) -> Iterator[str]:
    """Its address once it answers. `fast`: with its data server, the reader written in Rust."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "tensorboard.main", f"--load_fast={str(fast).lower()}",
        "--reload_interval", "1", "--logdir", str(log_dir), "--host", "127.0.0.1",
        "--port", str(port),
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: ask(url, "environment"))
        yield url
    finally:
        server.terminate()
        server.wait()


def ask(url: str, path: str, **query: Any) -> Any:
    """The answer of /data/PATH: parsed JSON, or the bytes where it is something else."""
    full = f"{url}/data/{path}" + (f"?{urlencode(query)}" if query else "")
    with urllib.request.urlopen(full, timeout=10) as response:
        body = response.read()
        return json.loads(body) if "json" in response.headers["Content-Type"] else body


def wait_for(condition: Callable[[], Any]) -> Any:
    """What `condition` gives once that is true; meanwhile the server may not answer."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            if result := condition():
                return result
        except (URLError, ConnectionError, TimeoutError, KeyError):
            pass
        if time.monotonic() > deadline_s:
            raise TimeoutError("TensorBoard does not show what it should")
        time.sleep(0.2)
