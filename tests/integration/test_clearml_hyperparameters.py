"""Hyperparameter optimization by ClearML over a task that logs through tracelet."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytest.importorskip("clearml")

from tracelet.clearml import _full_name, _parameter, hyperparameter_optimizer

# Command line first, as scripts do: the SDK is not imported yet then.
TEMPLATE = """
import argparse
import tracelet

parser = argparse.ArgumentParser()
parser.add_argument("--learning_rate", type=float, default=0.5)
parser.add_argument("--batch_size", type=int, default=8)
arguments = parser.parse_args()
experiment = tracelet.start_logging("template", "Search", "clearml")
for step in range(5):
    loss = arguments.learning_rate * arguments.batch_size + 4 - step
    experiment.log_metric("train/loss", loss, step)
tracelet.stop_logging()
"""

SEARCH = Path(__file__).parents[2] / "examples" / "clearml" / "hyperparameter_search.py"


@pytest.mark.slow
def test_the_optimizer_runs_clones_with_other_parameters_and_finds_the_objective(
    clearml_server, run_script, tmp_path
):
    (tmp_path / "clearml.conf").write_text("sdk.development.report_use_subprocess: false\n")
    environment = {
        **clearml_server.environment(),
        "CLEARML_CONFIG_FILE": str(tmp_path / "clearml.conf"),
    }
    (tmp_path / "template.py").write_text(TEMPLATE)
    run = "import runpy, sys; sys.argv[:] = {!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    run_script(run.format(["template.py"]), env=environment)
    (base,) = clearml_server.tasks
    done = run_script(run.format([str(SEARCH), base]), env=environment)

    jobs = [task for task in clearml_server.tasks.values() if task["name"].startswith("template: ")]
    assert len(jobs) == 2
    for job in jobs:
        assert job["status"] == "completed", done.stderr
        values = {name: item["value"] for name, item in job["hyperparams"]["Args"].items()}
        assert values["batch_size"] == "16"
        first = float(values["learning_rate"]) * 16 + 4
        points = clearml_server.scalars(job["id"])["train", "loss"]
        assert points == {step: pytest.approx(first - step) for step in range(5)}
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("best:")]
    assert ast.literal_eval(line[5:].strip()) == {
        "Args/learning_rate": "0.001", "Args/batch_size": "16"
    }  # fmt: skip
    assert clearml_server.schema_violations == []
    assert clearml_server.unknown_endpoints == []


def test_a_parameter_is_found_by_its_own_name_or_its_full_one():
    known = ["Args/lr", "General/lr", "General/batch_size", "General/model/width"]
    assert _full_name("batch_size", known) == "General/batch_size"
    assert _full_name("model/width", known) == "General/model/width"
    assert _full_name("Args/lr", known) == "Args/lr"
    with pytest.raises(ValueError, match="'lr' is one of Args/lr, General/lr"):
        _full_name("lr", known)
    with pytest.raises(ValueError, match="no parameter 'batchsize'; did you mean 'batch_size'"):
        _full_name("batchsize", known)
    with pytest.raises(ValueError, match="it has none"):
        _full_name("lr", [])


def test_values_are_a_list_or_a_range_of_clearml():
    from clearml.automation import UniformParameterRange

    assert _parameter("a", [1, 2]).values == [1, 2]
    assert _parameter("General/a", UniformParameterRange("", 0.0, 1.0)).name == "General/a"
    for values in ("abc", 3, []):
        with pytest.raises(ValueError, match=r"parameters\['a'\] must be a list of values"):
            _parameter("a", values)


def test_arguments_are_checked_before_anything_is_asked():
    with pytest.raises(ValueError, match="sign must be one of min, max"):
        hyperparameter_optimizer("id", {"a": [1]}, "loss", sign="least")
    with pytest.raises(ValueError, match="parameters must be a mapping"):
        hyperparameter_optimizer("id", {}, "loss")
