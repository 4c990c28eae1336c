"""`experiment.watch(model)`: gradients and parameters as histograms, and training as without it."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import tracelet
from readers import histograms

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")


def start():
    config = {"log_dir": "log", "quiet": True}
    return tracelet.start_logging("watched", "tests", "tensorboard", config)


def make_model():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))


def train(model, steps, accumulated=1, on_step=lambda step: None, seen=None):
    """`seen` gets, at each optimizer step, what the model was as the step began."""
    generator = torch.Generator().manual_seed(7)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        for _ in range(accumulated):
            model(torch.randn(8, 6, generator=generator)).pow(2).mean().backward()
        on_step(step)
        if seen is not None:
            named = [(name, each.detach().clone(), each.grad.clone())
                     for name, each in model.named_parameters()]  # fmt: skip
            seen.append(named)
        optimizer.step()


def hooks():
    from torch.optim import optimizer

    return len(optimizer._global_optimizer_pre_hooks)


def test_gradients_and_parameters_are_logged_each_so_many_optimizer_steps():
    before = hooks()
    experiment, model, seen = start(), make_model(), []
    experiment.watch(model, every=3, name="net")
    other = make_model()
    train(other, 5)  # of another model's optimizer
    train(model, 7, accumulated=4, seen=seen)
    tracelet.stop_logging()
    assert hooks() == before
    train(model, 4)  # no more
    found = histograms("log")
    names = [name for name, _ in model.named_parameters()]
    kinds = ("gradients", "parameters")
    assert sorted(found) == sorted(f"net/{kind}/{name}" for kind in kinds for name in names)
    for name in names:
        for kind, place in (("parameters", 1), ("gradients", 2)):
            logged = found[f"net/{kind}/{name}"]
            assert [step for step, _ in logged] == [0, 3, 6]
            for step, histogram in logged:
                values = next(each for each in seen[step] if each[0] == name)[place]
                assert histogram.num == values.numel()
                assert histogram.sum == pytest.approx(float(values.sum()), rel=1e-4, abs=1e-5)


def test_the_step_is_the_users_where_it_is_set():
    experiment, model = start(), make_model()
    experiment.watch(model, every=2)

    def on_step(step):
        experiment.step = 100 + step

    assert experiment.step is None
    train(model, 5, on_step=on_step)
    experiment.unwatch(model)
    train(model, 5, on_step=on_step)
    tracelet.stop_logging()
    assert [step for step, _ in histograms("log")["gradients/0.weight"]] == [100, 102, 104]


def test_training_is_the_same_to_the_bit_and_the_model_is_not_kept():
    plain = make_model()
    watched = copy.deepcopy(plain)
    train(plain, 20)
    experiment = start()
    experiment.watch(watched, every=1)
    train(watched, 20)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    gone = []
    model = make_model()
    experiment.watch(model, every=1)
    torch_ref = weakref.ref(model, lambda _: gone.append(True))
    del model
    gc.collect()
    assert torch_ref() is None
    assert gone == [True]
    train(watched, 1)


def test_parameters_that_an_optimizer_gets_later_are_logged():
    experiment, model = start(), make_model()
    first, last = model[0], model[2]
    optimizer = torch.optim.SGD(last.parameters(), lr=0.1)
    experiment.watch(first, every=2)
    for step in range(6):
        if step == 3:  # unfreezing
            optimizer.add_param_group({"params": first.parameters()})
        optimizer.zero_grad()
        model(torch.ones(8, 6)).sum().backward()
        optimizer.step()
    tracelet.stop_logging()
    assert {tag: [step for step, _ in each] for tag, each in histograms("log").items()} == {
        "gradients/weight": [4], "gradients/bias": [4],
        "parameters/weight": [4], "parameters/bias": [4],
    }  # fmt: skip


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.skipif(not hasattr(torch, "amp"), reason="no GradScaler of the CPU")
def test_gradients_of_mixed_precision_are_logged_without_the_scale(is_fused):
    try:
        scaler = torch.amp.GradScaler("cpu")
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.Adam(model.parameters(), fused=is_fused)
    except (AttributeError, RuntimeError, TypeError) as error:
        pytest.skip(f"this torch has none: {error}")
    experiment = start()
    experiment.watch(model, every=1)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(8, 4)).mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    tracelet.stop_logging()
    found = histograms("log")["gradients/weight"]
    assert [(step, each.min, each.max, each.sum) for step, each in found] == [
        (0, 1.0, 1.0, 4.0), (1, 1.0, 1.0, 4.0),
    ]  # fmt: skip


def test_what_goes_wrong_is_told_once_and_training_goes_on(caplog, monkeypatch):
    experiment, model = start(), make_model()
    experiment.watch(model, every=1)

    def fails(*_):
        raise RuntimeError("no histogram")

    monkeypatch.setattr(next(iter(experiment._run.watches)), "_log", fails)
    train(model, 5)
    told = [each for each in caplog.records if "watch" in each.getMessage()]
    assert len(told) == 1
    tracelet.stop_logging()


def test_sparse_and_missing_gradients_and_two_optimizers():
    experiment = start()
    model = torch.nn.ModuleDict(
        {"a": torch.nn.Embedding(9, 2, sparse=True), "b": torch.nn.Linear(2, 1)}
    )
    model["c"] = torch.nn.Linear(2, 2)  # without a gradient
    experiment.watch(model, every=2)
    experiment.watch(model, every=1)  # anew
    first = torch.optim.SGD(model["a"].parameters(), lr=0.1)
    second = torch.optim.SGD([*model["b"].parameters(), *model["c"].parameters()], lr=0.1)
    for _ in range(3):
        first.zero_grad()
        second.zero_grad()
        model["b"](model["a"](torch.tensor([1, 1, 4]))).sum().backward()
        first.step()
        second.step()
    tracelet.stop_logging()
    found = histograms("log")
    assert {tag: [step for step, _ in each] for tag, each in found.items()} == {
        "gradients/a.weight": [0, 1, 2], "parameters/a.weight": [0, 1, 2],
        "gradients/b.weight": [0, 1, 2], "parameters/b.weight": [0, 1, 2],
        "gradients/b.bias": [0, 1, 2], "parameters/b.bias": [0, 1, 2],
        "parameters/c.weight": [0, 1, 2], "parameters/c.bias": [0, 1, 2],
    }  # fmt: skip
    assert found["gradients/a.weight"][0][1].num == 4  # two rows of two


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((5,), "model must be a torch.nn.Module, not int"),
        ((torch.nn.Linear(1, 1), 0), "every must be 1 or more"),
        ((torch.nn.Linear(1, 1), 1.5), "every must be an int"),
        ((torch.nn.Linear(1, 1), 5, 3), "name must be a str"),
    ],
)
def test_what_is_wrong_is_told_at_the_call(arguments, words):
    before = hooks()
    experiment = start()
    with pytest.raises((TypeError, ValueError), match=words):
        experiment.watch(*arguments)
    with pytest.raises(TypeError, match="step must be an int"):
        experiment.step = 1.5
    tracelet.stop_logging()
    with pytest.raises(tracelet.TraceletError, match="has ended"):
        experiment.watch(torch.nn.Linear(1, 1))
    assert hooks() == before
