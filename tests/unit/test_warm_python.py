"""A script run by a warm process is run as by a new one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from warm_python import WarmPython, run_new, run_warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scripts have new processes there")

SEEN = """
import atexit, json, multiprocessing.process, os, signal, sys, threading
atexit.register(lambda: print("at exit", threading.active_count()))
def wait():
    threading.main_thread().join()
    print("waited for")
threading.Thread(target=wait).start()
def kind(fd):
    return os.readlink(f"/proc/self/fd/{fd}").split(":")[0]
print(json.dumps({
    "names": sorted(globals()), "argv": sys.argv, "path": sys.path, "folder": os.getcwd(),
    "multiprocessing": multiprocessing.process.ORIGINAL_DIR,
    "environment": dict(os.environ), "pipes": [kind(fd) for fd in (0, 1, 2)],
    "descriptors": len(os.listdir("/proc/self/fd")), "buffered": sys.stdout.line_buffering,
    "signals": {each.name: str(signal.getsignal(each)) for each in signal.Signals},
    "gone": [each for each in ("torch", "clearml", "tracelet") if each in sys.modules],
    "hooks": [str(type(each)) for each in sys.meta_path],
}))
sys.stderr.write("told\\n")
def raises():
    raise SystemExit(7)
raises()
"""


def test_it_sees_what_it_would_see(tmp_path):
    environment = {**os.environ, "SOME": "thing", "PYTHONPATH": "/a:/b"}
    del environment["CLEARML_LOG_LEVEL"]
    new, warm = (run(SEEN, environment, tmp_path, 120.0) for run in (run_new, run_warm))
    for done in (new, warm):
        assert (done.returncode, done.stderr) == (7, "told\n"), done
    new_lines, warm_lines = new.stdout.splitlines(), warm.stdout.splitlines()
    assert new_lines[1:] == warm_lines[1:] == ["waited for", "at exit 1"]
    expected, seen = json.loads(new_lines[0]), json.loads(warm_lines[0])
    hooks = expected.pop("hooks")
    assert [each for each in seen.pop("hooks") if "six" not in each] == hooks
    assert seen == expected


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os; os._exit(5)", 5),
        ("1 / 0", 1),
        ("", 0),
    ],
)
def test_how_it_ended_is_told(code, status, tmp_path):
    done = run_warm(code, dict(os.environ), tmp_path, 120.0)
    assert done.returncode == status
    assert ("ZeroDivisionError" in done.stderr) == (status == 1)


def test_two_have_nothing_in_common(tmp_path):
    code = "import numpy, os, random\nprint(os.getpid(), numpy.random.rand(), random.random())"
    first, second = (run_warm(code, dict(os.environ), tmp_path, 120.0).stdout for _ in range(2))
    assert all(one != other for one, other in zip(first.split(), second.split()))


def test_torch_is_there_for_a_script_that_imports_it(tmp_path):
    pytest.importorskip("torch")
    code = "import sys; print('torch' in sys.modules, 'torch.utils.tensorboard' in sys.modules)"
    done = run_warm(
        code + "\nimport torch\nprint(torch.ones(2).sum())", dict(os.environ), tmp_path, 240.0
    )
    assert done.stdout == "True False\ntensor(2.)\n"


def test_what_the_loader_reads_has_a_new_process(tmp_path):
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    one, other = (run_warm("print(hash('a'))", environment, tmp_path, 120.0) for _ in range(2))
    assert one.stdout == other.stdout


def test_one_that_takes_too_long_is_killed(tmp_path):
    warm = WarmPython(())
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        warm.run(code, dict(os.environ), tmp_path, 5.0)
    end = time.monotonic() + 60
    while os.path.exists(f"/proc/{int(raised.value.stdout)}"):
        assert time.monotonic() < end
        time.sleep(0.01)
