from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.journal import Journal, decode, dumps, encode, read

CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("log", ({"rldk/a": 1.5, "rldk/b": -1e300}, 7)),
    ("log_table", ("rldk/t", ["a", "b"], [[1, "x"], [None, 2.5]], 7)),
    ("log_figure", ("rldk/f", "<svg>é</svg>", 7)),
    ("log_heatmap", ("rldk/h", Heatmap("Rewards", ("b", "a"), (1, 5), ((0.5, None), (0.1, 2.0)), (0.0, 1.0, 2.0)), 7)),
    ("status", ("running", {"rldk/a": 1.0}, 7)),
]


@pytest.mark.parametrize(("method", "args"), CALLS)
def test_a_call_comes_back_as_it_was(method: str, args: tuple[Any, ...]) -> None:
    record = json.loads(dumps(encode(method, args, 12.5)))
    assert record["time"] == 12.5
    assert decode(record) == (method, args)


def test_an_alert_comes_back_as_it_was(make_alert: Callable[..., Alert]) -> None:
    for alert in (make_alert(), make_alert(value=None, threshold=-math.inf, state="resolved", evidence={"a": "b"})):
        assert decode(json.loads(dumps(encode("alert", (alert,), 0.0)))) == ("alert", (alert,))
    method, (alert,) = decode(json.loads(dumps(encode("alert", (make_alert(value=math.nan),), 0.0))))
    assert method == "alert"
    assert math.isnan(alert.value)


def test_unknown_calls_and_records_are_refused() -> None:
    with pytest.raises(KeyError):
        encode("close", (), 0.0)
    with pytest.raises(KeyError):
        decode({"type": "something"})


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_like, max_size=4))
def test_always_one_line_of_strict_json(record: dict[str, Any]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = dumps(record)
    assert "\n" not in line
    json.loads(line, parse_constant=refuse)


def test_numbers_of_other_libraries_and_odd_objects() -> None:
    line = dumps(
        {"a": np.float32(1.5), "b": np.int64(3), "c": Path("/x"), "d": np.float64("nan"), "e": np.float32("inf")}
    )
    assert json.loads(line) == {"a": 1.5, "b": 3, "c": "/x", "d": "nan", "e": "inf"}


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"type": "metrics", "step": 1}\n{"type": "metr')
    journal = Journal(path)
    journal.append([{"type": "metrics", "step": 3}])
    journal.close()
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n"x"\n{"type": "metrics", "st')
    assert [record["step"] for record in read(path)] == [1, 3]


def test_a_draft_stands_for_a_row_that_never_came(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    held = [encode("hold", ({"a": step / 2}, step), float(step)) for step in range(1, 5)]
    rows = [encode("log", ({"a": step / 2, "b": 1.0}, step), float(step)) for step in range(1, 5)]
    path.write_text(
        "\n".join(dumps(record) for record in (held[0], held[1], rows[0], held[2], rows[1], held[3], rows[3]))
    )
    found = list(read(path))
    assert found[:3] == [rows[0], rows[1], rows[3]]
    assert found[3:] == [{"time": 3.0, "type": "metrics", "step": 3, "metrics": {"a": 1.5}, "draft": True}]
    assert decode(found[3]) == ("log", ({"a": 1.5}, 3))


def test_a_draft_of_a_step_that_has_a_row_already_is_none(tmp_path: Path) -> None:
    """A training that goes on from an older checkpoint holds steps whose rows the tracker has, and takes no others."""
    path = tmp_path / "run.jsonl"
    row = encode("log", ({"a": 1.0}, 1), 1.0)
    path.write_text(dumps(row) + "\n")
    path.with_suffix(".draft").write_text("\n".join(dumps(encode("hold", ({"a": 0.5}, s), 2.0)) for s in (1, 2)))
    assert [(record["step"], record.get("draft", False)) for record in read(path)] == [(1, False), (2, True)]
    assert [record["step"] for record in read(path.with_suffix(".draft"))] == [1, 2]


def test_strange_records_are_the_readers_to_judge(tmp_path: Path) -> None:
    path = tmp_path / "strange.jsonl"
    path.write_text('{"type": "metrics", "step": [1]}\n{"type": "draft", "step": {}}\n{"type": ["x"]}\n')
    assert [record["type"] for record in read(path)] == ["metrics", ["x"], "metrics"]


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")

    def write(name: int) -> None:
        for step in range(200):
            journal.append([{"type": "metrics", "name": name, "step": step, "text": "x" * 5000}])

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    records = list(read(journal.path))
    assert len(records) == 800
    for name in range(4):
        assert [record["step"] for record in records if record["name"] == name] == list(range(200))


def test_nothing_to_write_makes_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append([])
    journal.close()
    assert not journal.path.exists()
