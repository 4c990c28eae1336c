"""Small slips put into the code, one by one: which of them do its tests notice?

`make mutants` tries MUTANTS of them (100), chosen by SEED (the date), in copies of the package. For
each, the tests that run the function it is in (`tests.json`, written by `make mutants-tests`), the
quick ones first, until one fails. What no test notices is printed as a diff; `equivalent.txt` lists
what changes nothing, with the reason. The exit code is 1 when fewer than LEAST per cent
are noticed; MUTANTS_S bounds the time, and what is not reached in it may have been noticed. ONLY
names the paths in the package that are meant, TESTS the tests that are to run instead of the map's.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import importlib.util
import json
import os
import random
import re
import select
import subprocess
import sys
import time
import traceback
from pathlib import Path

from copies import ROOT, Copy, import_what_is_slow
from slips import PARTS, all_slips, make, operators

HERE = Path(__file__).parent
COUNT = int(os.environ.get("MUTANTS", "100"))
SEED = os.environ.get("SEED", datetime.date.today().isoformat())
LEAST = float(os.environ.get("LEAST", "0"))
BUDGET_S = float(os.environ.get("MUTANTS_S", "inf"))
JOBS = int(os.environ.get("MUTANTS_JOBS", "2"))
GIVEN = os.environ.get("TESTS", "").split()
_ANSWER_BYTES = 5  # the slip's number, and a letter
NEW_S = 0.5  # of a test that the map does not know yet
TESTS_S = 60.0  # how long the tests of one slip may take together, as the map has it


def main():
    start_s = time.monotonic()
    package = Path(importlib.util.find_spec("tracelet").origin).parent
    slips = all_slips(package, os.environ.get("ONLY", "").split() or PARTS)
    random.Random(SEED).shuffle(slips)
    import_what_is_slow()
    print(
        f"{COUNT} of {len(slips)} slips, SEED={SEED}; ready in {time.monotonic() - start_s:.0f} s"
    )
    outcomes = in_processes(package, slips[: 2 * COUNT], start_s + BUDGET_S)
    tried, noticed = len(outcomes), sum(letter != "s" for _, letter in outcomes)
    table(outcomes)
    share = 100 * noticed / max(1, tried)
    at_most = 100 * (COUNT - tried + noticed) / COUNT  # what was not reached may be noticed
    if tried < COUNT:
        print(f"{COUNT - tried} were not reached in the time")
    print(f"{noticed} of {tried} are noticed: {share:.0f} %, {time.monotonic() - start_s:.0f} s")
    return 0 if at_most >= LEAST else 1


def table(outcomes):
    """A line for each folder of the package."""
    parts = sorted({slip.module.partition("/")[0] for slip, _ in outcomes})
    for part in parts:
        letters = [letter for slip, letter in outcomes if slip.module.startswith(f"{part}/")]
        print(f"  {part:10} {len(letters) - letters.count('s'):3} of {len(letters):3}")


def in_processes(package, slips, deadline_s):
    """Each slip that was tried, with a letter: k(illed), h(angs), s(urvived)."""
    tests = Tests()
    todo_out, todo_in = os.pipe()  # a slip's number is read by one process
    os.set_blocking(todo_out, False)
    done_out, done_in = os.pipe()
    workers = []
    for number in range(JOBS):
        pid = os.fork()
        if pid == 0:
            os.close(todo_in)
            code = 1
            try:
                Worker(package, number, deadline_s, tests).work(slips, todo_out, done_in)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        workers.append(pid)
    os.close(done_in)
    given, answered, outcomes, left = 0, 0, [], COUNT
    while left or len(outcomes) < COUNT:
        while left and given < len(slips):
            os.write(todo_in, given.to_bytes(4, "little"))
            given, left = given + 1, left - 1
        answer = os.read(done_out, _ANSWER_BYTES) if given > answered else b""
        if not answer:
            break
        answered += 1
        number, letter = int.from_bytes(answer[:4], "little"), answer[4:].decode()
        if letter == "-":  # nothing to be noticed there: another one
            left += 1
        else:
            outcomes.append((slips[number], letter))
    os.close(todo_in)
    if any([os.waitpid(pid, 0)[1] for pid in workers]):
        sys.exit("what tries the slips has failed itself")
    return outcomes


class Worker:
    def __init__(self, package, number, deadline_s, tests):
        self._package = package
        self._copy = Copy(package, number)
        self._deadline_s = deadline_s
        self._operators = operators()
        self._tests = tests
        self._passing = {}  # what failed on a slip: does it pass without one?

    def work(self, slips, todo, done):
        while number := self._next(todo):
            slip = slips[int.from_bytes(number, "little")]
            made = make(slip, self._package, self._operators[slip.operator])
            outcome = self._try(made) if made else "-"
            if outcome:
                os.write(done, number + outcome[0].encode())  # so few bytes are written at once
        self._copy.close()

    def _next(self, todo):
        """A slip's number; empty at the end, or when the time is over: the last one of another
        process may then be given up, and none comes to wait for."""
        while (left_s := self._deadline_s - time.monotonic()) > 0:
            select.select([todo], [], [], min(left_s, 60.0))
            with contextlib.suppress(BlockingIOError):  # the other process was quicker
                return os.read(todo, 4)
        return b""

    def _try(self, made):
        """ "" when the time ended before it was known, "-" when it can't be: its tests take as long
        without the slip, on a machine that is busy."""
        start_s = time.monotonic()
        tests = self._tests.of(made.slip, (self._package / made.slip.module).read_text())
        outcome, by = "survived", ""
        while tests and outcome == "survived":
            with self._copy.changed(made.slip.module, made.code):
                outcome, by = self._copy.run(tests, self._deadline_s)
            if outcome == "hangs" and self._copy.run(tests, self._deadline_s)[0] == "hangs":
                print(f"{made.slip.module}:{made.slip.line}: so slow without a slip, too")
                return "-"
            if outcome != "killed":
                break
            # Without a name: they could not even be collected.
            if self._passes(*([by] if by else ["--collect-only", *tests])):
                break
            tests = {name: s for name, s in tests.items() if by and name != by}
            outcome = "survived"
        if outcome:
            self._tell(made, outcome, time.monotonic() - start_s, by, len(tests))
        return outcome

    def _passes(self, *test):
        """A test that fails without a slip as well has noticed nothing."""
        if test not in self._passing:
            outcome, _ = self._copy.run(dict.fromkeys(test, 20.0), self._deadline_s)
            self._passing[test] = outcome in ("survived", "")
            if not self._passing[test]:
                print(f"fails without a slip: {' '.join(test)}", flush=True)
        return self._passing[test]

    def _tell(self, made, outcome, seconds, by, count):
        lines = [f"{outcome:8} {seconds:5.1f} s  {made.slip.module}:{made.slip.line} {made.change}"]
        if outcome == "killed":
            lines.append(f"    by {by}")
        else:
            lines.append(f"    {made.slip.operator}, {count} tests")
            lines += [f"    {line}" for line in made.diff]
        print("\n".join(lines), flush=True)


class Tests:
    """Which tests run a function, and how many seconds each takes."""

    def __init__(self):
        content = json.loads((HERE / "tests.json").read_text())
        self._seconds = list(content["tests"].items())
        self._functions = content["functions"]
        if GIVEN:
            return
        units = {
            str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "unit").glob("test_*.py")
        }
        self._there = collected({name.partition("::")[0] for name in content["tests"]} | units)
        new = self._there - content["tests"].keys()
        self._new = {name: (ROOT / name.partition("::")[0]).read_text() for name in sorted(new)}

    def of(self, slip, code):
        """{name: seconds}, the quickest first."""
        if GIVEN:
            return dict.fromkeys(GIVEN, 20.0)
        module = self._functions.get(slip.module, {})
        numbers = module.get(function_at(code, slip.line))
        if numbers is None:  # a function that is new
            numbers = {each for some in module.values() for each in some}
        chosen, total_s = self._of_files_about(slip.module), 0.0
        for name, seconds in (self._seconds[each] for each in numbers):  # the best first
            if name in self._there and (not chosen or total_s + seconds <= TESTS_S):
                total_s += seconds
                chosen[name] = seconds
        return dict(sorted(chosen.items(), key=lambda each: each[1]))

    def _of_files_about(self, module):
        """Tests that the map does not know yet, of files that import the module."""
        name = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        package, _, last = f"tracelet.{name}".rpartition(".")
        imports = re.compile(
            rf"{re.escape(package)}\.{last}\b|from {re.escape(package)} import .*\b{last}\b"
        )
        return {name: NEW_S for name, text in self._new.items() if imports.search(text)}


def collected(files):
    """The tests that there are. The map may be older than they are, and where a library of the
    users' lacks some files have none: a name that pytest does not know ends all that go with it."""
    found = [each for each in sorted(files) if (ROOT / each).exists()]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *found], cwd=ROOT, capture_output=True, text=True, timeout=300)
    return {line for line in done.stdout.splitlines() if "::" in line}


def function_at(code, line):
    """ "Class.method" of the innermost function or class there; "" for the module itself."""
    found = ""

    def visit(node, path):
        nonlocal found
        for child in ast.iter_child_nodes(node):
            here = path
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                here = f"{path}.{child.name}" if path else child.name
                if first <= line <= child.end_lineno:
                    found = here
            visit(child, here)

    visit(ast.parse(code), "")
    return found


if __name__ == "__main__":
    sys.exit(main())
