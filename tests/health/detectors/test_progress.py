"""What tells success from collapse."""

from __future__ import annotations

from rldk_tracking.health.detectors.progress import ALL_MAX, MEAN, Progress

STD = "rldk/reward/std"


def fed(rows: list[dict[str, float]], **options: float) -> Progress:
    progress = Progress(**options)
    for row in rows:
        progress.add(row)
    return progress


def climb(last: float = 1.0, steps: int = 60) -> list[dict[str, float]]:
    return [{MEAN: 0.2 + (last - 0.2) * i / steps, STD: 0.3} for i in range(steps)] + [{MEAN: last, STD: 0.05}] * 10


def test_a_climb_that_stays_at_its_best_is_solved() -> None:
    progress = fed(climb())
    assert progress.climbed and progress.at_best and progress.solved and progress.excuses
    assert not progress.at_lowest


def test_not_where_the_ties_are_below_the_top() -> None:
    assert not fed([{**row, ALL_MAX: 0.1} for row in climb()]).solved
    assert fed([{**row, ALL_MAX: 0.9} for row in climb()]).solved


def test_a_rise_within_the_spread_of_single_rewards_is_no_climb() -> None:
    progress = fed(climb(last=0.4))
    assert not progress.climbed and not progress.solved and not progress.excuses


def test_a_fall_ends_it() -> None:
    progress = fed(climb() + [{MEAN: 0.3}] * 10)
    assert progress.climbed and not progress.at_best and not progress.solved
    assert fed(climb() + [{MEAN: 0.0}] * 30).at_lowest


def test_a_known_ceiling_decides() -> None:
    assert not fed(climb(), ceiling=2.0).solved
    assert fed(climb(last=1.95), ceiling=2.0).solved


def test_a_reward_that_has_stopped_below_the_top_excuses_nothing() -> None:
    stuck = climb() + [{MEAN: 0.9, ALL_MAX: 0.0}] * 40
    assert not fed(stuck).excuses


def test_near_the_ceiling_follows_from_mean_and_spread() -> None:
    assert fed([{MEAN: 0.9, STD: 0.3}] * 10).near_ceiling
    assert not fed([{MEAN: 0.1, STD: 0.3}] * 10).near_ceiling
    assert not fed([{MEAN: 0.5, STD: 0.0}] * 10).near_ceiling, "a constant tells nothing"
    assert not fed([{MEAN: -0.5, STD: 0.1}] * 10).near_ceiling


def test_nothing_is_claimed_without_rewards() -> None:
    progress = fed([{STD: 0.3}])
    assert not (progress.solved or progress.excuses or progress.near_ceiling or progress.at_best)
