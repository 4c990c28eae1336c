"""The table of a sync: columns and lines that say something, and no others."""

from __future__ import annotations

from tracelet.recovery.result import Result, SinkResult, UploadResult, table_of


def test_columns_without_a_number_are_left_out_and_numbers_stand_below_their_heads():
    first = SinkResult("one", before=1, sent=1_000, set_aside={"refused": 2, "odd": 3}, left=4)
    second = SinkResult("the-other", sent=7)
    result = Result(logged=1_010, sinks=[first, second], dropped={"ring full": 9, "none": 0})
    assert table_of(result) == [
        "  SINK       LOGGED  BEFORE  SENT NOW  SET ASIDE  LEFT",
        "  one         1,010       1     1,000          5     4",
        "  the-other       7       0         7          0     0",
        "  one: 2 refused",
        "  one: 3 odd",
        "  dropped by the run: 9 ring full",
    ]
    assert result.delivered == {"one": 1_000, "the-other": 7}
    assert (result.lost, Result().lost, table_of(Result())) == (0, 0, [])


def test_the_total_is_the_sum_of_all_columns():
    every = {"before": 1, "sent": 2, "not_finite": 4, "not_for_it": 8, "folded": 16}
    sink = SinkResult("s", **every, missing=32, left=64, dropped=128, set_aside={"x": 256})
    assert sink.total == 511
    head, row, *more = table_of(Result(sinks=[sink, SinkResult("t", missing=5)]))
    heads = "BEFORE, SENT NOW, SET ASIDE, NOT FINITE, FOLDED, NOT FOR IT, DROPPED, MISSING, LEFT"
    assert " ".join(head.split()[2:]) == heads.replace(",", "")
    assert row.split() == ["s", "511", "1", "2", "256", "4", "16", "8", "128", "32", "64"]
    full = "dropped by the run: its journal was full (option journal_overflow)"
    assert more[1:] == ["  s: 256 x", f"  s: 128 {full}"]
    assert Result(sinks=[sink, SinkResult("t", missing=5)]).lost == 32


def test_uploads_have_a_line_when_there_were_any():
    sink = SinkResult("s")
    none, calls = UploadResult("quiet"), UploadResult("called", calls=3)
    left, refused = UploadResult("late", left={"a": "away"}), UploadResult("no", refused={"b": "c"})
    sent = UploadResult("sent", sent=2)
    assert table_of(Result(sinks=[sink], uploads=[none, calls, left, refused, sent]))[2:] == [
        "  called: 3 calls (log_params) sent",
        "  late: artifacts and models: 0 sent, 0 refused, 1 left",
        "  no: artifacts and models: 0 sent, 1 refused, 0 left",
        "  no: b: c",
        "  sent: artifacts and models: 2 sent, 0 refused, 0 left",
    ]
