"""What no single value shows: lasting shifts in autocorrelated noise, slowdowns, steady growth."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.conditions.shifts import Cusum, Growth, Shift, Slowdown, inflation


def autoregression(n: int, correlation: float, seed: int) -> list[float]:
    draw = random.Random(seed)
    value, out = draw.gauss(0, 1), []
    for _ in range(n):
        out.append(value)
        value = correlation * value + (1 - correlation**2) ** 0.5 * draw.gauss(0, 1)
    return out


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_at_most_one_healthy_run_in_twenty_alarms(findings, correlation: float) -> None:
    alarmed = 0
    for seed in range(40):
        values = [10 + value for value in autoregression(500, correlation, seed)]
        alarmed += any(f.breached for f in findings(Shift(("x",)), values))
    assert alarmed <= 2


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_shift_of_three_deviations_is_seen(findings, direction: str) -> None:
    delays = []
    for seed in range(20):
        values = autoregression(160, 0.0, seed)
        shift = 3.0 if direction == "up" else -3.0
        values = [10 + value + (shift if i >= 100 else 0) for i, value in enumerate(values)]
        found = findings(Shift(("x",), direction=direction), values)
        seen = [i for i, f in enumerate(found) if f.breached]
        if seen and seen[0] >= 100:
            delays.append(seen[0] - 100)
    assert len(delays) >= 14
    assert statistics.median(delays) <= 8


def test_the_shift_must_be_large_enough_to_matter(findings) -> None:
    values = [10 + 0.01 * value for value in autoregression(100, 0.0, 0)] + [10.5] * 50
    assert any(f.breached for f in findings(Shift(("x",)), values))
    assert not any(f.breached for f in findings(Shift(("x",), share=0.2), values))


def test_one_wild_value_is_no_shift(findings) -> None:
    values = [10 + value for value in autoregression(100, 0.0, 1)]
    values[70] = 1e6
    assert not any(f.breached for f in findings(Shift(("x",)), values))


def test_rates_are_judged_in_proportion(findings) -> None:
    values = [1000 * 2 ** (0.1 * value) for value in autoregression(100, 0.3, 2)] + [400.0] * 30 + [0.0]
    found = findings(Shift(("x",), direction="down", share=1.0, log=True), values)
    assert found[-1] is None
    assert found[-2].breached and found[-2].threshold == pytest.approx(found[-2].evidence["normal"] / 2)


def test_another_series_can_be_asked_to_agree() -> None:
    values = [10 + value for value in autoregression(100, 0.0, 3)] + [16.0] * 40
    for other, expected in ((5.0, False), (9.0, True)):
        condition = Shift(("x",), share=0.2, agree="y")
        found = [condition.judge(i, {"x": v, "y": 5.0 if i < 100 else other}) for i, v in enumerate(values)]
        assert any(f.breached for f in found) is expected


def test_a_new_level_can_be_accepted(findings) -> None:
    values = [10 + value for value in autoregression(100, 0.0, 4)]
    values += [20 + value for value in autoregression(150, 0.0, 5)]
    found = findings(Shift(("x",), accept_after=50), values)
    assert any(f.breached for f in found[100:160]) and not any(f.breached for f in found[200:])


KEY, SECONDS = "rldk/throughput/tokens_per_second", "rldk/throughput/step_seconds"


def slow_steps(seconds: float | None, slow: range, steps: int = 400, every: int = 1, **options: object) -> list[int]:
    """Steps at which a run is told to be slow; in `slow` it makes a fifth of its usual 3,000 tokens a second."""
    condition, draw, found = Slowdown((KEY,), share=2.0, **options), random.Random(0), []
    for step in range(0, steps, every):
        row = {KEY: (600.0 if step in slow else 3000.0) * draw.lognormvariate(0, 0.2)}
        if seconds is not None:
            row[SECONDS] = seconds * (5.0 if step in slow else 1.0)
        finding = condition.judge(step, row)
        assert finding is not None
        if finding.breached:
            found.append(step)
    return found


def test_ten_minutes_are_told() -> None:
    found = slow_steps(10.0, range(200, 400))
    assert 200 + 15 <= found[0] <= 200 + 25  # 50 seconds a step
    assert found[-1] == 399


def test_a_short_job_beside_short_steps_is_not() -> None:
    assert slow_steps(0.3, range(200, 400)) == []  # 200 rows, five minutes
    assert slow_steps(0.3, range(200, 260)) == []


def test_slow_after_a_few_seconds_is_not() -> None:
    assert slow_steps(1.0, range(60, 400)) == []  # a minute at the usual, then half an hour: which of them is normal?


def test_steps_between_rows_count() -> None:
    assert slow_steps(1.0, range(1000, 2000), steps=2000) != []
    found = slow_steps(1.0, range(1000, 2000), steps=2000, every=10)
    assert 1000 + 150 <= found[0] <= 1000 + 220


def test_rows_alone_where_the_time_is_unknown() -> None:
    found = slow_steps(None, range(200, 400))
    assert 214 <= found[0] <= 224


@pytest.mark.parametrize(("seconds", "begin"), [(10.0, 200), (0.3, 2500)])
def test_a_new_level_is_accepted_only_after_it_was_told(seconds: float, begin: int) -> None:
    found = slow_steps(seconds, range(begin, begin + 2000), steps=begin + 2000, accept_after=200)
    assert found
    assert len(found) <= 210


def grown(findings, values, **options) -> list[int]:
    condition = Growth(("x",), block=5, blocks=4, share=0.1, **options)
    return [i for i, f in enumerate(findings(condition, values)) if f.breached]


def test_a_leak_is_seen_once_it_has_come_far(findings) -> None:
    assert grown(findings, [1.0 + 0.01 * t for t in range(60)])[0] in range(24, 35)


def test_a_cache_that_fills_and_empties_is_none(findings) -> None:
    assert grown(findings, [1.0 + 0.2 * (t % 4) for t in range(200)]) == []


def test_a_step_up_is_none(findings) -> None:
    assert grown(findings, [1.0] * 50 + [2.0] * 50) == []


def test_slow_growth_is_none(findings) -> None:
    assert grown(findings, [1.0 + 0.0005 * t for t in range(200)]) == []
    assert grown(findings, [0.001 + 0.0001 * t for t in range(200)], floor=0.1) == []


def test_noise_is_none(findings) -> None:
    draw = random.Random(0)
    assert grown(findings, [1.0 + draw.gauss(0, 0.2) for _ in range(1000)]) == []


def test_it_ends_when_the_growth_does(findings) -> None:
    found = findings(Growth(("x",), block=5, blocks=4), [1.0 + 0.05 * min(t, 50) for t in range(80)])
    assert found[49].breached and found[-1].clear


def test_an_accepted_level_begins_with_an_empty_sum(findings) -> None:
    shift = Shift(("x",), accept_after=30)
    values = [10 + value for value in autoregression(100, 0.0, 4)]
    values += [20 + value for value in autoregression(60, 0.0, 5)]
    found = findings(shift, values)
    breached = [i for i, f in enumerate(found) if f.breached]
    assert len(breached) == 30 and breached[-1] - breached[0] == 29, "quiet from the row on in which it was accepted"


def test_only_a_shift_that_lasts_becomes_a_new_level(findings) -> None:
    quiet, high = [10 + value for value in autoregression(100, 0.0, 4)], [20.0] * 25
    shift = Shift(("x",), accept_after=60)
    found = findings(shift, [*quiet, *high, *quiet[:60], *high])
    assert not found[180].breached and found[-1].breached and found[-1].evidence["normal"] < 12


def test_what_is_suspicious_is_not_learned(findings) -> None:
    shift = Shift(("x",))
    findings(shift, [10 + value for value in autoregression(100, 0.0, 4)])
    known = [*shift.baseline.values, *shift.baseline.waiting]
    shift.cusum.total = shift.cusum.limit * 0.75
    assert not shift.judge(100, {"x": 10.4}).breached
    assert [*shift.baseline.values, *shift.baseline.waiting] == known
    shift.cusum.total = shift.cusum.limit * 0.25
    shift.judge(101, {"x": 10.4})
    assert 10.4 in shift.baseline.waiting


def test_slow_rows_must_follow_one_another() -> None:
    condition = Slowdown((KEY,), share=2.0, rows=15)
    draw = random.Random(0)
    for step in range(200):
        condition.judge(step, {KEY: 3000.0 * draw.lognormvariate(0, 0.2)})
    for step in range(200, 210):
        condition.judge(step, {KEY: 600.0})
    assert 0 < condition.count < 15
    for step in range(210, 240):
        condition.judge(step, {KEY: 3000.0})
    assert condition.count == 0


def test_the_first_judgement_is_with_the_first_full_baseline(findings) -> None:
    """Four values wait before they count."""
    for known, judged in ((27, False), (28, True)):
        assert (findings(Shift(("x",), minimum=24), [1.0] * (known + 1))[-1].evidence is not None) is judged


def test_there_is_no_share_of_a_level_of_0(findings) -> None:
    assert not any(f.breached or f.judged for f in findings(Shift(("x",), share=0.5), [0.0] * 40 + [1e-6] * 10))
    assert not any(f.judged for f in findings(Growth(("x",), block=2, blocks=2, floor=0.0), [0.0] * 6 + [1.0] * 6)[:8])


def test_growth_over_so_many_blocks_needs_one_to_grow_from(findings) -> None:
    found = findings(Growth(("x",), block=2, blocks=3), [float(t) for t in range(1, 12)])
    assert [f.judged for f in found].index(True) == 7, "four blocks of two rows"
    assert found[7].evidence["rows"] == 6.0


STANDARDISED = st.lists(st.floats(-4, 4), max_size=80)


@given(STANDARDISED)
def test_cusum_is_the_largest_excess_over_any_past(values: list[float]) -> None:
    chart = Cusum(shift=1.0, limit=1e9)
    for value in values:
        chart.add(value)
    excess = [value - 0.5 for value in values]
    assert chart.total == pytest.approx(max([0.0, *(sum(excess[i:]) for i in range(len(values)))]), abs=1e-9)


def test_a_shift_is_seen() -> None:
    draw = random.Random(0)
    watching = Cusum()
    before = [watching.add(draw.gauss(0, 1)) for _ in range(100)]
    after = [watching.add(draw.gauss(3, 1)) for _ in range(30)]
    assert not any(before)
    assert after.index(True) <= 10


def test_the_cusum_ends_as_fast_as_it_began() -> None:
    chart = Cusum(limit=5.0)
    assert [chart.add(4.0) for _ in range(1000)].count(True) == 999
    assert chart.total == 10.0
    assert [chart.add(-1.0) for _ in range(10)].count(True) == 3


@pytest.mark.parametrize(("correlation", "factor"), [(0.0, 1.0), (-0.5, 1.0), (0.6, 2.0), (1.0, 39**0.5)])
def test_inflation(correlation: float, factor: float) -> None:
    assert inflation(correlation) == pytest.approx(factor)
