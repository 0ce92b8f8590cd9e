"""Which key is read, that a constant 0 is not a measurement, and what a direction is."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from rldk_tracking.health.conditions.base import REWARD_MEAN, TIED_AT_TOP, Condition, Finding, Progress, Row, sign_of


@dataclass(eq=False)
class Reader(Condition):
    zero_is_missing: bool = False

    def judge(self, step: int, row: Row) -> Finding | None:
        value = self.read(row)
        return None if value is None else Finding(False, True, value, key=self.key)


def test_the_first_key_that_appears_is_kept() -> None:
    reader = Reader(("a", "b"))
    assert reader.judge(0, {"c": 1.0}) is None
    assert reader.judge(1, {"b": 2.0}).value == 2.0
    assert reader.judge(2, {"a": 3.0}) is None, "another estimator of the quantity"
    assert reader.judge(3, {"a": 3.0, "b": 4.0}).value == 4.0


def test_the_preferred_key_wins_in_one_row() -> None:
    assert Reader(("a", "b")).judge(0, {"b": 1.0, "a": 2.0}).key == "a"


def test_zeros_count_once_something_else_was_seen() -> None:
    reader = Reader(("a",), zero_is_missing=True)
    read = [reader.judge(i, {"a": v}) for i, v in enumerate([0.0, 0.0, 0.5, 0.0])]
    assert [finding and finding.value for finding in read] == [None, None, 0.5, 0.0]
    assert Reader(("a",)).judge(0, {"a": 0.0}).value == 0.0


def test_direction_is_checked() -> None:
    with pytest.raises(ValueError, match="sideways"):
        sign_of("sideways")


STD = "rldk/reward/std"


def fed(rows: list[dict[str, float]], **options: float) -> Progress:
    progress = Progress(**options)
    for row in rows:
        progress.add(row)
    return progress


def climb(last: float = 1.0, steps: int = 60) -> list[dict[str, float]]:
    return [{REWARD_MEAN: 0.2 + (last - 0.2) * i / steps, STD: 0.3} for i in range(steps)] + [
        {REWARD_MEAN: last, STD: 0.05}
    ] * 10


def test_a_climb_that_stays_at_its_best_is_solved() -> None:
    progress = fed(climb())
    assert progress.climbed and progress.at_best and progress.solved and progress.excuses
    assert not progress.at_lowest


def test_not_where_the_ties_are_below_the_top() -> None:
    assert not fed([{**row, TIED_AT_TOP: 0.1} for row in climb()]).solved
    assert fed([{**row, TIED_AT_TOP: 0.9} for row in climb()]).solved


def test_a_rise_within_the_spread_of_single_rewards_is_no_climb() -> None:
    progress = fed(climb(last=0.4))
    assert not progress.climbed and not progress.solved


def binary(chances: list[float], seed: int, completions: int = 64) -> Progress:
    """Of rewards that are 0 or 1, of so many completions."""
    draw, rows = random.Random(seed), []
    for chance in chances:
        mean = sum(draw.random() < chance for _ in range(completions)) / completions
        rows.append({REWARD_MEAN: mean, STD: (mean * (1 - mean)) ** 0.5, TIED_AT_TOP: mean**8})
    return fed(rows)


def test_what_goes_on_learning_loses_nothing() -> None:
    """Half of single rewards' spread is no climb, and yet well above what means of 64 completions scatter by."""
    rising = [0.3 + 0.25 * row / 150 for row in range(150)]
    assert all(binary(rising, seed).excuses for seed in range(30))
    assert sum(binary(rising + [0.55] * 150, seed).excuses for seed in range(30)) <= 8, "it has stopped"
    assert sum(binary([0.3] * 150, seed).excuses for seed in range(30)) == 0
    assert not any(binary(rising + [0.35] * 20, seed).excuses for seed in range(30)), "most of it is lost"
    most = [0.55 + 0.3 * row / 60 for row in range(60)] + [0.85] * 150
    assert all(binary(rising + most, seed).excuses for seed in range(10)), "there is little left to learn"


def test_a_rise_within_what_the_means_scatter_by_excuses_nothing() -> None:
    scattered = [{REWARD_MEAN: 0.3 + 0.2 * (row % 2), STD: 0.4} for row in range(40)]
    assert not fed(scattered + [{REWARD_MEAN: 0.5, STD: 0.4}] * 3).keeps_its_rise


def test_where_rewards_no_longer_differ_a_rise_excuses_nothing() -> None:
    rising = [{REWARD_MEAN: 0.2 + 0.002 * row, STD: 0.3, TIED_AT_TOP: 0.0} for row in range(80)]
    assert fed(rising).excuses
    assert not fed([{**row, STD: 0.3 * 0.9**place} for place, row in enumerate(rising)]).excuses


def test_a_fall_ends_it() -> None:
    progress = fed(climb() + [{REWARD_MEAN: 0.3}] * 10)
    assert progress.climbed and not progress.at_best and not progress.solved
    assert fed(climb() + [{REWARD_MEAN: 0.0}] * 30).at_lowest


def test_a_known_ceiling_decides() -> None:
    assert not fed(climb(), ceiling=2.0).solved
    assert fed(climb(last=1.95), ceiling=2.0).solved


def test_a_reward_that_has_stopped_below_the_top_excuses_nothing() -> None:
    stuck = climb() + [{REWARD_MEAN: 0.9, TIED_AT_TOP: 0.0}] * 40
    assert not fed(stuck).excuses


def test_near_the_ceiling_follows_from_mean_and_spread() -> None:
    assert fed([{REWARD_MEAN: 0.9, STD: 0.3}] * 10).near_ceiling()
    assert not fed([{REWARD_MEAN: 0.1, STD: 0.3}] * 10).near_ceiling()
    assert not fed([{REWARD_MEAN: 0.5, STD: 0.0}] * 10).near_ceiling(), "a constant tells nothing"
    assert not fed([{REWARD_MEAN: -0.5, STD: 0.1}] * 10).near_ceiling()


def test_nothing_is_claimed_without_rewards() -> None:
    progress = fed([{STD: 0.3}])
    assert not (progress.solved or progress.excuses or progress.near_ceiling() or progress.at_best)


def test_a_new_best_gives_the_reward_time_to_rise_further() -> None:
    climbing = [{REWARD_MEAN: 0.2 + 0.02 * i, STD: 0.3, TIED_AT_TOP: 0.0} for i in range(40)]
    progress = fed(climbing)
    assert progress.since_best == 0 and not progress.solved and progress.excuses
    assert fed(climbing + [climbing[-1]] * 18).since_best > 0


def test_a_low_reward_of_few_large_ones_may_be_near_the_ceiling() -> None:
    assert fed([{REWARD_MEAN: 0.1, STD: 0.05}] * 10).near_ceiling(), "0.125 or nothing: four fifths get it"


def test_the_share_of_ties_at_the_top_is_a_mean_over_some_rows() -> None:
    progress = fed([{TIED_AT_TOP: 1.0}] * 20 + [{TIED_AT_TOP: 0.0}])
    assert progress.all_max == pytest.approx(0.8)
    assert fed([{TIED_AT_TOP: 0.0}] * 20 + [{TIED_AT_TOP: 1.0}] * 2).all_max == pytest.approx(0.36)
