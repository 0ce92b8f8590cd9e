"""Rules about memory, speed, checkpoints, trackers and the run as a whole."""

from __future__ import annotations

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()


def saved(name: str, value: float, severity: str = "warning"):
    key = f"rldk/checkpoint/{name}"
    return lambda case: case(lambda since, row: {key: value}, within=0, severity=severity, everywhere={key: 0.0})


SLOW = {"rldk/throughput/tokens_per_second": 800.0, "rldk/throughput/samples_per_second": 6.0}

CASES = {
    "memory.high": lambda case: case(lambda since, row: {"rldk/resources/gpu_memory_fraction": 0.97}, within=6),
    "memory.leak": lambda case: case(
        lambda since, row: {"rldk/resources/host_rss_gib": 4.0 + 0.03 * since}, within=110, end=230
    ),
    "throughput.drop": lambda case: case(lambda since, row: SLOW, within=35),
    "checkpoint.corrupt": saved("corrupt", 1.0, "critical"),
    "checkpoint.nonfinite": saved("nonfinite", 4.0, "critical"),
    "checkpoint.unchanged": saved("unchanged", 1.0),
    "checkpoint.drift": saved("drift", 1.4),
    "checkpoint.incomplete": saved("incomplete", 2.0),
    "checkpoint.disk": saved("disk_short", 1.0),
    "tracker.down": lambda case: case(lambda since, row: {"rldk/system/trackers_down": 1.0}, within=3),
}


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule, case, check) -> None:
    check(rule, CASES[rule](case))


def test_health_is_unstable_where_spikes_do_not_end(healthy) -> None:
    engine = Engine(RULES.values())
    alerts = []
    for step, row in enumerate(healthy(6, 260)):
        if 100 <= step < 180 and step % 3:
            row |= {"rldk/grad/norm": 400.0}
        alerts += engine.update(step, row)
    unstable = [(alert.state, alert.step) for alert in alerts if alert.rule == "health.unstable"]
    assert [state for state, _ in unstable] == ["firing", "resolved"]
    assert 110 <= unstable[0][1] <= 140 and 180 <= unstable[1][1] <= 220


def test_memory_of_the_host_without_a_gpu() -> None:
    engine = Engine([RULES["memory.high"]])
    alerts = [
        alert for step in range(8) for alert in engine.update(step, {"rldk/resources/host_memory_fraction": 0.98})
    ]
    assert [(alert.rule, alert.step, alert.key) for alert in alerts] == [
        ("memory.high", 4, "rldk/resources/host_memory_fraction")
    ]
    assert alerts[0].message == "98% of the memory are in use (limit 95%): rldk/resources/host_memory_fraction."


def test_a_slow_step_with_longer_completions_is_no_drop(healthy) -> None:
    engine = Engine([RULES["throughput.drop"]])
    for step, row in enumerate(healthy(8)):
        if step > 100:
            row |= {"rldk/throughput/tokens_per_second": 900.0}
        assert engine.update(step, row) == []


def test_every_rule_has_a_case() -> None:
    families = ("memory", "throughput", "checkpoint", "tracker", "health")
    assert {name for name, rule in RULES.items() if rule.family in families} == {*CASES, "health.unstable"}
