"""Rules about divergence, reference, policy updates, entropy and the sampler."""

from __future__ import annotations

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()

K1, K3, ENTROPY = "rldk/kl/ref_k1", "rldk/kl/ref_k3", "rldk/policy/entropy"
STUCK = {"rldk/reward/mean": 0.3}

CASES = {
    "kl.high": lambda case: case(lambda since, row: {K1: 0.3 + 0.1 * since, **STUCK}, within=20),
    "kl.spike": lambda case: case(lambda since, row: {K1: 60.0} if since == 0 else {}, within=0, end=101),
    "kl.negative": lambda case: case(lambda since, row: {K1: -0.2}, within=5),
    "policy.clip_fraction": lambda case: case(lambda since, row: {"rldk/policy/clip_fraction": 0.45}, within=3),
    "policy.stale": lambda case: case(lambda since, row: {"rldk/policy/first_epoch_ratio": 1.2}, within=3),
    "policy.collapse": lambda case: case(
        lambda since, row: {ENTROPY: 0.01, "rldk/reward/group_tied_fraction": 1.0, "rldk/reward/mean": 0.2}
    ),
    "entropy.collapse": lambda case: case(lambda since, row: {ENTROPY: 0.02, "rldk/reward/mean": 0.4}, within=8),
    "entropy.explosion": lambda case: case(lambda since, row: {ENTROPY: 6.0}, within=4),
    "sampler.mismatch": lambda case: case(lambda since, row: {"rldk/sampler/k3": 0.2}, within=4),
}


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule, case, check) -> None:
    check(rule, CASES[rule](case))


def test_reference_mismatch_is_judged_once_at_the_start(healthy, case) -> None:
    rule = RULES["reference.mismatch"]
    rows = healthy(0, 40)
    engine = Engine([rule])
    assert [alert for step, row in enumerate(rows, 1) for alert in engine.update(step, row)] == []
    engine = Engine([rule])
    wrong = [{**row, K1: 0.4} for row in rows[:20]] + rows[20:]
    alerts = [alert for step, row in enumerate(wrong, 1) for alert in engine.update(step, row)]
    assert [(alert.state, alert.severity) for alert in alerts] == [("firing", "warning"), ("resolved", "warning")]
    assert alerts[0].step == 1 and alerts[0].value == 0.4


def test_reference_mismatch_allows_for_what_a_log_averages() -> None:
    rule = RULES["reference.mismatch"]

    def fires(step: int, row: dict[str, float]) -> list[str]:
        return [alert.severity for alert in Engine([rule]).update(step, row)]

    assert fires(1, {K1: 0.08, f"{K1}_stderr": 0.01}) == ["warning"]  # measured on this step's rollout: must be 0
    assert fires(1, {K3: 0.08}) == []
    assert fires(1, {K3: 0.3}) == ["warning"]
    assert fires(10, {K3: 0.3}) == []  # the mean of ten steps, in which the policy moved
    assert fires(10, {K3: 1.5}) == ["warning"]
    assert fires(1, {K3: 3.0}) == ["critical"]
    assert fires(50, {K3: 3.0}) == []  # joined later: nothing is known of the beginning
    assert fires(1, {"rldk/kl/ref_per_sequence": 2.0}) == []
    assert fires(1, {"rldk/kl/ref_per_sequence": 10.0}) == ["warning"]


def test_every_rule_has_a_case() -> None:
    families = ("reference", "kl", "policy", "entropy", "sampler")
    assert {name for name, rule in RULES.items() if rule.family in families} == {*CASES, "reference.mismatch"}
