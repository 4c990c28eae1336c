"""Python processes that have imported already what most scripts of the tests import first.

`import torch` takes 2 s of CPU time, what clearml imports another one: more than most scripts do
themselves. A `WarmPython` imports it once, and forks for each script, before any thread is there.
The script has a process of its own with its own pipes, environment and working folder. It imports
in its own order (torch alone is there already, and neither torch.utils.tensorboard nor clearml nor
tracelet), and it ends as an interpreter ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing.process
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import CodeType

# What clearml imports, as far as it reads nothing of the environment, and starts nothing.
_LIBRARIES = (
    "numpy", "attr", "dateutil.parser", "furl", "google.protobuf.json_format", "jsonschema", "jwt",
    "multiprocessing.pool", "pandas", "PIL.Image", "psutil", "pyparsing", "requests", "six", "yaml",
)  # fmt: skip
# Only for scripts that import it, or start a run, which does, without a word of torch: that it is
# there changes what the SDK patches.
_TORCH = ("torch",)
_IMPORTS_TORCH = re.compile(r"^\s*(import|from) torch\b", re.MULTILINE)
_STARTS_A_RUN = re.compile(r"\btracelet\.(start_logging|logging)\(")
# Read by the interpreter, the loader or a library as it starts: such a script has a new process.
_READ_AT_START = re.compile(
    r"PYTHON(?!PATH$)|LD_|OMP_|MKL_|OPENBLAS|TORCH_|PYTORCH_|MALLOC|GLIBC|LC_|LANG|TZ"
)


Done = subprocess.CompletedProcess


def run_new(code: str, environment: dict[str, str], folder: Path, timeout_s: float) -> Done[str]:
    """Runs the code by a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment, cwd=folder, timeout=timeout_s, capture_output=True, text=True,
    )  # fmt: skip


def run_warm(code: str, environment: dict[str, str], folder: Path, timeout_s: float) -> Done[str]:
    """The same by a warm one, where that can be."""
    at_start = _at_start(environment)
    if sys.platform != "linux" or at_start != _at_start(dict(os.environ)):
        return run_new(code, environment, folder, timeout_s)
    modules = _LIBRARIES + _TORCH if _needs_torch(code) else _LIBRARIES
    key = (modules, *sorted(at_start.items()))
    warm = _warm.pop(key, None) or WarmPython(modules)
    done = warm.run(code, environment, folder, timeout_s)
    _warm[key] = warm  # not after an exception, and never used by two threads at once
    return done


def _needs_torch(code: str) -> bool:
    starts_a_run = _STARTS_A_RUN.search(code) is not None and "torch" not in code
    return starts_a_run or _IMPORTS_TORCH.search(code) is not None


def _at_start(environment: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if _READ_AT_START.match(key)}


class WarmPython:
    """One such process. It ends when this object goes, or its process does."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._socket, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with others:
            # Leaves no name in the script's own module.
            code = f"__import__('sys').path.insert(1, {os.path.dirname(__file__)!r})\n"
            code += f"exec(__import__('warm_python').wait_for_script({others.fileno()}, {modules}))"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[others.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def run(
        self, code: str, environment: dict[str, str], folder: Path, timeout_s: float
    ) -> Done[str]:
        pipes = [os.pipe(), os.pipe()]
        with open(os.devnull) as nothing, contextlib.ExitStack() as ends:
            for _, end in pipes:
                ends.callback(os.close, end)
            with open(os.memfd_create("script"), "w+") as request:
                words = {"code": code, "environment": environment, "folder": str(folder)}
                json.dump(words, request)
                request.flush()
                fds = [request.fileno(), nothing.fileno(), *(end for _, end in pipes)]
                socket.send_fds(self._socket, [b"run"], fds)
            pid = int(self._answer(240.0) or 0)  # at first it imports
            assert pid, "the warm process does not answer"
        outputs = [_Output(reader) for reader, _ in pipes]
        deadline = time.monotonic() + timeout_s
        # Whoever holds the pipes is waited for, as by subprocess: that may be the script's child.
        in_time = all([output.join(deadline - time.monotonic()) for output in outputs])
        status = self._answer(deadline - time.monotonic()) if in_time else None
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(code, timeout_s, *(output.text() for output in outputs))
        exit_code = os.waitstatus_to_exitcode(int(status))
        return Done([sys.executable, "-c", code], exit_code, *(each.text() for each in outputs))

    def _answer(self, timeout_s: float) -> str | None:
        """None if there was none in time."""
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            answer = self._socket.recv(100)
        except socket.timeout:
            return None
        assert answer, "the warm process has died"
        return answer.decode()

    def __del__(self) -> None:
        self._socket.close()
        self._process.wait(60)


_warm: dict[object, WarmPython] = {}  # those that wait for a script


class _Output:
    """Reads a pipe to its end, in a thread."""

    def __init__(self, reader: int) -> None:
        self._pieces: list[bytes] = []
        self._thread = threading.Thread(target=self._read, args=[reader], daemon=True)
        self._thread.start()

    def _read(self, reader: int) -> None:
        with open(reader, "rb", buffering=0) as file:
            while piece := file.read(1 << 16):
                self._pieces.append(piece)

    def join(self, timeout_s: float) -> bool:
        self._thread.join(max(timeout_s, 0.0))
        return not self._thread.is_alive()

    def text(self) -> str:
        text = b"".join(self._pieces).decode()
        return text.replace("\r\n", "\n").replace("\r", "\n")


def wait_for_script(connection: int, modules: tuple[str, ...]) -> CodeType:
    """In the warm process. Returns in each forked child, with its script; never in the parent."""
    sys.path.remove(os.path.dirname(__file__))
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else the children's collections would copy the pages of all that is here
    with socket.socket(fileno=connection) as requests:
        fds = _fork_for_each(requests)
    with open(fds[0]) as file:
        file.seek(0)
        request = json.load(file)
    for number, fd in enumerate(fds[1:]):
        os.dup2(fd, number)
        os.close(fd)
    _change_environment(request["environment"])
    os.chdir(request["folder"])
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()  # where its children look for the script
    if "numpy" in sys.modules:  # its generator is not forked with a seed of its own, as Python's is
        sys.modules["numpy"].random.seed()
    return compile(request["code"], "<string>", "exec", dont_inherit=True)


def _fork_for_each(requests: socket.socket) -> list[int]:
    """Returns in each child, with the descriptors that came with the request for it."""
    with contextlib.suppress(OSError):  # who asked has gone
        while True:
            message, fds, _, _ = socket.recv_fds(requests, 10, 4)
            if not message:
                break
            pid = os.fork()
            if pid == 0:
                return fds
            for fd in fds:
                os.close(fd)
            requests.send(str(pid).encode())
            requests.send(str(os.waitpid(pid, 0)[1]).encode())
    os._exit(0)


def _change_environment(environment: dict[str, str]) -> None:
    before, after = (
        [path for path in each.get("PYTHONPATH", "").split(os.pathsep) if path]
        for each in (os.environ, environment)
    )
    sys.path[1 : 1 + len(before)] = after
    os.environ.clear()
    os.environ.update(environment)
