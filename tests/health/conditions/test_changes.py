"""Changes against what is normal for the run: jumps and lasting falls."""

from __future__ import annotations

import random

import pytest

from rldk_tracking.health.conditions.changes import Drop, Jump, RateResponse


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


@pytest.mark.parametrize(("value", "breached", "clear"), [(0.9, False, True), (5.5, False, False), (9.0, True, False)])
def test_what_values_scatter_by_makes_a_small_floor_wider(value: float, breached: bool, clear: bool, findings) -> None:
    found = findings(Jump(("x",), z=4.0, floor=1.0), [*([-1.0, 0.0, 1.0, -2.0, 2.0] * 12), value])[-1]
    assert (found.breached, found.clear) == (breached, clear), "the margin is 4 x 1.48"


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


def drops(findings, values, **options) -> list[int]:
    return [i for i, f in enumerate(findings(Drop(("x",), **options), values)) if f.breached]


def noisy(level: float, noise: float, n: int, draw: random.Random, correlation: float = 0.6) -> list[float]:
    value, out = 0.0, []
    for _ in range(n):
        value = correlation * value + (1 - correlation**2) ** 0.5 * draw.gauss(0, noise)
        out.append(level + value)
    return out


@pytest.mark.parametrize("seed", range(10))
def test_a_collapse_is_seen_within_a_few_rows(findings, seed: int) -> None:
    draw = random.Random(seed)
    found = drops(findings, noisy(0.8, 0.08, 60, draw) + noisy(0.05, 0.02, 30, draw))
    assert found and 60 <= found[0] <= 66


def test_a_collapse_in_the_first_rows_is_seen(findings) -> None:
    assert drops(findings, [0.95, 0.95, 0.9, 0.6, 0.3, *[0.0] * 8])


def test_a_slow_fall_is_held_to_the_best_level(findings) -> None:
    draw = random.Random(3)
    falling = [0.9 - 0.004 * i + draw.gauss(0, 0.03) for i in range(200)]
    assert drops(findings, [0.9 + draw.gauss(0, 0.03) for _ in range(40)] + falling)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize("level", [-2.0, 0.0, 0.4, 5.0])
def test_a_plateau_of_noise_does_not_fall(findings, level: float, correlation: float) -> None:
    alarmed = 0
    for seed in range(40):
        values = noisy(level, 0.3, 300, random.Random(seed), correlation)
        alarmed += bool(drops(findings, values))
    assert alarmed <= 2, f"{alarmed} of 40 healthy runs"


def test_rare_far_values_are_no_fall(findings) -> None:
    draw = random.Random(5)
    assert not drops(findings, [draw.choice([-2.6] * 6 + [-6.0, 0.5]) for _ in range(400)])


def test_the_fall_must_be_large_beside_the_value_itself(findings) -> None:
    assert not drops(findings, [-0.1] * 40 + [-0.106] * 20)


def test_an_origin_can_be_given(findings) -> None:
    values = [10.0] * 40 + [7.0] * 20
    assert not drops(findings, values)
    assert drops(findings, values, origin=5.0)


def test_critical_share(findings) -> None:
    found = findings(Drop(("x",), critical_share=0.8), [1.0] * 40 + [0.4] * 20 + [0.0] * 20)
    assert not any(f.critical for f in found[:60]) and found[-1].critical
    assert not findings(Drop(("x",), critical_share=0.8), [10.0] * 40 + [4.0] * 20)[-1].critical


def test_it_clears_when_the_value_is_back(findings) -> None:
    found = findings(Drop(("x",)), [1.0] * 40 + [0.0] * 10 + [1.0] * 20)
    assert found[49].breached and not found[49].clear and found[-1].clear


def test_only_jumps_in_a_row_are_a_new_level(findings) -> None:
    jump = Jump(("x",), accept_after=20)
    found = findings(jump, noise(60) + ([100.0] * 19 + [10.0]) * 3)
    assert found[-2].breached and found[-2].evidence["normal"] < 11


def test_the_slow_beginning_of_a_jump_does_not_become_normal(findings) -> None:
    jump = Jump(("x",), z=8.0)
    findings(jump, [*noise(60), 15.0, 16.0, 17.0, 100.0])
    assert max(jump.baseline.values) < 14.0
    findings(jump, [10.0] * 4)
    assert max(jump.baseline.values) < 14.0


def test_a_fall_below_the_floor_does_not_matter(findings) -> None:
    values = [1.0] * 40 + [0.0] * 20
    assert drops(findings, values)
    assert not drops(findings, values, floor=1.1)


def test_the_limit_of_a_fall_is_below_the_best(findings) -> None:
    found = findings(Drop(("x",)), [1.0] * 40 + [0.0] * 20)
    assert found[-1].threshold == pytest.approx(1.0 - 0.35)
    assert found[-1].evidence["best"] == 1.0 and found[-1].value == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(("level", "direction", "limit"), [(10.0, "up", 30.0), (-10.0, "up", 10.0), (9.0, "down", 3.0)])
def test_a_ratio_is_of_the_medians_size(findings, level: float, direction: str, limit: float) -> None:
    found = findings(Jump(("x",), direction=direction, ratio=3.0), [level] * 30)
    assert found[-1].threshold == pytest.approx(limit)


def test_the_first_judgement_is_with_the_first_full_baseline(findings) -> None:
    """Three values wait before they count."""
    assert not findings(Jump(("x",), minimum=16), [*[1.0] * 18, 1e9])[-1].breached
    assert findings(Jump(("x",), minimum=16), [*[1.0] * 19, 1e9])[-1].breached


def test_zeros_are_no_baseline_for_a_multiple(findings) -> None:
    """Steps without signal, then the first ones that learn: "usually 0" is no usual size."""
    limits = {"z": 12.0, "ratio": 10.0, "floor": 0.003}
    found = findings(Jump(("x",), **limits), [0.0] * 20 + [0.071, 0.0, 0.06] + [0.05] * 30 + [2.0])
    assert [i for i, f in enumerate(found) if f.breached] == [53]
    assert found[-1].evidence["normal"] == 0.05
    assert not found[20].judged and found[53].judged
    mostly = findings(Jump(("x",), **limits), [0.0, 0.0, 0.05] * 40 + [2.0])
    assert mostly[-1].breached and mostly[-1].evidence["normal"] == 0.05
    absolute = findings(Jump(("x",), z=12.0, floor=0.003), [0.0] * 20 + [0.071])
    assert absolute[-1].breached, "a change in the unit of the value needs no usual size"


def test_a_level_that_became_normal_is_not_clear_before_the_value_is_back(findings) -> None:
    high, back = noise(60, 1, mean=100.0), noise(10, 2)
    found = findings(Jump(("x",), accept_after=20), noise(60) + high + back)
    assert not any(f.breached for f in found[80:120])
    assert not any(f.clear for f in found[60:120]) and all(f.clear for f in found[120:])


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


@pytest.mark.parametrize("row", [1, 5, 7, 8, 63])
def test_a_burst_is_found_before_there_is_a_baseline(findings, row: int) -> None:
    rule = {"z": 12.0, "ratio": 10.0, "floor": 10.0, "product": 1500.0, "minimum": 8}
    values = [0.5, 0.6, 0.4, 0.5] * 20
    values[row] = 40.0
    judged = findings(Jump(("x",), early_ratio=20.0, **rule), values)
    assert [i for i, finding in enumerate(judged) if finding.breached] == [row]
    waiting = findings(Jump(("x",), **rule), values)
    assert any(finding.breached for finding in waiting) is (row > 10)


def test_first_values_that_decay_are_no_burst(findings) -> None:
    values = [30.0, 12.0, 2.0, 5.0, 12.0, 1.0, 1.0, 6.0, 1.0] + [1.0] * 20
    jump = Jump(("x",), z=12.0, ratio=10.0, floor=10.0, product=1500.0, minimum=8, early_ratio=20.0)
    assert not any(finding.breached for finding in findings(jump, values))
