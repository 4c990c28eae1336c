"""Names in a tracker that has one flat space of them."""

from __future__ import annotations

from tracelet.backends.flat_names import FlatNames


class Lines:
    def __init__(self):
        self.lines = []
        self.is_closed = False

    def read(self, *types):
        return list(self.lines)

    def append(self, *line):
        self.lines.append(line)

    def close(self):
        self.is_closed = True


def test_two_series_never_share_a_name_and_another_process_goes_on_with_the_same():
    lines = Lines()
    names = FlatNames(lines, str.lower)
    given = {
        ("", "Loss"): "loss", ("runs/a", "loss"): "a/loss", ("runs/b/", "LOSS"): "b/loss",
        ("runs/b", "other"): "other",
    }  # fmt: skip
    for series, name in given.items():
        assert names.name(*series) == name
    third = names.name("else/a", "loss")
    assert third.startswith("loss ")
    assert len(third) == len("loss ") + 16
    nowhere = names.name("", "LOSS")
    assert nowhere.startswith("loss ")
    assert nowhere != third
    assert len(lines.lines) == 6
    again = FlatNames(lines, str.lower)
    for series, name in {**given, ("else/a", "loss"): third, ("", "LOSS"): nowhere}.items():
        assert (again.name(*series), names.name(*series)) == (name, name)
    assert len(lines.lines) == 6
    assert again.name("runs/c", "Other") == "c/other"
    names.close()
    assert lines.is_closed
