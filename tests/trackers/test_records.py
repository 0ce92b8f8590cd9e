"""Lines: what is written comes back, and what was never written so is refused with a reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.lines import dumps, end_record, row_record
from rldk_tracking.trackers.records import calls, decode, encode, parse, parsed

Make = Callable[..., Alert]
HEATMAP = Heatmap("h", ("a", "b"), (1, 2), ((1.0, None), (2.0, 3.0)), (0.0, 1.0, 2.0))


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("log", ({"rldk/a": 1.5}, 3)),
        ("log_table", ("k", ["a"], [["x", 1]], 3)),
        ("log_figure", ("k", "<svg/>", 3)),
        ("log_heatmap", ("k", HEATMAP, 3)),
        ("log_checkpoint", ("checkpoint-3", {"rldk/a": 1.0}, {"path": "x"}, 3)),
        ("status", ("running", {"rldk/a": 1.0}, 3)),
    ],
)
def test_a_call_comes_back(method: str, args: tuple[Any, ...]) -> None:
    assert decode(parse(dumps(encode(method, args, 1.5)))) == (method, args)


def test_an_alert_comes_back(make_alert: Make) -> None:
    more = {"consequences": ("kl.spike", "reward.collapse"), "times": 3, "notify": False}
    alert = make_alert(value=math.inf, threshold=None, evidence={"a": 1.0, "b": "text"}, **more)
    assert decode(parse(dumps(encode("alert", (alert,), 1.0)))) == ("alert", (alert,))


def test_a_step_is_one_line_with_its_alerts(make_alert: Make) -> None:
    record = parse(dumps(row_record(3, {"rldk/a": 1.0}, [make_alert(), make_alert("b.c")], 2.5)))
    assert calls(record) == [
        ("log", ({"rldk/a": 1.0}, 3)),
        ("alert", (make_alert(),)),
        ("alert", (make_alert("b.c"),)),
    ]
    assert "alerts" not in row_record(3, {}, [], 2.5)


def test_an_end_is_a_status() -> None:
    assert calls(end_record("stopped", 7, "KeyError: x", 1.0)) == [("status", ("stopped", {}, 7))]


@pytest.mark.parametrize("kind", ["begin", "destination"])
def test_what_is_no_call(kind: str) -> None:
    assert calls({"type": kind}) == []
    with pytest.raises(ValueError, match="no call"):
        decode({"type": kind})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00\x00\xff\xfe",
        b'{"type": "metrics", "time": 1, "st',
        b"[1, 2]",
        b"3",
        b'{"time": 1}',
        b'{"type": "metrics"}',
        b'{"type": 3, "time": 1}',
        b'{"type": "status", "time": NaN}',
        b'{"type": "metrics", "time": Infinity}',
        b'{"type": "metrics", "time": 1, "step": 1, "metrics": {"a": 1e999}, "x": -Infinity}',
        b"[" * 100_000,
    ],
    ids=range(12),
)
def test_lines_that_are_none(line: bytes) -> None:
    with pytest.raises(ValueError, match="it |JSON") as told:
        parse(line)
    assert len(str(told.value)) < 80
    assert list(parsed([line, b'{"type": "x", "time": 1}'])) == [{"type": "x", "time": 1}]


BAD: list[dict[str, Any]] = [
    {"type": "dance"},
    {"type": "metrics"},
    {"type": "metrics", "step": None, "metrics": {}},
    {"type": "metrics", "step": True, "metrics": {}},
    {"type": "metrics", "step": 1e300, "metrics": {}},
    {"type": "metrics", "step": "3", "metrics": {}},
    {"type": "metrics", "step": 3, "metrics": []},
    {"type": "metrics", "step": 3, "metrics": {"a": None}},
    {"type": "metrics", "step": 3, "metrics": {"a": 10**400}},
    {"type": "metrics", "step": 3, "metrics": {"a": "12"}},
    {"type": "metrics", "step": 3, "metrics": {}, "alerts": [{}]},
    {"type": "metrics", "step": 3, "metrics": {}, "alerts": 3},
    {"type": "alert", "rule": "a.b"},
    {"type": "table", "key": "k", "columns": 3, "rows": [], "step": 1},
    {"type": "figure", "key": "k", "svg": None, "step": 1},
    {"type": "heatmap", "key": "k", "heatmap": {"rows": 3}, "step": 1},
    {"type": "checkpoint", "name": "n", "metrics": {}, "params": [], "step": 1},
    {"type": "status", "status": None, "metrics": {}, "step": 1},
    {"type": "end", "status": "won", "step": 1},
]


@pytest.mark.parametrize("record", BAD, ids=[str(number) for number in range(len(BAD))])
def test_records_that_somebody_else_wrote(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"type|field|step|number|text|severity|status"):
        calls(record | {"time": 1.0})


@pytest.mark.parametrize("change", [{"severity": "loud"}, {"state": "open"}, {"step": 1e99}, {"value": "much"}])
def test_alerts_that_are_none(make_alert: Make, change: dict[str, Any]) -> None:
    record = {"type": "alert", "time": 1.0} | make_alert().as_dict()
    with pytest.raises(ValueError, match=r"severity|step|number"):
        calls(record | change)
