"""The child process of a measurement: holds one object and does what the parent asks of it.

    python -m benchmarks.worker MODULE:CLASS FOLDER JSON_OF_OPTIONS

makes CLASS(FOLDER, **options). Then each line of stdin, {"call": METHOD, "arguments": {...}}, is
answered by a line of stdout: {"result": ...}, {"missing": "what can't be imported"} or
{"error": "traceback"}. The first answer is about the making. With stdin it ends, and all of its
process group. What the measured
libraries print goes to stderr, and on SIGUSR1 where each thread is.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


def _answer(replies: TextIO, action: Callable[[], Any]) -> None:
    try:
        reply = {"result": action()}
    except ImportError as error:
        reply = {"missing": str(error)}
    except Exception:
        reply = {"error": traceback.format_exc()}
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def main(target: str, folder: str, options_json: str) -> None:
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    faulthandler.register(signal.SIGUSR1)

    held: list[Any] = []

    def make() -> None:
        module, name = target.split(":")
        cls = getattr(importlib.import_module(module), name)
        held.append(cls(Path(folder), **json.loads(options_json)))

    _answer(replies, make)
    for line in requests:
        request = json.loads(line)
        method = getattr(held[0], request["call"])
        _answer(replies, lambda method=method, request=request: method(**request["arguments"]))
    # The parent is done or dead. What the SDKs would do at exit is not wanted, nor their children.
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
