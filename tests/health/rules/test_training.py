"""Rules about critic, gradients, updates, learning rate and tools."""

from __future__ import annotations

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()

RATE, NORM = "rldk/update/learning_rate", "rldk/grad/norm"

CASES = {
    "value.explained_variance": lambda case: case(
        lambda since, row: {"rldk/value/explained_variance": -0.5}, within=30
    ),
    "value.loss": lambda case: case(lambda since, row: {"rldk/value/loss": 20.0}, within=4),
    "grad.explosion": lambda case: case(lambda since, row: {NORM: 300.0} if since == 0 else {}, within=0, end=101),
    "grad.vanishing": lambda case: case(lambda since, row: {NORM: 1e-6}, within=10),
    "grad.frozen": lambda case: case(
        lambda since, row: {"rldk/grad/frozen_fraction": 0.5},
        within=0,
        severity="info",
        everywhere={"rldk/grad/frozen_fraction": 0.0},
    ),
    "grad.flow": lambda case: case(lambda since, row: {"rldk/grad/layers_without": 2.0}, within=6),
    "update.none": lambda case: case(lambda since, row: {"rldk/update/effective_lr": 0.0}, within=8),
    "update.frozen": lambda case: case(lambda since, row: {"rldk/update/frozen_layers": 3.0}, within=10),
    "update.too_large": lambda case: case(lambda since, row: {"rldk/update/ratio/p50": 0.1}, within=3, end=110),
    "lr.spike": lambda case: case(lambda since, row: {RATE: 3e-4, "rldk/kl/ref_k1": 4.0}, within=2, end=120),
    "lr.zero": lambda case: case(lambda since, row: {RATE: 0.0}, within=4),
    "tools.failing": lambda case: case(lambda since, row: {"rldk/tools/failure_frequency": 0.8}, within=20, end=120),
    "tools.unused": lambda case: case(lambda since, row: {"rldk/tools/call_frequency": 0.0}, within=45, end=160),
}


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule, case, check) -> None:
    check(rule, CASES[rule](case))


def test_a_learning_rate_that_nothing_answers_to_is_no_spike(healthy) -> None:
    engine = Engine([RULES["lr.spike"]])
    rows = [row | ({RATE: 1e-4} if step > 100 else {}) for step, row in enumerate(healthy(3))]
    assert [alert for step, row in enumerate(rows) for alert in engine.update(step, row)] == []


def test_no_gradient_where_every_group_is_tied_is_another_rules_affair(healthy) -> None:
    engine = Engine([RULES["update.none"]])
    tied = {NORM: 0.0, "rldk/reward/group_tied_fraction": 1.0}
    for step, row in enumerate(healthy(4, 100)):
        row.pop("rldk/update/effective_lr")
        assert engine.update(step, row | (tied if step > 50 else {})) == []


def test_a_rise_of_the_learning_rate_owns_what_follows(healthy) -> None:
    engine = Engine(RULES.values())
    broken = {RATE: 3e-4, "rldk/kl/ref_k1": 6.0, "rldk/reward/mean": 0.0, "rldk/policy/entropy": 0.001, NORM: 1e-6}
    fired = []
    for step, row in enumerate(healthy(5, 160)):
        fired += engine.update(step, row | (broken if step >= 100 else {}))
    assert {alert.rule for alert in fired} == {"lr.spike"}
    assert {"reward.collapse", "kl.high", "entropy.collapse"} <= set(engine.held_back)
    assert set(engine.held_back.values()) == {"lr.spike"}


def test_every_rule_has_a_case() -> None:
    families = ("value", "grad", "update", "lr", "tools")
    assert {name for name, rule in RULES.items() if rule.family in families} == set(CASES)


def test_layers_that_rightly_stand_still_are_not_nothing(healthy) -> None:
    """A vision tower that texts never reach: most layers without a gradient, the others learn."""
    still = {"rldk/update/ratio/p50": 0.0, "rldk/grad/layers_without": 6.0, "rldk/update/frozen_layers": 6.0}
    engine = Engine([RULES[name] for name in ("update.none", "update.frozen", "grad.flow")])
    alerts = [a.rule for step, row in enumerate(healthy(2, 60)) for a in engine.update(step, row | still)]
    assert set(alerts) == {"update.frozen", "grad.flow"}
    assert any(engine.update(60 + step, {NORM: 0.0}) for step in range(10)), "no gradient at all"
