"""Preference runs as they go well and as they do not, and what the conditions make of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from rldk_tracking.health.conditions.base import Condition
from rldk_tracking.health.conditions.preference import NothingLearned, ReferenceApart

ACCURACY, MARGIN = "rldk/preference/accuracy", "rldk/preference/margin"
CHOSEN, REJECTED = "rldk/preference/reward_chosen", "rldk/preference/reward_rejected"
CHOSEN_LOGPS, REJECTED_LOGPS = "rldk/preference/chosen_logps", "rldk/preference/rejected_logps"
RATE = "rldk/update/learning_rate"
Row = dict[str, float]


def breaches(condition: Condition, rows: Iterable[tuple[int, Row]]) -> list[int]:
    """Steps of the rows that are breached, the state stored and loaded now and then."""
    found = []
    for index, (step, row) in enumerate(rows):
        finding = condition.judge(step, row)
        if finding is not None and finding.breached:
            found.append(step)
        if index % 17 == 5:
            other = type(condition)(condition.keys)
            other.load_state(json.loads(json.dumps(condition.state(), allow_nan=False)))
            condition = other
    return found


def dpo(
    seed: int,
    rows: int,
    pairs: int,
    gain: float,
    every: int = 1,
    warm_up: int = 0,
    apart: float = 0.0,
    start: float = 0.0,
) -> Iterator[tuple[int, Row]]:
    """A run whose mean log-ratio margin grows to `gain` nats, each pair with its own; `apart` of it is there at once.

    Args:
        pairs: in a row.
        every: steps between rows.
        warm_up: steps in which the learning rate rises.
        start: implicit reward of both sides before the first step.
    """
    draw = random.Random(seed)
    learned = 0.0
    for index in range(1, rows + 1):
        step = index * every
        rate = min(1.0, step / warm_up) if warm_up else 1.0
        learned += rate / rows
        # Pairs differ more the farther the policy has moved; at first all are 0.
        moved = max(0.02, abs(gain) * learned) if gain else 0.3
        margins = [0.1 * (apart + gain * learned + draw.gauss(0, moved)) for _ in range(pairs)]
        margin = sum(margins) / pairs
        yield (
            step,
            {
                MARGIN: margin,
                ACCURACY: sum(m > 0 for m in margins) / pairs,
                CHOSEN: start + margin / 4,
                REJECTED: start - 3 * margin / 4,
                CHOSEN_LOGPS: -50.0 + draw.gauss(0, 3),
                REJECTED_LOGPS: -60.0 + draw.gauss(0, 3),
                RATE: 1e-6 * rate,
            },
        )


HEALTHY = {
    "usual": {"rows": 400, "pairs": 16, "gain": 20.0},
    "slow": {"rows": 1000, "pairs": 8, "gain": 3.0},
    "long warm-up": {"rows": 800, "pairs": 8, "gain": 10.0, "warm_up": 400},
    "logs rarely": {"rows": 60, "pairs": 160, "gain": 10.0, "every": 20},
    "few pairs": {"rows": 500, "pairs": 2, "gain": 15.0},
    "short": {"rows": 30, "pairs": 64, "gain": 5.0},
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_run_that_learns_is_not_alarmed(kind: str) -> None:
    for seed in range(8):
        options: dict[str, Any] = HEALTHY[kind]
        assert breaches(NothingLearned((ACCURACY,)), dpo(seed, **options)) == [], seed
        assert breaches(ReferenceApart((CHOSEN,)), dpo(seed, **options)) == [], seed


@pytest.mark.parametrize(("rows", "pairs", "every"), [(1000, 8, 1), (100, 80, 10), (80, 4, 50), (40, 400, 25)])
def test_pairs_ranked_by_chance_for_a_thousand_steps_are_seen(rows: int, pairs: int, every: int) -> None:
    """Labels at random: each pair moves, none of them in a direction."""
    seen = [breaches(NothingLearned((ACCURACY,)), dpo(seed, rows, pairs, 0.0, every)) for seed in range(8)]
    assert sum(bool(steps) for steps in seen) >= 7
    assert min(steps[0] for steps in seen if steps) >= 200
    late = [len([s for s in steps if s > rows * every / 2]) / (rows / 2) for steps in seen]
    assert sum(late) / len(late) > 0.6


def test_a_ranking_below_chance_that_stays_there_is_seen() -> None:
    """As where the policy began elsewhere than its reference: accuracy 0.42, margin -0.24, for 80 evaluations.

    They are of the same pairs, so that next to no noise hides that the margin creeps.
    """
    draw = random.Random(0)
    rows = [
        (50 * i, {ACCURACY: 0.42 + draw.gauss(0, 0.002), MARGIN: -0.24 + 1.2e-4 * i + draw.gauss(0, 0.001)})
        for i in range(1, 81)
    ]
    found = breaches(NothingLearned((ACCURACY,)), rows)
    assert found and found[0] <= 50 * 25


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_pairs_that_are_the_same_are_seen_within_20_rows(noise: float) -> None:
    draw = random.Random(0)
    rows = [(step, {ACCURACY: 0.0, MARGIN: draw.gauss(0, noise), RATE: 1e-6}) for step in range(1, 41)]
    assert breaches(NothingLearned((ACCURACY,)), rows) == list(range(20, 41))
    # At the first steps of any run policy and reference are the same, and the learning rate is next to 0.
    started = [*rows[:5], *((step + 5, row) for step, row in dpo(1, 300, 16, 10.0))]
    assert breaches(NothingLearned((ACCURACY,)), started) == []


def by_chance(draw: random.Random, margin: float, rate: float = 1e-6) -> Row:
    return {ACCURACY: sum(draw.random() < 0.5 for _ in range(8)) / 8, MARGIN: margin + draw.gauss(0, 0.01), RATE: rate}


def test_while_the_learning_rate_rises_nothing_needs_to_be_learned() -> None:
    draw = random.Random(0)
    rows = [(step, by_chance(draw, 0.0, 1e-9 * step)) for step in range(1, 401)]
    assert breaches(NothingLearned((ACCURACY,)), rows) == []
    steady = [(step, {**row, RATE: 1e-6}) for step, row in rows]
    assert breaches(NothingLearned((ACCURACY,)), steady)


def test_a_margin_that_rises_is_learning_before_the_accuracy_shows_it() -> None:
    draw = random.Random(0)
    rows = [(step, by_chance(draw, 2e-4 * step)) for step in range(1, 401)]
    assert breaches(NothingLearned((ACCURACY,)), rows) == []


def test_it_says_when_it_has_judged() -> None:
    condition, draw = NothingLearned((ACCURACY,)), random.Random(0)
    findings = [condition.judge(step, by_chance(draw, 0.0)) for step in range(1, 260)]
    assert [finding.judged for finding in findings if finding is not None].index(True) == 200
    last = findings[-1]
    assert last is not None and last.averaged_rows == 50.0 and last.now in [k / 8 for k in range(9)]
    assert last.value == pytest.approx(0.5, abs=0.1)
    joined = ReferenceApart((CHOSEN,)).judge(*logged(501, 2.0, -1.0))
    assert joined is not None and not joined.judged and not joined.breached


def test_it_needs_both_numbers() -> None:
    condition = NothingLearned((ACCURACY,))
    assert condition.judge(1, {MARGIN: 0.1}) is None and condition.judge(1, {ACCURACY: 0.5}) is None


def logged(step: int, chosen: float, rejected: float, **more: float) -> tuple[int, Row]:
    return step, {CHOSEN: chosen, REJECTED: rejected, CHOSEN_LOGPS: -50.0, REJECTED_LOGPS: -61.0, **more}


def test_another_reference_is_seen_at_the_first_step() -> None:
    condition = ReferenceApart((CHOSEN,))
    step, row = logged(1, 1.54, 1.946)
    finding = condition.judge(step, row)
    assert finding is not None and finding.breached
    assert (finding.value, finding.threshold, finding.key) == (1.946, 0.2, REJECTED)
    later = condition.judge(*logged(2, 1.6, 1.7))
    assert later is not None and not later.breached and not later.clear
    gone = condition.judge(*logged(3, 0.05, -0.05))
    assert gone is not None and gone.clear


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([logged(50, -4.454, -4.213), logged(100, -4.452, -4.212)], [100]),
        ([logged(10, 8.785, 4.98), logged(20, 8.956, 4.19)], [20]),
        # Learning goes on.
        ([logged(10, 0.3, -0.2), logged(20, 0.9, -0.8)], []),
        ([logged(10, 0.02, -0.5), logged(20, 0.03, -1.4)], []),
        ([logged(1, 0.01, -0.001), logged(2, 0.02, -0.01)], []),
        # A log that begins in the middle, as after a resume without state.
        ([logged(501, 2.0, -1.0), logged(502, 2.0, -1.0)], []),
    ],
)
def test_a_log_of_means_is_judged_by_its_first_two(rows: list[tuple[int, Row]], expected: list[int]) -> None:
    assert breaches(ReferenceApart((CHOSEN,)), rows) == expected


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_without_a_reference_the_reward_is_not_0_and_nothing_is_said(beta: float) -> None:
    """ORPO, CPO, SimPO, TPO: beta log pi."""
    row = {CHOSEN: -50.0 * beta, REJECTED: -61.0 * beta, CHOSEN_LOGPS: -50.0, REJECTED_LOGPS: -61.0}
    assert ReferenceApart((CHOSEN,)).judge(1, row) is None
    unknown = {CHOSEN: 1.0, REJECTED: 1.2}
    assert ReferenceApart((CHOSEN,)).judge(1, unknown) is None
    measured = ReferenceApart((CHOSEN,)).judge(1, {**unknown, "rldk/preference/chosen_logps_drift": 10.0})
    assert measured is not None and measured.breached
