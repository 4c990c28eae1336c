"""Whatever system calls fail, in a run and in the sync after it: no hang, no crash, and each call
that logged is delivered, or on disk and sent by the next sync, or counted with a reason.

`make soak-faults` plays thousands of rounds. TRACELET_FAULT_SEED repeats a round.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from readers import event_files, quick_events, session_scalars

FAULTS = Path(__file__).parents[1] / "faults"
sys.path.insert(0, str(FAULTS))
from shim import KINDS, built_shim  # noqa: E402

pytest.importorskip("clearml")
pytest.importorskip("torch")

ROUNDS = int(os.environ.get("TRACELET_SOAK_FAULTS", "200"))
# The same ones in CI, others with each soak.
SEED = int(os.environ.get("TRACELET_FAULT_SEED", random.randrange(1 << 30) if ROUNDS > 200 else 77))
FIRST = int(os.environ.get("TRACELET_FAULT_FIRST", "0"))
TIMEOUT_S = max(900, 10 * ROUNDS)
TAGS = {"handle/value": "handle", "writer/value": "writer", "large/text_summary": "large"}


def value_of(seed, step):
    return ((step * 2654435761 + seed) % (1 << 32)) / 7.0


@pytest.fixture
def victims(tmp_path):
    shim = built_shim()
    if not shim:
        pytest.skip("the fault library needs Linux and a C++ compiler")
    environment = {**os.environ, "LD_PRELOAD": shim, "CLEARML_OFFLINE_MODE": "1"}
    environment.update(CLEARML_CACHE_DIR=str(tmp_path / "clearml"), CLEARML_LOG_LEVEL="CRITICAL")
    for name in list(environment):
        is_ours = name.startswith(("TRACELET_FAULT", "TRACELET_SOAK"))
        if is_ours or name.endswith("_PROC_MASTER_ID"):
            del environment[name]
    with open(tmp_path / "victims.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, str(FAULTS / "victims.py")],
            env=environment, cwd=tmp_path, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    yield process
    process.stdin.close()
    process.kill()
    process.wait()


def orders(tmp_path):
    rng = random.Random(SEED)
    for number in range(FIRST + ROUNDS):
        folder = tmp_path / f"round{number}"
        some = rng.random() < 0.5
        order = {
            "name": f"round{number}", "seed": rng.randrange(1 << 30),
            "folder": str(folder), "runs_dir": str(folder / "runs"),
            "ring_dir": str(folder / "shm"), "log_dir": str(folder / "log"),
            "handle_dir": str(folder / "handle"), "answers": str(tmp_path / f"round{number}"),
            "backend": rng.choice(("tensorboard", "tensorboard", "clearml")),
            "when": rng.choice(("start", "running", "running", "running", "stop")),
            "dies": rng.random() < 0.4,
            "rate": rng.choice((0.005, 0.02, 0.1, 0.4)),
            "kinds": rng.sample(KINDS, rng.randrange(1, 4)) if some else list(KINDS),
        }  # fmt: skip
        if number >= FIRST:
            yield order


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_each_call_is_accounted_for_whatever_system_calls_fail(victims, tmp_path):
    print(f"\nseed {SEED}: TRACELET_FAULT_SEED={SEED} repeats it")
    total = Counter()
    failures = []
    for number, order in enumerate(orders(tmp_path), 1):
        victims.stdin.write(json.dumps(order) + "\n")
        victims.stdin.flush()
        answer = json.loads(victims.stdout.readline())
        try:
            total.update(judge(order, answer))
        except AssertionError as error:
            log = Path(f"{order['answers']}.log").read_text(errors="replace")[-8_000:]
            failures.append(f"seed {SEED}, {order}, {answer}: {error}\n{log}")
            if len(failures) >= int(os.environ.get("TRACELET_FAULT_MOST", "1")):
                break
        shutil.rmtree(order["folder"], ignore_errors=True)
        if number % 200 == 0:
            print(f"{number:,} rounds, {dict(total)}", flush=True)
    print(dict(total))
    assert not failures, "\n\n".join(failures)
    assert total["injected"] > ROUNDS
    assert total["found"] > 100 * ROUNDS


def judge(order, answer):
    """What there was of it, added up. Raises AssertionError."""
    # Killed by itself, or ended in good order; a hang is None, a crash below zero.
    assert answer["codes"]["run"] == (-9 if order["dies"] and answer["calls"] else 0), "the run"
    assert answer["codes"]["faulty sync"] in (0, 1), "the sync under faults"
    assert answer["codes"]["sync"] == 0 or answer["unreadable"] or any_missing(answer), "the sync"
    run = answer["run"][0] if answer["run"] else {}
    injected = run.get("injected", 0) + sum(sync["injected"] for sync in answer["syncs"])
    if "start" in run:
        assert (answer["left"], answer["unreadable"]) == ([], []), "a failed start left a run"
        return {"injected": injected, "not started": 1}
    assert not answer["unreadable"]
    assert answer["left"] == [] or any_missing(answer), "it is not sent"
    (calls,) = answer["calls"]
    counted = counts(answer, run, "tensorboard")
    found = check_event_files(order)
    logged = sum(calls.values())
    assert found + sum(counted.values()) == logged, f"{found} found, {counted}, of {calls}"
    if order["backend"] == "clearml":
        check_session(order, answer, calls, counts(answer, run, "clearml"))
    if not order["dies"]:
        dropped = sum(run["dropped"].get(reason, 0) for reason in ("ring full", "tag table full"))
        assert run["accepted"] + dropped <= logged
    return {"injected": injected, "found": found, "counted": sum(counted.values()), "runs": 1}


def any_missing(answer):
    return any(
        sink["missing"] for sync in answer["syncs"] for result in sync["results"]
        for sink in result["sinks"].values()
    )  # fmt: skip


def counts(answer, run, lane):
    """Calls that are counted with a reason, for one sink: by the run, by the syncs."""
    counted = Counter()
    if run:
        own = run["lanes"].get(lane, {}).get("set_aside", {})
        others = {
            reason for name, each in run["lanes"].items() if name != lane
            for reason in each["set_aside"]
        }  # fmt: skip
        counted.update(own)
        counted.update({
            reason: count for reason, count in run["dropped"].items()
            if reason not in own and reason not in others
        })  # fmt: skip
    dropped = {}
    for sync in answer["syncs"]:
        for result in sync["results"]:
            dropped.update(result["dropped"])
            sink = result["sinks"].get(lane)
            if sink is not None:
                # What the sink failed at is given again: the last sync tells of it.
                is_last = sync is answer["syncs"][-1]
                aside = Counter(sink["set_aside"])
                if not is_last:
                    aside.subtract(sink["failed"])
                counted.update(aside)
                counted.update({"missing": sink["missing"], "given up": sink["dropped"]})
    if not run:
        counted.update(dropped)  # of a process that died
    return +counted


def check_event_files(order):
    """How many points there are. Each once, and right."""
    found = Counter()
    for folder in (order["log_dir"], order["handle_dir"]):
        for path in event_files(folder):
            for event in quick_events(path):
                for value in event.summary.value:
                    found[value.tag, event.step] += 1
                    if value.tag in ("handle/value", "writer/value"):
                        wanted = np.float32(value_of(order["seed"], event.step))
                        assert value.simple_value == wanted, (value.tag, event.step)
                    else:
                        text = value.tensor.string_val[0]
                        assert text == f"{event.step} ".encode() * 8_000, value.tag
    twice = [key for key, count in found.items() if count > 1]
    assert not twice, f"twice: {twice[:10]}"
    assert {tag for tag, _ in found} <= set(TAGS)
    return len(found)


def check_session(order, answer, calls, counted):
    (session,) = answer["session"]
    found = Counter()
    for series, points in session_scalars(Path(session["path"]).parent).items():
        for step, value, _ in points:
            found["/".join(series), step] += 1
            assert value == value_of(order["seed"], step)
    twice = [key for key, count in found.items() if count > 1]
    assert not twice, f"twice: {twice[:10]}"
    logged = calls["handle"] + calls["writer"]
    missing = logged - len(found)
    # Large events are for the lane of media, whose part of the run's counts is not told apart.
    assert 0 <= missing <= sum(counted.values()), f"{len(found)} in the session, {counted}"
