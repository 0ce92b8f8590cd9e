"""Rules about sampling beside the training, on rows and on a queue that is simulated."""

from __future__ import annotations

import heapq
import math
import random

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()
STALE = {"rldk/async/stale_fraction": 0.4, "rldk/async/staleness/mean": 4.4}

CASES = {
    "async.stale": lambda case: case(lambda since, row: {"rldk/async/stale_fraction": 0.95}, everywhere=STALE),
    "async.starved": lambda case: case(
        lambda since, row: {"rldk/async/wait_fraction": 0.95}, everywhere={"rldk/async/wait_fraction": 0.3}
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule, case, check) -> None:
    check(rule, CASES[rule](case))


def test_weights_of_long_ago() -> None:
    engine = Engine([RULES["async.stale"]])
    rows = [{"rldk/async/stale_fraction": 0.0, "rldk/async/staleness/mean": float(step)} for step in range(40)]
    fired = [alert for step, row in enumerate(rows) for alert in engine.update(step, row)]
    assert [(alert.step, alert.key) for alert in fired] == [(35, "rldk/async/staleness/mean")]


def flow(seed: int, speed: float, spread: float, limit: int, steps: int = 120, per_step: int = 32) -> list[dict]:
    """Rows of a queue as TRL's: `limit` steps' worth of completions are sampled at once, in groups of 8, each by the
    weights at its group's beginning; a step takes what comes first, without what is older than `limit`.

    Args:
        speed: completions that the engine makes while the trainer makes a step.
        spread: of the logarithm of the time that one takes.
    """
    draw, slots = random.Random(seed), limit * per_step
    middle = math.log(slots / speed) - spread**2 / 2
    version, started, now = 1, 0, 0.0
    groups: list[list[int]] = []
    sampling: list[tuple[float, int]] = []
    queue: list[int] = []

    def start(at: float) -> None:
        nonlocal started
        if started % 8 == 0:
            groups.append([version, 0])
        heapq.heappush(sampling, (at + draw.lognormvariate(middle, spread), started // 8))
        started += 1

    for _ in range(slots):
        start(0.0)
    rows = []
    for _ in range(steps):
        ages, dropped, begin = [], 0, now
        while len(ages) < per_step:
            while sampling[0][0] <= now or not queue:
                now, group = max(now, sampling[0][0]), groups[sampling[0][1]]
                start(heapq.heappop(sampling)[0])
                group[1] += 1
                queue += [group[0]] * 8 if group[1] == 8 else []
            age = version - queue.pop(0)
            dropped, ages = (dropped + 1, ages) if age > limit else (dropped, [*ages, age])
        waited, now, version = now - begin, now + 1.0, version + 1
        rows.append(
            {
                "rldk/async/staleness/mean": sum(ages) / per_step + 1,
                "rldk/async/stale_fraction": dropped / (dropped + per_step),
                "rldk/async/wait_fraction": waited / (waited + 1.0),
            }
        )
    return rows


@pytest.mark.parametrize("limit", [1, 4, 8])
@pytest.mark.parametrize(("speed", "spread"), [(32, 0.5), (32, 1.0), (48, 0.5), (64, 0.5)])
def test_a_queue_at_its_defaults_is_no_fault(speed: float, spread: float, limit: int) -> None:
    for seed in range(3):
        engine = Engine([RULES["async.stale"], RULES["async.starved"]])
        rows = flow(seed, speed, spread, limit)
        assert [alert for step, row in enumerate(rows) for alert in engine.update(step, row)] == []
        assert engine.unknown() == []


def test_an_engine_of_a_third_of_the_speed_starves_the_trainer() -> None:
    engine = Engine([RULES["async.stale"], RULES["async.starved"]])
    alerts = [alert for step, row in enumerate(flow(0, 10, 0.5, 4)) for alert in engine.update(step, row)]
    assert {alert.rule for alert in alerts} == {"async.starved"} and alerts[0].step <= 30


def test_every_rule_has_a_case() -> None:
    assert {name for name, rule in RULES.items() if rule.family == "async"} == {*CASES}
