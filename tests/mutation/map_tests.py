"""Writes `tests.json`: which tests run a function of the package, and how many seconds each takes.

`make mutants-tests` runs all tests that are not slow, once, on a copy that tells its statements
(recorder.py). Tests that fail are left out, and so are those that take longer than TEST_S. TESTS
names some files or tests only, slow ones too: what is known of the others is in
build/mutants/records still.
"""

from __future__ import annotations

import ast
import collections
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from copies import COPIES, ROOT, SITE, Copy
from recorder import SITE as RECORDING
from recorder import instrument

RECORDS = COPIES / "records"
MAP = Path(__file__).parent / "tests.json"
TEST_S = 20.0
A_STATEMENT, A_FUNCTION, A_MODULE = 14, 40, 20  # the best of them, at most


def main():
    package = Path(importlib.util.find_spec("tracelet").origin).parent
    quick = ["-m", "not slow", "tests/unit", "tests/integration", "tests/contract"]
    record(package, os.environ.get("TESTS", "").split() or quick)
    seconds, runs = records()
    functions = {
        module: {name: best(tests) for name, tests in tests_of(package / module, places).items()}
        for module, places in sorted(chosen(seconds, runs).items())
    }
    for some in functions.values():  # what is run at the import: any test of the module's
        some[""] = best([tests[:3] for tests in some.values()], A_MODULE)
    write({name: round(seconds[name], 2) for name in seconds}, functions)


def record(package, tests):
    RECORDS.mkdir(parents=True, exist_ok=True)
    copy = Copy(package, "recording")
    instrument(copy.package)
    (copy.folder / "sitecustomize.py").write_text(SITE + RECORDING)
    here = str(Path(__file__).parent)
    environment = {**os.environ, "MUTANTS_RECORDS": str(RECORDS)}
    environment["PYTHONPATH"] = os.pathsep.join((str(copy.folder), here))
    options = ["-q", "-p", "recorder", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    subprocess.run(command, env=environment, cwd=ROOT)


def records():
    """{test: seconds}, and {test: [the places that it ran, "module:line"]}."""
    seconds, runs = {}, {}
    for line in (RECORDS / "tests").read_text().splitlines():
        name, file, outcome, took_s = json.loads(line)
        path = RECORDS / file
        if outcome == "passed" and took_s <= TEST_S and path.exists():
            seconds[name], runs[name] = took_s, set(path.read_text().split())
    return seconds, runs


def chosen(seconds, runs):
    """{module: {line: [the best tests]}}. A quick one that runs little knows best what is wrong."""
    cost = {name: (seconds[name] + 0.03) * (200 + len(runs[name])) for name in runs}
    places = collections.defaultdict(lambda: collections.defaultdict(list))
    for name in sorted(runs, key=lambda name: (cost[name], name)):
        for place in runs[name]:
            module, _, line = place.rpartition(":")
            if len(places[module][int(line)]) < A_STATEMENT:
                places[module][int(line)].append(name)
    return places


def tests_of(path, places):
    """{function: [the tests of each of its statements]}."""
    spans = list(functions_of(ast.parse(path.read_text())))
    found = collections.defaultdict(list)
    for line, tests in sorted(places.items()):
        around = [(first, name) for first, last, name in spans if first <= line <= last]
        if around:
            found[max(around)[1]].append(tests)
    return found


def functions_of(node, path=""):
    """(first line of the body, last line, "Class.method")."""
    for child in ast.iter_child_nodes(node):
        name = getattr(child, "name", "") if isinstance(child, ast.stmt) else ""
        here = f"{path}.{name}" if path and name else name or path
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child.body[0].lineno, child.end_lineno, here
        yield from functions_of(child, here)


def best(lists, most=A_FUNCTION):
    """The first of each list, then the second of each, ..."""
    longest = max(map(len, lists), default=0)
    ranked = (tests[rank] for rank in range(longest) for tests in lists if rank < len(tests))
    return list(dict.fromkeys(ranked))[:most]


def write(seconds, functions):
    used = sorted({t for some in functions.values() for tests in some.values() for t in tests})
    number = {name: at for at, name in enumerate(used)}
    lines = ["{", ' "tests": {']
    lines += [f"  {json.dumps(name)}: {seconds[name]}," for name in used]
    lines[-1] = lines[-1][:-1]
    lines += [" },", ' "functions": {']
    for module, some in functions.items():
        numbers = {name: [number[t] for t in tests] for name, tests in sorted(some.items())}
        lines.append(f"  {json.dumps(module)}: {json.dumps(numbers, separators=(',', ':'))},")
    lines[-1] = lines[-1][:-1]
    MAP.write_text("\n".join([*lines, " }", "}", ""]))
    print(f"{len(used)} tests of {len(functions)} modules, {MAP.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
