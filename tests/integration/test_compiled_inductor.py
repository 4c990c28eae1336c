"""Logging inside functions that inductor has compiled, with its cache on disk empty and full."""

from __future__ import annotations

import json

import pytest
from readers import event_file_scalars

pytestmark = pytest.mark.slow  # inductor's C++ compiler: half a minute of CPU time

_STEPS = 6
_TIMEOUT_S = 540

_SCRIPT = f"""
import json, torch, tracelet
from torch.utils.tensorboard import SummaryWriter
from torch._dynamo.utils import counters

log = LOG
experiment = tracelet.start_logging(
    "compiled", "tests", "tensorboard", {{"log_dir": log + "/handle", "quiet": True}})
writer = SummaryWriter(log + "/writer")

def train(rows, step, rate):
    rows = rows * 2
    loss = (rows * rows).sum()
    writer.add_scalar("loss", loss, step)
    other = loss.detach() * 1
    writer.add_scalar("other", other, step)
    other.add_(1)
    writer.add_scalar("other", other, step)
    writer.add_scalar("rate", rate, step)
    writer.add_scalars("both", {{"loss": loss, "rate": rate}}, step)
    writer.add_histogram("rows", rows, step)
    writer.add_scalar("last", rows[0], step)
    experiment.log_metric("loss", loss, step)
    experiment.log({{"loss2": loss, "rate": rate}}, step)
    return loss

compiled = torch.compile(train, fullgraph=True)
rows = torch.ones(4, requires_grad=True)
for step in range({_STEPS}):
    compiled(rows, step, 0.5 * step).backward()
graphs = counters["stats"]["unique_graphs"]
tracelet.stop_logging()
caches = {{**counters["inductor"], **counters["aot_autograd"]}}
print(json.dumps({{
    "graphs": graphs,
    "breaks": sum(counters["graph_break"].values()),
    "hits": sum(count for name, count in caches.items() if name.endswith("cache_hit")),
    "gradient": rows.grad.tolist(),
    "accepted": experiment.stats.accepted,
}}))
"""


def test_with_a_cold_and_a_warm_cache_each_call_arrives_once(run_script, tmp_path):
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    said = {}
    for name in ("cold", "warm"):
        script = f"LOG = {str(tmp_path / name)!r}\n{_SCRIPT}"
        said[name] = json.loads(
            run_script(script, env=env, timeout_s=_TIMEOUT_S).stdout.splitlines()[-1]
        )
        _check(said[name], tmp_path / name)
    assert said["warm"]["hits"] > 0, said


def test_reduce_overhead_on_the_cpu_logs_each_call_once(run_script, tmp_path):
    """There are no CUDA graphs on a CPU: what is shown is that the mode is no obstacle."""
    script = f"""
import torch, tracelet
from torch.utils.tensorboard import SummaryWriter

tracelet.start_logging("compiled", "tests", "tensorboard")
writer = SummaryWriter({str(tmp_path / "log")!r})

def step(rows):
    writer.add_scalar("first", rows[0], 1)
    writer.add_scalar("second", rows[1], 1)
    return rows * 2

compiled = torch.compile(step, fullgraph=True, mode="reduce-overhead")
for _ in range(3):
    compiled(torch.arange(2.0))
tracelet.stop_logging()
"""
    env = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    run_script(script, env=env, timeout_s=_TIMEOUT_S)
    assert _points(tmp_path / "log") == {"first": [(1, 0.0)] * 3, "second": [(1, 1.0)] * 3}


def _check(said, folder):
    steps = range(_STEPS)
    assert (said["graphs"], said["breaks"]) == (2, 0)
    assert said["gradient"] == [8.0 * _STEPS] * 4
    assert said["accepted"] == _STEPS * (5 + 2 + 1 + 1 + 2)
    logged = _points(folder / "writer")
    assert logged["loss"] == [(step, 16.0) for step in steps]
    assert logged["other"] == [(step, value) for step in steps for value in (16.0, 17.0)]
    assert logged["rate"] == [(step, 0.5 * step) for step in steps]
    assert logged["last"] == [(step, 2.0) for step in steps]
    assert _points(folder / "writer" / "both_loss")["both"] == logged["loss"]
    by_handle = _points(folder / "handle")
    assert by_handle["loss"] == by_handle["loss2"] == logged["loss"]
    assert by_handle["rate"] == logged["rate"]


def _points(folder):
    found = event_file_scalars(folder)
    return {tag: [(step, value) for step, value, _ in each] for tag, each in found.items()}
