"""What ClearML captures of itself beside tracelet, in both orders of import and start."""

from __future__ import annotations

import importlib.util
import json

import pytest

pytest.importorskip("clearml")
pytest.importorskip("torch")
if importlib.util.find_spec("sklearn") is None:  # the scripts import it, which takes 3 s
    pytest.skip("no sklearn", allow_module_level=True)

IMPORTS = """
import argparse, joblib, matplotlib, numpy, pandas, torch
matplotlib.use("Agg")
# The SDK misses "from matplotlib import pyplot" when it is after the start.
import matplotlib.pyplot as pyplot
from sklearn.linear_model import LinearRegression
from torch.utils.tensorboard import SummaryWriter
"""
PARSE = """
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.001)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--verbose", action="store_true")
arguments = parser.parse_args(["--lr", "0.5"])
assert (arguments.lr, arguments.epochs, arguments.verbose) == (0.5, 10, False)
"""
START = """
experiment = tracelet.start_logging("frameworks", "tests", "clearml")
"""
USE = """
writer = SummaryWriter("log")
for step in range(50):
    writer.add_scalar("train/loss", step, step)
torch.save(torch.nn.Linear(2, 1).state_dict(), "net.pt")
joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), "regression.pkl",
            compress=3)  # the SDK 2.1.12 misses files that joblib 1.6 does not compress
pyplot.plot([1, 2], [3, 4])
pyplot.title("a figure")
pyplot.show()
frame = pandas.DataFrame({"a": [1, 2, 3]})
from clearml import Task
Task.current_task().upload_artifact("frame", frame)
Task.current_task().register_artifact("watched", frame)
Task.current_task().get_logger().report_table("table", "frame", table_plot=frame)
from torch.utils.tensorboard import SummaryWriter as Again
assert Again is SummaryWriter
tracelet.stop_logging()
print(experiment.stats)
"""
ORDERS = {
    "imports, command line, start": "import tracelet" + IMPORTS + PARSE + START + USE,
    "start, imports, command line": "import tracelet" + START + IMPORTS + PARSE + USE,
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_what_clearml_captures_arrives_beside_what_tracelet_captures(
    order, clearml_server, run_script
):
    done = run_script(ORDERS[order], env=clearml_server.environment())
    (task,) = clearml_server.tasks.values()
    arguments = {name: item["value"] for name, item in task["hyperparams"]["Args"].items()}
    assert arguments == {"lr": "0.5", "epochs": "10", "verbose": "False"}
    frameworks = {
        model["name"].rpartition(" - ")[2]: model["framework"]
        for model in clearml_server.models.values()
    }
    assert frameworks == {"net": "PyTorch", "regression": "ScikitLearn"}
    assert {model["task"] for model in clearml_server.models.values()} == {task["id"]}
    plots = {plot["metric"] for plot in clearml_server.events(task["id"], "plot")}
    assert plots == {"a figure", "table"}
    artifacts = {artifact["key"] for artifact in task["execution"]["artifacts"]}
    assert artifacts == {"frame", "watched"}
    # Once each: the SDK's own TensorBoard binding is off.
    points = {step: float(step) for step in range(50)}
    assert clearml_server.scalars(task["id"])["train", "loss"] == points
    assert "delivered={'tensorboard': 50, 'clearml': 50" in done.stdout
    sent = [event for event in clearml_server.events(task["id"], "training_stats_scalar")
            if event["metric"] == "train"]  # fmt: skip
    assert len(sent) == 50
    assert clearml_server.schema_violations == []
    assert clearml_server.unknown_endpoints == []


@pytest.mark.slow
def test_torch_is_imported_when_the_sdks_scan_of_imports_is_over(run_script):
    """The user's Task.init starts the scan; torch, imported meanwhile, failed now and then."""
    done = run_script(
        """
        import sys, threading, time
        from clearml import Task
        scan = Task._update_repository
        is_started = threading.Event()
        def slow_scan(self):
            is_started.wait(60)
            time.sleep(1.0)
            scan(self)
        Task._update_repository = slow_scan
        task = Task.init("tests", "race", auto_connect_frameworks={"pytorch": False})
        thread = task._detect_repo_async_thread
        assert thread.is_alive()
        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == "torch":
                    print("scan over:", not thread.is_alive())
        sys.meta_path.insert(0, Watch())
        import tracelet
        is_started.set()
        tracelet.start_logging("race", "tests")
        tracelet.stop_logging()
        task.close()
        """
    )
    assert "scan over: True" in done.stdout


def test_a_subcommand_is_recorded_once_and_libraries_command_lines_too(run_script):
    done = run_script(
        """
        import json, tracelet, argparse
        from tracelet.capture.arguments import take_parsed_arguments
        parser = argparse.ArgumentParser()
        parser.add_argument("--seed", type=int)
        train = parser.add_subparsers(dest="command").add_parser("train")
        train.add_argument("--lr", type=float)
        namespace, rest = parser.parse_known_args(["--seed", "1", "train", "--lr", "2", "--odd"])
        argparse.ArgumentParser().parse_args([])
        try:
            parser.parse_args(["--seed", "x"])
        except SystemExit:
            pass
        taken = take_parsed_arguments()
        assert taken[0] == (parser, namespace) and take_parsed_arguments() == []
        print(json.dumps([vars(parsed) for _, parsed in taken]))
        """
    )
    assert json.loads(done.stdout) == [{"seed": 1, "command": "train", "lr": 2.0}, {}]
