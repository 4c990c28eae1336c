"""Logging inside functions that torch.compile has compiled, by the backends that need no C++
compiler; by inductor in integration/test_compiled_inductor.py."""

from __future__ import annotations

import functools
import types

import pytest
import tracelet

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from readers import event_file_scalars  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch.utils.tensorboard import SummaryWriter  # noqa: E402

BACKENDS = ("eager", "aot_eager")


@pytest.fixture(autouse=True)
def _compiler_is_new():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def start(tmp_path):
    """Starts a run; of the handle's points a folder is made, too."""

    def start_run(**config):
        config = {"log_dir": str(tmp_path / "handle"), **config}
        return tracelet.start_logging("compiled", "tests", "tensorboard", config)

    return start_run


def points(folder):
    """(step, value) by tag."""
    found = event_file_scalars(folder)
    return {tag: [(step, value) for step, value, _ in each] for tag, each in found.items()}


def points_of_torch(folder):
    """Those of the tag "loss" in a file of torch's own writer."""
    scalars = tracelet.read(folder).scalars("loss")
    return list(zip(scalars.steps.tolist(), scalars.values.tolist()))


def count(name):
    return counters["stats"][name]


def breaks():
    return sum(counters["graph_break"].values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_in_a_compiled_step_arrive_once_each_and_in_order(backend, start, tmp_path):
    experiment = start()
    writer = SummaryWriter(str(tmp_path / "log"))

    def train(rows, step, rate):
        loss = (rows * rows).sum()
        writer.add_scalar("loss", loss, step)
        other = loss.detach() * 1
        writer.add_scalar("other", other, step)
        other.add_(1)  # what was logged before stays as it was
        writer.add_scalar("other", other, global_step=step)
        writer.add_scalar("rate", rate, step)
        writer.add_scalar("step", step + 1, step)
        writer.add_scalar("timed", loss, step, walltime=5.0)
        writer.add_scalars("both", {"loss": loss, "rate": rate}, step)
        writer.add_histogram("rows", rows, step)
        experiment.log_metric("loss", loss, step)
        experiment.log({"loss2": loss, "rate": rate, "step": step}, step)
        experiment.log({"counted": other})
        experiment.log_histogram("rows", rows, step)
        return loss * 2

    compiled = torch.compile(train, backend=backend, fullgraph=True)
    rows = torch.ones(4, requires_grad=True)
    for step in range(4):
        compiled(rows, step, 0.5 * step).backward()
    with torch.no_grad():
        compiled(rows, 4, 2.0)
    assert breaks() == 0
    assert count("unique_graphs") <= 3  # the first, with a step that changes, and without gradients
    assert rows.grad.tolist() == [16.0] * 4
    tracelet.stop_logging()

    steps, rates = range(5), [0.5 * step for step in range(5)]
    logged = points(tmp_path / "log")
    assert logged["loss"] == logged["timed"] == [(step, 4.0) for step in steps]
    assert logged["other"] == [(step, value) for step in steps for value in (4.0, 5.0)]
    assert logged["rate"] == list(zip(steps, rates))
    assert logged["step"] == [(step, step + 1) for step in steps]
    assert points(tmp_path / "log" / "both_loss")["both"] == logged["loss"]
    assert points(tmp_path / "log" / "both_rate")["both"] == logged["rate"]
    by_handle = points(tmp_path / "handle")
    assert by_handle["loss"] == by_handle["loss2"] == logged["loss"]
    assert by_handle["rate"] == logged["rate"]
    assert by_handle["step"] == [(step, step) for step in steps]
    assert [value for _, value in by_handle["counted"]] == [5.0] * 5
    assert experiment.stats.accepted == 5 * (6 + 2 + 1 + 1 + 3 + 1 + 1)
    runs = [tracelet.read(tmp_path / name).runs["."] for name in ("log", "handle")]
    assert [run.tags["histograms"] for run in runs] == [["rows"], ["rows"]]


def test_a_compiled_function_goes_on_in_the_next_run_and_without_one(start, tmp_path):
    holder = types.SimpleNamespace(writer=SummaryWriter(str(tmp_path / "none")))

    def train(rows, step):
        holder.writer.add_scalar("loss", rows.sum(), step)
        return rows * 2

    compiled = torch.compile(train, backend="eager", fullgraph=True)
    for step in range(3):
        compiled(torch.ones(4), step)
    holder.writer.close()
    for name in ("first", "second", "third"):
        experiment = start()
        holder.writer = SummaryWriter(str(tmp_path / name))
        for step in range(3):
            compiled(torch.ones(4), step)
        tracelet.stop_logging()
        assert experiment.stats.accepted == 3
        assert points(tmp_path / name)["loss"] == [(0, 4.0), (1, 4.0), (2, 4.0)]
    holder.writer = SummaryWriter(str(tmp_path / "after"))
    compiled(torch.ones(4), 7)
    holder.writer.close()
    assert points_of_torch(tmp_path / "none") == [(0, 4.0), (1, 4.0), (2, 4.0)]
    assert points_of_torch(tmp_path / "after") == [(7, 4.0)]
    assert breaks() == 0
    # The first, one with a step that changes, and one for the native method.
    assert count("unique_graphs") <= 3


def test_the_scalars_of_a_graph_are_handed_over_together(start, tmp_path):
    start()
    writer, graphs = SummaryWriter(str(tmp_path / "log")), []

    def keep(module, _):
        graphs.append([str(node.target) for node in module.graph.nodes])
        return module

    def train(rows):
        for number in range(20):
            writer.add_scalar(f"row{number}", rows[number], number)
        writer.add_histogram("rows", rows, 0)
        writer.add_scalar("last", rows[0], 0)
        return rows * 2

    torch.compile(train, backend=keep, fullgraph=True)(torch.arange(20.0))
    (targets,) = graphs
    ours = [target for target in targets if target.startswith("tracelet.")]
    assert ours == ["tracelet.scalars", "tracelet.call", "tracelet.scalar"]
    tracelet.stop_logging()
    logged = points(tmp_path / "log")
    assert [logged[f"row{number}"] for number in range(20)] == [[(n, n)] for n in range(20)]


def test_a_call_outside_of_compiled_code_is_the_native_method(start, tmp_path):
    start()
    writer = SummaryWriter(str(tmp_path / "log"))
    torch.compile(lambda x: writer.add_scalar("a", x.sum(), 1), backend="eager")(torch.ones(2))
    assert type(vars(SummaryWriter)["add_scalar"]) is types.MethodDescriptorType


def test_wrappers_and_subclasses_see_the_calls_of_a_compiled_step(start, tmp_path, monkeypatch):
    seen = []
    own = SummaryWriter.add_scalar

    @functools.wraps(own)
    def wrapper(self, tag, *args, **kwargs):
        seen.append(tag)
        return own(self, tag, *args, **kwargs)

    class Named(SummaryWriter):
        def add_scalar(self, tag, value, step=None):
            super().add_scalar(f"named/{tag}", value, step)

    monkeypatch.setattr(SummaryWriter, "add_scalar", wrapper)
    experiment = start()
    writer, named = SummaryWriter(str(tmp_path / "log")), Named(str(tmp_path / "named"))

    def train(rows):
        writer.add_scalar("loss", rows.sum(), 1)
        named.add_scalar("loss", rows.sum(), 1)
        return rows * 2

    torch.compile(train, backend="eager")(torch.ones(4))
    tracelet.stop_logging()
    assert sorted(seen) == ["loss", "named/loss"]
    assert experiment.stats.accepted == 2
    assert points(tmp_path / "named")["named/loss"] == [(1, 4.0)]


def test_what_a_graph_can_not_hold_is_logged_by_a_graph_break(start, tmp_path):
    start()
    writer = SummaryWriter(str(tmp_path / "log"))

    class Number:
        def __float__(self):
            return 7.0

    number = Number()

    def train(rows):
        doubled = rows * 2
        writer.add_scalar("number", number, 1)
        return doubled + 1

    assert torch.compile(train, backend="eager")(torch.ones(2)).tolist() == [3.0, 3.0]
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="can't hand over"):
        torch.compile(train, backend="eager", fullgraph=True)(torch.ones(2))
    tracelet.stop_logging()
    assert points(tmp_path / "log")["number"] == [(1, 7.0)]


def test_a_bad_argument_is_told_as_it_is_outside(start, tmp_path):
    experiment = start()
    writer = SummaryWriter(str(tmp_path / "log"))
    bad = torch.compile(
        lambda rows: writer.add_scalar("two", rows, 1), backend="eager", fullgraph=True
    )
    with pytest.raises((TypeError, ValueError), match="two"):
        bad(torch.ones(2))
    nameless = torch.compile(
        lambda rows: experiment.log_metric(5, rows.sum(), 1), backend="eager", fullgraph=True
    )
    with pytest.raises(TypeError, match="str"):
        nameless(torch.ones(2))


@pytest.mark.slow
# eager runs the block again, as torch does without compilation.
@pytest.mark.parametrize(("backend", "times"), [("eager", 2), ("aot_eager", 1)])
def test_a_block_that_is_checkpointed(backend, times, start, tmp_path):
    start()
    writer = SummaryWriter(str(tmp_path / "log"))

    def block(rows):
        rows = torch.sin(rows) * 2
        writer.add_scalar("inside", rows.sum(), 1)
        return torch.cos(rows)

    def train(rows):
        return checkpoint(block, rows, use_reentrant=False).sum()

    rows = torch.ones(4, requires_grad=True)
    torch.compile(train, backend=backend, fullgraph=True)(rows).backward()
    tracelet.stop_logging()
    assert len(points(tmp_path / "log")["inside"]) == times


@pytest.mark.slow
def test_inside_of_an_autograd_function_and_a_hook(start, tmp_path):
    start()
    writer = SummaryWriter(str(tmp_path / "log"))

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):
            writer.add_scalar("forward", rows.sum(), 1)
            return rows * 2

        @staticmethod
        def backward(ctx, gradient):
            writer.add_scalar("backward", gradient.sum(), 1)
            return gradient * 2

    def train(rows):
        doubled = Double.apply(rows)
        doubled.register_hook(lambda gradient: writer.add_scalar("hook", gradient.sum(), 1))
        return doubled.sum()

    rows = torch.ones(4, requires_grad=True)
    torch.compile(train, backend="aot_eager", fullgraph=True)(rows).backward()
    tracelet.stop_logging()
    logged = points(tmp_path / "log")
    assert logged == {"forward": [(1, 4.0)], "backward": [(1, 4.0)], "hook": [(1, 4.0)]}
    assert rows.grad.tolist() == [2.0] * 4


@pytest.mark.slow
def test_inside_of_torch_func(start, tmp_path):
    start()
    writer = SummaryWriter(str(tmp_path / "log"))

    def loss(rows):
        value = (rows * rows).sum()
        writer.add_scalar("grad", value, 1)
        writer.add_scalar("grad2", value * 2, 1)
        return value

    def number(rows):
        writer.add_scalar("number", 0.5, 1)
        return rows * 2

    def each(rows):
        writer.add_scalar("each", rows.sum(), 1)
        return rows * 2

    compiled = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    gradient = compiled(lambda rows: torch.func.grad(loss)(rows))(torch.ones(4))
    assert gradient.tolist() == [2.0] * 4
    compiled(lambda rows: torch.vmap(number)(rows))(torch.ones(3, 4))
    with pytest.raises(Exception, match="atching rule not implemented for tracelet"):
        compiled(lambda rows: torch.vmap(each)(rows))(torch.ones(3, 4))
    with pytest.raises(TypeError, match="each"):
        torch.vmap(each)(torch.ones(3, 4))
    tracelet.stop_logging()
    logged = points(tmp_path / "log")
    assert logged == {"grad": [(1, 4.0)], "grad2": [(1, 8.0)], "number": [(1, 0.5)]}


class Logging(torch.nn.Module):
    def __init__(self, writer):
        super().__init__()
        self.writer = writer

    def forward(self, rows):
        if not (self.is_guarded and torch.compiler.is_exporting()):
            self.writer.add_scalar("loss", rows.sum(), 1)
        return rows * 2

    is_guarded = False


@pytest.mark.slow
def test_an_exported_program_does_not_log(start, tmp_path):
    experiment = start()
    model, rows = Logging(SummaryWriter(str(tmp_path / "log"))), torch.ones(4)
    with pytest.raises(TypeError, match="loss"):
        torch.export.export(model, (rows,), strict=False)
    strict = torch.export.export(model, (rows,), strict=True)
    model.is_guarded = True
    guarded = torch.export.export(model, (rows,), strict=False)
    for exported in (strict, guarded):
        assert exported.module()(rows).tolist() == [2.0] * 4
        assert "tracelet" not in str(exported.graph)
    tracelet.stop_logging()
    assert experiment.stats.accepted == 0


@pytest.mark.slow
def test_what_is_traced_by_jit_logs_while_it_is_traced(start, tmp_path):
    experiment = start()
    model = Logging(SummaryWriter(str(tmp_path / "log")))
    traced = torch.jit.trace(model, (torch.ones(4),), check_trace=False)
    while_traced = experiment.flush() and experiment.stats.accepted
    traced(torch.ones(4))
    tracelet.stop_logging()
    assert experiment.stats.accepted == while_traced == 1
