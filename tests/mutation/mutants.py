"""Small slips put into the code, one by one: which of them do its tests notice?

`make mutants` tries MUTANTS of them (100), chosen by SEED (the date), in a copy of the package; the
operators are cosmic-ray's, and one of our own that drops a call. Those that no test notices are
printed as a diff; `equivalent.txt` lists those that change nothing, with the reason. The exit code
is 1 when fewer than LEAST per cent are noticed.
"""

from __future__ import annotations

import datetime
import difflib
import importlib.util
import os
import random
import shutil
import signal
import sys
import sysconfig
import time
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parent.parent.parent
COPY = ROOT / "build" / "mutants"
PARTS = ("pipeline", "journal", "recovery", "runs", "backends")
COUNT = int(os.environ.get("MUTANTS", "100"))
SEED = os.environ.get("SEED", datetime.date.today().isoformat())
LEAST = float(os.environ.get("LEAST", "0"))
BUDGET_S = float(os.environ.get("MUTANTS_S", "inf"))
TIMEOUT_S = float(os.environ.get("MUTANT_TIMEOUT_S", "180"))

# The first that a module's path begins with; the quick ones first, and all of them in one process.
TESTS = (
    ("pipeline/lane", ["unit/test_lane.py", "unit/test_pipeline.py"]),
    ("pipeline/uploads", ["unit/test_uploads.py"]),
    ("pipeline/exit_signals", ["integration/test_signals.py"]),
    ("pipeline/", ["unit/test_lane.py", "unit/test_pipeline.py", "unit/test_runs.py",
                   "unit/test_journal_budget.py"]),
    ("journal/", ["unit/test_journal_recovery.py", "unit/test_journal_budget.py",
                  "unit/test_journal_faults.py", "unit/test_pipeline.py",
                  "unit/test_dead_run_rules.py", "integration/test_sync_damage.py"]),
    ("recovery/", ["unit/test_dead_run_rules.py", "integration/test_sync_trust.py",
                   "integration/test_sync_damage.py", "integration/test_sync.py"]),
    ("runs/", ["unit/test_progress.py", "unit/test_dead_run_rules.py", "unit/test_runs.py",
               "integration/test_sync_trust.py"]),
    ("backends/mlflow/", ["integration/test_mlflow_trust.py", "contract"]),
    ("backends/tensorboard/", ["unit/test_runs.py", "integration/test_event_files.py",
                               "integration/test_event_file_disks.py"]),
    ("backends/clearml/session", ["unit/test_clearml_session.py"]),
    ("backends/clearml/names", ["unit/test_clearml_names.py"]),
    ("backends/clearml/", ["unit/test_dead_run_rules.py", "unit/test_clearml_answers.py",
                           "unit/test_clearml_media_parts.py",
                           "integration/test_clearml_offline.py", "integration/test_sync.py"]),
    ("backends/kept", ["unit/test_kept.py", "unit/test_dead_run_rules.py"]),
    ("backends/", ["unit/test_backends.py", "unit/test_uploads.py", "unit/test_histogram_views.py",
                   "unit/test_clearml_media_parts.py", "unit/test_options.py"]),
)  # fmt: skip
_PLAIN = (
    "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr",
    "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer",
    "ZeroIterationForLoop",
    "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBinaryOperator_Mul_Add", "ReplaceBinaryOperator_BitAnd_BitXor",
    "ReplaceUnaryOperator_Delete_Not",
)  # fmt: skip
_SITE = """
import sys
sys.meta_path[:] = [each for each in sys.meta_path if "ScikitBuild" not in type(each).__name__]
"""


class DropCall(Operator):
    """A call whose result nobody uses is not made: no sync, no close, no count."""

    def mutation_positions(self, node):
        is_call = node.type in ("power", "atom_expr") and node.children[-1].type == "trailer"
        if is_call and node.parent.type == "simple_stmt" and node.children[-1].children[0] == "(":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        made = parso.parse("pass").children[0]
        made.prefix = node.get_first_leaf().prefix
        return made

    @classmethod
    def examples(cls):
        return ()


def operators():
    made = {"DropCall": DropCall()}
    for name in operator_names():
        short = name.rpartition("/")[2]
        if short in _PLAIN or short.startswith("ReplaceComparisonOperator"):
            made[short] = get_operator(name)()
    return made


def main():
    package = Path(importlib.util.find_spec("tracelet").origin).parent
    modules = sorted(path for part in PARTS for path in (package / part).rglob("*.py"))
    rng = random.Random(SEED)
    known = equivalents()
    mutants = []
    for path in modules:
        code = path.read_text()
        tree = parso.parse(code)
        nodes = list(ast_nodes(tree))
        for name, operator in operators().items():
            count = sum(1 for node in nodes for _ in operator.mutation_positions(node))
            mutants += [(path.relative_to(package), name, number) for number in range(count)]
    sample = rng.sample(mutants, min(COUNT, len(mutants)))
    make_copy(package)
    print(f"{len(sample)} of {len(mutants)} mutants of {len(modules)} modules, SEED={SEED}")
    if run(["unit/test_lane.py"]) != "survived":
        print("the tests fail without a mutant: see", COPY / "log.txt")
        return 1
    return 0 if try_all(sample, package, known) >= LEAST else 1


def try_all(sample, package, known):
    """The share that was noticed, in per cent."""
    noticed = tried = 0
    deadline_s = time.monotonic() + BUDGET_S
    for module, name, number in sample:
        if time.monotonic() >= deadline_s:
            print(f"the time is over after {tried} of them")
            break
        code = (package / module).read_text()
        mutated = mutate_code(code, operators()[name], number)
        diff = [
            line for line in difflib.unified_diff(code.splitlines(), (mutated or code).splitlines(),
                                                  lineterm="", n=1)
        ][2:]  # fmt: skip
        change = " -> ".join(line[1:].strip() for line in diff if line[:1] in "+-")
        if not change or f"{module}: {change}" in known or is_of_types_alone(diff):
            continue
        (COPY / "tracelet" / module).write_text(mutated)
        start_s = time.monotonic()
        outcome = run(tests_of(module))
        (COPY / "tracelet" / module).write_text(code)
        tried += 1
        noticed += outcome != "survived"
        print(f"{outcome:9} {time.monotonic() - start_s:5.1f} s  {module}: {change}", flush=True)
        if outcome == "survived":
            print("\n".join(f"    {line}" for line in diff))
    share = 100 * noticed / max(1, tried)
    print(f"{noticed} of {tried} are noticed: {share:.0f} %")
    return share


def is_of_types_alone(diff):
    """What only a type checker, or a reader of a message, would see."""
    lines = [line[1:].strip() for line in diff if line[:1] in "+-"]
    return all(line.startswith(("_log.", "import ", "from ", '"', 'f"')) for line in lines)


def tests_of(module):
    return next(files for start, files in TESTS if str(module).startswith(start))


def equivalents():
    path = Path(__file__).parent / "equivalent.txt"
    lines = path.read_text().splitlines() if path.exists() else ()
    return {line for line in lines if line and not line.startswith("#")}


def make_copy(package):
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    shutil.copytree(package, COPY / "tracelet", ignore=shutil.ignore_patterns("__pycache__"))
    if not list((COPY / "tracelet").glob("_core*.so")):  # an editable install has it elsewhere
        # Not by importing it: the native module is one of a process.
        for native in Path(sysconfig.get_path("platlib")).glob("tracelet/_core*.so"):
            shutil.copy(native, COPY / "tracelet")
    (COPY / "sitecustomize.py").write_text(_SITE)
    exec(_SITE)
    os.environ.update(PYTHONPATH=str(COPY), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(COPY))


def run(files):
    """ "killed", "hangs" or "survived". In a fork, so that what takes long to import is there."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        log = os.open(COPY / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        import pytest

        os.chdir(ROOT)
        paths = [str(ROOT / "tests" / each) for each in files]
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *paths])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        if time.monotonic() >= deadline_s:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hangs"
        time.sleep(0.02)


if __name__ == "__main__":
    import torch  # noqa: F401

    sys.exit(main())
