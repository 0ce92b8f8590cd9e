"""Which logged score is no part of the reward."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rldk_tracking.history.run_history import history
from rldk_tracking.history.unweighted import KEY, unweighted_score


def rows(weights: dict[str, float], n: int = 30, digits: int = 17, **more: Any) -> list[dict[str, float]]:
    """TRL's spelling: functions with a mean each, and the reward that their weights make of them."""
    draw = random.Random(1)
    found = []
    for _ in range(n):
        parts = {name: draw.random() for name in weights}
        row = {f"rewards/{name}/mean": round(value, digits) for name, value in parts.items()}
        row["reward"] = round(sum(weights[name] * value for name, value in parts.items()), digits)
        found.append(row | more)
    return found


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ({"compiles": 1.0, "correct": 0.0}, "rewards/correct/mean"),
        ({"compiles": 1.0, "short": 0.5, "correct": 0.0}, "rewards/correct/mean"),
        ({"compiles": 1.0, "correct": 1.0}, None),
        ({"compiles": 1.0, "correct": 0.02}, None),
        ({"compiles": 1.0, "correct": 0.0, "short": 0.0}, None),
        ({"compiles": 1.0}, None),
    ],
)
def test_the_score_that_does_not_move_the_reward(weights: dict[str, float], name: str | None) -> None:
    assert unweighted_score(rows(weights)) == name
    assert unweighted_score(rows(weights, digits=5)) == name, "numbers as notebooks print them"


def test_a_score_that_never_changes_may_have_any_weight() -> None:
    entries = [row | {"rewards/format/mean": 0.0} for row in rows({"compiles": 1.0})]
    assert unweighted_score(entries) is None


def test_a_small_weight_on_a_score_that_moves_the_reward_is_one() -> None:
    """100 f + g, where f is nearly always 0: by its weight g would be no part, and it is nearly all of the reward."""
    draw = random.Random(3)
    parts = [(0.003 * draw.random(), 0.2 + 0.5 * draw.random()) for _ in range(30)]
    assert unweighted_score([{"reward": 101 * f + g, "rewards/f": f, "rewards/g": g} for f, g in parts]) is None


def test_a_reward_that_its_parts_do_not_explain() -> None:
    draw = random.Random(2)
    entries = [row | {"reward": row["reward"] + draw.gauss(0, 0.05)} for row in rows({"a": 1.0, "b": 0.0})]
    assert unweighted_score(entries) is None, "a part that nobody logged may be anything"


def test_a_few_rows_and_rows_with_gaps() -> None:
    entries = rows({"a": 1.0, "b": 0.0})
    assert unweighted_score(entries[:9]) is None
    gaps: list[dict[str, Any]] = [*entries, {"reward": 1.0, "rewards/a/mean": None, "rewards/b/mean": "NaN"}, {}]
    assert unweighted_score(gaps) == "rewards/b/mean"
    assert unweighted_score([]) is None


def test_statistics_and_differences_are_no_parts() -> None:
    """Handwritten names: the reward's own spread, and a gap that would leave no single solution."""
    entries = [
        {"reward/mean": a, "reward/g": a, "reward/f": b, "reward/g_minus_f": a - b, "reward/std": b * b}
        for a, b in ((row["reward"], row["rewards/b/mean"]) for row in rows({"a": 1.0, "b": 0.0}))
    ]
    assert unweighted_score(entries) == "reward/f"


def test_scores_that_cannot_be_told_apart() -> None:
    entries = [row | {"rewards/c/mean": 1.0 - row["rewards/b/mean"]} for row in rows({"a": 1.0, "b": 0.0})]
    entries = [row | {"rewards/d/mean": row["rewards/b/mean"] * 2} for row in entries]
    assert unweighted_score(entries) is None


def test_a_past_run_has_it_under_its_key_unless_the_user_named_it() -> None:
    entries = rows({"compiles": 1.0, "correct": 0.0})
    past = history("log", entries)
    assert [entry.row[KEY] for entry in past.entries] == [row["rewards/correct/mean"] for row in entries]
    named = history("log", entries, aliases={"rewards/correct/mean": "rldk/reward/gold"})
    assert all(KEY not in entry.row and "rldk/reward/gold" in entry.row for entry in named.entries)
