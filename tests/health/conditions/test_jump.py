"""Jumps against the run's own past."""

from __future__ import annotations

import random

from rldk_tracking.health.conditions.jump import Jump


def noise(n: int, seed: int = 0, mean: float = 10.0) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, 1.0) for _ in range(n)]


def test_a_jump_is_breached_in_its_own_row(findings) -> None:
    found = findings(Jump(("x",)), [*noise(60), 40.0, *noise(5, 1)])
    assert [i for i, f in enumerate(found) if f.breached] == [60]
    assert 9 < found[60].evidence["normal"] < 11
    assert found[61].clear


def test_nothing_is_judged_before_the_minimum(findings) -> None:
    assert not any(f.breached for f in findings(Jump(("x",), minimum=16), [1.0] * 10 + [1e9]))


def test_a_harmless_wobble_of_a_constant_does_not_count(findings) -> None:
    wobble = [*([1.0] * 50), 1.001]
    assert findings(Jump(("x",)), wobble)[-1].breached
    assert not findings(Jump(("x",), floor=0.1), wobble)[-1].breached
    assert not findings(Jump(("x",), ratio=2.0), wobble)[-1].breached


def test_the_baseline_does_not_follow_a_fault(findings) -> None:
    found = findings(Jump(("x",)), noise(60) + [100.0] * 100)
    assert all(f.breached for f in found[60:])
    assert found[-1].evidence["normal"] < 11


def test_a_level_that_lasts_can_be_accepted(findings) -> None:
    found = findings(Jump(("x",), accept_after=20), noise(60) + noise(60, 1, mean=100.0))
    breached = [i for i, f in enumerate(found) if f.breached]
    assert breached == list(range(60, 80))


def test_downwards(findings) -> None:
    found = findings(Jump(("x",), direction="down", ratio=2.0), [*noise(60), 1.0])
    assert found[-1].breached and found[-1].threshold <= 5.0


def test_the_larger_in_absolute_terms_the_smaller_the_multiple_that_matters(findings) -> None:
    small, large = [0.1] * 40, [10.0] * 40
    limits = {"product": 1000.0, "floor": 0.0}
    assert not findings(Jump(("x",), **limits), [*small, 9.0])[-1].breached  # 90 times, but 9 * 90 < 1000
    assert findings(Jump(("x",), **limits), [*small, 11.0])[-1].breached
    assert not findings(Jump(("x",), **limits), [*large, 90.0])[-1].breached  # 9 times
    assert findings(Jump(("x",), **limits), [*large, 110.0])[-1].breached


def test_a_limit_of_the_users_replaces_all(findings) -> None:
    found = findings(Jump(("x",), threshold=5.0, minimum=16), [4.0, 6.0, 5.0])
    assert [f.breached for f in found] == [False, True, False]


def test_critical_ratio(findings) -> None:
    found = findings(Jump(("x",), critical_ratio=50.0), [*noise(40), 100.0, 10.0, 900.0])
    assert [(f.breached, f.critical) for f in found[-3:]] == [(True, False), (False, False), (True, True)]
