"""tracelet doctor against a ClearML server, and against what is wrong with one."""

from __future__ import annotations

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
            os.environ.update({name: value for name, value in before.items() if value})
        doctor("well")
        doctor("refused", CLEARML_API_SECRET_KEY="wrong-secret-words")
        doctor("not an api server", CLEARML_API_HOST=os.environ["CLEARML_FILES_HOST"])
        doctor("away", CLEARML_API_HOST="http://127.0.0.1:9",
               CLEARML_FILES_HOST="http://127.0.0.1:9")
        del os.environ["CLEARML_API_ACCESS_KEY"]
        doctor("without")
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
    assert all("code 1" in part for name, part in parts.items() if name != "well")
    for secret in (environment["CLEARML_API_SECRET_KEY"], "wrong-secret-words"):
        assert secret not in done.stdout + done.stderr
