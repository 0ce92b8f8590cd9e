"""The answer to a learning rate that was raised."""

from __future__ import annotations

import random

import pytest

from rldk_tracking.health.conditions.rate_response import RateResponse

RATE, LOSS, KL = "lr", "rldk/train/loss", "rldk/kl/ref_k3"


def rows(rates, loss=lambda t: 0.0, seed: int = 0):
    draw = random.Random(seed)
    return [{RATE: rate, LOSS: 1.0 + draw.gauss(0, 0.1) + loss(t), KL: 0.1} for t, rate in enumerate(rates)]


def responses(given, **options) -> list[int]:
    condition = RateResponse((RATE,), **options)
    return [t for t, row in enumerate(given) if condition.judge(t, row).breached]


def test_an_answer_soon_after_a_rise() -> None:
    found = responses(rows([1e-5] * 50 + [1e-4] * 30, lambda t: 5.0 if 52 <= t < 60 else 0.0))
    assert found == list(range(52, 60))


def test_neither_a_rise_without_answer_nor_an_answer_without_rise() -> None:
    assert responses(rows([1e-5] * 50 + [1e-4] * 50)) == []
    assert responses(rows([1e-5] * 100, lambda t: 5.0 if t > 50 else 0.0)) == []


def test_an_answer_that_comes_too_late_has_another_cause() -> None:
    assert responses(rows([1e-5] * 50 + [1e-4] * 80, lambda t: 5.0 if t > 100 else 0.0)) == []


def test_a_warm_up_is_no_rise() -> None:
    warm_up = [1e-5 * min(1.0, 4.0 ** (t - 10)) for t in range(60)]
    assert responses(rows(warm_up, lambda t: 5.0 if 8 <= t < 30 else 0.0)) == []


def test_it_lasts_as_long_as_the_answer() -> None:
    given = rows([1e-5] * 50 + [1e-4] * 60, lambda t: 5.0 if t >= 52 else 0.0)
    assert responses(given) == list(range(52, 110))


def test_a_rise_to_far_below_the_highest_rate_is_a_warm_up() -> None:
    given = rows([1e-4] * 30 + [1e-6] * 30 + [1e-5] * 30, lambda t: 5.0 if 62 <= t < 70 else 0.0)
    assert responses(given) == []
    assert responses(given, settled=0.001) == list(range(62, 70))


def test_the_rows_before_a_rise_do_not_blur_what_its_answer_is_held_to() -> None:
    condition = RateResponse((RATE,))
    for t, row in enumerate([{RATE: 1e-5, LOSS: 1.0}] * 20 + [{RATE: 1e-5, LOSS: 9.0}] * 3 + [{RATE: 1e-4, LOSS: 1.0}]):
        condition.judge(t, row)
    assert not condition.baselines[LOSS].waiting


def test_a_series_that_is_usually_0_does_not_answer() -> None:
    given = [{RATE: rate, LOSS: loss} for rate, loss in [(1e-5, 0.0)] * 30 + [(1e-4, 1e-9)] * 10]
    assert responses(given) == []


def test_the_alert_names_both_rates_and_what_answered() -> None:
    condition = RateResponse((RATE,))
    for t, row in enumerate(rows([1e-5] * 50 + [1e-4] * 3 + [2e-5] * 10, lambda t: 5.0 if t >= 52 else 0.0)):
        found = condition.judge(t, row)
        assert found is not None and (found.breached, found.judged) == (t >= 52, t >= 10)  # three values wait
    assert found is not None and found.value == 1e-4 and found.threshold == pytest.approx(3e-5)
    assert found.evidence is not None and found.evidence["answering"] == "the loss"
    assert (found.evidence["before"], found.evidence["rise"]) == (1e-5, pytest.approx(10.0))
    assert found.evidence["usual"] == pytest.approx(1.0, abs=0.1)
    assert found.evidence["reached"] == pytest.approx(6.0, abs=0.5)
