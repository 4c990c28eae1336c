"""A copy of the package whose modules are changed, and tests that run on it, in a fork."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COPIES = ROOT / "build" / "mutants"
# Each process that a test starts imports the copy, not the tree of an editable install.
SITE = """
import sys
sys.meta_path[:] = [each for each in sys.meta_path if "ScikitBuild" not in type(each).__name__]
"""
_SLOW = (
    "clearml", "hypothesis", "numpy", "pytest", "pytest_timeout",
    "tensorboard.compat.proto.event_pb2", "torch",
    "torch.utils.tensorboard",
)  # fmt: skip
# An assertion need not tell why it failed, and no plugin of another library takes part.
_OPTIONS = (
    "-x", "-q", "--tb=short", "--assert=plain", "-p", "pytest_timeout", "-p", "no:cacheprovider",
    "-p", "no:unraisableexception", "-p", "no:threadexception",
)  # fmt: skip


def import_what_is_slow():
    """Not the package itself: each fork imports it anew, with its slip."""
    exec(SITE)
    # As tests/conftest.py has them: the SDK reads them when it is imported.
    os.environ.update(CLEARML_OFFLINE_MODE="1", CLEARML_LOG_LEVEL="ERROR")
    os.environ["CLEARML_CACHE_DIR"] = tempfile.gettempdir()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in _SLOW:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.path.insert(0, str(ROOT / "tests"))
    importlib.import_module("warm_python")
    gc.freeze()  # the forks' collections pass over it


class Warm:
    """The processes that a copy's tests fork their scripts from (tests/warm_python.py), started
    before the tests are: else each slip's first script would import torch anew."""

    def __init__(self, folder):
        self._environment = {"PYTHONPATH": str(folder), "TMPDIR": str(folder / "tmp")}
        self._mark = f"PYTHONPATH={folder}".encode()  # all that the tests start have it
        self._made = {}

    def lend(self):
        """For the fork that runs the tests: it has them as if it had started them."""
        sys.modules["warm_python"]._warm.update(self._made)

    def make_ready(self):
        import warm_python

        before = dict(os.environ)
        try:
            os.environ.update(self._environment)
            for modules in (warm_python._LIBRARIES, warm_python._LIBRARIES + warm_python._TORCH):
                key = (modules, *sorted(warm_python._at_start(dict(os.environ)).items()))
                if key not in self._made:
                    self._made[key] = warm_python.WarmPython(modules)
        finally:
            os.environ.clear()
            os.environ.update(before)

    def clear_away(self, all_of_it=False):
        """Ends what the tests have left running, and each warm process that is not as it was."""
        pids = {warm._process.pid: key for key, warm in self._made.items()}
        odd = set(self._made) if all_of_it else set()
        for pid, parent in processes_with(self._mark):
            if pid not in pids:
                odd |= {pids[parent]} if parent in pids else set()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for key, warm in list(self._made.items()):
            unread, _, _ = select.select([warm._socket], [], [], 0)
            if key in odd or unread or warm._process.poll() is not None:
                del self._made[key]
                warm._process.kill()
                warm._process.wait()


def processes_with(mark):
    """(pid, its parent's) of those that were started with `mark` in their environment, and of
    those forked from them."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                stat = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                yield int(name), int(stat[1])


class Copy:
    def __init__(self, package, number):
        self.folder = COPIES / str(number)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.package = self.folder / "tracelet"
        shutil.copytree(package, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        if not list(self.package.glob("_core*.so")):  # an editable install has it elsewhere
            # Not by importing it: the native module is one of a process.
            for native in Path(sysconfig.get_path("platlib")).glob("tracelet/_core*.so"):
                shutil.copy(native, self.package)
        (self.folder / "sitecustomize.py").write_text(SITE)
        (self.folder / "tmp").mkdir()
        self._changes = 0
        self._warm = Warm(self.folder)

    def close(self):
        self._warm.clear_away(all_of_it=True)

    @contextlib.contextmanager
    def changed(self, module, code):
        path = self.package / module
        before, stat = path.read_bytes(), path.stat()
        path.write_text(code)
        self._changes += 1  # Python compares the source's second with that of what is compiled
        os.utime(path, (0, self._changes))
        try:
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def run(self, tests, deadline_s):
        """("killed", the test that failed: "" when none was reached), ("hangs", ""),
        ("survived", ""); ("", "") when the deadline came first."""
        self._warm.make_ready()
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(out)
            try:
                code = 1
                code = self._run(list(tests), into)
            finally:
                os._exit(code)
        os.close(into)
        hangs_s = time.monotonic() + 3 * sum(tests.values()) + 20
        done = 0
        try:
            while not done and time.monotonic() < min(hangs_s, deadline_s):
                done, status = os.waitpid(pid, os.WNOHANG)
                time.sleep(0 if done else 0.01)
            by = os.read(out, 1_000).decode().split("\n")[0] if done else ""
        finally:
            os.close(out)
            with contextlib.suppress(ProcessLookupError):  # what the tests have started, too
                os.killpg(pid, signal.SIGKILL)
            if not done:
                os.waitpid(pid, 0)
            self._warm.clear_away()
            shutil.rmtree(self.folder / "tmp", ignore_errors=True)
            (self.folder / "tmp").mkdir(exist_ok=True)
        if not done:
            return ("hangs", "") if hangs_s <= deadline_s else ("", "")
        if status == 0:
            return "survived", ""
        return "killed", by

    def _run(self, tests, into):
        os.setsid()
        log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(PYTHONPATH=str(self.folder), TMPDIR=str(self.folder / "tmp"))
        tempfile.tempdir = None
        self._warm.lend()
        sys.path.insert(0, str(self.folder))
        os.chdir(ROOT)
        import pytest

        class First:
            @staticmethod
            def pytest_runtest_logreport(report):
                if report.failed:
                    os.write(into, f"{report.nodeid}\n".encode())

        code = pytest.main([*_OPTIONS, *tests], [First])
        sys.stdout.flush()
        sys.stderr.flush()
        return int(code)
