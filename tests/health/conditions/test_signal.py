"""Ties: by chance, lost signal, and solved."""

from __future__ import annotations

import random

import pytest

from rldk_tracking.health.conditions.signal import Ties

TIED, MEAN, STD, WITHIN = "tied", "rldk/reward/mean", "rldk/reward/std", "rldk/reward/group_std_mean"


def breaches(rows, solved: bool = False, **options) -> list[int]:
    condition = Ties((TIED,), solved=solved, **options)
    found = [condition.judge(step, row) for step, row in enumerate(rows)]
    return [step for step, finding in enumerate(found) if finding is not None and finding.breached]


def usual(n: int, seed: int = 0, tied: float = 0.2, groups: int = 8) -> list[dict[str, float]]:
    draw = random.Random(seed)
    return [
        {
            TIED: sum(draw.random() < tied for _ in range(groups)) / groups,
            MEAN: 0.4 + draw.gauss(0, 0.05),
            STD: 0.3 + draw.gauss(0, 0.02),
        }
        for _ in range(n)
    ]


def test_a_constant_reward_is_seen_within_five_rows() -> None:
    found = breaches(usual(50) + [{TIED: 1.0, MEAN: 0.5, STD: 0.0}] * 20)
    assert found[0] in range(53, 56)


def test_a_constant_reward_from_the_first_row_on() -> None:
    assert breaches([{TIED: 1.0, MEAN: 0.5, STD: 0.0}] * 20)[0] <= 12


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_ties_by_chance_are_none(groups: int) -> None:
    alarmed = sum(bool(breaches(usual(1000, seed, tied=0.5, groups=groups))) for seed in range(20))
    assert alarmed <= 1, "with one group a row, rows are all tied half of the time"


def test_most_groups_tied_for_long_is_no_signal_too() -> None:
    rows = [{**row, MEAN: 0.05, STD: 0.1} for row in usual(120, tied=0.9)]
    assert breaches(rows)


def test_near_the_ceiling_most_groups_may_be_tied() -> None:
    rows = [{**row, MEAN: row[MEAN] + 0.52, STD: 0.25} for row in usual(300, tied=0.85)]
    assert breaches(rows) == []


def test_a_log_without_ties_is_judged_by_its_spread() -> None:
    rows = [{MEAN: row[MEAN], WITHIN: row[STD]} for row in usual(40)]
    assert breaches(rows) == []
    assert breaches(rows + [{MEAN: 0.5, WITHIN: 0.001}] * 15)


def test_a_log_with_means_alone_is_judged_by_their_repetition() -> None:
    draw = random.Random(0)
    assert breaches([{MEAN: draw.gauss(0.5, 0.1)} for _ in range(200)]) == []
    assert breaches([{MEAN: 0.5}] * 30)
    almost = [{MEAN: -0.1 if draw.random() < 0.6 else -0.1 - 0.003 * draw.random()} for _ in range(100)]
    assert breaches(almost), "a reward function that nearly always says the same"


def test_the_users_spread_counts_as_tied() -> None:
    rows = [{MEAN: row[MEAN], STD: 0.05} for row in usual(40)]
    assert breaches(rows) == []
    assert breaches(rows, threshold=0.1)


def climbing(n: int = 60) -> list[dict[str, float]]:
    return [{TIED: 0.1, MEAN: 0.2 + 0.8 * i / n, STD: 0.3} for i in range(n)]


def test_solved_is_the_other_half() -> None:
    rows = climbing() + [{TIED: 1.0, MEAN: 1.0, STD: 0.0}] * 20
    assert breaches(rows) == []
    assert breaches(rows, solved=True)


def test_a_known_ceiling_decides_what_is_solved() -> None:
    rows = climbing() + [{TIED: 1.0, MEAN: 1.0, STD: 0.0}] * 20
    assert breaches(rows, ceiling=5.0) and not breaches(rows, solved=True, ceiling=5.0)
    flat = [{TIED: 1.0, MEAN: 1.0, STD: 0.0}] * 20
    assert not breaches(flat, ceiling=1.0) and breaches(flat, solved=True, ceiling=1.0)


def test_rows_without_rewards_say_nothing() -> None:
    condition = Ties((TIED,), solved=False)
    assert condition.judge(0, {"loss": 1.0}) is None
