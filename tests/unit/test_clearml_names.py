"""Tags to metric and variant, and the forms that ClearML's server takes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("hypothesis")
iso_dates = pytest.importorskip("clearml_server.iso_dates")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tracelet.backends.clearml.names import SeriesNames, safe_name, split_tag  # noqa: E402


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        ("loss", ("loss", "loss")), ("train/loss", ("train", "loss")), ("a/b/c", ("a_b", "c")),
        ("/lead", ("/lead", "lead")), ("trail/", ("trail", "")), ("", ("", "")),
    ],
)  # fmt: skip
def test_split(tag, names):
    assert split_tag(tag) == names


DATES = ["2026-01-01", "2026-01-01 10:00:00", "2026-01-01T00:00:00Z", "12:30:00", "12:30:00.5Z"]
SAFE = ["12:30", "20260101", "val 2026-01-01", "loss", "1e5"]


@pytest.mark.parametrize("name", DATES)
def test_names_that_the_server_takes_for_dates_get_parentheses(name):
    assert safe_name(name) == f"({name})"


@pytest.mark.parametrize("name", SAFE)
def test_other_names_stay(name):
    assert safe_name(name) == name


digits_and_marks = st.text(alphabet="0123456789-:. TtZz+X", max_size=32)


@given(st.one_of(st.text(max_size=50), digits_and_marks))
def test_a_safe_name_is_never_a_date_to_the_server(name):
    result = safe_name(name)
    assert iso_dates.decode(result) == result
    json.dumps(result).encode("ascii")


@pytest.mark.parametrize("letter", ["x", "ü", "😀"])
@pytest.mark.parametrize("size_bytes", [32_764, 32_766, 32_768, 40_000])
def test_a_safe_name_is_never_too_long(letter, size_bytes):
    name = letter * (size_bytes // len(letter.encode()))
    result = safe_name(name)
    assert len(result.encode()) <= 32_766
    assert (result == name) == (len(name.encode()) <= 32_766)


def test_long_names_stay_apart():
    assert safe_name("x" * 40_000) != safe_name("x" * 40_001)


def test_series_that_are_one_to_the_server_are_told_apart():
    names = SeriesNames()
    series = [
        ("", "a-b/c"), ("", "a/b-c"), ("", "a"), ("", "a/a"), ("/runs/one", "loss"),
        ("/runs/two", "loss"), ("/runs/two", "a_b/c"), ("/runs/two", "a/b/c"), ("/x/one", "loss"),
    ]  # fmt: skip
    given_names = [names.name(*each) for each in series]
    keys = {f"{metric}-{variant}" for metric, variant in given_names}
    assert len(keys) == len(series)
    assert [names.name(*each) for each in series] == given_names  # and stay so
    assert given_names[5] == ("loss", "two: loss")


@given(
    st.lists(st.tuples(st.sampled_from(["", "/r/a", "/r/b", "/a"]), st.text("a-/:", max_size=5)))
)
def test_no_two_series_ever_share_a_name(series):
    names = SeriesNames()
    by_key = {}
    for each in series:
        metric, variant = names.name(*each)
        assert by_key.setdefault(f"{metric}-{variant}", each) == each
