"""Scores, each in [0, 1]."""

from __future__ import annotations

import pytest

from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.rules import Rule

PART = "rldk/health/"


def scored(rows, rules=None) -> tuple[dict[str, float], Engine]:
    engine = Engine(RULES.values() if rules is None else [RULES[name] for name in rules])
    for step, row in enumerate(rows):
        engine.update(step, row)
    return engine.scores(), engine


def test_a_healthy_run_scores_one(healthy) -> None:
    scores, engine = scored(healthy(0))
    assert scores["rldk/health/score"] == 1.0
    assert scores["rldk/health/stability"] > 0.75
    assert engine.convergence == "improving" and scores["rldk/health/convergence"] == 0.75
    low, slope, high = (scores[f"rldk/health/convergence_slope{end}"] for end in ("_low", "", "_high"))
    assert low < slope < high and slope == pytest.approx(0.4 / 300, rel=0.3)
    assert scores["rldk/health/policy_collapse_risk"] < 0.7
    assert scores["rldk/health/reward_hacking_risk"] < 0.5
    assert scores["rldk/health/memory_efficiency"] == pytest.approx(35 / 40, abs=0.1)
    bounded = [value for key, value in scores.items() if "slope" not in key]
    assert all(0.0 <= value <= 1.0 for value in bounded)


def test_only_parts_that_are_known_are_there() -> None:
    scores, _ = scored([{"rldk/nan/weights": 0.0}] * 3)
    assert scores == {f"{PART}nan": 1.0, "rldk/health/score": 1.0}
    assert scored([{"loss": 1.0}] * 30)[0] == {}


def test_alerts_lower_their_part_and_the_whole() -> None:
    warning = [{"rldk/length/truncated_fraction": 0.9, "rldk/nan/weights": 0.0}] * 10
    scores, _ = scored(warning)
    assert (scores[f"{PART}length"], scores[f"{PART}nan"], scores["rldk/health/score"]) == (0.5, 1.0, 0.5)
    critical = [row | {"rldk/nan/weights": 1.0} for row in warning]
    scores, _ = scored(warning + critical)
    assert scores["rldk/health/score"] == pytest.approx(0.1 / 1.5)


def test_info_costs_nothing() -> None:
    climb = [{"rldk/reward/mean": t / 50, "rldk/reward/std": 0.3} for t in range(50)]
    solved = [{"rldk/reward/mean": 1.0, "rldk/reward/std": 0.0, "rldk/reward/group_tied_fraction": 1.0}] * 30
    scores, engine = scored(climb + solved)
    assert [alert.rule for alert in engine.firing] == ["reward.saturated"]
    assert scores["rldk/health/score"] == 1.0
    assert engine.convergence == "solved" and scores["rldk/health/convergence"] == 1.0


def test_a_collapse_is_diverging() -> None:
    rows = [{"rldk/reward/mean": 0.8 + 0.01 * (t % 3)} for t in range(60)] + [{"rldk/reward/mean": 0.0}] * 20
    scores, engine = scored(rows)
    assert engine.convergence == "diverging" and scores["rldk/health/convergence"] == 0.0


def test_noise_is_a_plateau() -> None:
    rows = [{"rldk/reward/mean": 0.3 + 0.1 * ((t * 7919) % 13) / 13} for t in range(120)]
    assert scored(rows)[1].convergence == "plateau"


def test_stability_needs_rows_and_falls_with_spikes(healthy) -> None:
    assert "rldk/health/stability" not in scored(healthy(1, 10))[0]
    rows = [
        row | ({"rldk/grad/norm": 500.0} if step > 60 and step % 2 else {}) for step, row in enumerate(healthy(1, 90))
    ]
    assert 0.3 < scored(rows)[0]["rldk/health/stability"] < 0.7


@pytest.mark.parametrize("order", [("warning", "critical"), ("critical", "warning")])
def test_the_worst_alert_of_a_family_counts(order: tuple[str, str]) -> None:
    parameters = {"threshold": 1.0}
    engine = Engine(
        [
            Rule(id=f"user.{name}", keys=("x",), condition="level", parameters=parameters, severity=name, clear_after=1)
            for name in order
        ]
    )
    engine.update(0, {"x": 2.0})
    assert engine.scores() == {f"{PART}user": 0.1, "rldk/health/score": 0.1}


def test_stability_is_the_mean_over_about_twenty_rows() -> None:
    """An exponential mean of span 20 over the rows after the first, of which the last is not counted yet."""
    broken = [False] * 30 + [True] * 5 + [False] * 10
    scores, _ = scored([{"rldk/nan/weights": float(value)} for value in broken], ["nan.weights"])
    share = 0.0
    for value in broken[:-1][1:]:
        share += (value - share) * 2 / 21
    assert scores["rldk/health/stability"] == pytest.approx(1 - share)
    always, _ = scored([{"rldk/nan/weights": 1.0}] * 21, ["nan.weights"])
    assert always["rldk/health/stability"] == pytest.approx((19 / 21) ** 19), "what precedes the first row is stable"


@pytest.mark.parametrize(("gain", "verdict"), [(0.5, "improving"), (0.0, "plateau"), (-0.5, "diverging")])
def test_preference_training_is_judged_by_its_margin(gain: float, verdict: str) -> None:
    rows = [{"rldk/preference/margin": gain * step / 100 + 0.05 * (-1) ** step} for step in range(100)]
    scores, engine = scored(rows)
    assert engine.convergence == verdict
    assert scores["rldk/health/convergence_slope"] == pytest.approx(gain / 100, abs=1e-3)


def test_a_reward_goes_before_a_margin() -> None:
    rows = [{"rldk/reward/mean": 0.01 * step, "rldk/preference/margin": -0.01 * step} for step in range(60)]
    assert scored(rows)[1].convergence == "improving"
