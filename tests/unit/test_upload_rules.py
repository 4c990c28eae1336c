"""Sending what a dead run has left to upload: one that fails, and those behind it."""

from __future__ import annotations

import pytest
from tracelet.backends.kept_artifacts import DamagedCopyError
from tracelet.recovery import uploads


class Kept:
    def __init__(self, name, backend="mine", errors=(), damage=None, refused=False):
        self.what = self.name = name
        self.backend = backend
        self.errors = list(errors)
        self.damage = damage
        self.refused = refused
        self.did = []

    def restored(self):
        if self.damage:
            raise self.damage
        return self, None

    def upload(self):
        self.did.append("tried")
        if self.errors:
            raise self.errors.pop(0)

    def is_refused(self, error):
        return self.refused

    def keep(self, folder):
        self.did.append("set aside")

    def discard(self):
        self.did.append("discarded")


class Backend:
    name = "mine"

    def prepare_artifact(self, artifact):
        return artifact

    def prepare_model(self, model):
        raise AssertionError("none is a model")


@pytest.fixture
def send(monkeypatch):
    pauses = []
    monkeypatch.setattr(uploads.time, "sleep", pauses.append)

    def send(*all_kept):
        monkeypatch.setattr(uploads, "kept_in", lambda folder: list(all_kept))
        return uploads.send_uploads(Backend(), "run"), pauses

    return send


def test_what_is_another_backends_damaged_or_refused_holds_back_no_other(send):
    foreign = Kept("foreign", backend="another")
    broken = Kept("broken", damage=DamagedCopyError("its entry is damaged"))
    refused = Kept("refused", errors=[ValueError("no such type")] * 9, refused=True)
    wordless = Kept("wordless", errors=[ValueError()] * 9, refused=True)
    good = Kept("good")
    result, pauses = send(foreign, broken, refused, wordless, good)
    assert foreign.did == broken.did == []
    assert refused.did == wordless.did == ["tried", "set aside"]
    assert good.did == ["tried", "discarded"]
    assert result.sent == 1
    assert result.left == {"broken": "its entry is damaged"}
    assert result.refused == {"refused": "no such type", "wordless": "ValueError"}
    assert pauses == []


def test_one_that_fails_for_a_moment_is_tried_again_with_longer_and_longer_pauses(send):
    late = Kept("late", errors=[OSError("away")] * 4)
    result, pauses = send(late)
    assert late.did == ["tried"] * 5 + ["discarded"]
    assert (result.sent, result.left) == (1, {})
    assert pauses == [0.2, 0.4, 0.8, 1.6]


def test_while_its_server_is_away_the_others_do_not_wait_for_it_anew(send):
    first = Kept("first", errors=[OSError("away")] * 9)
    second = Kept("second")
    result, pauses = send(first, second)
    assert first.did == ["tried"] * 5
    assert second.did == []
    assert (result.sent, result.left) == (0, {"first": "away", "second": "away"})
    assert len(pauses) == 4  # none behind the last


def test_a_damaged_copy_is_not_tried_again(send):
    damaged = Kept("damaged", errors=[DamagedCopyError("the checksum")])
    result, pauses = send(damaged)
    assert (damaged.did, pauses) == (["tried"], [])
    assert result.left == {"damaged": "the checksum"}
