"""What the reward still tells: ties by chance, lost signal, solved."""

from __future__ import annotations

import random

import pytest

from rldk_tracking.health.conditions.reward_signal import TiedGroups
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()
LENGTH = "rldk/length/mean"
TIED, MEAN, STD, WITHIN = "tied", "rldk/reward/mean", "rldk/reward/std", "rldk/reward/group_std_mean"


def breaches(rows, solved: bool = False, **options) -> list[int]:
    condition = TiedGroups((TIED,), solved=solved, **options)
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
    assert breaches([{MEAN: 0.5}] * 60)[0] == 39, "the same number in 40 rows"
    assert breaches([{MEAN: draw.gauss(0.5, 0.1)} for _ in range(50)] + [{MEAN: 0.5}] * 20)[0] < 70
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
    condition = TiedGroups((TIED,), solved=False)
    assert condition.judge(0, {"loss": 1.0}) is None


def test_the_half_that_is_not_reported_is_clear() -> None:
    rows = climbing() + [{TIED: 1.0, MEAN: 1.0, STD: 0.0}] * 20
    for solved in (False, True):
        condition = TiedGroups((TIED,), solved=solved)
        last = [condition.judge(step, row) for step, row in enumerate(rows)][-1]
        assert (last.breached, last.clear) == (solved, not solved)


def test_the_mean_share_is_a_plain_mean_at_first() -> None:
    condition = TiedGroups((TIED,), solved=False)
    shares = [row[TIED] for row in usual(25)]
    for step, share in enumerate(shares):
        finding = condition.judge(step, {TIED: share})
        assert finding.evidence["tied"] == pytest.approx(sum(shares[: step + 1]) / (step + 1))


def test_rows_in_a_row_count_from_nearly_all_on() -> None:
    condition = TiedGroups((TIED,), solved=False, nearly_all=0.875)
    counts = [condition.judge(i, {TIED: v}).evidence["rows_in_a_row"] for i, v in enumerate([0.875, 1.0, 0.86, 0.9])]
    assert counts == [1, 2, 0, 1]


@pytest.mark.parametrize("level", [0.0, -3.0, 0.5])
def test_the_usual_mean_is_that_of_most_rows(level: float) -> None:
    condition = TiedGroups((TIED,), solved=False)
    for step, mean in enumerate([*[level] * 10, *[0.7] * 4]):
        condition.judge(step, {MEAN: mean, LENGTH: step})
    assert condition.usual == level
    for step in range(14, 22):
        condition.judge(step, {MEAN: 0.7, LENGTH: step})
    assert condition.usual == 0.7


def test_a_mean_share_above_its_limit_is_not_clear_though_this_row_is_fine() -> None:
    condition = TiedGroups((TIED,), solved=False)
    for step in range(60):
        condition.judge(step, {TIED: 1.0})
    finding = condition.judge(60, {TIED: 0.1})
    assert finding.evidence["tied"] > 0.9 and not finding.clear
    for step in range(61, 80):
        finding = condition.judge(step, {TIED: 0.1})
    assert finding.evidence["tied"] < 0.75 and finding.clear


def test_how_often_the_usual_mean_is_met_and_how_far_the_others_are() -> None:
    condition = TiedGroups((TIED,), solved=False)
    met = far = 0.0
    for step, mean in enumerate([1.0, 1.0, 1.0, 3.0] * 20):
        condition.judge(step, {MEAN: mean, LENGTH: step})
        if step > 0:
            met, far = met + 0.05 * ((mean == 1.0) - met), far + 0.05 * (abs(mean - 1.0) - far)
    assert (condition.at_usual, condition.off_usual) == (pytest.approx(met), pytest.approx(far))


def sentence_of(rows) -> str:
    engine, alerts = Engine([RULES["reward.no_signal"]]), []
    for step, row in enumerate(rows):
        alerts += engine.update(step, row)
    return alerts[0].message if alerts else ""


def test_it_is_said_what_was_seen() -> None:
    assert "100% of the last 40 rows have the same mean reward, 0.5, since step" in sentence_of([{MEAN: 0.5}] * 60)
    spread = [{MEAN: row[MEAN], STD: row[STD]} for row in usual(40)] + [{MEAN: 0.5, STD: 0.0}] * 20
    assert "100% of the rows have rewards without any spread since step" in sentence_of(spread)
    share = usual(40) + [{"rldk/reward/group_tied_fraction": 1.0, MEAN: 0.5}] * 20
    assert "100% of the groups have completions of equal reward since step" in sentence_of(share)


@pytest.mark.parametrize("per_rollout", [2, 4, 16])
@pytest.mark.parametrize("witness", [STD, LENGTH, None])
def test_rows_that_show_one_rollout_again_count_once(per_rollout: int, witness: str | None) -> None:
    draw = random.Random(0)
    rollouts = [{MEAN: draw.gauss(0.4, 0.05)} | ({witness: draw.uniform(1, 2)} if witness else {}) for _ in range(40)]
    assert breaches([row for row in rollouts for _ in range(per_rollout)]) == []
    stands = [{MEAN: 0.4} | ({witness: 0.0} if witness == STD else {})] * (10 * per_rollout)
    found = breaches([row for row in rollouts for _ in range(per_rollout)] + stands)
    assert found and found[0] < (40 + 6) * per_rollout


def test_one_rollout_of_tied_groups_shown_many_times_is_one() -> None:
    """One prompt a rollout, tied half of the time but not in the first, and 16 rows of each."""
    draw = random.Random(3)
    rollouts = [{TIED: float(i > 0 and draw.random() < 0.5), MEAN: draw.random(), LENGTH: 90.0 + i} for i in range(60)]
    assert breaches([row for row in rollouts for _ in range(16)]) == []


@pytest.mark.parametrize(
    "contradicts",
    [
        {"rldk/advantage/std": lambda step: 1.0},
        {"rldk/grad/norm": lambda step: 1.0 + 0.1 * (step % 3)},
        {"rldk/reward/function/a/mean": lambda step: 0.1 * (step % 3)},
        {STD: lambda step: 0.3},
    ],
)
def test_a_mean_that_repeats_is_no_tie_where_something_contradicts(contradicts) -> None:
    rows = [{MEAN: 0.5} | {key: value(step) for key, value in contradicts.items()} for step in range(100)]
    assert breaches(rows) == []


def test_spread_0_and_length_at_its_limit_row_after_row_are_no_single_rollout() -> None:
    dead = {TIED: 1.0, MEAN: -0.7, WITHIN: 0.0, LENGTH: 256.0, "rldk/length/truncated_fraction": 1.0}
    rows = [dead] * 5 + [{**dead, MEAN: -0.68, TIED: 0.5, WITHIN: 0.02}] + [dead] * 20
    assert breaches(rows)[0] < 20


def test_a_task_of_which_a_part_never_gave_anything_is_not_solved() -> None:
    """The total is tied at its ceiling."""
    parts = {"rldk/reward/function/form/mean": 1.0, "rldk/reward/function/task/mean": 0.0}
    solved = climbing() + [{TIED: 1.0, MEAN: 1.0, STD: 0.0}] * 20
    rows = [row | parts for row in solved]
    assert not breaches(rows, solved=True) and breaches(rows, solved=False)
    both = [row | dict.fromkeys(parts, 1.0) for row in solved]
    assert breaches(both, solved=True) and not breaches(both, solved=False)
