"""Standing still, and the answer to a learning rate."""

from __future__ import annotations

import random

from rldk_tracking.health.conditions.motion import RateResponse, Still

RATE, LOSS, KL = "lr", "rldk/train/loss", "rldk/kl/ref_k3"


def test_a_zero_is_reported_with_its_key() -> None:
    still = Still(("a", "b"))
    finding = still.judge(0, {"a": 1.0, "b": 0.0})
    assert (finding.breached, finding.key, finding.value) == (True, "b", 0.0)
    assert still.judge(1, {"a": 1.0, "b": 1e-12}).clear
    assert still.judge(2, {"c": 0.0}) is None


def test_another_cause_is_left_to_its_rule() -> None:
    still = Still(("a",), unless_above={"tied": 0.5})
    assert not still.judge(0, {"a": 0.0, "tied": 0.9}).breached
    assert still.judge(1, {"a": 0.0, "tied": 0.5}).breached
    assert still.judge(2, {"a": 0.0}).breached


def test_zeros_that_a_log_rounded_are_no_schedule() -> None:
    still = Still(("a",), after_motion=True)
    assert [still.judge(i, {"a": v}).breached for i, v in enumerate([0.0, 0.0, 1e-6, 0.0])] == [False] * 3 + [True]


def rows(rates, loss=lambda t: 0.0, seed: int = 0):
    draw = random.Random(seed)
    return [{RATE: rate, LOSS: 1.0 + draw.gauss(0, 0.1) + loss(t), KL: 0.1} for t, rate in enumerate(rates)]


def breaches(given, **options) -> list[int]:
    condition = RateResponse((RATE,), **options)
    return [t for t, row in enumerate(given) if condition.judge(t, row).breached]


def test_an_answer_soon_after_a_rise() -> None:
    found = breaches(rows([1e-5] * 50 + [1e-4] * 30, lambda t: 5.0 if 52 <= t < 60 else 0.0))
    assert found == list(range(52, 60))


def test_neither_a_rise_without_answer_nor_an_answer_without_rise() -> None:
    assert breaches(rows([1e-5] * 50 + [1e-4] * 50)) == []
    assert breaches(rows([1e-5] * 100, lambda t: 5.0 if t > 50 else 0.0)) == []


def test_an_answer_that_comes_too_late_has_another_cause() -> None:
    assert breaches(rows([1e-5] * 50 + [1e-4] * 80, lambda t: 5.0 if t > 100 else 0.0)) == []


def test_a_warm_up_is_no_rise() -> None:
    warm_up = [1e-5 * min(1.0, 4.0 ** (t - 10)) for t in range(60)]
    assert breaches(rows(warm_up, lambda t: 5.0 if 8 <= t < 30 else 0.0)) == []


def test_it_lasts_as_long_as_the_answer() -> None:
    given = rows([1e-5] * 50 + [1e-4] * 60, lambda t: 5.0 if t >= 52 else 0.0)
    assert breaches(given) == list(range(52, 110))
