"""The hook that acts when a module is imported: when, on which object, what is left of it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import types

import pytest
from tracelet.capture.import_hook import ImportHook

PACKAGE = "hooked_package"
NAME = f"{PACKAGE}.inner"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose __init__ imports a name from its module, which is the one that is hooked."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("from .inner import Thing\n")
    (folder / "inner.py").write_text("class Thing:\n    pass\n")
    (folder / "other.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [each for each in sys.modules if each.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


class Recorder:
    """A hook that notes what it is told, with the module's class at that moment."""

    def __init__(self, name=NAME):
        self.seen = []
        self.hook = ImportHook(name, self._noting("before"), self._noting("after"))

    def _noting(self, what):
        return lambda module: self.seen.append((what, module, getattr(module, "Thing", None)))

    @property
    def words(self):
        return [what for what, _, _ in self.seen]


@pytest.fixture
def recorder(package):
    finders = list(sys.meta_path)
    recorder = Recorder()
    assert sys.meta_path[0] is recorder.hook
    yield recorder
    recorder.hook.remove()
    recorder.hook.remove()  # does nothing
    assert sys.meta_path == finders


def test_nothing_is_imported_until_someone_does(recorder):
    assert recorder.seen == []
    assert PACKAGE not in sys.modules
    assert importlib.util.find_spec(PACKAGE) is not None
    assert PACKAGE not in sys.modules


def test_an_import_of_the_package_is_one_of_its_module(recorder):
    exec(f"from {PACKAGE} import Thing")
    module = sys.modules[NAME]
    assert recorder.seen == [("before", module, None), ("after", module, module.Thing)]


def test_the_module_and_its_loader_are_as_without_the_hook(recorder, package):
    module = importlib.import_module(NAME)
    importlib.reload(module)
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__.loader is module.__loader__
    assert inspect.getsource(module) == (package / "inner.py").read_text()
    assert module.__file__ == str(package / "inner.py")
    found = importlib.util.spec_from_file_location(NAME, package / "inner.py")
    assert module.__spec__.origin == found.origin
    assert module.__spec__.cached == found.cached
    # Python 3.15 sets no __cached__ any more.
    if sys.version_info < (3, 15):
        assert module.__cached__ == found.cached


def test_a_spec_asked_for_answers_as_the_real_one(recorder, package):
    importlib.import_module(PACKAGE)
    del sys.modules[NAME]
    spec = importlib.util.find_spec(NAME)
    assert spec.loader.get_source(NAME) == (package / "inner.py").read_text()
    assert spec.loader.is_package(NAME) is False


def test_a_reload_is_told_before_and_after(recorder):
    module = importlib.import_module(NAME)
    first = module.Thing
    assert importlib.reload(module) is module
    assert recorder.seen[2:] == [("before", module, first), ("after", module, module.Thing)]
    assert module.Thing is not first


def test_a_module_imported_anew_is_another_one(recorder):
    first = importlib.import_module(NAME)
    del sys.modules[NAME]
    second = importlib.import_module(NAME)
    assert [module for _, module, _ in recorder.seen] == [first, first, second, second]
    assert first is not second


def test_a_module_that_is_there_is_taken_at_once(package):
    module = importlib.import_module(NAME)
    recorder = Recorder()
    recorder.hook.remove()
    assert recorder.seen == [("after", module, module.Thing)]


def test_other_modules_and_names_that_are_blocked_pass_by(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "absent_package.inner", None)
    recorder = Recorder("absent_package.inner")
    try:
        assert importlib.import_module(f"{PACKAGE}.other").value == 1
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("absent_package.inner")
    finally:
        recorder.hook.remove()
    assert recorder.seen == []


def test_an_import_that_fails_fails_as_ever_and_is_not_told_as_done(recorder, package):
    (package / "inner.py").write_text("raise RuntimeError('broken')\n")
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module(NAME)
    assert recorder.words == ["before"]
    assert NAME not in sys.modules
    (package / "inner.py").unlink()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(NAME)


def test_another_hook_that_asks_the_rest_in_turn(recorder):
    """As wrapt's: each asks all others for the spec, with a guard against itself only."""

    class Asking:
        busy = False

        def find_spec(self, fullname, path, target=None):
            if fullname != NAME or self.busy:
                return None
            self.busy = True
            try:
                return importlib.util.find_spec(fullname)
            finally:
                self.busy = False

    sys.meta_path.insert(0, Asking())
    sys.meta_path.insert(2, Asking())
    try:
        module = importlib.import_module(NAME)
    finally:
        sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, Asking)]
    assert recorder.words == ["before", "after"]
    assert type(module.__loader__).__name__ == "SourceFileLoader"


def test_two_hooks_for_one_module(recorder):
    other = Recorder()
    try:
        module = importlib.import_module(NAME)
    finally:
        other.hook.remove()
    assert recorder.words == other.words == ["before", "after"]
    assert type(module.__loader__).__name__ == "SourceFileLoader"


def test_after_its_removal_imports_are_not_told(package):
    recorder = Recorder()
    recorder.hook.remove()
    assert isinstance(importlib.import_module(NAME), types.ModuleType)
    assert recorder.seen == []
