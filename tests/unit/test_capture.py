"""SummaryWriter's hot methods: the arguments they take, what they record, how they are restored."""

from __future__ import annotations

import copy
import inspect
import math
import pathlib
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import tracelet
from ids import by_repr
from readers import event_file_scalars, event_files, events
from tracelet.errors import WrongTypeError, WrongValueError

torch = pytest.importorskip("torch")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


@pytest.fixture
def run(tmp_path):
    return tracelet.start_logging("capture", "tests", backend="tensorboard")


def logged(writer, tag="tag"):
    """The (step, value) pairs of a tag, once the run has ended."""
    tracelet.stop_logging()
    return [(step, value) for step, value, _ in event_file_scalars(writer.log_dir).get(tag, [])]


VALUES = [
    0.5, 3, True, -0.0, 2**62, np.float16(0.5), np.float32(0.25), np.float64(0.125), np.int8(-3),
    np.int16(-300), np.int32(7), np.int64(2**40), np.uint8(200), np.uint16(65535), np.uint32(9),
    np.uint64(2**63), np.bool_(True), np.longdouble(1.5), np.array(2.5), np.array([3.5]),
    np.array([[4]]), Decimal("1.25"), Fraction(1, 4), "0.5",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{type(v).__name__}-{v}")
def test_values_that_float_takes(run, tmp_path, value):
    writer = SummaryWriter(tmp_path / "log")
    writer.add_scalar("tag", value, 1)
    expected = float(value.item()) if isinstance(value, np.ndarray) else float(value)
    assert logged(writer) == [(1, np.float32(expected))]


DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16,
    torch.int32, torch.int64, torch.uint8, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_tensors_of_every_dtype(run, tmp_path, dtype, shape):
    writer = SummaryWriter(tmp_path / "log")
    many = torch.ones(7, dtype=dtype)
    writer.add_scalar("tag", torch.full(shape, 1, dtype=dtype), 1)
    writer.add_scalar("tag", many[3], 2)  # a view whose memory is not aligned
    assert logged(writer) == [(1, 1.0), (2, 1.0)]


def test_tensors_with_gradients_parameters_and_lazy_negation(run, tmp_path):
    writer = SummaryWriter(tmp_path / "log")
    writer.add_scalar("tag", torch.tensor(1.5, requires_grad=True), 1)
    writer.add_scalar("tag", torch.nn.Parameter(torch.tensor(2.5)), 2)
    writer.add_scalar("tag", torch.nn.Parameter(torch.tensor(2.5)) * 2, 3)
    negated = torch.tensor([1 + 2j, 3 + 4j], dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    writer.add_scalar("tag", negated[0], 4)
    writer.add_scalar("tag", negated[1], 5)
    wide = torch.tensor([1 + 2j, 3 + 4j], dtype=torch.complex128).conj().imag
    writer.add_scalar("tag", wide[1], 6)
    assert logged(writer) == [(1, 1.5), (2, 2.5), (3, 5.0), (4, -2.0), (5, -4.0), (6, -4.0)]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, TypeError), ("abc", TypeError), ([1.0], TypeError), (object(), TypeError),
        (1j, TypeError), (torch.tensor(1j), TypeError), (np.array([1.0, 2.0]), ValueError),
        (torch.ones(3), (TypeError, ValueError)), (10**400, ValueError),
        (torch.tensor(1.0, device="meta"), TypeError),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_wrong_values_raise_naming_the_tag_and_lose_nothing(run, tmp_path, value, error):
    writer = SummaryWriter(tmp_path / "log")
    writer.add_scalar("tag", 1.0, 1)
    with pytest.raises(error, match="the-tag") as caught:
        writer.add_scalar("the-tag", value, 2)
    assert type(caught.value) in (WrongTypeError, WrongValueError)  # also what torch's raise
    writer.add_scalar("tag", 3.0, 3)
    assert run.stats.accepted == 2
    assert logged(writer) == [(1, 1.0), (3, 3.0)]


def test_exceptions_that_are_not_about_the_value_pass(run, tmp_path):
    class Interrupting:
        def __float__(self):
            raise KeyboardInterrupt

    writer = SummaryWriter(tmp_path / "log")
    with pytest.raises(KeyboardInterrupt):
        writer.add_scalar("tag", Interrupting(), 1)


@pytest.mark.parametrize("tag", [None, 3, b"tag"], ids=by_repr)
def test_a_tag_that_is_no_str_raises(run, tmp_path, tag):
    with pytest.raises(TypeError, match="tag must be a str"):
        SummaryWriter(tmp_path / "log").add_scalar(tag, 1.0, 1)


def test_a_tag_with_a_lone_surrogate_raises(run, tmp_path):
    with pytest.raises(ValueError, match="surrogates"):
        SummaryWriter(tmp_path / "log").add_scalar("a\ud800", 1.0, 1)


LARGEST, SMALLEST = 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0), (-5, -5), (LARGEST, LARGEST), (SMALLEST, SMALLEST), (2**31, 2**31),
        (np.int64(7), 7), (np.int32(-7), -7), (np.uint8(7), 7), (torch.tensor(9), 9),
        (np.array(11), 11), (3.7, 3), (np.float64(4.9), 4), (True, 1), ("12", 12), (None, 0),
    ],
    ids=by_repr,
)  # fmt: skip
def test_steps(run, tmp_path, step, expected):
    writer = SummaryWriter(tmp_path / "log")
    writer.add_scalar("tag", 1.0, step)
    assert logged(writer) == [(expected, 1.0)]


@pytest.mark.parametrize(
    "step", [2**63, -(2**63) - 1, float("nan"), "x", [1], object()], ids=by_repr
)
def test_steps_that_are_no_64_bit_integer_raise(run, tmp_path, step):
    with pytest.raises((TypeError, ValueError), match=r"'tag'.*global_step"):
        SummaryWriter(tmp_path / "log").add_scalar("tag", 1.0, step)


@pytest.mark.parametrize("walltime", [float("nan"), float("inf"), "never", object()], ids=by_repr)
def test_wall_times_that_are_no_time_raise(run, tmp_path, walltime):
    with pytest.raises((TypeError, ValueError), match="walltime"):
        SummaryWriter(tmp_path / "log").add_scalar("tag", 1.0, 1, walltime)


def test_wall_time_is_now_or_what_was_given(run, tmp_path):
    import time

    writer = SummaryWriter(tmp_path / "log")
    before = time.time()
    writer.add_scalar("tag", 1.0, 1)
    time.sleep(0.02)
    for step in range(2, 50):
        writer.add_scalar("tag", 1.0, step)
    after = time.time()
    writer.add_scalar("tag", 1.0, 50, 1234.5)
    tracelet.stop_logging()
    times = [wall_time for _, _, wall_time in event_file_scalars(writer.log_dir)["tag"]]
    assert before - 0.001 <= times[0] <= times[1] <= times[48] <= after + 0.001
    assert times[1] - times[0] >= 0.019
    assert times[49] == 1234.5


def test_positional_and_keyword_arguments(run, tmp_path):
    writer = SummaryWriter(tmp_path / "log")
    writer.add_scalar(tag="tag", scalar_value=1.0, global_step=1)
    writer.add_scalar("tag", scalar_value=2.0, global_step=2, walltime=5.0)
    writer.add_scalar("tag", 3.0, 3, 6.0, False, False)
    key = "".join(["global", "_step"])  # not the interned string
    writer.add_scalar("tag", 4.0, **{key: 4})
    assert logged(writer) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "missing required argument: 'tag'"),
        (("a",), {}, "missing required argument: 'scalar_value'"),
        (("a", 1, 2, 3, 4, 5, 6), {}, "takes from 3 to 7"),
        (("a", 1), {"step": 3}, "unexpected keyword argument 'step'"),
        (("a", 1), {"tag": "b"}, "multiple values for argument 'tag'"),
    ],
)
def test_wrong_calls_raise_as_python_does(run, tmp_path, args, kwargs, words):
    with pytest.raises(TypeError, match=words):
        SummaryWriter(tmp_path / "log").add_scalar(*args, **kwargs)


def test_signatures_are_those_of_torch():
    names = {}
    for state in ("before", "during"):
        if state == "during":
            tracelet.start_logging("capture", "tests", backend="tensorboard")
        for method in ("add_scalar", "add_scalars"):
            parameters = inspect.signature(getattr(SummaryWriter, method)).parameters.values()
            names[state, method] = [(p.name, p.default) for p in parameters]
    assert names["before", "add_scalar"] == names["during", "add_scalar"]
    assert names["before", "add_scalars"] == names["during", "add_scalars"]


def test_a_writer_made_before_the_run_and_one_made_after(tmp_path):
    early = SummaryWriter(tmp_path / "early")
    tracelet.start_logging("capture", "tests", backend="tensorboard")
    late = SummaryWriter(tmp_path / "late")
    early.add_scalar("tag", 1.0, 1)
    late.add_scalar("tag", 2.0, 1)
    tracelet.stop_logging()
    assert event_file_scalars(early.log_dir)["tag"][0][:2] == (1, 1.0)
    assert event_file_scalars(late.log_dir)["tag"][0][:2] == (1, 2.0)


def test_restored_exactly_and_a_kept_bound_method_goes_to_torch(tmp_path):
    names = ["add_scalar", "add_scalars", "flush", "close"]
    originals = {name: SummaryWriter.__dict__[name] for name in names}
    writer = SummaryWriter(tmp_path / "log")
    for _ in range(2):
        tracelet.start_logging("capture", "tests", backend="tensorboard")
        kept, kept_scalars = writer.add_scalar, writer.add_scalars
        assert all(SummaryWriter.__dict__[name] is not originals[name] for name in names)
        tracelet.stop_logging()
        assert all(SummaryWriter.__dict__[name] is originals[name] for name in names)
    kept("tag", 4.0, global_step=4)
    kept_scalars("main", {"a": 1.0}, 2)
    writer.close()
    torch_files = [p for p in pathlib.Path(writer.log_dir).glob("*tfevents*") if p.is_file()]
    values = [v for p in torch_files for e in events(p) for v in e.summary.value]
    assert [(v.tag, v.simple_value) for v in values] == [("tag", 4.0)]
    assert list((tmp_path / "log" / "main_a").iterdir())
    with pytest.raises(TypeError, match="scalar_value"):
        kept("tag")


def test_another_librarys_patch_over_ours_is_left(tmp_path, caplog):
    original = SummaryWriter.__dict__["add_scalar"]
    tracelet.start_logging("capture", "tests", backend="tensorboard")
    ours = SummaryWriter.add_scalar

    def theirs(self, *args, **kwargs):
        return ours(self, *args, **kwargs)

    SummaryWriter.add_scalar = theirs
    try:
        tracelet.stop_logging()
        assert SummaryWriter.__dict__["add_scalar"] is theirs
        assert "replaced by another library" in caplog.text
        SummaryWriter(tmp_path / "log").add_scalar("tag", 1.0, 1)  # reaches torch's own
    finally:
        SummaryWriter.add_scalar = original


def test_subclasses_copies_and_paths(run, tmp_path):
    class Subclass(SummaryWriter):
        def add_scalar(self, tag, scalar_value, global_step=None, *args, **kwargs):
            super().add_scalar("sub/" + tag, scalar_value, global_step, *args, **kwargs)

    writer = Subclass(pathlib.Path(tmp_path) / "log")
    writer.add_scalar("tag", 1.0, 1)
    copy.copy(writer).add_scalar("tag", 2.0, 2)
    SummaryWriter.add_scalar(writer, "tag", 3.0, 3)
    with pytest.raises(TypeError, match="SummaryWriter"):
        SummaryWriter.add_scalar(object(), "tag", 1.0, 1)
    tracelet.stop_logging()
    points = event_file_scalars(tmp_path / "log")
    assert [p[:2] for p in points["sub/tag"]] == [(1, 1.0), (2, 2.0)]
    assert [p[:2] for p in points["tag"]] == [(3, 3.0)]


def test_a_writer_at_a_dead_writers_address_is_not_taken_for_it(run, tmp_path):
    for number in range(50):
        writer = SummaryWriter(tmp_path / f"log{number}")
        writer.add_scalar("tag", float(number), number)
        writer.close()
        del writer
    tracelet.stop_logging()
    for number in range(50):
        points = event_file_scalars(tmp_path / f"log{number}")["tag"]
        assert [p[:2] for p in points] == [(number, float(number))]


def test_the_tag_is_taken_at_the_call(run, tmp_path):
    """Strings made on the fly, whose memory is used again for the next, keep their own content."""
    writer = SummaryWriter(tmp_path / "log")
    for step in range(1000):
        writer.add_scalar(f"layer.{step % 37}.weight/norm", step, step)
    tracelet.stop_logging()
    for tag, points in event_file_scalars(writer.log_dir).items():
        assert all(step % 37 == int(tag.split(".")[1]) for step, _, _ in points)
        assert all(step == value for step, value, _ in points)


def test_add_scalars_goes_where_torch_puts_it(tmp_path):
    calls = [
        (("run/14h", {"sin": 0.5, "cos": torch.tensor(1.5)}, 3), {}),
        (("run/14h", {"sin": np.float32(2.5)}), {"global_step": 4, "walltime": 7.0}),
        (("plain", {"x": 1}), {}),
    ]
    theirs = SummaryWriter(tmp_path / "theirs")
    for args, kwargs in calls:
        theirs.add_scalars(*args, **kwargs)
    theirs.close()
    tracelet.start_logging("capture", "tests", backend="tensorboard")
    ours = SummaryWriter(tmp_path / "ours")
    for args, kwargs in calls:
        ours.add_scalars(*args, **kwargs)
    tracelet.stop_logging()

    def scalars(root, pattern):
        found = {}
        for path in pathlib.Path(root).glob(f"*/{pattern}"):
            found[path.parent.name] = [
                (v.tag, e.step, v.simple_value) for e in events(path) for v in e.summary.value
            ]
        return found

    expected = scalars(tmp_path / "theirs", "*tfevents*")
    assert set(expected) == {"run_14h_sin", "run_14h_cos", "plain_x"}
    assert scalars(tmp_path / "ours", "*.tracelet*") == expected


def test_all_writers_are_those_that_torch_has(tmp_path, monkeypatch):
    """Of each entry's folder one, none after close, and made anew by the next call."""
    monkeypatch.chdir(tmp_path)

    def calls(name):
        writer = SummaryWriter(name)
        seen = []

        def look():
            writers = writer.all_writers
            seen.append([key.replace(name, "") for key in writers or ()])
            assert (writer.file_writer is None) == (writers is None)
            for key, each in (writers or {}).items():
                assert each.get_logdir() == key
                each.flush()

        look()
        for step in range(2):
            writer.add_scalars("a/b", {"c": 1.0, "d": 2.0}, step)
            look()
        writer.add_scalars("e", {"f": 1.0}, 1)
        look()
        for method, value in (("add_scalar", 1.0), ("add_histogram", np.arange(3.0))):
            writer.close()
            look()
            getattr(writer, method)(method, value, 3)
            look()
        writer.close()
        writer.add_scalars("a/b", {"d": 2.0}, 5)
        look()
        writer.close()
        found = {}
        for path in pathlib.Path(name).rglob("*tfevents*"):
            tags = found.setdefault(str(path.parent).replace(name, ""), [])
            tags += [(v.tag, event.step) for event in events(path) for v in event.summary.value]
        return seen, {folder: sorted(tags) for folder, tags in found.items()}

    theirs = calls("theirs")
    tracelet.start_logging("capture", "tests", backend="tensorboard")
    ours = calls("our")
    tracelet.stop_logging()
    assert ours == theirs
    assert ["", "/a_b_c", "/a_b_d", "/e_f"] in ours[0]


def test_add_scalars_of_a_wrong_value_names_the_tag(run, tmp_path):
    writer = SummaryWriter(tmp_path / "log")
    with pytest.raises(TypeError, match="'main'"):
        writer.add_scalars("main", {"a": 1.0, "b": None}, 1)
    with pytest.raises(AttributeError):
        writer.add_scalars("main", [1, 2], 1)


def test_the_same_events_as_torch_writes(tmp_path):
    """Byte for byte, but for the file's version event."""
    calls = [
        (("a/b", 0.5, 1, 10.0), {}), (("a/b", float("nan"), 2, 10.0), {}),
        (("a/b", 1e39, 3, 10.0), {}), (("", -1.0, 4, 10.0), {}), (("ünï/😀", 7, -5, 10.0), {}),
        (("a/b", 0.0, 0, 10.0), {}), (("a/b", 0.1, None, 10.0), {}),
        (("new", 0.1, 5, 10.0), {"new_style": True}),
        (("new", 0.1, 6, 10.0), {"new_style": True, "double_precision": True}),
        (("old", 0.1, 7, 10.0), {"double_precision": True}),
        (("big", 1.0, LARGEST, 10.0), {}), (("small", -math.inf, SMALLEST, 10.0), {}),
    ]  # fmt: skip
    theirs = SummaryWriter(tmp_path / "theirs")
    for args, kwargs in calls:
        theirs.add_scalar(*args, **kwargs)
    theirs.close()
    tracelet.start_logging("capture", "tests", backend="tensorboard")
    ours = SummaryWriter(tmp_path / "ours")
    for args, kwargs in calls:
        ours.add_scalar(*args, **kwargs)
    tracelet.stop_logging()
    (their_file,) = pathlib.Path(theirs.log_dir).glob("*tfevents*")
    (our_file,) = event_files(ours.log_dir)
    their_events, our_events = events(their_file), events(our_file)
    assert our_events[0].file_version == their_events[0].file_version == "brain.Event:2"
    assert len(our_events) == len(their_events) == len(calls) + 1
    for ours_, theirs_ in zip(our_events[1:], their_events[1:]):
        assert ours_.SerializeToString() == theirs_.SerializeToString()


def test_flush_and_close_leave_the_points_readable(run, tmp_path):
    writer = SummaryWriter(tmp_path / "log")
    writer.add_scalar("tag", 1.0, 1)
    writer.flush()
    assert len(event_file_scalars(writer.log_dir)["tag"]) == 1
    writer.add_scalar("tag", 2.0, 2)
    writer.close()
    assert len(event_file_scalars(writer.log_dir)["tag"]) == 2
    writer.add_scalar("tag", 3.0, 3)  # torch reopens
    with writer:
        writer.add_scalar("tag", 4.0, 4)
    assert len(event_file_scalars(writer.log_dir)["tag"]) == 4
