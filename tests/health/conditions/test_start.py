"""Distance from the run's start, with and without a reward that accounts for it."""

from __future__ import annotations

import json
import random

import pytest

from rldk_tracking.health.conditions.start import Collapse, FromStart, ShareOfStart, UnpaidDrift


def breaches(findings, condition, values) -> list[int]:
    return [i for i, f in enumerate(findings(condition, values)) if f is not None and f.breached]


def test_a_rise_and_a_fall_by_a_share_of_the_start(findings) -> None:
    assert breaches(findings, FromStart(("x",), direction="up", share=2.0), [10.0] * 8 + [29, 31, 10]) == [9]
    assert breaches(findings, FromStart(("x",), direction="down", share=0.9), [10.0] * 8 + [2, 0.9, 10]) == [9]


def test_a_start_below_zero_has_a_size_too(findings) -> None:
    fall = FromStart(("x",), direction="down", share=1.0)
    assert breaches(findings, fall, [-200.0] * 8 + [-300, -399, -401]) == [10]


def test_absolute_limits(findings) -> None:
    beyond = FromStart(("x",), direction="up", share=2.0, beyond=5.0)
    assert breaches(findings, beyond, [1.0] * 8 + [4.0, 5.5]) == [9]
    change = FromStart(("x",), direction="up", share=0.1, change=10.0)
    assert breaches(findings, change, [1.0] * 8 + [10.0, 12.0]) == [9]


def test_a_capped_value_is_held_to_another_share() -> None:
    condition = FromStart(("x",), direction="up", share=2.0, capped_key="cut", capped_share=0.5)
    for step in range(8):
        condition.judge(step, {"x": 100.0, "cut": 0.0})
    assert not condition.judge(8, {"x": 180.0, "cut": 0.0}).breached
    capped = [condition.judge(step, {"x": 180.0, "cut": 0.9}).breached for step in range(9, 25)]
    assert capped == [False] * 12 + [True] * 4, "0.9 (1 - (15 / 16)^13) is the first mean above one half"


def test_zeros_can_be_left_out(findings) -> None:
    vanishing = FromStart(("x",), direction="down", share=0.999, skip_zero=True)
    assert breaches(findings, vanishing, [1.0] * 8 + [0.0, 0.0, 1e-4]) == [10]


@pytest.mark.parametrize(("fall", "breached"), [(20, False), (1, True)])
def test_what_learning_explains_is_no_breach_if_it_comes_gradually(fall: int, breached: bool) -> None:
    condition = FromStart(("x",), direction="down", share=0.9, unless_learned=True)
    found = []
    for step in range(90):
        done = step / 90
        value = max(0.02, 1.0 - (step - 30) / fall) if step > 30 else 1.0
        value = 1.0 if step <= 60 and fall == 1 else (0.01 + 0.99 * 0.93**step if fall > 1 else 0.01)
        found.append(condition.judge(step, {"x": value, "rldk/reward/mean": done, "rldk/reward/std": 0.3}))
    assert any(f.breached for f in found) is breached


def test_without_a_climb_nothing_excuses_the_loss() -> None:
    condition = FromStart(("x",), direction="down", share=0.9, unless_learned=True)
    rows = [{"x": 0.01 + 0.93**step, "rldk/reward/mean": 0.5, "rldk/reward/std": 0.3} for step in range(90)]
    assert any(condition.judge(step, row).breached for step, row in enumerate(rows))


ENTROPY, UNIQUE, STD, MEAN = "h", "rldk/diversity/unique_fraction", "rldk/reward/std", "rldk/reward/mean"


def collapsed(rows):
    condition = Collapse((ENTROPY,))
    return [condition.judge(step, row) for step, row in enumerate(rows)], condition


BEFORE = [{ENTROPY: 1.0, UNIQUE: 0.9, STD: 0.3, MEAN: 0.4}] * 20


def test_two_lost_quantities_are_a_collapse() -> None:
    found, condition = collapsed(BEFORE + [{ENTROPY: 0.01, UNIQUE: 0.02, STD: 0.3, MEAN: 0.2}] * 20)
    assert not any(f.breached for f in found[:20] if f) and found[-1].breached
    assert condition.risk > 0.6
    assert found[-1].evidence["entropy left"] < 0.05


def test_one_is_not() -> None:
    found, _ = collapsed(BEFORE + [{ENTROPY: 0.01, UNIQUE: 0.9, STD: 0.3, MEAN: 0.2}] * 20)
    assert not any(f.breached for f in found if f)


def test_tied_groups_are_a_lost_spread() -> None:
    lost = {ENTROPY: 0.01, UNIQUE: 0.9, STD: 0.3, MEAN: 0.2, "rldk/reward/group_tied_fraction": 1.0}
    assert collapsed(BEFORE + [lost] * 20)[0][-1].breached


def test_success_loses_the_same_and_is_no_collapse() -> None:
    climb = [{ENTROPY: 1 - t / 40, UNIQUE: 0.9 - t / 50, STD: 0.3, MEAN: 0.4 + 0.6 * t / 40} for t in range(40)]
    found, condition = collapsed(BEFORE + climb + [{ENTROPY: 0.01, UNIQUE: 0.03, STD: 0.0, MEAN: 1.0}] * 20)
    assert not any(f.breached for f in found if f)
    assert condition.risk == 0.0


def test_one_known_quantity_is_not_enough_for_a_verdict() -> None:
    found, condition = collapsed([{ENTROPY: 0.01, MEAN: 0.2}] * 30)
    assert found == [None] * 30 and condition.risk is None


def test_two_known_quantities_are_enough() -> None:
    found, _ = collapsed([{ENTROPY: 1.0, UNIQUE: 0.9}] * 20 + [{ENTROPY: 0.01, UNIQUE: 0.02}] * 20)
    assert found[-1].breached and found[10] is not None


REWARD, SUM = "rldk/reward/mean", "rldk/kl/ref_per_sequence"


def unpaid(drifting, **options) -> list[int]:
    condition = UnpaidDrift(("kl",), **options)
    found = [condition.judge(step, row) for step, row in enumerate(drifting)]
    return [step for step, finding in enumerate(found) if finding is not None and finding.breached]


def drifting(kl, reward=None, n: int = 100, seed: int = 0) -> list[dict[str, float]]:
    draw = random.Random(seed)
    out = []
    for step in range(n):
        row = {"kl": kl(step)}
        if reward is not None:
            row[REWARD] = reward(step) + draw.gauss(0, 0.05)
        out.append(row)
    return out


def test_drift_without_a_gain_is_unpaid() -> None:
    assert unpaid(drifting(lambda t: 0.02 * t, lambda t: 0.3))[0] in range(38, 50)


def test_several_nats_are_fine_while_the_reward_rises() -> None:
    assert unpaid(drifting(lambda t: 0.04 * t, lambda t: 0.3 + 0.01 * t)) == []


def test_what_was_paid_stays_paid_but_more_is_not() -> None:
    def kl(step: int) -> float:
        return min(0.04 * step, 2.0) if step < 90 else 2.0 + 0.1 * (step - 90)

    found = unpaid(drifting(kl, lambda t: 0.3 + 0.01 * min(t, 60), n=130))
    assert found and min(found) in range(98, 112)


def test_no_reward_excuses_the_ceiling() -> None:
    condition = UnpaidDrift(("kl",))
    for step, row in enumerate(drifting(lambda t: 0.5 * t, lambda t: 0.3 + 0.02 * t)):
        finding = condition.judge(step, row)
    assert finding.breached and finding.critical and finding.threshold == 10.0


def test_without_rewards_only_large_drift_counts() -> None:
    assert unpaid(drifting(lambda t: 1.5)) == []
    assert unpaid(drifting(lambda t: 2.5))


def test_the_users_limit_replaces_all_others() -> None:
    assert unpaid(drifting(lambda t: 0.02 * t, lambda t: 0.3 + 0.02 * t), threshold=0.5)[0] in range(26, 32)


def test_sums_over_a_response_have_their_own_scale() -> None:
    assert unpaid([{SUM: 10.0, REWARD: 0.3}] * 60) == []
    assert unpaid([{SUM: 60.0, REWARD: 0.3}] * 60)


def test_constant_zero_is_not_measured() -> None:
    condition = UnpaidDrift(("kl",))
    assert all(condition.judge(step, {"kl": 0.0, REWARD: 0.1}) is None for step in range(50))


def test_one_wild_value_is_smoothed_away() -> None:
    quiet = drifting(lambda t: 5.0 if t == 50 else 0.1, lambda t: 0.3)
    assert len(unpaid(quiet)) <= 2, "which persistence of 3 in 4 drifting does not believe"


def test_the_largest_noise_so_far_decides_what_pays() -> None:
    """A reward that has settled must not pay for drift with a rise that its earlier noise would hide."""
    draw = random.Random(2)
    condition = UnpaidDrift(("kl",))
    for step in range(60):
        condition.judge(step, {"kl": 0.1, REWARD: 0.3 + draw.gauss(0, 0.3)})
    noise, paid = condition.noise, condition.paid_at
    for step in range(60, 400):
        condition.judge(step, {"kl": 3.0, REWARD: paid + 0.2 * noise})
    assert condition.reward.noise < 0.1 * noise, "its noise now"
    assert condition.noise >= noise and condition.paid_kl < 1.0


def test_a_share_is_known_with_the_first_value_and_more_exact_with_the_next() -> None:
    share = ShareOfStart(early=5, span=1.0)
    values = (4.0, 2.0, 2.0, 2.0, 9.0, 1.0)
    assert [share.add(value) for value in values] == pytest.approx([1.0, 2 / 3, 1.0, 1.0, 4.5, 0.5])
    share = ShareOfStart(early=5, span=1.0)
    assert [share.add(value) for value in (4.0, 0.4, 0.4, 0.4, 0.4, 0.4)] == pytest.approx([1.0, *[0.1] * 5])
    assert [ShareOfStart(early=1).add(value) for value in (0.0, -1.0)] == [None, None], "no share of nothing"


def test_drift_is_clear_from_seven_tenths_of_its_limit_down() -> None:
    condition = UnpaidDrift(("kl",), threshold=1.0)
    found = [condition.judge(step, {"kl": value}) for step, value in enumerate([0.7] * 3 + [0.8] * 20)]
    assert found[0].clear and not found[-1].clear and not found[-1].breached
    found = [condition.judge(step, {"kl": 3.0}) for step in range(40)]
    assert found[-1].breached and not found[-1].critical


def test_there_is_no_share_of_a_start_of_0(findings) -> None:
    found = findings(FromStart(("x",), direction="up", share=2.0), [0.0] * 8 + [5.0] * 5)
    assert not any(f.breached or f.judged for f in found)
    assert findings(FromStart(("x",), direction="up", share=2.0, change=1.0), [0.0] * 8 + [5.0])[-1].breached


def test_a_collapse_is_over_when_the_values_are_back() -> None:
    condition = Collapse(("e",), diversity_keys=("d",), spread_keys=("s",))
    found = []
    for left in [1.0] * 10 + [0.0] * 20 + [0.2] * 20 + [0.6] * 20:
        found.append(condition.judge(0, {"e": left, "d": left, "s": left}))
    assert found[29].breached and not found[29].clear
    assert not found[49].breached and not found[49].clear, "a fifth of the start is not back"
    assert found[-1].clear
    assert found[29].evidence["lost"] == "entropy 0%, diversity 0%, reward spread 0%"


def test_the_smoothed_divergence_is_what_is_quoted() -> None:
    condition = UnpaidDrift(("kl",), threshold=0.75, zero_is_missing=False)
    for step, value in enumerate([1.0] * 10 + [0.4]):
        found = condition.judge(step, {"kl": value})
    assert found.breached and found.value == pytest.approx(0.8) and found.value > found.threshold
    assert (found.now, found.averaged_rows) == (0.4, 5.0)


@pytest.mark.parametrize(
    ("values", "onset"),
    [
        ([305.0] + [20.0] * 20, 1),
        ([139.0, 142.0, 135.0, 140.0, 138.0] + [14.0] * 20, 5),
        ([139.0, 110.0, 80.0, 55.0, 35.0, 20.0] + [14.0] * 20, 5),
    ],
)
def test_a_collapse_among_the_first_values_is_held_to_those_before_it(findings, values, onset) -> None:
    condition = FromStart(("x",), direction="down", share=0.8, change=5.0, span=4.0)
    found = findings(condition, values)
    first = next(i for i, finding in enumerate(found) if finding.breached)
    assert onset <= first <= onset + 5
    assert found[first].evidence["start"] >= 110.0
    assert all(finding.breached for finding in found[first:])


def test_an_explosion_of_the_second_value_is_found(findings) -> None:
    found = findings(FromStart(("x",), direction="up", share=2.0, change=100.0, span=4.0), [305.0] + [1000.0] * 20)
    assert breaches(findings, FromStart(("x",), direction="up", share=2.0), [305.0] + [930.0] * 9) == list(range(1, 10))
    assert found[-1].breached and found[-1].evidence["start"] == 305.0


@pytest.mark.parametrize("dip", [1, 3, 12])
def test_a_dip_that_recovers_is_no_new_start(findings, dip: int) -> None:
    values = [305.0] * dip + [40.0] * 10 + [600.0] * 30
    up = FromStart(("x",), direction="up", share=2.0, change=100.0, span=4.0)
    assert breaches(findings, up, values) == []
    down = FromStart(("x",), direction="down", share=0.8, change=5.0, span=4.0)
    assert set(breaches(findings, down, values)) <= set(range(dip, dip + 12)), "over when the length is back"


def test_noise_among_the_first_values_is_no_fault(findings) -> None:
    draw = random.Random(1)
    for _ in range(200):
        values = [100.0 * 2 ** draw.gauss(0, 0.4) for _ in range(20)]
        for direction, share in (("down", 0.8), ("up", 2.0)):
            condition = FromStart(("x",), direction=direction, share=share, span=4.0)
            assert breaches(findings, condition, values) == []


def test_a_tight_limit_waits_for_the_start(findings) -> None:
    tight = FromStart(("x",), direction="up", share=0.05)
    assert breaches(findings, tight, [1.0, 1.2, 1.1, 1.15, 1.2, 1.1, 1.2, 1.1, 1.15, 1.3]) == [9]


@pytest.mark.parametrize("cut", [1, 3, 7, 12])
def test_a_start_that_is_not_complete_goes_on_after_a_restart(findings, cut: int) -> None:
    values = [139.0, 142.0, 20.0, 140.0, 14.0, 14.0, 13.0, 15.0, 14.0, 13.0, 14.0, 14.0, 14.0]
    whole, before, after = (FromStart(("x",), direction="down", share=0.8) for _ in range(3))
    expected = findings(whole, values)
    findings(before, values[:cut])
    after.load_state(json.loads(json.dumps(before.state())))
    assert findings(after, values[cut:]) == expected[cut:]
