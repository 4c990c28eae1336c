"""tensorboardX imported before, during and not at all; forked processes; the end of a process."""

from __future__ import annotations

import importlib
import sys

import pytest
import tracelet
from readers import event_file_scalars, event_files
from tracelet.capture.file_writer import patch_file_writer
from tracelet.capture.tensorboardx import TensorboardXCapture

pytest.importorskip("tensorboardX")

HEAD = """
import importlib, inspect, sys
from pathlib import Path
import torch.utils.tensorboard  # whose dependencies have finders of their own
import tracelet

def start():
    return tracelet.start_logging("run", "tests", "tensorboard", {"quiet": True})

def count(folder, ours):
    found = Path(folder).glob("*tfevents*")
    return sum((".tracelet" in path.name) == ours for path in found)
"""


def steps(folder, tag="a"):
    return [step for step, _, _ in event_file_scalars(folder)[tag]]


@pytest.mark.slow
def test_imported_after_the_start_reloaded_and_imported_anew(run_script, tmp_path):
    done = run_script(
        HEAD
        + """
finders = list(sys.meta_path)
start()
assert not [name for name in sys.modules if name.startswith("tensorboardX")]
import wave, json.tool
assert wave.__spec__.loader.__class__.__name__ == "SourceFileLoader"

from tensorboardX import SummaryWriter
first = SummaryWriter("log")
first.add_scalar("a", 1.0, 1)
module = sys.modules["tensorboardX.writer"]
assert type(module.__loader__).__name__ == "SourceFileLoader"
assert module.__spec__.loader is module.__loader__
assert "class SummaryWriter" in inspect.getsource(SummaryWriter)

importlib.reload(module)
assert module.SummaryWriter is not SummaryWriter
first.add_scalar("a", 2.0, 2)
second = module.SummaryWriter("log")
second.add_scalar("a", 3.0, 3)

for name in [each for each in sys.modules if each.startswith("tensorboardX")]:
    del sys.modules[name]
import tensorboardX
assert tensorboardX.writer is not module
third = tensorboardX.SummaryWriter("log")
third.add_scalar("a", 4.0, 4)
second.add_scalar("a", 5.0, 5)
first.flush()
assert count("log", ours=True) == 1

tracelet.stop_logging()
assert sys.meta_path == finders
for each in (module, tensorboardX.writer):
    assert each.EventFileWriter.__module__ == "tensorboardX.event_file_writer"
    for name, method in vars(each.FileWriter).items():
        assert not hasattr(method, "__wrapped__") or name == "use_metadata", name
assert count("log", ours=False) == 0
third.add_scalar("a", 6.0, 6)
third.close()
assert count("log", ours=False) == 1
tensorboardX.SummaryWriter("late").add_scalar("a", 7.0, 7)
assert count("late", ours=True) == 0
start()
third.add_scalar("a", 8.0, 8)
"""
    )
    assert done.stderr == ""
    assert steps(tmp_path / "log") == [1, 2, 3, 4, 5, 8]


@pytest.mark.slow
def test_imported_before_and_flushed_at_the_end_of_the_process(run_script, tmp_path):
    done = run_script(
        HEAD
        + """
import tensorboardX
early = tensorboardX.SummaryWriter("early")
start()
late = tensorboardX.SummaryWriter("late")
for step in range(100):
    early.add_scalar("a", 1.0, step)
    late.add_scalar("a", 1.0, step)
"""
    )
    assert done.stderr == ""
    for folder in ("early", "late"):
        assert steps(tmp_path / folder) == list(range(100))


@pytest.fixture
def not_imported(monkeypatch):
    """As before the first import of tensorboardX; afterwards the modules are those of before."""
    for name in [each for each in sys.modules if each.startswith("tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [each for each in sys.modules if each.startswith("tensorboardX")]:
        del sys.modules[name]


def test_not_installed_nothing_happens(not_imported, monkeypatch):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "tensorboardX":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    finders = [Absent(), *sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", list(finders))
    tracelet.start_logging("run", "tests", backend="tensorboard")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tensorboardX")
    tracelet.stop_logging()
    assert sys.meta_path == finders


def test_a_version_that_is_not_known_is_left_alone(not_imported, monkeypatch, tmp_path, caplog):
    package = tmp_path / "tensorboardX"
    package.mkdir()
    (package / "__init__.py").write_text("from .writer import SummaryWriter\n")
    (package / "writer.py").write_text("class SummaryWriter:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tracelet.start_logging("run", "tests", backend="tensorboard")
    assert importlib.import_module("tensorboardX").SummaryWriter()
    tracelet.stop_logging()
    assert caplog.text.count("this version of tensorboardX is not known") == 1


@pytest.mark.slow
def test_forked_processes_log_to_the_run_until_they_leave_it(run_script, tmp_path):
    """GlobalSummaryWriter is made for several processes, which share one count of steps."""
    run_script(
        HEAD
        + """
import multiprocessing
multiprocessing.set_start_method("fork")
from tensorboardX import GlobalSummaryWriter, SummaryWriter

start()
writer = GlobalSummaryWriter("global")

def work():
    for _ in range(20):
        writer.add_scalar("a", 1.0)

workers = [multiprocessing.Process(target=work) for _ in range(3)]
for worker in workers:
    worker.start()
work()
for worker in workers:
    worker.join()
    assert worker.exitcode == 0
writer.close()

def leave():
    tracelet.stop_logging()
    hooks = [each for each in sys.meta_path if type(each).__name__ == "ImportHook"]
    assert not [each for each in hooks if each._name.startswith("tensorboardX")]
    with SummaryWriter("child") as own:
        own.add_scalar("a", 1.0, 1)
    assert (count("child", ours=True), count("child", ours=False)) == (0, 1)

child = multiprocessing.Process(target=leave)
child.start()
child.join()
assert child.exitcode == 0
SummaryWriter("parent").add_scalar("a", 1.0, 1)
tracelet.stop_logging()
"""
    )
    assert sorted(steps(tmp_path / "global")) == list(range(80))
    assert len(event_files(tmp_path / "global")) == 1
    assert steps(tmp_path / "parent") == [1]


def test_an_import_seen_twice_is_patched_once(tmp_path):
    """By the hook, and by the look at what is there when a run starts in another thread."""
    module = importlib.import_module("tensorboardX.writer")
    flushed = []
    capture = TensorboardXCapture(lambda: flushed.append(True))
    try:
        capture._hook.after(module)
        with module.FileWriter(str(tmp_path)).use_metadata(global_step=1) as writer:
            writer.flush()
    finally:
        capture.undo()
    assert flushed == [True]


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_an_import_that_ends_after_the_run_leaves_no_patch(moment, monkeypatch):
    module = importlib.import_module("tensorboardX.writer")
    originals = dict(vars(module.FileWriter)), dict(vars(module))
    capture = TensorboardXCapture(lambda: None)
    hook = capture._hook
    capture.undo()
    if moment == "meanwhile":
        capture = TensorboardXCapture(lambda: None)
        hook = capture._hook
        capture._undo_patches()

        def patch(*args):
            capture.undo()
            return patch_file_writer(*args)

        monkeypatch.setattr("tracelet.capture.tensorboardx.patch_file_writer", patch)
    hook.after(module)
    assert (dict(vars(module.FileWriter)), dict(vars(module))) == originals
