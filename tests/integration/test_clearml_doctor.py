"""tracelet doctor against a ClearML server, and against what is wrong with one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("clearml")


def test_each_thing_that_can_be_wrong_with_the_server(clearml_server, run_script):
    environment = clearml_server.environment()
    done = run_script(
        """
        import os, sys
        from tracelet.cli import main
        def doctor(title, **variables):
            before = {name: os.environ.get(name) for name in variables}
            os.environ.update(variables)
            print("==", title)
            print("code", main(["doctor", "--timeout-s", "2"]), flush=True)
            for name, value in before.items():
                os.environ.pop(name, None)
                if value:
                    os.environ[name] = value
        doctor("well")
        doctor("refused", CLEARML_API_SECRET_KEY="wrong-secret-words")
        doctor("not an api server", CLEARML_API_HOST=os.environ["CLEARML_FILES_HOST"])
        doctor("away", CLEARML_API_HOST="http://127.0.0.1:9",
               CLEARML_FILES_HOST="http://127.0.0.1:9")
        del os.environ["CLEARML_API_ACCESS_KEY"]
        doctor("without", TRACELET_BACKEND="clearml")
        doctor("not meant")
        """,
        env={**environment, "HOME": "/nonexistent"},
    )
    parts = dict(part.partition("\n")[::2] for part in done.stdout.split("== ")[1:])
    assert "ok    API server: " + clearml_server.url in parts["well"]
    assert "ok    file server: " + clearml_server.files_url in parts["well"]
    assert "all is well\ncode 0" in parts["well"], parts["well"]
    assert "refuses these credentials" in parts["refused"]
    assert "fix: clearml-init" in parts["refused"]
    assert "but not as an API server" in parts["not an api server"]
    assert "port 8008" in parts["not an api server"]
    assert parts["away"].count("can't be reached\n      fix: is CLEARML_") == 2
    assert "FAIL  credentials: none" in parts["without"]
    assert "not set up: runs that name no backend go to TensorBoard" in parts["not meant"]
    well = ("well", "not meant")
    assert all(("code 1" in part) == (name not in well) for name, part in parts.items())
    for secret in (environment["CLEARML_API_SECRET_KEY"], "wrong-secret-words"):
        assert secret not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refuses", "never answers", "answers byte by byte"])
def test_in_a_fresh_process_it_tells_each_line_at_once_and_ends_in_time(kind, tmp_path):
    """With keys set. The SDK repeated its request in an import: it took 100 s."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    held = []

    def dribble(connection):
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.1)
        except OSError:
            pass

    def answer():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            held.append(connection)
            if kind == "answers byte by byte":
                threading.Thread(target=dribble, args=(connection,), daemon=True).start()

    if kind == "refuses":
        listening.close()
    else:
        threading.Thread(target=answer, daemon=True).start()
    environment = {
        **os.environ, "CLEARML_API_HOST": url, "CLEARML_FILES_HOST": url, "HOME": str(tmp_path),
        "CLEARML_API_ACCESS_KEY": "key", "CLEARML_API_SECRET_KEY": "secret",
        "CLEARML_CACHE_DIR": str(tmp_path / "clearml"), "CLEARML_WEB_HOST": url,
    }  # fmt: skip
    environment.pop("CLEARML_OFFLINE_MODE")
    told: list[tuple[float, str]] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tracelet", "doctor", "--timeout-s", "4"], env=environment,
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        killer = threading.Timer(120, process.kill)
        killer.start()
        assert process.stdout is not None
        told = [(time.monotonic(), line.strip()) for line in process.stdout]
        ended_s = time.monotonic()
    killer.cancel()
    listening.close()
    for connection in held:
        connection.close()
    text = "\n".join(line for _, line in told)
    assert process.returncode == 1, text
    assert text.count("FAIL  API server: " + url) == 1, text
    assert text.count("FAIL  file server: " + url) == 1, text
    (credentials_s,) = [at_s for at_s, line in told if line.startswith("ok    credentials")]
    assert ended_s - credentials_s < 4 * 5
    if kind != "refuses":  # what needs no server is not told together with what does
        api_s = next(at_s for at_s, line in told if "API server" in line)
        assert api_s - credentials_s > 1
