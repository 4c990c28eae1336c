"""Which points of a batch make a row of trackio's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tracelet.backends.base import UNREADABLE, Batch
from tracelet.backends.flat_names import FlatNames
from tracelet.backends.kept import KeptLines
from tracelet.backends.trackio.sink import TrackioSink
from tracelet.backends.trackio.store import Row
from tracelet.records import AWAITS_DEVICE, RECORD_DTYPE, SCALAR


class Names:
    def text(self, id):
        return f"tag {id}" if id else ""


def points_of(random, count):
    records = np.zeros(count, RECORD_DTYPE)
    records["kind"], records["sequence"] = SCALAR, np.arange(1, count + 1)
    records["tag_id"] = random.integers(1, 5, count)
    records["step"] = np.cumsum(random.random(count) < 0.3)
    records["wall_time"], records["value"] = random.random(count), random.random(count)
    records["flags"] = np.where(random.random(count) < 0.1, AWAITS_DEVICE, 0)
    records.flags.writeable = False
    return records


def expected_rows(records, done):
    rows = []
    for point in records:
        if point["flags"] & AWAITS_DEVICE or point["sequence"] <= done:
            continue
        name, row_id = f"tag {point['tag_id']}", f"scalars-{point['sequence']}"
        if not rows or rows[-1].step != point["step"] or name in rows[-1].values:
            rows.append(Row("", int(point["step"]), float(point["wall_time"]), {}))
        rows[-1].values[name] = float(point["value"])
        rows[-1] = rows[-1]._replace(id=row_id)
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_a_row_ends_where_the_step_changes_or_a_name_comes_again(seed, tmp_path):
    random = np.random.default_rng(seed)
    records = points_of(random, int(random.integers(1, 80)))
    done, logged = int(random.integers(0, 20)), []
    store = SimpleNamespace(
        log=lambda rows, are_finite_numbers: logged.extend(rows),
        last_id=lambda prefix: f"{prefix}{done}" if done else None,
    )
    sink = TrackioSink(store, FlatNames(KeptLines(str(tmp_path), "names.jsonl"), str))
    delivery = sink.write(Batch(records, Names()))
    sink.close(False)
    assert logged == expected_rows(records, done)
    without_value = int(np.count_nonzero(records["flags"] & AWAITS_DEVICE))
    assert delivery.set_aside == ({UNREADABLE: without_value} if without_value else {})
    assert delivery.total == len(records)
