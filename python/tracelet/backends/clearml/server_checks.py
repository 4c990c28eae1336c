"""Whether ClearML can be reached and knows us. No secret is in what is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tracelet import environment
from tracelet.backends.clearml.sdk import load_task_class
from tracelet.backends.clearml.start import Work, in_time
from tracelet.checks import Check

_LONGEST_IMPORT_S = 30.0  # of the SDK, from a cold disk

_CREDENTIALS_FIX = (
    "clearml-init, or set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY "
    "(ClearML's page: Settings, Workspace, Create new credentials)"
)


def server_checks(timeout_s: float) -> Iterator[Check]:
    """Credentials, API server and file server; both are waited for `timeout_s`, in all."""
    if environment.clearml_offline():
        yield Check("ClearML", True, "offline mode (CLEARML_OFFLINE_MODE): nothing is sent")
        return
    longest_s = max(timeout_s, _LONGEST_IMPORT_S)
    try:
        in_time(load_task_class, longest_s)
    except TimeoutError:
        yield Check(
            "ClearML's SDK", False, f"is not imported in {longest_s:g} s",
            'what does `python -c "import clearml"` wait for?',
        )  # fmt: skip
        return
    from clearml.backend_api import Session
    from clearml.backend_api.session.defs import ENV_ACCESS_KEY, ENV_AUTH_TOKEN, ENV_SECRET_KEY
    from clearml.config import config_obj

    config = config_obj._init()
    key = ENV_ACCESS_KEY.get(default=config.get("api.credentials.access_key", None))
    secret = ENV_SECRET_KEY.get(default=config.get("api.credentials.secret_key", None))
    token = ENV_AUTH_TOKEN.get()
    where = environment.clearml_config_file() or "no clearml.conf"
    verify = config.get("api.verify_certificate", True)
    has_keys = bool((key and secret) or token)
    shown = f"access key {str(key)[:4]}…" if key else "a token" if token else "none"
    yield Check("credentials", has_keys, f"{shown} ({where})", "" if has_keys else _CREDENTIALS_FIX)
    api = Session.get_api_server_host(config=config).rstrip("/")
    authorization: dict[str, Any] = {"auth": (key, secret)}
    if token:
        authorization = {"headers": {"Authorization": f"Bearer {token}"}}
    files = str(Session.get_files_server_host(config=config))
    # A time-out of requests is for the next bytes: an answer that dribbles has no end.
    deadline_s = time.monotonic() + timeout_s
    asked = [
        ("API server", api, "CLEARML_API_HOST",
         Work(lambda: _api_server(api, authorization if has_keys else {}, timeout_s, verify))),
        ("file server", files, "CLEARML_FILES_HOST",
         Work(lambda: _files_server(files, timeout_s, verify))),
    ]  # fmt: skip
    for name, host, variable, work in asked:
        try:
            yield work.result(deadline_s - time.monotonic())
        except TimeoutError:
            yield Check(name, False, f"{host}: no answer in time", _host_fix(variable))


def _api_server(host: str, authorization: dict[str, Any], timeout_s: float, verify: Any) -> Check:
    import requests

    start_s = time.monotonic()
    try:
        answer = requests.get(
            f"{host}/auth.login", timeout=timeout_s, verify=verify, **authorization
        )
    except requests.RequestException as error:
        return Check("API server", False, f"{host}: {_words(error)}", _host_fix("CLEARML_API_HOST"))
    took_ms = (time.monotonic() - start_s) * 1000
    try:
        message = answer.json()["meta"]["result_msg"]
    except (ValueError, KeyError, TypeError):
        return Check(
            "API server", False, f"{host} answers {answer.status_code}, but not as an API server",
            "CLEARML_API_HOST is the API server (port 8008), not the web server (8080)",
        )  # fmt: skip
    if answer.status_code in (401, 403):
        if not authorization:
            return Check("API server", True, f"{host} answers in {took_ms:.0f} ms")
        return Check("API server", False, f"{host} refuses these credentials: {message}",
                     _CREDENTIALS_FIX)  # fmt: skip
    is_ok = answer.status_code == 200
    return Check(
        "API server", is_ok, f"{host} answers {answer.status_code} in {took_ms:.0f} ms",
        "" if is_ok else f"the server itself is sick: {message}",
    )  # fmt: skip


def _files_server(host: str, timeout_s: float, verify: Any) -> Check:
    import requests

    if not host.startswith(("http://", "https://")):
        return Check("file server", True, f"{host}: a storage, not looked at")
    try:
        answer = requests.get(host, timeout=timeout_s, verify=verify)
    except requests.RequestException as error:
        return Check("file server", False, f"{host}: {_words(error)}",
                     _host_fix("CLEARML_FILES_HOST"))  # fmt: skip
    is_ok = answer.status_code < 500
    return Check("file server", is_ok, f"{host} answers {answer.status_code}",
                 "" if is_ok else "the server itself is sick: nothing can be stored")  # fmt: skip


def _host_fix(variable: str) -> str:
    return f"is {variable} (or clearml.conf) right, the server up, and no proxy in the way?"


def _words(error: Exception) -> str:
    name = type(error).__name__
    return {"ConnectTimeout": "no answer", "ReadTimeout": "no answer in time",
            "ConnectionError": "can't be reached", "SSLError": "its certificate is not trusted",
            }.get(name, name)  # fmt: skip
