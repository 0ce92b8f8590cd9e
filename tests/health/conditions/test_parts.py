"""Parts of the reward: one that never gave anything, one that fell, and those of which neither tells anything."""

from __future__ import annotations

import json
import random

import pytest

from rldk_tracking.health.conditions.parts import Parts
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

MEAN, LENGTH = "rldk/reward/mean", "rldk/length/mean"
RULES = builtin_rules()


def function(name: str, statistic: str = "mean") -> str:
    return f"rldk/reward/function/{name}/{statistic}"


def lost(other, name: str = "task", n: int = 60, **more: float) -> str | None:
    parts, draw = Parts(), random.Random(0)
    for step in range(n):
        done = step / n
        row = {function("format"): 0.2 + 0.7 * done + draw.gauss(0, 0.03), function(name): other(done, draw)} | more
        parts.add(row)
    return parts.lost


@pytest.mark.parametrize(
    ("name", "other", "expected"),
    [
        ("task", lambda done, draw: 0.0, "task, which has always been 0"),
        ("task", lambda done, draw: 0.5 - 0.4 * done + draw.gauss(0, 0.03), "task, which fell to 0.1"),
        ("task", lambda done, draw: 0.5 + draw.gauss(0, 0.05), None),
        ("task", lambda done, draw: 0.02 if 0.5 < done < 0.52 else 0.0, None),
        ("overlong_penalty", lambda done, draw: 0.0, None),
        ("length", lambda done, draw: -0.1 - done + draw.gauss(0, 0.03), None),
        ("task", lambda done, draw: 0.5 - 0.2 * done + draw.gauss(0, 0.03), None),
    ],
)
def test_which_part_is_lost(name, other, expected) -> None:
    found = lost(other, name)
    assert found is None if expected is None else found is not None and found.startswith(expected)


def test_a_weight_tells_a_penalty_and_what_is_no_part() -> None:
    for weight, is_part in ((1.0, True), (-1.0, False), (0.0, False)):
        found = lost(lambda done, draw: 0.0, **{function("task", "weight"): weight})
        assert (found is not None) is is_part


def test_one_function_alone_few_rows_and_functions_that_give_nothing_at_all_tell_nothing() -> None:
    assert lost(lambda done, draw: 0.0, n=19) is None
    alone, nothing = Parts(), Parts()
    for _ in range(40):
        alone.add({function("task"): 0.0})
        nothing.add({function("task"): 0.0, function("format"): 0.0})
    assert (alone.lost, nothing.lost) == (None, None)


def test_a_resumed_run_knows_its_parts() -> None:
    rows = [{function("task"): 0.0, function("format"): 0.02 * step} for step in range(40)]
    parts, resumed = Parts(), Parts()
    for step, row in enumerate(rows):
        if step == 20:
            resumed.load_state(json.loads(json.dumps(parts.state())))
        parts.add(row)
        if step >= 20:
            resumed.add(row)
    assert resumed.state() == parts.state() and resumed.lost == parts.lost is not None


def told(rows) -> list[tuple[str, str]]:
    engine, alerts = Engine([RULES["reward.hacking"], RULES["reward.saturated"], RULES["reward.no_signal"]]), []
    for step, row in enumerate(rows):
        alerts += engine.update(step, row)
    return [(alert.rule, alert.message) for alert in alerts if alert.state == "firing"]


def at_ceiling(task: float, length_left: float, gold: bool = False, n: int = 120):
    draw = random.Random(1)
    for step in range(n):
        done = min(1.0, step / 60)
        row = {
            MEAN: min(1.0, 0.1 + 0.9 * done + draw.gauss(0, 0.02)),
            "rldk/reward/std": 0.3 * (1 - done) + 0.01,
            "rldk/reward/group_tied_fraction": done,
            "rldk/reward/group_tied_fraction_all_max": done,
            function("format"): 0.1 + 0.9 * done,
            function("accuracy"): task * done,
            LENGTH: 139.0 * (1 - done * (1 - length_left)) + draw.gauss(0, 1),
        }
        yield row | ({"rldk/reward/gold": 0.1 + 0.8 * done + draw.gauss(0, 0.02)} if gold else {})


def test_a_reward_at_its_ceiling_whose_task_gives_nothing_is_hacked_and_not_solved() -> None:
    found = told(at_ceiling(task=0.0, length_left=0.1))
    assert "reward.saturated" not in dict(found)
    assert "the part accuracy, which has always been 0, length that shrank" in dict(found)["reward.hacking"]


def test_a_task_that_gives_is_solved_however_short_the_completions() -> None:
    assert [rule for rule, _ in told(at_ceiling(task=1.0, length_left=0.1))] == ["reward.saturated"]


def test_a_part_that_gives_nothing_is_no_verdict_alone_and_none_against_a_held_out_score() -> None:
    assert "reward.hacking" not in dict(told(at_ceiling(task=0.0, length_left=0.9)))
    assert "reward.hacking" not in dict(told(at_ceiling(task=0.0, length_left=0.1, gold=True)))
