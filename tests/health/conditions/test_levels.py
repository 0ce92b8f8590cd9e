"""Fixed limits: with hysteresis, several at once, of an error, at zero, of the first value, by expression."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.conditions.base import Finding
from rldk_tracking.health.conditions.levels import (
    BelowZero,
    ConstantZero,
    ExpressionCondition,
    FirstValue,
    Level,
    Levels,
)
from rldk_tracking.health.conditions.silence import SilentFunction
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.expression import ExpressionError
from rldk_tracking.health.presets import builtin_rules


def test_between_the_two_levels_nothing_changes(findings) -> None:
    found = findings(Level(("x",), threshold=1.0, clear=0.5, critical=3.0), [0.4, 1.0, 1.1, 3.1, 0.7, 0.5])
    assert [(f.breached, f.clear, f.critical) for f in found] == [
        (False, True, False),
        (False, False, False),
        (True, False, False),
        (True, False, True),
        (False, False, False),
        (False, True, False),
    ]


def test_below_is_the_mirror_of_above(findings) -> None:
    values = [0.4, 1.0, 1.1, 3.1, 0.7, 0.5]
    above = findings(Level(("x",), threshold=1.0, clear=0.5, critical=3.0), values)
    mirrored = Level(("x",), direction="below", threshold=-1.0, clear=-0.5, critical=-3.0)
    below = findings(mirrored, [-value for value in values])
    assert [(f.breached, f.clear, f.critical) for f in above] == [(f.breached, f.clear, f.critical) for f in below]


def test_one_wild_value_does_not_move_the_mean_over_the_limit(findings) -> None:
    found = findings(Level(("x",), threshold=0.4, span=8.0), [0.1] * 10 + [1.0] + [0.1] * 10 + [1.0] * 10)
    breached = [f.breached for f in found]
    assert breached.index(True) in range(22, 25)


def test_a_value_on_its_way_back_is_excused(findings) -> None:
    returning = [-(0.9**i) for i in range(45)]
    level = Level(("x",), direction="below", threshold=0.0, span=5.0, unless_improving=0.2)
    assert not any(f.breached for f in findings(level, returning)[8:])
    level = Level(("x",), direction="below", threshold=0.0, span=5.0, unless_improving=0.2)
    assert all(f.breached for f in findings(level, [-0.5] * 30))


def cut(values) -> list[int]:
    """The rows in which `length.truncated` warns, of a share of completions."""
    engine = Engine([builtin_rules()["length.truncated"]])
    rows = [engine.update(row, {"rldk/length/truncated_fraction": value}) for row, value in enumerate(values)]
    return [row for row, alerts in enumerate(rows) if any(alert.state == "firing" for alert in alerts)]


def of_completions(chances, seed: int, batch: int = 16) -> list[float]:
    draw = random.Random(seed)
    return [sum(draw.random() < chance for _ in range(batch)) / batch for chance in chances]


def test_what_a_run_begins_with_and_leaves_is_no_breach() -> None:
    leaving = [0.05 + 0.9 * math.exp(-row / 20) for row in range(100)]
    assert sum(bool(cut(of_completions(leaving, seed))) for seed in range(40)) <= 2
    assert all(cut(of_completions([0.75] * 100, seed))[0] in range(16, 40) for seed in range(40))
    assert all(cut(of_completions([0.05] * 40 + [0.8] * 40, seed))[0] in range(42, 56) for seed in range(20))


def test_where_nothing_ends_there_is_no_patience() -> None:
    assert cut([1.0] * 20) == [5] and cut([0.9] * 20) == [19]
    waits = Level(("x",), threshold=0.4, span=8.0, patience=3)
    found = [waits.judge(step, {"x": 0.9}) for step in range(4)]
    assert [(f.breached, f.judged) for f in found] == [(False, False)] * 3 + [(True, True)]


def test_a_mean_is_beyond_a_limit_if_it_is_so_by_its_error() -> None:
    """Sixteen completions of which a quarter are cut, for 6,000 rows, and of which half are."""
    assert not any(cut(of_completions([0.25] * 300, seed)) for seed in range(20))
    assert all(cut(of_completions([0.55] * 100, seed)) for seed in range(20))
    level, values = Level(("x",), threshold=0.0, span=3.0, sure=2.0), [0.5, -0.25, 1.0, 0.75]
    mean = variance = None
    for step, value in enumerate(values):
        found = level.judge(step, {"x": value})
        variance = 0.0 if mean is None else 0.5 * variance + 0.25 * (value - mean) ** 2
        mean = value if mean is None else (mean + value) / 2
        assert found.breached == (mean > 2.0 * math.sqrt(variance / 3))


def test_a_critic_that_never_knew_anything_is_seen() -> None:
    """Explained variance 0 throughout, exactly or by rounding; without a value loss a 0 is no critic's."""

    def fired(rows) -> list[int]:
        engine = Engine([builtin_rules()["value.explained_variance"]])
        return [row for row, values in enumerate(rows) if engine.update(row, values)]

    key, loss = "rldk/value/explained_variance", "rldk/value/loss"
    assert fired([{key: 0.0, loss: 0.4}] * 60) == fired([{key: -1e-9}] * 60) == [39]
    assert not fired([{key: 0.0}] * 60) and not fired([{key: 0.0, loss: 0.0}] * 60)
    slow = [0.3 * (1 - math.exp(-row / 200)) for row in range(300)]
    draw = random.Random(0)
    assert not fired([{key: value + draw.gauss(0, 0.02), loss: 0.4} for value in slow])


def test_another_value_may_be_asked_as_well() -> None:
    level = Level(("x",), threshold=1.0, only_below={"y": 0.5})
    assert level.judge(0, {"x": 2.0}).breached
    assert level.judge(1, {"x": 2.0, "y": 0.4}).breached
    excused = level.judge(2, {"x": 2.0, "y": 0.6})
    assert (excused.breached, excused.clear) == (False, True)


def test_the_worst_key_in_proportion_is_reported() -> None:
    levels = Levels(("a", "b"), limits={"a": 1.0, "b": 10.0})
    finding = levels.judge(0, {"a": 1.5, "b": 40.0})
    assert (finding.breached, finding.key, finding.value, finding.threshold) == (True, "b", 40.0, 10.0)
    assert finding.evidence == {"a": 1.5}
    assert not levels.judge(1, {"a": 1.0}).breached
    assert levels.judge(2, {"c": 1.0}) is None


@pytest.mark.parametrize("limits", [{}, {"a": 0.0}, {"z": 1.0}])
def test_limits_must_be_of_the_rules_keys(limits) -> None:
    with pytest.raises(ValueError, match="limits"):
        Levels(("a",), limits=limits)


@pytest.mark.parametrize(
    ("value", "error", "breached"),
    [(-0.1, 0.02, True), (-0.07, 0.02, False), (-0.015, 0.001, False), (0.5, 0.01, False)],
)
def test_beyond_four_errors_and_the_floor(value: float, error: float, breached: bool) -> None:
    condition = BelowZero(("x",), error_key="e", z=4.0, floor=0.02)
    assert condition.judge(0, {"x": value, "e": error}).breached is breached


def test_without_its_error_only_a_limit_of_its_own_judges() -> None:
    assert BelowZero(("x",), error_key="e").judge(0, {"x": -9.0}) is None
    assert BelowZero(("x",), error_key="e", floor_alone=0.1).judge(0, {"x": -0.2}).breached
    assert not BelowZero(("x",), error_key="e", floor_alone=0.1).judge(0, {"x": -0.05}).breached


def test_a_zero_is_reported_with_its_key() -> None:
    still = ConstantZero(("a", "b"))
    finding = still.judge(0, {"a": 1.0, "b": 0.0})
    assert (finding.breached, finding.key, finding.value) == (True, "b", 0.0)
    assert still.judge(1, {"a": 1.0, "b": 1e-12}).clear
    assert still.judge(2, {"c": 0.0}) is None


def test_another_cause_is_left_to_its_rule() -> None:
    still = ConstantZero(("a",), unless_above={"tied": 0.5})
    assert not still.judge(0, {"a": 0.0, "tied": 0.9}).breached
    assert still.judge(1, {"a": 0.0, "tied": 0.5}).breached
    assert still.judge(2, {"a": 0.0}).breached


def test_zeros_that_a_log_rounded_are_no_schedule() -> None:
    still = ConstantZero(("a",), after_motion=True)
    assert [still.judge(i, {"a": v}).breached for i, v in enumerate([0.0, 0.0, 1e-6, 0.0])] == [False] * 3 + [True]


def test_the_first_value_is_judged_once() -> None:
    first = FirstValue(("x",), exact=0.05, exact_key="error", at_once=0.2, above=1.0)
    assert first.judge(1, {"x": 0.3}).breached
    later = first.judge(2, {"x": 9.0})
    assert not later.breached and not later.clear
    assert first.judge(3, {"x": 0.1}).clear


KEY = "rldk/a"


def written(when: str, clear_when: str | None = None) -> ExpressionCondition:
    return ExpressionCondition((KEY,), when=when, clear_when=clear_when)


def test_a_comparison_reports_its_sides() -> None:
    condition = written('mean("a", 2) > 3')
    assert condition.judge(0, {KEY: 5.0}) is None
    finding = condition.judge(1, {KEY: 7.0})
    assert (finding.breached, finding.clear, finding.value, finding.threshold, finding.key) == (
        True,
        False,
        6.0,
        3.0,
        KEY,
    )


def test_its_own_way_back() -> None:
    condition = written('last("a") > 3', 'last("a") < 1')
    found = [condition.judge(i, {KEY: v}) for i, v in enumerate([5.0, 2.0, 0.5])]
    assert [(f.breached, f.clear) for f in found] == [(True, False), (False, False), (False, True)]


def test_rows_without_its_keys_are_none_of_its_business() -> None:
    condition = written('last("a") > 3')
    condition.judge(0, {KEY: 5.0})
    assert condition.judge(1, {"rldk/b": 1.0}) is None


def test_mistakes_name_the_field() -> None:
    with pytest.raises(ExpressionError, match="^clear_when: "):
        written('last("a") > 3', "nonsense(")


@given(st.lists(st.floats(-10, 10), max_size=30), st.integers(0, 30))
def test_state_goes_through_json(values: list[float], cut: int) -> None:
    text = 'consecutive(mean("a", 4) > 0, 3) or delta("a", 6) > 5'

    def run(condition: ExpressionCondition, part: list[float]) -> list[object]:
        return [condition.judge(0, {KEY: value}) for value in part]

    first, second = written(text, 'last("a") < 0'), written(text, 'last("a") < 0')
    before = run(first, values[:cut])
    second.load_state(json.loads(json.dumps(first.state())))
    assert before + run(second, values[cut:]) == run(written(text, 'last("a") < 0'), values)


def test_between_the_share_and_the_limit_several_limits_are_not_clear() -> None:
    levels = Levels(("a", "b"), limits={"a": 1.0, "b": 10.0}, clear=0.8)
    found = [levels.judge(step, {"a": value, "b": 0.0}) for step, value in enumerate([1.1, 0.9, 0.8])]
    assert [(f.breached, f.clear) for f in found] == [(True, False), (False, False), (False, True)]


@pytest.mark.parametrize(
    ("step", "row", "limit"),
    [
        (0, {"x": 9.0, "error": 0.1}, 0.05),
        (1, {"x": 9.0}, 0.2),
        (10, {"x": 9.0, "error": 0.1}, 1.0),
        (1, {"sum": 9.0, "error": 0.1}, 7.0),
    ],
)
def test_the_limit_of_a_first_value_depends_on_how_surely_it_is_the_first(
    step: int, row: dict[str, float], limit: float
) -> None:
    options = {"exact": 0.05, "exact_key": "error", "at_once": 0.2, "above": 1.0}
    first = FirstValue(("x",), **options, critical=8.0, sequence_key="sum", sequence_above=7.0)
    finding = first.judge(step, row)
    assert (finding.breached, finding.threshold, finding.critical) == (True, limit, "x" in row)


def test_a_first_value_at_a_late_step_tells_nothing_of_the_beginning() -> None:
    assert not FirstValue(("x",), exact=0.05, exact_key="e", at_once=0.2, above=1.0).judge(11, {"x": 9.0}).breached


def test_a_first_value_is_critical_beyond_its_own_limit_only() -> None:
    options = {"exact": 0.05, "exact_key": "error", "at_once": 0.2, "above": 1.0}
    assert not FirstValue(("x",), **options, critical=8.0).judge(1, {"x": 7.0}).critical
    assert not FirstValue(("x",), **options).judge(1, {"x": 7.0}).critical


def test_an_estimate_is_clear_from_half_its_limit_up() -> None:
    condition = BelowZero(("x",), error_key="e", z=4.0)
    found = [condition.judge(i, {"x": value, "e": 0.5}) for i, value in enumerate([-2.5, -2.0, -1.5, -1.0])]
    assert [(f.breached, f.clear) for f in found] == [(True, False), (False, False), (False, False), (False, True)]


def test_what_is_on_its_way_back_is_not_back(findings) -> None:
    level = Level(("x",), direction="below", threshold=0.0, span=5.0, unless_improving=0.2)
    returning = findings(level, [-(0.9**i) for i in range(45)])[8:]
    assert not any(f.breached or f.clear for f in returning)
    assert findings(level, [0.5] * 20)[-1].clear


def test_a_first_value_below_0_is_held_to_a_limit_below_0() -> None:
    first = FirstValue(("kl",), exact=0.05, exact_key="error", at_once=0.2, above=1.0)
    found = first.judge(0, {"kl": -0.3})
    assert found.breached and found.threshold == -0.2


FUNCTION = "rldk/reward/function/<name>/none_fraction"


def look(condition: SilentFunction, **shares: float) -> Finding | None:
    return condition.judge(1, {FUNCTION.replace("<name>", name): share for name, share in shares.items()})


def test_a_function_is_silent_after_so_many_rollouts_in_a_row() -> None:
    condition = SilentFunction((FUNCTION,), rollouts=3)
    found = [look(condition, task=0.0, lost=1.0) for _ in range(4)]
    assert [one is not None and one.breached for one in found] == [False, False, True, True]
    assert [one is not None and one.clear for one in found] == [True, True, False, False]
    last = found[-1]
    assert last is not None and (last.value, last.threshold) == (4.0, 3.0)
    assert last.evidence == {"functions": "lost"} and last.key == "rldk/reward/function/lost/none_fraction"


def test_one_score_begins_anew() -> None:
    condition = SilentFunction((FUNCTION,), rollouts=2)
    shares = (1.0, 0.97, 1.0, 1.0)
    assert [found.breached for share in shares if (found := look(condition, rare=share))] == [False, False, False, True]


def test_several_are_named_and_names_may_hold_slashes() -> None:
    condition = SilentFunction((FUNCTION,), rollouts=1)
    found = condition.judge(1, {FUNCTION.replace("<name>", "org/judge"): 1.0, FUNCTION.replace("<name>", "b"): 1.0})
    assert found is not None and found.evidence == {"functions": "org/judge, b"}


def test_rows_without_a_rollout_count_nowhere() -> None:
    condition = SilentFunction((FUNCTION,), rollouts=2)
    look(condition, lost=1.0)
    assert condition.judge(2, {"rldk/train/loss": 1.0}) is None
    found = look(condition, lost=1.0)
    assert found is not None and found.breached


def test_a_resumed_run_counts_on() -> None:
    condition, resumed = SilentFunction((FUNCTION,), rollouts=2), SilentFunction((FUNCTION,), rollouts=2)
    look(condition, lost=1.0)
    resumed.load_state(condition.state())
    found = look(resumed, lost=1.0)
    assert found is not None and found.breached
