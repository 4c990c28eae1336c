"""Every way to die, everywhere, for every backend: what a call returned for is in the store.

A point whose call was under way may be there or not; nothing else is missing, more, or twice, and
every value is the one that was logged. `make soak-kills` runs 10,000 rounds, on each core at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from readers import event_files, quick_events, session_scalars

pytest.importorskip("clearml")
pytest.importorskip("torch")
if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)

DEATHS = ("SIGKILL", "SIGSEGV", "os._exit", "SIGTERM", "exception")
SCOPES = ("process", "group")
PLACES = ("push", "journal", "send", "stop", "sync")
STORES = ("online", "offline", "tensorboard")
ROUNDS = int(os.environ.get("TRACELET_SOAK_KILLS", "200"))
SEED = int(os.environ.get("TRACELET_CRASH_SEED", random.randrange(1 << 30)))
IS_SOAK = ROUNDS > 1_000
TIMEOUT_S = max(300, 3 * ROUNDS)


def value_of(seed, step):
    return ((step * 2654435761 + seed) % (1 << 32)) / 7.0


class Victims:
    """A process that forks victims, a round after the other."""

    def __init__(self, environment, folder, number):
        program = Path(__file__).parent.parent / "crash_victims.py"
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            env=environment, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=open(folder / f"victims{number}.log", "w"),  # noqa: SIM115
        )  # fmt: skip

    def answer(self, order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self):
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture
def victims(clearml_server, tmp_path):
    """A queue of them: a round takes one, and gives it back."""
    environment = {**os.environ, **clearml_server.environment()}
    environment.update(CLEARML_CACHE_DIR=str(tmp_path / "clearml"), CLEARML_LOG_LEVEL="CRITICAL")
    for name in ("CLEARML_OFFLINE_MODE", "CLEARML_PROC_MASTER_ID", "TRAINS_PROC_MASTER_ID"):
        environment.pop(name, None)
    count = os.cpu_count() or 1 if IS_SOAK else 1
    made = [Victims(environment, tmp_path, number) for number in range(count)]
    free = queue.SimpleQueue()
    for each in made:
        free.put(each)
    yield free
    for each in made:
        each.end()


def orders(tmp_path, rounds, seed):
    """All combinations once, in random order, and then random ones of the quick kind."""
    rng = random.Random(seed)
    combinations = list(itertools.product(DEATHS, SCOPES, PLACES, STORES))
    rng.shuffle(combinations)
    while len(combinations) < rounds:
        stores = STORES if IS_SOAK else STORES[1:]
        combinations.append(tuple(rng.choice(each) for each in (DEATHS, SCOPES, PLACES, stores)))
    for number, (death, scope, place, store) in enumerate(combinations[:rounds]):
        folder = tmp_path / f"round{number}"
        yield {
            "name": f"round{number}", "seed": rng.randrange(1 << 30), "death": death,
            "scope": scope, "place": place, "store": store,
            "backend": "tensorboard" if store == "tensorboard" else "clearml",
            "runs_dir": str(folder / "runs"), "log_dir": str(folder / "log"),
            "log": str(tmp_path / f"round{number}.txt"),
        }  # fmt: skip


def check(stored, count, seed, rounded):
    """`stored` is (step, value) in file order. One more than `count` may be there."""
    steps = [step for step, _ in stored]
    assert len(steps) in (count, count + 1)
    assert steps == list(range(len(steps)))
    for step, value in stored:
        wanted = value_of(seed, step)
        assert value == (np.float32(wanted) if rounded else wanted)


def in_event_files(folder):
    points = {"main/value": [], "child/value": []}
    for path in event_files(folder):
        for event in quick_events(path):
            for value in event.summary.value:
                points[value.tag].append((event.step, value.simple_value))
    return points


def session_folders(tmp_path, name):
    for path in (tmp_path / "clearml" / "offline").glob("*/task.json"):
        with contextlib.suppress(OSError, ValueError):  # another victim's, being written or removed
            if task_of(path).get("name") == name:
                yield path.parent


def task_of(path):
    """In the session's zip, too: the SDK may still write the file when its process ends."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        with zipfile.ZipFile(f"{path.parent}.zip") as archive:
            return json.loads(archive.read(path.name))


def in_session(tmp_path, name):
    for folder in session_folders(tmp_path, name):
        return {
            "/".join(series): [point[:2] for point in points]
            for series, points in session_scalars(folder).items()
        }
    return {}


def on_server(server, name):
    tasks = [id for id, task in list(server.tasks.items()) if task["name"] == name]
    assert len(tasks) <= 1
    return {
        "/".join(series): sorted(points.items())
        for id in tasks
        for series, points in server.scalars(id).items()
    }


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_what_a_call_returned_for_is_in_the_store(victims, clearml_server, tmp_path):
    print(f"\nseed {SEED}: TRACELET_CRASH_SEED={SEED} repeats it")

    def play(order):
        each = victims.get()
        answer = each.answer(order)
        victims.put(each)
        try:
            judge(order, answer, clearml_server, tmp_path)
        except AssertionError as error:
            log = Path(order["log"]).read_text()[-6_000:] if os.path.exists(order["log"]) else ""
            raise AssertionError(f"seed {SEED}, {order}, {answer}: {error}\n{log}") from error
        forget(order, clearml_server, tmp_path)
        return sum(answer["counts"])

    total = 0
    with ThreadPoolExecutor(victims.qsize()) as pool:
        rounds = [pool.submit(play, order) for order in orders(tmp_path, ROUNDS, SEED)]
        try:
            for number, each in enumerate(rounds, 1):
                total += each.result()
                if number % 500 == 0:
                    print(f"{number:,} deaths, {total:,} points", flush=True)
        finally:
            for each in rounds:
                each.cancel()
    print(f"{ROUNDS} deaths, {total:,} points")
    assert total > 100 * ROUNDS


def forget(order, server, tmp_path):
    """What a round that went well has left, of which 10,000 would fill a disk."""
    for id in [id for id, task in list(server.tasks.items()) if task["name"] == order["name"]]:
        server.forget(id)
    shutil.rmtree(tmp_path / order["name"], ignore_errors=True)
    for folder in session_folders(tmp_path, order["name"]):
        shutil.rmtree(folder, ignore_errors=True)


def judge(order, answer, server, tmp_path):
    assert answer["victim"] is not None, "the victim did not end"
    assert answer["died"] in (0, -9)
    assert answer["synced"] == 0, "tracelet sync"
    assert answer["left"] == []
    stores = [(in_event_files(order["log_dir"]), True)]
    if order["store"] == "offline":
        stores.append((in_session(tmp_path, order["name"]), False))
    elif order["store"] == "online":
        stores.append((on_server(server, order["name"]), False))
    for points, rounded in stores:
        for tag, count in zip(("main/value", "child/value"), answer["counts"]):
            check(points.get(tag, []), count, order["seed"], rounded)
