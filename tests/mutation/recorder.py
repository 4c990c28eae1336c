"""Which lines of the package each test runs, in its own process and in those that it starts.

The copy that the tests run on says it itself: a call before each statement. Tracing would make
every import of torch many times as long.
"""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

# sitecustomize.py of the copy. A line is written at once: a process that is killed has told it.
SITE = """
import builtins, os
_seen = set()
def __ran__(place):
    path = os.environ.get("MUTANTS_RECORD")
    if path and (path, place) not in _seen:
        _seen.add((path, place))
        try:  # opened each time: some tests count the descriptors
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(fd, (place + "\\n").encode())
            os.close(fd)
        except OSError:
            pass
builtins.__ran__ = __ran__
"""


class _Statements(ast.NodeTransformer):
    def __init__(self, module):
        self._module = module
        self._depth = 0

    def visit_FunctionDef(self, node):
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    def generic_visit(self, node):
        super().generic_visit(node)
        if self._depth and not isinstance(node, ast.ClassDef):
            for field in ("body", "orelse", "finalbody"):
                body = getattr(node, field, None)
                if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
                    setattr(node, field, [new for each in body for new in (self._note(each), each)])
        return node

    def _note(self, statement):
        place = ast.Constant(f"{self._module}:{statement.lineno}")
        call = ast.Call(ast.Name("__ran__", ast.Load()), [place], [])
        return ast.copy_location(ast.Expr(call), statement)


def instrument(package: Path) -> None:
    for path in package.rglob("*.py"):
        tree = _Statements(str(path.relative_to(package))).visit(ast.parse(path.read_text()))
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)))


class Recorder:
    """The pytest plugin. A line of `tests` for each: its name, its file, the outcome, seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self._count += 1
        name = f"{os.getpid()}-{self._count}"
        os.environ["MUTANTS_RECORD"] = str(self._folder / name)
        item.mutants_outcome, item.mutants_s = "passed", 0.0
        yield
        with open(self._folder / "tests", "a", encoding="utf-8") as file:
            entry = [item.nodeid, name, item.mutants_outcome, round(item.mutants_s, 3)]
            file.write(json.dumps(entry) + "\n")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        item.mutants_s += report.duration
        if report.outcome != "passed":
            item.mutants_outcome = report.outcome


def pytest_configure(config):
    config.pluginmanager.register(Recorder(Path(os.environ["MUTANTS_RECORDS"])))
