"""A real training run, logged through the ring to an offline ClearML session and TensorBoard.

    make demo        or        python examples/demo.py --epochs 10

It is the complete example of the ClearML page, with a progress bar and, at the end, the account of
every point and what to look at. Everything it writes lies in .demo, in folders of its own for each
run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".demo"
os.environ.setdefault("CLEARML_OFFLINE_MODE", "1")
os.environ.setdefault("CLEARML_CACHE_DIR", str(FOLDER / "clearml"))
os.environ.setdefault("CLEARML_LOG_LEVEL", "ERROR")
os.environ.setdefault("TRACELET_DIR", str(FOLDER / "tracelet-runs"))

import torch
import tracelet
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A real training run, logged by tracelet.")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=10)
    return parser.parse_args()


class NoLogging:
    """What logging costs at the least in Python: a method that does nothing."""

    def add_scalar(
        self, tag: str, scalar_value: object, global_step: int | None = None,
        walltime: float | None = None, new_style: bool = False, double_precision: bool = False,
    ) -> None:  # fmt: skip
        pass


@dataclass
class Cost:
    """What the calls in the training loop took, its caches being cold."""

    call_ns: list[int] = field(default_factory=list)
    empty_ns: list[int] = field(default_factory=list)
    training_s: float = 0.0


def train(
    args: argparse.Namespace, folder: Path, cost: Cost, experiment: tracelet.Experiment
) -> tuple[nn.Sequential, float]:
    """Trains an MLP on made data; notes how long the add_scalar calls took."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    criterion = nn.CrossEntropyLoss()
    features = torch.randn(1000, 784)
    labels = (features[:, :10].argmax(dim=1)).long()
    loader = DataLoader(TensorDataset(features, labels), batch_size=args.batch_size)
    writer = SummaryWriter(folder)
    experiment.watch(model, every=32)  # gradients and parameters as histograms
    nothing = NoLogging()
    clock = time.perf_counter_ns
    average_loss = 0.0
    start = time.perf_counter()
    for epoch in tqdm(range(args.epochs), desc="training", unit="epoch"):
        total_loss = 0.0
        for index, (data, target) in enumerate(loader):
            optimizer.zero_grad()
            loss = criterion(model(data), target)
            loss.backward()
            optimizer.step()
            step = epoch * len(loader) + index
            if step % 2:  # in turn, as the first of two calls warms the caches for the second
                before = clock()
                nothing.add_scalar("batch/loss", loss, step)
                cost.empty_ns.append(clock() - before)
                writer.add_scalar("batch/loss", loss, step)
            else:
                before = clock()
                writer.add_scalar("batch/loss", loss, step)
                cost.call_ns.append(clock() - before)
            total_loss += loss.item()
        average_loss = total_loss / len(loader)
        writer.add_scalar("epoch/loss", average_loss, epoch)
        for name, parameter in model.named_parameters():
            writer.add_scalar(f"norms/{name}", parameter.detach().norm(), epoch)
        writer.add_image("first layer", first_layer(model), epoch)
    cost.training_s = time.perf_counter() - start
    writer.close()
    return model, average_loss


def first_layer(model: nn.Sequential) -> torch.Tensor:
    """What each of 32 neurons looks at, as a picture: red where it wants more, blue where less."""
    first = model[0]
    assert isinstance(first, nn.Linear)
    weights = first.weight.detach()[:32].reshape(4, 8, 28, 28)
    sheet = nn.functional.pad(weights, (1, 1, 1, 1)).permute(0, 2, 1, 3).reshape(4 * 30, 8 * 30)
    sheet = sheet / sheet.abs().max()
    return torch.stack([1 + sheet.clamp(max=0), 1 - sheet.abs(), 1 - sheet.clamp(min=0)])


def log_results(
    experiment: tracelet.Experiment, folder: Path, args: argparse.Namespace, model: nn.Module,
    loss: float,
) -> None:  # fmt: skip
    """Notes, parameters and artifacts, by hand."""
    experiment.set_notes("A small MLP on made data, from `make demo`.")
    experiment.log_params(
        {
            "model.type": "simple_mlp",
            "model.architecture": "784->128->10",
            "training.final_loss": loss,
            **vars(args),
        }
    )
    torch.save(model.state_dict(), folder / "model.pth")
    experiment.log_artifact(folder / "model.pth", artifact_path="models/")
    metadata = {
        "final_epoch": args.epochs,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    (folder / "training_metadata.json").write_text(json.dumps(metadata))
    experiment.log_artifact(folder / "training_metadata.json", artifact_path="metadata/")


def print_account(
    experiment: tracelet.Experiment, folder: Path, seconds: float, stop_s: float, cost: Cost
) -> None:
    stats = experiment.stats
    call_us, empty_us = (statistics.median(each) / 1e3 for each in (cost.call_ns, cost.empty_ns))
    share = stats.accepted * (call_us - empty_us) / 1e6 / cost.training_s
    rows = [
        ("points accepted", f"{stats.accepted:,}"),
        *((f"delivered to {name}", f"{count:,}") for name, count in stats.delivered.items()),
        ("pending", f"{stats.pending:,}"),
        ("dropped", f"{sum(stats.dropped.values()):,}"),
        ("seconds, all in all", f"{seconds:.2f}"),
        ("seconds of stop_logging", f"{stop_s:.2f}"),
        ("add_scalar in the training loop, median", f"{call_us:.2f} us"),
        ("an empty Python method in its place", f"{empty_us:.2f} us"),
        ("the difference, as a share of training", f"{share:.3%}"),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {value:>12}")
    own = f"TRACELET_DIR={os.environ['TRACELET_DIR']}"
    online = f"CLEARML_CACHE_DIR={os.environ['CLEARML_CACHE_DIR']} CLEARML_OFFLINE_MODE=0"
    print(f"""
Look at it: the run is {folder.name!r} in TensorBoard (scalars, histograms, the images of the
first layer, hyperparameters, notes among the texts), and a table with a small plot each here:

    .venv/bin/tensorboard --logdir {folder.parent}
    {own} .venv/bin/tracelet show {folder.name}

With a ClearML server, this sends the offline session to it:

    {online} {own} .venv/bin/tracelet sync {experiment.url}
""")


def main() -> None:
    args = parse_arguments()
    folder = FOLDER / "runs" / time.strftime("demo-%Y%m%d-%H%M%S")
    start = time.perf_counter()
    experiment = tracelet.start_logging(
        exp_name=folder.name,
        project="tutorials",
        backend=["clearml", "tensorboard"],
        config={
            "tags": ["pytorch", "tutorial", "automated"],
            "task_type": "training",
            "auto_resource_monitoring": False,
            "quiet": True,  # what it would say is in the account below
        },
    )
    cost = Cost()
    model, loss = train(args, folder, cost, experiment)
    log_results(experiment, folder, args, model, loss)
    before_stop = time.perf_counter()
    tracelet.stop_logging()
    end = time.perf_counter()
    print_account(experiment, folder, end - start, end - before_stop, cost)
    stats = experiment.stats
    is_whole = stats.delivered["tensorboard"] == stats.accepted and not stats.not_taken
    if stats.pending or stats.dropped or not is_whole:
        raise SystemExit("the account does not balance")


if __name__ == "__main__":
    main()
