"""Where one run ends and the next begins in a file."""

from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.history.formats.runs import chosen, told_apart

ROWS = [{"step": step, "loss": 0.5, "epoch": step / 10} for step in range(1, 5)]


def sizes(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {name: len(run) for name, run in told_apart({"": rows}).items()}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (ROWS, {"": 4}),
        (ROWS + ROWS[:3], {"1": 4, "2": 3}),
        ([*ROWS, *ROWS[2:]], {"": 6}),
        ([{**row, "epoch": epoch} for epoch in (1, 2) for row in ROWS], {"": 8}),
        ([*ROWS, {"eval_loss": 0.5, "eval_runtime": 2.0, "step": 1}], {"": 5}),
        ([row | {"step": 1} for row in ROWS], {"": 4}),
        ([{"loss": 0.5, "epoch": e} for e in (0.1, 0.2, 0.1, 0.2, 0.3)], {"1": 2, "2": 3}),
        ([*ROWS, {"train_runtime": 9.0, "step": 4, "epoch": 0.4}, ROWS[1]], {"1": 5, "2": 1}),
        ([], {"": 0}),
    ],
    ids=["one", "again", "resumed", "steps of epochs", "evaluated", "the same step", "epochs", "summed up", "none"],
)
def test_a_run_begins_where_an_entry_like_its_first_comes_again(
    rows: list[dict[str, Any]], expected: dict[str, int]
) -> None:
    assert sizes(rows) == expected


def test_the_longest_is_chosen_or_the_one_that_is_named() -> None:
    runs = told_apart({"a": [*ROWS, *ROWS[:2]], "b": list(ROWS)})
    assert list(runs) == ["a.1", "a.2", "b"]
    assert chosen(runs, "", "x") == "a.1" and chosen(runs, "b", "x") == "b"
    with pytest.raises(ValueError, match=r"x: no run 'c'; there are a.1, a.2, b"):
        chosen(runs, "c", "x")
