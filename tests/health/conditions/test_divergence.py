"""Divergence that the reward pays for, and divergence that it does not."""

from __future__ import annotations

import random

from rldk_tracking.health.conditions.divergence import UnpaidDrift

REWARD, SUM = "rldk/reward/mean", "rldk/kl/ref_per_sequence"


def breaches(rows, **options) -> list[int]:
    condition = UnpaidDrift(("kl",), **options)
    found = [condition.judge(step, row) for step, row in enumerate(rows)]
    return [step for step, finding in enumerate(found) if finding is not None and finding.breached]


def rows(kl, reward=None, n: int = 100, seed: int = 0) -> list[dict[str, float]]:
    draw = random.Random(seed)
    out = []
    for step in range(n):
        row = {"kl": kl(step)}
        if reward is not None:
            row[REWARD] = reward(step) + draw.gauss(0, 0.05)
        out.append(row)
    return out


def test_drift_without_a_gain_is_unpaid() -> None:
    assert breaches(rows(lambda t: 0.02 * t, lambda t: 0.3))[0] in range(38, 50)


def test_several_nats_are_fine_while_the_reward_rises() -> None:
    assert breaches(rows(lambda t: 0.04 * t, lambda t: 0.3 + 0.01 * t)) == []


def test_what_was_paid_stays_paid_but_more_is_not() -> None:
    def kl(step: int) -> float:
        return min(0.04 * step, 2.0) if step < 90 else 2.0 + 0.1 * (step - 90)

    found = breaches(rows(kl, lambda t: 0.3 + 0.01 * min(t, 60), n=130))
    assert found and min(found) in range(98, 112)


def test_no_reward_excuses_the_ceiling() -> None:
    condition = UnpaidDrift(("kl",))
    for step, row in enumerate(rows(lambda t: 0.5 * t, lambda t: 0.3 + 0.02 * t)):
        finding = condition.judge(step, row)
    assert finding.breached and finding.critical and finding.threshold == 10.0


def test_without_rewards_only_large_drift_counts() -> None:
    assert breaches(rows(lambda t: 1.5)) == []
    assert breaches(rows(lambda t: 2.5))


def test_the_users_limit_replaces_all_others() -> None:
    assert breaches(rows(lambda t: 0.02 * t, lambda t: 0.3 + 0.02 * t), threshold=0.5)[0] in range(26, 32)


def test_sums_over_a_response_have_their_own_scale() -> None:
    assert breaches([{SUM: 10.0, REWARD: 0.3}] * 60) == []
    assert breaches([{SUM: 60.0, REWARD: 0.3}] * 60)


def test_constant_zero_is_not_measured() -> None:
    condition = UnpaidDrift(("kl",))
    assert all(condition.judge(step, {"kl": 0.0, REWARD: 0.1}) is None for step in range(50))


def test_one_wild_value_is_smoothed_away() -> None:
    quiet = rows(lambda t: 5.0 if t == 50 else 0.1, lambda t: 0.3)
    assert len(breaches(quiet)) <= 2, "which persistence of 3 in 4 rows does not believe"
