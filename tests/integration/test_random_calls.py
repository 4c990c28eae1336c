"""Random calls to every method of SummaryWriter with odd arguments, against the unpatched writer.

Each call is made twice, on a writer without a run and on one within it. The outcome must be the
same: both return, and the event files hold the same, or both raise, and ours is of torch's type.
What differs, and why, is in DIFFERENCES; 300 calls each time, 5,000 in CI, more by
TRACELET_SOAK_CALLS (`make soak-calls`).
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tracelet
from readers import quick_events

torch = pytest.importorskip("torch")
SummaryWriter = pytest.importorskip("torch.utils.tensorboard").SummaryWriter

CALLS = int(float(os.environ.get("TRACELET_SOAK_CALLS", "5000")))
_SEED = 20261125
_LONG = "x" * 5000
_MISSING = object()

# Values are made anew for each call: what one call does to them is not the next one's matter.
VALUES: list[Callable[[], Any]] = [
    lambda: 1.5, lambda: 3, lambda: True, lambda: math.nan, lambda: -math.inf, lambda: 10**400,
    lambda: 1 << 70, lambda: "0.5", lambda: "x", lambda: "", lambda: b"1", lambda: None,
    lambda: [1], lambda: (1, 2), lambda: {}, lambda: {1: 2}, lambda: object(), lambda: 1 + 2j,
    lambda: np.float32(2.5), lambda: np.float16(2.5), lambda: np.int64(7), lambda: np.bool_(True),
    lambda: np.array(4.5), lambda: np.array([4.5]), lambda: np.array([1.0, 2.0]),
    lambda: np.array("0.5"), lambda: np.zeros(0), lambda: np.datetime64("2020"),
    lambda: np.ma.masked, lambda: torch.tensor(2.5), lambda: torch.tensor([2.5]),
    lambda: torch.zeros(2), lambda: torch.zeros(0), lambda: torch.tensor(3),
    lambda: torch.tensor(1j), lambda: torch.tensor(2.5, requires_grad=True),
    lambda: torch.tensor(1.5, dtype=torch.bfloat16), lambda: torch.tensor(True),
]  # fmt: skip
# A number is a descriptor to `open`: 1 closes the tests' own output.
PATHS = [each for each in VALUES if not hasattr(each(), "__index__")]
STEPS: list[Callable[[], Any]] = [
    lambda: 0, lambda: -1, lambda: True, lambda: 1.5, lambda: "7", lambda: "0.5", lambda: "x",
    lambda: None, lambda: np.int64(3), lambda: np.float32(2.5), lambda: torch.tensor(3),
    lambda: torch.tensor(2.5), lambda: np.array(3), lambda: np.array([1]), lambda: [1],
    lambda: math.nan, lambda: math.inf, lambda: 1 << 63, lambda: -(1 << 63), lambda: 1 << 64,
    lambda: object(),
]  # fmt: skip
TAGS: list[Callable[[], Any]] = [
    lambda: "", lambda: "a b", lambda: "名/前", lambda: "a\0b", lambda: "s\udc80", lambda: _LONG,
    lambda: None, lambda: 5, lambda: b"x", lambda: ["x"],
]  # fmt: skip
TIMES: list[Callable[[], Any]] = [
    lambda: None, lambda: 1.5e9, lambda: 5, lambda: "5", lambda: np.float64(7), lambda: object(),
]  # fmt: skip
ARRAYS: list[Callable[[], Any]] = [
    *VALUES, lambda: np.arange(10), lambda: np.zeros((2, 3)), lambda: np.array([math.nan, 1.0]),
    lambda: np.array([math.inf]), lambda: np.array(["a"]), lambda: torch.randn(3, 4),
    lambda: torch.arange(5), lambda: np.array([object()]), lambda: np.ones(4, np.float16),
    lambda: [[1], [2, 3]],
]  # fmt: skip
BINS: list[Callable[[], Any]] = [
    lambda: "tensorflow", lambda: "auto", lambda: "fd", lambda: "x", lambda: 5, lambda: 0,
    lambda: -1, lambda: [0, 1, 2], lambda: [], lambda: np.array([0.0, 1.0]), lambda: None,
    lambda: [2, 1], lambda: 2.5, lambda: object(),
]  # fmt: skip
FLAGS: list[Callable[[], Any]] = [lambda: True, lambda: False, lambda: 1, lambda: None]
IMAGES: list[Callable[[], Any]] = [
    lambda: np.zeros((3, 4, 4), np.uint8), lambda: torch.rand(3, 4, 4), lambda: np.zeros((4, 4)),
    lambda: np.full((1, 4, 4), 200.0), lambda: np.zeros((3, 0, 0)), lambda: "x", lambda: None,
    lambda: np.zeros((2, 3, 4, 4)), lambda: torch.rand(1, 1, 4, 4),
]  # fmt: skip
FORMATS: list[Callable[[], Any]] = [
    lambda: "CHW", lambda: "HWC", lambda: "HW", lambda: "NCHW", lambda: "x", lambda: None,
]  # fmt: skip
ENTRIES: list[Callable[[], Any]] = [
    lambda: {"a": 1, "b": 2.5}, lambda: {}, lambda: {"a": "x"}, lambda: {1: 2}, lambda: None,
    lambda: [1], lambda: {"a": None}, lambda: {"a/b": torch.tensor(1.5)}, lambda: {"s\udc80": 1},
]  # fmt: skip
TEXTS: list[Callable[[], Any]] = [
    lambda: "text", lambda: "", lambda: None, lambda: 5, lambda: "s\udc80", lambda: "a\0", list,
]  # fmt: skip

Parameters = dict[str, tuple[Callable[[], Any], list[Callable[[], Any]]]]
_tag = (lambda: "tag", TAGS)
_step = (lambda: 1, STEPS)
_time = (lambda: None, TIMES)


def _figure() -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


# Each method: how often, how many parameters are required, and the parameters in their order.
METHODS: dict[str, tuple[int, int, Parameters]] = {
    "add_scalar": (40, 2, {
        "tag": _tag, "scalar_value": (lambda: 0.5, VALUES), "global_step": _step,
        "walltime": _time, "new_style": (lambda: False, FLAGS),
        "double_precision": (lambda: False, FLAGS),
    }),
    "add_scalars": (6, 2, {
        "main_tag": _tag, "tag_scalar_dict": (lambda: {"a": 1}, ENTRIES), "global_step": _step,
        "walltime": _time,
    }),
    "add_histogram": (25, 2, {
        "tag": _tag, "values": (lambda: np.arange(10.0), ARRAYS), "global_step": _step,
        "bins": (lambda: "tensorflow", BINS), "walltime": _time,
        "max_bins": (lambda: None, [lambda: 5, lambda: 0, lambda: "x"]),
    }),
    "add_histogram_raw": (6, 8, {
        "tag": _tag, "min": (lambda: 0.0, VALUES), "max": (lambda: 2.0, VALUES),
        "num": (lambda: 3, VALUES), "sum": (lambda: 3.0, VALUES),
        "sum_squares": (lambda: 5.0, VALUES),
        "bucket_limits": (lambda: [0.0, 1.0, 2.0], ARRAYS),
        "bucket_counts": (lambda: [1, 1, 1], ARRAYS), "global_step": _step, "walltime": _time,
    }),
    "add_image": (4, 2, {
        "tag": _tag, "img_tensor": (IMAGES[0], IMAGES), "global_step": _step, "walltime": _time,
        "dataformats": (lambda: "CHW", FORMATS),
    }),
    "add_images": (2, 2, {
        "tag": _tag, "img_tensor": (lambda: np.zeros((2, 3, 4, 4)), IMAGES), "global_step": _step,
        "walltime": _time, "dataformats": (lambda: "NCHW", FORMATS),
    }),
    "add_image_with_boxes": (2, 3, {
        "tag": _tag, "img_tensor": (IMAGES[0], IMAGES),
        "box_tensor": (lambda: np.array([[0, 0, 2, 2]]), ARRAYS), "global_step": _step,
        "walltime": _time,
    }),
    "add_figure": (1, 2, {
        "tag": _tag, "figure": (_figure, VALUES), "global_step": _step,
        "close": (lambda: True, FLAGS), "walltime": _time,
    }),
    "add_video": (1, 2, {
        "tag": _tag, "vid_tensor": (lambda: np.zeros((1, 2, 3, 4, 4), np.uint8), ARRAYS),
        "global_step": _step, "fps": (lambda: 4, VALUES), "walltime": _time,
    }),
    "add_audio": (3, 2, {
        "tag": _tag, "snd_tensor": (lambda: np.zeros(10), ARRAYS), "global_step": _step,
        "sample_rate": (lambda: 100, [lambda: 0, lambda: "x"]), "walltime": _time,
    }),
    "add_text": (5, 2, {
        "tag": _tag, "text_string": (lambda: "text", TEXTS), "global_step": _step,
        "walltime": _time,
    }),
    "add_tensor": (3, 2, {
        "tag": _tag, "tensor": (lambda: torch.zeros(3), ARRAYS), "global_step": _step,
        "walltime": _time,
    }),
    "add_pr_curve": (3, 3, {
        "tag": _tag, "labels": (lambda: np.array([0, 1]), ARRAYS),
        "predictions": (lambda: np.array([0.2, 0.8]), ARRAYS), "global_step": _step,
        "num_thresholds": (lambda: 5, [lambda: 0, lambda: "x"]), "weights": (lambda: None, ARRAYS),
        "walltime": _time,
    }),
    "add_mesh": (2, 2, {
        "tag": _tag, "vertices": (lambda: torch.zeros(1, 3, 3), ARRAYS),
        "colors": (lambda: None, ARRAYS), "faces": (lambda: None, ARRAYS),
        "config_dict": (lambda: None, ENTRIES), "global_step": _step, "walltime": _time,
    }),
    "add_custom_scalars": (1, 1, {"layout": (lambda: {"A": {"b": ["Multiline", ["c"]]}}, ENTRIES)}),
    "add_custom_scalars_multilinechart": (1, 1, {"tags": (lambda: ["a", "b"], VALUES)}),
    "add_custom_scalars_marginchart": (1, 1, {"tags": (lambda: ["a", "b", "c"], VALUES)}),
    "add_hparams": (1, 2, {
        "hparam_dict": (lambda: {"lr": 0.1, "name": "x"}, ENTRIES),
        "metric_dict": (lambda: {"loss": 0.5}, ENTRIES),
        "hparam_domain_discrete": (lambda: None, ENTRIES), "run_name": (lambda: "trial", TAGS),
        "global_step": _step,
    }),
    "add_embedding": (1, 1, {
        "mat": (lambda: torch.zeros(2, 3), ARRAYS), "metadata": (lambda: None, VALUES),
        "label_img": (lambda: None, VALUES), "global_step": _step, "tag": (lambda: "default", TAGS),
    }),
    "add_graph": (1, 1, {
        "model": (lambda: torch.nn.Linear(2, 2), VALUES),
        "input_to_model": (lambda: torch.zeros(1, 2), VALUES),
    }),
    "add_onnx_graph": (1, 1, {"prototxt": (lambda: "missing.onnx", PATHS)}),
    "get_logdir": (1, 0, {}),
    "flush": (1, 0, {}),
}  # fmt: skip


class Call:
    """One call: which arguments are odd, left out, given by keyword or unknown."""

    def __init__(self, dice: random.Random) -> None:
        names = list(METHODS)
        self.method = dice.choices(names, [METHODS[name][0] for name in names])[0]
        _, required, parameters = METHODS[self.method]
        self.tag = f"call{dice.getrandbits(60):x}"
        self.odd: set[str] = set()
        self.position: list[tuple[str, Callable[[], Any]]] = []
        self.keyword: list[tuple[str, Callable[[], Any]]] = []
        by_position = dice.randint(required, len(parameters)) if parameters else 0
        for index, (name, (usual, odd)) in enumerate(parameters.items()):
            make = usual
            if dice.random() < 0.2:
                make = dice.choice(odd)
                self.odd.add(name)
            if index < by_position:
                if dice.random() < 0.01:
                    by_position = index  # what follows is given by keyword, or not at all
                else:
                    self.position.append((name, make))
                    continue
            if index < required or dice.random() < 0.4:
                self.keyword.append((name, make))
        if self.keyword and dice.random() < 0.02:
            self.keyword.pop(dice.randrange(len(self.keyword)))
            self.odd.add("missing")
        if dice.random() < 0.01:
            self.keyword.append(("unknown", lambda: 1))

    def make(self, writer: Any) -> tuple[BaseException | None, dict[str, Any]]:
        """Makes the call; what it raised, if anything, and the arguments."""
        positional = [self._value(name, make) for name, make in self.position]
        keywords = {name: self._value(name, make) for name, make in self.keyword}
        given = dict(zip([name for name, _ in self.position], positional))
        given.update(keywords)
        try:
            getattr(writer, self.method)(*positional, **keywords)
        except Exception as error:
            return error.with_traceback(None), given
        return None, given

    def _value(self, name: str, make: Callable[[], Any]) -> Any:
        value = make()
        # A tag of its own, so that what each call left can be found in the files.
        return f"{self.tag}{value}" if name in ("tag", "main_tag") and type(value) is str else value

    def __str__(self) -> str:
        each = [f"{name}={make()!r:.40}" for name, make in self.position]
        each += [f"{name}:={make()!r:.40}" for name, make in self.keyword]
        return f"{self.method}({', '.join(each)})"


DIFFERENCES: list[tuple[str, Callable[[Call, dict[str, Any], Any, Any], bool]]] = []
"""Why ours may do another thing than torch's, and where: (call, arguments, torch's error, ours)."""


def difference(reason: str) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    def note(where: Callable[..., bool]) -> Callable[..., bool]:
        DIFFERENCES.append((reason, where))
        return where

    return note


NATIVE = ("add_scalar", "add_scalars", "add_histogram", "add_histogram_raw")


@difference("of two wrong arguments either may be told first")
def _two_wrong(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    return len(call.odd) > 1 and theirs is not None and ours is not None


@difference("a tag must be a str: protobuf takes bytes and None, and a list of no entries")
def _odd_tag(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    is_odd = any(not isinstance(given.get(name, ""), str) for name in ("tag", "main_tag"))
    return call.method in NATIVE and is_odd and isinstance(ours, TypeError)


@difference("the error names the call: a ValueError, as UnicodeEncodeError is one")
def _half_a_character(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    return isinstance(theirs, UnicodeEncodeError) and isinstance(ours, ValueError)


@difference("lists are counted, too")
def _lists(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    is_list = isinstance(given.get("values"), (list, tuple))
    return call.method == "add_histogram" and is_list and isinstance(theirs, NotImplementedError)


@difference("None is no number: protobuf takes it for one that is not set")
def _none(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    is_none = any(given.get(name, 0) is None for name in call.odd)
    return call.method == "add_histogram_raw" and is_none and isinstance(ours, TypeError)


@difference("no values, or none that are finite, are a histogram without buckets: training goes on")
def _nothing_to_count(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    is_same = call.method == "add_histogram" and isinstance(theirs, ValueError) and ours is None
    if not is_same:
        return False
    values = np.asarray(given["values"], dtype=np.float64)
    return not (np.abs(values) < 1e20).all() or not values.size  # the outermost edge; also NaN


@difference(
    "what holds no real numbers is no histogram: torch counts years, and drops what is not real"
)
def _no_numbers(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    is_odd = call.method == "add_histogram" and "values" in call.odd
    return is_odd and isinstance(ours, TypeError)


@difference("bins, max_bins and buckets have errors of their own, which name the argument")
def _bins(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    is_odd = call.odd & {"bins", "max_bins", "bucket_limits", "bucket_counts"}
    is_error = isinstance(ours, (TypeError, ValueError, OverflowError))
    return call.method in NATIVE and bool(is_odd) and theirs is not None and is_error


@difference(
    "a number too large for a double, and a step beyond 64 bits, is a ValueError in each place"
)
def _too_large(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    is_number = isinstance(theirs, (OverflowError, RuntimeError, ValueError))
    return call.method in NATIVE and is_number and isinstance(ours, (TypeError, ValueError))


@difference("a folder that can't be made is counted and told by the drainer, not raised")
def _no_folder(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    return call.method == "add_scalars" and isinstance(theirs, OSError) and ours is None


@difference("an array of one element is a number in each place")
def _one_element(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    is_array = any(isinstance(given[name], np.ndarray) for name in call.odd if name in given)
    return call.method == "add_histogram_raw" and is_array and isinstance(theirs, TypeError)


@difference("a known fault: a masked value is 0.0, not NaN")
def _masked(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> bool:
    return any(value is np.ma.masked for value in given.values())


def _is_same(theirs: BaseException | None, ours: BaseException | None) -> bool:
    if theirs is None or ours is None:
        return theirs is ours
    return isinstance(ours, type(theirs))


def _reason(call: Call, given: dict[str, Any], theirs: Any, ours: Any) -> str | None:
    return next((why for why, where in DIFFERENCES if where(call, given, theirs, ours)), None)


def _left(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What lies in the event files, by tag, without what depends on the clock."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for path in sorted(folder.rglob("*tfevents*")):
        where = str(path.parent.relative_to(folder))
        for event in quick_events(path):
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                content = repr(value.simple_value) if kind == "simple_value" else kind
                found[value.tag].append((where, event.step, content))
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _compare(count: int, tmp_path: Path) -> Counter[str]:
    """Makes `count` calls both ways; returns how often each difference was met."""
    dice = random.Random(_SEED)
    calls = [Call(dice) for _ in range(count)]
    outcomes: list[list[tuple[BaseException | None, dict[str, Any]]]] = []
    with _quietly():
        for name in ("theirs", "ours"):
            if name == "ours":
                experiment = tracelet.start_logging("calls", "tests", "tensorboard")
            writer = SummaryWriter(str(tmp_path / name))
            outcomes.append([call.make(writer) for call in calls])
            writer.close()
    tracelet.stop_logging()
    assert set(experiment.stats.dropped) <= {"event file can't be opened"}  # add_scalars, _LONG
    assert experiment.stats.pending == 0
    met: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    examples: dict[str, str] = {}
    left = [_left(tmp_path / name) for name in ("theirs", "ours")]
    for call, (theirs, given), (ours, _) in zip(calls, *outcomes):
        if not _is_same(theirs, ours):
            what = f"{call.method}: torch {theirs!r:.90}, here {ours!r:.90}"
        elif ours is None and call.method in NATIVE:
            files = [_of(each, call.tag) for each in left]
            if files[0] == files[1]:
                continue
            what = f"{call.method}: files {str(files[0])[:150]}, here {str(files[1])[:150]}"
        else:
            continue
        reason = _reason(call, given, theirs, ours)
        if reason is None:
            kind = f"{call.method} {type(theirs).__name__} {type(ours).__name__}"
            wrong[kind] += 1
            examples.setdefault(kind, f"{call}: {what}")
        else:
            met[reason] += 1
    assert not wrong, "\n".join(examples.values())
    return met


def _of(left: dict[str, list[tuple[Any, ...]]], tag: str) -> list[tuple[Any, ...]]:
    return [each for name in left if name.startswith(tag) for each in left[name]]


def test_random_calls_do_as_the_unpatched_writers(tmp_path):
    _compare(300, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_random_calls_do_as_the_unpatched_writers(tmp_path):
    for reason, times in _compare(CALLS, tmp_path).most_common():
        print(times, reason)
