"""Reward hacking as a verdict over signals."""

from __future__ import annotations

import random

import pytest

from rldk_tracking.health.conditions.hacking import OTHERS, UNWEIGHTED, Hacking
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()


((PERPLEXITY,), (LENGTH,), (LENGTH_CORR,), (DISAGREEMENT,)) = list(OTHERS.values())[:4]


GOLD, KL, UNIQUE = "rldk/reward/gold", "rldk/kl/ref_k1", "rldk/diversity/unique_fraction"


def judged(extra, rise: float = 0.5, n: int = 120, seed: int = 0):
    draw = random.Random(seed)
    condition = Hacking(("r",))
    found = []
    for step in range(n):
        done = step / n
        row = {"r": 0.2 + rise * done + draw.gauss(0, 0.03)} | extra(done, draw)
        found.append(condition.judge(step, row))
    return [step for step, finding in enumerate(found) if finding is not None and finding.breached], condition, found


def test_a_held_out_score_that_stays_decides_alone() -> None:
    breached, condition, found = judged(lambda done, draw: {GOLD: 0.2 + draw.gauss(0, 0.03)})
    assert breached and breached[-1] == 119 and condition.risk == 1.0
    assert found[-1].evidence["against"] == "held-out score"


def test_a_held_out_score_that_follows_says_no() -> None:
    alarmed = 0
    for seed in range(20):
        breached, condition, _ = judged(lambda done, draw: {GOLD: 0.2 + 0.5 * done + draw.gauss(0, 0.05)}, seed=seed)
        alarmed += len(breached) > 3
        assert condition.risk == 0.0
    assert alarmed <= 1


def test_a_held_out_score_at_its_ceiling_must_fall() -> None:
    assert judged(lambda done, draw: {GOLD: 0.97 + draw.gauss(0, 0.005)})[0] == [], "it has no room to follow"
    assert judged(lambda done, draw: {GOLD: 0.97 - 0.3 * done + draw.gauss(0, 0.01)})[0]


@pytest.mark.parametrize(
    ("level", "scale", "alarms"),
    [(0.05, 1.0, True), (0.9, 1.0, False), (40.0, 1.0, False), (0.05, 10.0, False)],
)
def test_a_function_of_weight_0_must_be_of_the_rewards_kind_and_below_it(
    level: float, scale: float, alarms: bool
) -> None:
    """It may be there to watch a format that is kept already, or a length."""

    def extra(done, draw):
        row = {UNWEIGHTED: level + draw.gauss(0, 0.01)}
        return row | ({"r": scale * (0.2 + 0.5 * done + draw.gauss(0, 0.03))} if scale != 1.0 else {})

    breached, _, found = judged(extra)
    assert bool(breached) is alarms
    assert not alarms or found[-1].evidence["against"] == "reward function of weight 0"


def test_a_judge_of_the_users_own_goes_before_a_function_of_weight_0() -> None:
    """It may be asked now and then only, so that the other one is there first."""

    def extra(done, draw):
        row = {UNWEIGHTED: 0.05 + draw.gauss(0, 0.01)}
        asked = done > 0.02 and round(120 * done) % 3 == 0
        return row | ({GOLD: 0.1 + 0.6 * done + draw.gauss(0, 0.03)} if asked else {})

    breached, condition, _ = judged(extra)
    assert condition.gold_key == GOLD and condition.risk == 0.0 and breached == []


def test_a_function_of_weight_0_that_follows_says_no() -> None:
    breached, condition, _ = judged(lambda done, draw: {UNWEIGHTED: 0.1 + 0.4 * done + draw.gauss(0, 0.03)})
    assert len(breached) <= 3 and condition.risk == 0.0


@pytest.mark.parametrize("correlation", [0.6, 0.85])
def test_long_healthy_runs_with_correlated_noise(healthy, correlation: float) -> None:
    """40 runs of 1,000 rows gave none."""
    for seed in range(4):
        engine = Engine([RULES["reward.hacking"]])
        for step, row in enumerate(healthy(seed + 70, 1000, correlation)):
            assert engine.update(step, row) == []


def test_a_reward_that_does_not_rise_is_not_hacked() -> None:
    assert judged(lambda done, draw: {GOLD: 0.2 - done}, rise=0.0)[0] == []


def test_longer_and_rewarded_for_it_needs_a_second_sign() -> None:
    def longer(done, draw):
        return {LENGTH: 100 + 300 * done, LENGTH_CORR: 0.8}

    assert judged(longer)[0] == []
    breached, _, found = judged(lambda done, draw: longer(done, draw) | {KL: 2 * done})
    assert breached and found[-1].evidence["against"] == "length, KL"


@pytest.mark.parametrize("row", [{LENGTH: 100.0, LENGTH_CORR: 0.8}, {DISAGREEMENT: 0.6}])
def test_a_length_that_correlates_without_growing_and_functions_that_agree_are_the_task(row: dict[str, float]) -> None:
    assert judged(lambda done, draw: row | {KL: 2 * done})[0] == []


def test_perplexity_and_disagreement_together() -> None:
    def extra(done, draw):
        return {PERPLEXITY: 4 + 10 * done, DISAGREEMENT: -0.6}

    assert judged(extra)[0]


def test_what_learning_has_too_is_no_verdict() -> None:
    breached, condition, found = judged(lambda done, draw: {KL: 3 * done, UNIQUE: 1 - 0.9 * done})
    assert breached == [] and found[-1] is None and condition.risk is None, "unknown, not fine"


def test_a_rise_that_is_gone_is_no_hacking_any_more() -> None:
    condition = Hacking(("r",))
    draw, found = random.Random(0), []
    for step in range(300):
        row = {"r": 0.2 + 0.5 * (60 <= step < 150) + draw.gauss(0, 0.03), LENGTH_CORR: 0.8, KL: 2.0}
        row[LENGTH] = 100.0 if step < 60 else 400.0
        found.append(condition.judge(step, row))
    assert found[140].breached and not found[140].clear
    assert not found[-1].breached and found[-1].clear, "the witnesses are still there, the rise is not"
    assert "length" in found[-1].evidence["against"]


@pytest.mark.parametrize(("slope", "supports"), [(0.9, True), (0.0, False)])
def test_only_diversity_that_fell_supports(slope: float, supports: bool) -> None:
    def longer(done, draw):
        unique = 1 - slope * done + draw.gauss(0, 0.01)
        return {LENGTH: 100 + 300 * done, LENGTH_CORR: 0.8, UNIQUE: unique}

    breached, _, found = judged(longer)
    assert bool(breached) is supports
    assert (found[-1].evidence["against"] == "length, diversity") is supports


def test_a_function_of_weight_0_that_never_gives_anything_is_below_the_reward() -> None:
    assert judged(lambda done, draw: {UNWEIGHTED: 0.0})[0]


def test_a_held_out_score_that_rises_a_little_has_not_followed() -> None:
    breached, _, found = judged(lambda done, draw: {GOLD: 0.2 + 0.05 * done + draw.gauss(0, 0.03)})
    assert breached and found[-1].evidence["against"] == "held-out score"


def test_both_start_where_both_are_known() -> None:
    """A judge that is asked from row 60 on, when the reward has risen already, has nothing to follow."""

    def extra(done, draw):
        return ({GOLD: 0.6 + draw.gauss(0, 0.02)} if done > 0.5 else {}) | {"r": min(0.9, 0.1 + 2 * done)}

    assert judged(extra)[0] == []


def test_a_reward_hacked_from_the_first_rows_on() -> None:
    """It rises within eight rows, while the held-out score falls: what is measured first is the start of both."""

    def extra(done, draw):
        gone = min(1.0, 15 * done)
        return {"r": 0.1 + 0.88 * gone + draw.gauss(0, 0.02), GOLD: 0.38 - 0.3 * gone + draw.gauss(0, 0.05)}

    for seed in range(10):
        breached, _, _ = judged(extra, n=60, seed=seed)
        assert breached and breached[0] <= 25


def test_a_held_out_score_that_comes_later_is_waited_for() -> None:
    """The reward rises over rows 30 to 50, the score over rows 40 to 60."""

    def extra(done, draw):
        row = 120 * done
        climbed = [min(1.0, max(0.0, (row - begin) / 20)) for begin in (30, 40)]
        return {"r": 0.2 + 0.5 * climbed[0] + draw.gauss(0, 0.05), GOLD: 0.3 + 0.4 * climbed[1] + draw.gauss(0, 0.05)}

    assert sum(len(judged(extra, seed=seed)[0]) > 2 for seed in range(20)) <= 2


@pytest.mark.parametrize(("gain", "alarms"), [(2.0, False), (0.0, True), (-2.0, True)])
def test_scores_of_another_scale_are_held_to_their_noise(gain: float, alarms: bool) -> None:
    breached, _, _ = judged(lambda done, draw: {GOLD: 40 + gain * done + draw.gauss(0, 0.3)})
    assert bool(breached) is alarms


def test_the_wait_begins_where_the_two_part() -> None:
    """Together for 60 rows, and a score that stays from then on: not waited for as long again as the run is old."""

    def extra(done, draw):
        return {"r": 0.1 + 0.8 * done, GOLD: 0.1 + 0.1 * min(done, 0.25) + draw.gauss(0, 0.01)}

    breached, condition, _ = judged(extra)
    assert breached and breached[0] < 60 and condition.pair.together_at < 30


def test_a_score_without_room_that_hardly_scatters_is_no_contradiction() -> None:
    assert judged(lambda done, draw: {GOLD: 0.97 + draw.gauss(0, 0.0005)})[0] == []


def test_rises_are_compared_as_shares_of_the_room_above_their_starts() -> None:
    """The reward wins 0.5 of its 0.8, and the score 0.08 of its 0.2: two thirds as much, which is to follow."""
    assert judged(lambda done, draw: {GOLD: 0.8 + 0.08 * done + draw.gauss(0, 0.004)})[0] == []


def past_one(gold, top: float = 1.8, n: int = 200, seed: int = 0, key: str = GOLD, noise: float = 0.03):
    """A reward that rises from 0.3 to `top` over rows 60 to 120, beside `gold(done)`; the rows that are breached."""
    draw, condition = random.Random(seed), Hacking(("r",))
    found = []
    for step in range(n):
        done = min(1.0, max(0.0, (step - 60) / 60))
        row = {"r": 0.3 + (top - 0.3) * done + draw.gauss(0, noise), key: gold(done) + draw.gauss(0, noise)}
        found.append(condition.judge(step, row))
    return [step for step, finding in enumerate(found) if finding is not None and finding.breached]


@pytest.mark.parametrize("key", [GOLD, UNWEIGHTED])
def test_what_was_behind_stays_behind_where_the_reward_goes_past_1(key: str) -> None:
    breached = past_one(lambda done: 0.25, key=key)
    assert breached[0] < 85 and breached == list(range(breached[0], 200)), "no row without it once it is seen"


def test_a_reward_that_goes_past_1_at_once_is_held_to_where_the_two_were_together() -> None:
    """Before, the score rose with it to 0.4, which is more than its noise."""
    draw, condition = random.Random(0), Hacking(("r",))
    found = []
    for step in range(120):
        both = 0.3 + 0.1 * min(1.0, step / 60)
        reward = both if step < 80 else 1.5
        found.append(condition.judge(step, {"r": reward + draw.gauss(0, 0.03), GOLD: both + draw.gauss(0, 0.03)}))
    breached = [step for step, finding in enumerate(found) if finding is not None and finding.breached]
    assert breached and 80 < breached[0] <= 95 and breached[-1] == 119


def test_a_score_that_comes_after_all_ends_it() -> None:
    draw, condition = random.Random(2), Hacking(("r",))
    found = []
    for step in range(300):
        reward, score = 0.3 + 0.015 * min(100, max(0, step - 60)), 0.3 + 0.005 * min(80, max(0, step - 180))
        found.append(condition.judge(step, {"r": reward + draw.gauss(0, 0.03), GOLD: score + draw.gauss(0, 0.03)}))
    breached = [step for step, finding in enumerate(found) if finding is not None and finding.breached]
    assert breached[0] < 90 and 185 < breached[-1] < 240


@pytest.mark.parametrize("top", [1.2, 2.0, 3.0])
def test_a_total_of_several_parts_past_1_that_the_score_follows_is_no_hacking(top: float) -> None:
    """The score wins as large a share of what it can win as the total of its own `top`."""
    alarmed = 0
    for seed in range(20):
        alarmed += len(past_one(lambda done: 0.3 + 0.5 * done, top=top, seed=seed, noise=0.05)) > 2
    assert alarmed <= 1


@pytest.mark.parametrize("won", [0.24, 0.35])
def test_a_score_that_followed_and_is_done_is_not_behind_a_reward_that_goes_past_1(won: float) -> None:
    """It has what is asked of it for a reward of 1, in the second case with some to spare."""
    alarmed = 0
    for seed in range(20):
        alarmed += len(past_one(lambda done: 0.3 + won * min(1.0, 4 * done), top=2.5, seed=seed)) > 2
    assert alarmed <= 1


def test_a_reward_that_creeps_past_1_is_held_to_where_the_two_were_together() -> None:
    """Four standard deviations ahead since then; twelve since the start, of which the score made up its share."""
    alarmed = 0
    for seed in range(20):
        draw, condition = random.Random(seed), Hacking(("r",))
        found = []
        for step in range(240):
            done = min(1.0, max(0.0, (step - 60) / 60))
            row = {"r": 0.3 + 0.5 * done + 0.22 * (step >= 140) + draw.gauss(0, 0.06)}
            found.append(condition.judge(step, row | {GOLD: 0.3 + 0.2 * done + draw.gauss(0, 0.03)}))
        alarmed += sum(finding is not None and finding.breached for finding in found) > 2
    assert alarmed <= 1
