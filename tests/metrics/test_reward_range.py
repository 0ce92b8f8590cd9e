"""At which end of the run's scale groups are tied, against plain loops over the whole run."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
import torch

from rldk_tracking.metrics.reward_range import RewardRange
from rldk_tracking.rollout import Rollout

ALL_MAX, ALL_MIN = "rldk/reward/group_tied_fraction_all_max", "rldk/reward/group_tied_fraction_all_min"


def grouped(scores: list[list[float]], **fields: Any) -> Rollout:
    flat = [score for group in scores for score in group]
    ids = [index for index, group in enumerate(scores) for _ in group]
    return Rollout(torch.ones(len(flat), 2), scores=torch.tensor(flat), group_ids=torch.tensor(ids), **fields)


def test_the_run_says_what_the_ends_are(tabulate: Any) -> None:
    seen = RewardRange()
    found = seen.shares(tabulate(grouped([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])))
    assert found == {ALL_MAX: 0.25, ALL_MIN: 0.5}
    # Tied between the ends: its neighbours do not make it too hard or solved.
    assert seen.shares(tabulate(grouped([[0.5, 0.5], [0.6, 0.7]]))) == {ALL_MAX: 0.0, ALL_MIN: 0.0}
    # All at the lowest: that is when one wants to know.
    assert seen.shares(tabulate(grouped([[0.0, 0.0], [0.0, 0.0]]))) == {ALL_MAX: 0.0, ALL_MIN: 1.0}
    assert seen.shares(tabulate(grouped([[1.0, 1.0], [1.0, 1.0]]))) == {ALL_MAX: 1.0, ALL_MIN: 0.0}


def test_nobody_knows_what_the_only_score_is(tabulate: Any) -> None:
    seen = RewardRange()
    constant = tabulate(grouped([[0.5, 0.5], [0.5, 0.5]]))
    assert seen.shares(constant) == {}
    assert seen.shares(tabulate(grouped([[0.5, 0.5], [0.5, 0.5 * (1 + 2e-7)]]))) == {}, "rounding is no second score"
    seen.shares(tabulate(grouped([[0.5, 0.25]])))
    assert seen.shares(constant) == {ALL_MAX: 1.0, ALL_MIN: 0.0}


@pytest.mark.parametrize(("best", "all_max", "all_min"), [(0.5, 1.0, 0.0), (1.0, 0.0, 1.0)])
def test_unless_the_task_says_so(tabulate: Any, best: float, all_max: float, all_min: float) -> None:
    constant = tabulate(grouped([[0.5, 0.5], [0.5, 0.5]], max_score=best))
    assert RewardRange().shares(constant) == {ALL_MAX: all_max, ALL_MIN: all_min}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("best", [0.1, 0.7, 0.9])
def test_a_stated_highest_score_survives_rounding(tabulate: Any, dtype: torch.dtype, best: float) -> None:
    scores = torch.tensor([best, best, 0.0, 0.05]).to(dtype)
    rollout = Rollout(torch.ones(4, 1), scores=scores, group_ids=torch.tensor([0, 0, 1, 1]), max_score=best)
    assert RewardRange().shares(tabulate(rollout))[ALL_MAX] == 0.5


def test_equals_plain_loops_also_through_a_stored_state(tabulate: Any) -> None:
    draw = random.Random(0)
    seen, everything = RewardRange(), list[float]()
    for step in range(40):
        best = draw.choice([0.25, 0.5, 1.0])
        batch = [[draw.choice([0.0, 0.25, best, math.nan]) for _ in range(3)] for _ in range(4)]
        if step % 3 == 0:
            batch = [[draw.choice([0.0, 0.25, 0.5, best])] * 3 for _ in range(4)]
        found = seen.shares(tabulate(grouped(batch)))
        known = [[score for score in group if not math.isnan(score)] for group in batch]
        everything += [score for group in known for score in group]
        several = [group for group in known if len(group) > 1]
        expected = {}
        if several and min(everything) < max(everything):
            for key, end in ((ALL_MAX, max(everything)), (ALL_MIN, min(everything))):
                expected[key] = sum(set(group) == {end} for group in several) / len(several)
        assert found == pytest.approx(expected), step
        if step % 7 == 0:
            stored, seen = json.loads(json.dumps(seen.state(), allow_nan=False)), RewardRange()
            seen.load_state(stored)


def test_nothing_without_scores_or_groups(tabulate: Any) -> None:
    seen = RewardRange()
    assert seen.shares(tabulate(Rollout(torch.ones(2, 2)))) == {} and seen.state() == {}
    assert seen.shares(tabulate(Rollout(torch.ones(2, 2), scores=torch.tensor([1.0, 3.0])))) == {}
    assert seen.state() == {"lowest": 1.0, "highest": 3.0}
    assert seen.shares(tabulate(grouped([[1.0], [3.0]]))) == {}
