"""Lost variety, with and without success."""

from __future__ import annotations

from rldk_tracking.health.conditions.collapse import Collapse

ENTROPY, UNIQUE, STD, MEAN = "h", "rldk/diversity/unique_fraction", "rldk/reward/std", "rldk/reward/mean"


def judged(rows):
    condition = Collapse((ENTROPY,))
    return [condition.judge(step, row) for step, row in enumerate(rows)], condition


BEFORE = [{ENTROPY: 1.0, UNIQUE: 0.9, STD: 0.3, MEAN: 0.4}] * 20


def test_two_lost_quantities_are_a_collapse() -> None:
    found, condition = judged(BEFORE + [{ENTROPY: 0.01, UNIQUE: 0.02, STD: 0.3, MEAN: 0.2}] * 20)
    assert not any(f.breached for f in found[:20] if f) and found[-1].breached
    assert condition.risk > 0.6
    assert found[-1].evidence["entropy left"] < 0.05


def test_one_is_not() -> None:
    found, _ = judged(BEFORE + [{ENTROPY: 0.01, UNIQUE: 0.9, STD: 0.3, MEAN: 0.2}] * 20)
    assert not any(f.breached for f in found if f)


def test_tied_groups_are_a_lost_spread() -> None:
    lost = {ENTROPY: 0.01, UNIQUE: 0.9, STD: 0.3, MEAN: 0.2, "rldk/reward/group_tied_fraction": 1.0}
    assert judged(BEFORE + [lost] * 20)[0][-1].breached


def test_success_loses_the_same_and_is_no_collapse() -> None:
    climb = [{ENTROPY: 1 - t / 40, UNIQUE: 0.9 - t / 50, STD: 0.3, MEAN: 0.4 + 0.6 * t / 40} for t in range(40)]
    found, condition = judged(BEFORE + climb + [{ENTROPY: 0.01, UNIQUE: 0.03, STD: 0.0, MEAN: 1.0}] * 20)
    assert not any(f.breached for f in found if f)
    assert condition.risk == 0.0


def test_one_known_quantity_is_not_enough_for_a_verdict() -> None:
    found, condition = judged([{ENTROPY: 0.01, MEAN: 0.2}] * 30)
    assert found == [None] * 30 and condition.risk is None
