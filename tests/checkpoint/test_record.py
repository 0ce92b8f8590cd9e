"""A scan as JSON and back, whole and in shares."""

from __future__ import annotations

import json
from typing import Any

from rldk_tracking.checkpoint.record import from_dict, merge, to_dict
from rldk_tracking.checkpoint.report import metrics
from rldk_tracking.checkpoint.scan import scan


def test_there_and_back(saved: Any) -> None:
    first, second = saved.pair()
    (second / "optimizer.pt").unlink()
    found = scan(second, {"previous": first}, level="full")
    again = from_dict(json.loads(json.dumps(to_dict(found), allow_nan=False)))
    assert (again.tensors, again.entries, again.problems) == (found.tensors, found.entries, found.problems)
    assert metrics(again) == metrics(found)


def test_shares_make_the_whole(saved: Any) -> None:
    first, second = saved.pair()
    (second / "optimizer.pt").unlink()
    parts = [scan(second, {"previous": first}, share=(rank, 3)) for rank in range(3)]
    assert all(0 < len(part.tensors) < 6 for part in parts)
    merged, whole = merge(parts), scan(second, {"previous": first})
    assert merged.tensors == whole.tensors
    assert list(merged.tensors) == list(whole.tensors)
    assert merged.problems == whole.problems
